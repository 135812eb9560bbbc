"""Penalties as text and arrays: the class by name, its parameters, its groups.

No pickle, and nothing is imported.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

import proxlab.penalties
from proxlab.groups import Groups, _Conv, _Over
from proxlab.penalties import Penalty

__all__ = ["describe", "restore"]

Array = npt.NDArray[Any]


def describe(penalty: Penalty, shape: tuple[int, ...], keep: Callable[[Array], str]) -> dict[str, Any]:
    """Describe a penalty in plain values.

    Parameters
    ----------
    penalty : Penalty
    shape : tuple of int
        Shape of the array that it is for.
    keep : callable
        Keeps an array and returns the name under which it is found.

    Raises
    ------
    TypeError
        If a parameter can be described neither by a value nor by an array.
    """
    kind = type(penalty)
    parameters = {}
    for field in dataclasses.fields(penalty):
        if field.init and field.name != "groups":
            parameters[field.name] = _plain(kind, field.name, getattr(penalty, field.name), keep)
    found: dict[str, Any] = {"class": kind.__qualname__, "parameters": parameters}
    if not kind.__module__.startswith("proxlab."):
        found["module"] = kind.__module__
        found["file"] = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if any(field.init and field.name == "groups" for field in dataclasses.fields(penalty)):
        found["groups"] = _describe_groups(penalty.groups, shape, keep)
    return found


def _plain(kind: type, name: str, value: Any, keep: Callable[[Array], str]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.name in (
        "float16",
        "float32",
        "float64",
        "int64",
        "bool",
    ):
        return {"array": keep(value)}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_plain(kind, name, v, keep) for v in value]}
    raise TypeError(
        f"penalty: {kind.__name__} cannot be stored: its parameter {name!r} must be a number, text, an "
        f"array or a tuple of these, got {value!r}"
    )


def _value(stored: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(stored, dict):
        if "array" in stored:
            return arrays[stored["array"]]
        return tuple(_value(v, arrays) for v in stored["tuple"])
    return stored


def _describe_groups(groups: Groups, shape: tuple[int, ...], keep: Callable[[Array], str]) -> dict[str, Any]:
    match groups:
        case _Over(axes, view):
            return {"over": list(axes), "shape": None if view is None else list(view)}
        case _Conv(kind):
            return {"conv": kind}
    indptr, indices = groups.indices(shape)
    labelled = getattr(groups, "shape", None)
    return {
        "indptr": {"array": keep(np.asarray(indptr, dtype=np.int64))},
        "indices": {"array": keep(np.asarray(indices, dtype=np.int64))},
        "shape": None if labelled is None else list(labelled),
    }


def _restore_groups(stored: Mapping[str, Any], arrays: Mapping[str, Array]) -> Groups:
    if "over" in stored:
        shape = stored["shape"]
        return Groups.over(tuple(stored["over"]), None if shape is None else tuple(shape))
    if "conv" in stored:
        return Groups.conv(stored["conv"])
    groups = Groups.csr(_value(stored["indptr"], arrays), _value(stored["indices"], arrays))
    if stored["shape"] is not None:
        # Made from labels, which fit one shape only.
        groups = dataclasses.replace(groups, shape=tuple(stored["shape"]))  # type: ignore[type-var]
    return groups


def restore(
    stored: Mapping[str, Any], arrays: Mapping[str, Array], given: type[Penalty] | None = None
) -> Penalty:
    """Make a penalty from its description.

    Parameters
    ----------
    stored : mapping
        What :func:`describe` returned.
    arrays : mapping
        The arrays that were kept.
    given : class, optional
        The class to make, whatever the description says.

    Raises
    ------
    ValueError
        If the class is not known here, or refuses what was stored.
    """
    kind = _class(stored) if given is None else given
    parameters = {name: _value(v, arrays) for name, v in stored["parameters"].items()}
    if "groups" in stored:
        parameters["groups"] = _restore_groups(stored["groups"], arrays)
    try:
        return kind(**parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"penalty: {kind.__name__} does not take what was stored: {error}") from error


def _class(stored: Mapping[str, Any]) -> type[Penalty]:
    """Find the class of a description: proxlab's, or one of a module that has been imported already."""
    name, module = stored["class"], stored.get("module")
    place: Any = proxlab.penalties if module is None else sys.modules.get(module)
    found = getattr(place, name, None)
    if isinstance(found, type) and issubclass(found, Penalty):
        return found
    where = "" if module is None else f" of {stored.get('file') or module}"
    raise ValueError(
        f"penalty: the file names the class {name}{where}, which is not known here: pass penalty= "
        "(--penalty), the class or a penalty, or import its module first"
    )
