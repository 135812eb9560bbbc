"""Checks of what users give: that a number is one, and that an array means no more than its numbers."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["as_float", "check_count", "check_number", "check_plain", "listed", "shown"]


def shown(value: object) -> str:
    """Return what an error message says a value was: its ``repr``, if that is short."""
    if isinstance(value, int) and value.bit_length() > 1024:
        return f"an integer of {value.bit_length()} bits"
    text = reprlib.repr(value) if isinstance(value, (list, tuple, dict, set)) else repr(value)
    return text if len(text) <= 200 else text[:197] + "…"


def as_float(value: Any) -> float:
    """Return a real number as a float; beyond all floats it is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_number(name: str, value: object, minimum: float, *, strict: bool = False) -> float:
    """Return ``value`` as a float, or raise an error that names the argument.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What was given.
    minimum : float
        The least admissible value.
    strict : bool
        Whether ``minimum`` itself is excluded.

    Raises
    ------
    TypeError
        If ``value`` is not a real number.
    ValueError
        If it is not finite or too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: must be a real number, got {shown(value)}")
    number = as_float(value)
    if not math.isfinite(number) or number < minimum or (strict and number == minimum):
        least = f"{'>' if strict else '>='} {minimum:g}"
        raise ValueError(f"{name}: must be finite and {least}, got {shown(value)}")
    return number


def check_count(name: str, value: object, least: float = 1.0) -> int:
    """Return a whole number, of at least 1 by default, or raise an error that names it."""
    number = check_number(name, value, least)
    if number % 1:
        raise ValueError(f"{name}: must be a whole number, got {value!r}")
    return int(number)


def listed(name: str, value: object, what: str) -> list[Any]:
    """Return what an iterable other than text holds, or raise an error that names it."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: must hold {what}, got {value!r}")
    return list(value)


def check_plain(name: str, a: Any) -> None:
    """Raise an error for an array of NumPy that means more than its numbers: masked, a matrix, with units."""
    if not isinstance(a, np.ndarray) or type(a) in (np.ndarray, np.memmap):
        return
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: must not be a masked array, whose mask would be lost; fill it, and leave elements out "
            "by the groups (label -1)"
        )
    raise TypeError(
        f"{name}: must be a plain array, got {type(a).__name__}, whose meaning would be lost; use "
        "numpy.asarray"
    )
