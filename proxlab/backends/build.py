"""Rebuild shared source for a target: the same code object with the target's operations as globals."""

from __future__ import annotations

import builtins
import hashlib
import types
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from proxlab import scalar

__all__ = ["digest", "functions_of", "over_arrays", "rebuild"]


@lru_cache(maxsize=256)
def _contents(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def digest(*functions: Callable[..., Any]) -> str:
    """Return a short hash of the files that define functions; compiled functions carry it in their name.

    Numba's disk cache keys on file, name and line, not on what a function calls: two functions rebuilt from
    one body, or a caller of edited code in another file, would otherwise share an entry.
    """
    paths = sorted({f.__code__.co_filename for f in functions})
    return hashlib.sha256(b"\0".join(_contents(path) for path in paths)).hexdigest()[:12]


def functions_of(*modules: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions that modules define, by name, in order."""
    return {
        name: f
        for module in modules
        for name, f in vars(module).items()
        if isinstance(f, types.FunctionType) and f.__module__ == module.__name__
    }


def rebuild(
    function: Callable[..., Any], operations: Mapping[str, Any], name: str = ""
) -> Callable[..., Any]:
    """Return a copy of ``function`` whose global names are ``operations``.

    Parameters
    ----------
    function : callable
        A plain function without closure.
    operations : mapping
        Every global name that it uses.
    name : str, optional
        Name of the copy.
    """
    assert isinstance(function, types.FunctionType)
    scope = {"__builtins__": builtins, "__name__": function.__module__, **operations}
    copy = types.FunctionType(function.__code__.replace(co_name=name or function.__name__), scope)
    copy.__name__ = copy.__qualname__ = name or function.__name__
    copy.__module__ = function.__module__
    return copy


@lru_cache(maxsize=256)
def over_arrays(function: Callable[..., Any], xp: Any) -> Callable[..., Any]:
    """Return ``function`` with the operations of an array namespace."""
    operations = {"where": xp.where, "sqrt": xp.sqrt, "fabs": xp.abs, "fmin": xp.minimum, "fmax": xp.maximum}
    operations["midpoint"] = rebuild(scalar.midpoint, operations)
    return rebuild(function, operations)
