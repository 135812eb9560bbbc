"""The state of an optimizer on arrays, and how it is saved and restored: exactly, and all or nothing."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np

from proxlab.namespaces import namespace, to_numpy
from proxlab.optim.tree import leaves, rebuild
from proxlab.penalties import Penalty
from proxlab.types import Array

__all__ = ["State", "load", "save"]

_NUMBERS = ("step", "stage_step", "weight_sum", "iterations", "sparsity", "history")


@dataclass(frozen=True, eq=False)
class State:
    """What an optimizer keeps between two steps; steps make new ones.

    Attributes
    ----------
    method : str
        Name of the optimizer.
    step : int
        Steps so far.
    history : tuple of dict
        What was driven, certified or measured, step by step.
    penalties : mapping of str to Penalty or None
        The penalty of each parameter as it was given, by the parameter's path.
    slots : mapping of str to mapping of str to array
        The arrays of each parameter.
    sparsity : mapping or None
        The state of a :class:`~proxlab.optim.TargetSparsity`.
    stage_step : int
        Steps since the last restart.
    weight_sum : float
        Sum of the weights of dual averaging.
    iterations : int
        Iterations of the root finder that have been enough for the tolerance.
    """

    method: str
    step: int
    history: tuple[dict[str, Any], ...]
    penalties: Mapping[str, Penalty | None]
    slots: Mapping[str, Mapping[str, Array]]
    sparsity: Mapping[str, float] | None
    stage_step: int = 0
    weight_sum: float = 0.0
    iterations: int = 1


def save(path: str | os.PathLike[str], params: Any, state: State) -> None:
    """Save parameters and state to an npz file.

    The file is complete or not there: it is written under another name first. Penalties are not in it.

    Parameters
    ----------
    path : str or path
        The file's name.
    params : tree of array
        The parameters.
    state : State
        The state that goes with them.
    """
    numbers = {"method": state.method} | {name: getattr(state, name) for name in _NUMBERS}
    arrays = {f"value of {place}": to_numpy(w) for place, w in leaves(params, "params").items()}
    for place, slots in state.slots.items():
        arrays |= {f"{name} of {place}": to_numpy(a) for name, a in slots.items()}
    content = io.BytesIO()
    np.savez(content, numbers=np.frombuffer(json.dumps(numbers).encode(), dtype=np.uint8), **arrays)  # type: ignore[arg-type]
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: str | os.PathLike[str], params: Any, state: State) -> tuple[Any, State]:
    """Load what :func:`save` has saved.

    Parameters
    ----------
    path : str or path
        The file's name.
    params : tree of array
        Parameters of the same structure, shapes and dtypes, as the model starts with; the arrays that are
        loaded are of their kind and on their device.
    state : State
        As ``init(params, penalty)`` of the same optimizer returns it; its penalties stay.

    Returns
    -------
    params : tree of array
    state : State

    Raises
    ------
    ValueError
        If the file is not one that :func:`save` has written, or holds another optimizer's state, or
        parameters of other names, shapes or dtypes.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> optimizer, penalty = pl.optim.ProxAdamW(lr=0.1), pl.GroupLasso(0.2)
    >>> params = {"w": np.ones((3, 2))}
    >>> state = optimizer.init(params, penalty)
    >>> params, state = optimizer.step(params, {"w": np.ones((3, 2))}, state)
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     pl.optim.save(path, params, state)
    ...     start = {"w": np.zeros((3, 2))}
    ...     again, state = pl.optim.load(path, start, optimizer.init(start, penalty))
    >>> bool((again["w"] == params["w"]).all()), state.step
    (True, 1)
    """
    place = os.fspath(path)
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as saved:
            arrays = {name: saved[name] for name in saved.files}
        numbers = json.loads(arrays.pop("numbers").tobytes())
    except (zipfile.BadZipFile, ValueError, KeyError) as error:
        raise ValueError(f"path: {place!r} is not a file that proxlab.optim.save has written") from error
    if numbers.pop("method") != state.method:
        raise ValueError(f"path: {place!r} holds the state of another optimizer than {state.method}")
    wanted = {f"value of {at}": w for at, w in leaves(params, "params").items()}
    likes = wanted | {f"{name} of {at}": a for at, slots in state.slots.items() for name, a in slots.items()}
    if set(arrays) != set(likes):
        name = sorted(set(arrays) ^ set(likes))[0]
        holds = "holds" if name in arrays else "does not hold"
        raise ValueError(f"path: {place!r} {holds} the {name}, unlike the parameters and the state")
    loaded = {name: _as(arrays[name], like, name, str(place)) for name, like in likes.items()}
    slots = {at: {name: loaded[f"{name} of {at}"] for name in slots} for at, slots in state.slots.items()}
    numbers["history"] = tuple(numbers["history"])
    new = rebuild(params, iter([loaded[name] for name in wanted]))
    return new, replace(state, slots=slots, **{name: numbers[name] for name in _NUMBERS})


def _as(a: Any, like: Array, name: str, place: str) -> Array:
    xp = namespace(like)
    new = xp.asarray(a, device=array_api_compat.device(like))
    if new.dtype != like.dtype or tuple(new.shape) != tuple(like.shape):
        raise ValueError(
            f"path: {place!r} holds the {name} in shape {tuple(new.shape)} and {new.dtype}, not in "
            f"shape {tuple(like.shape)} and {like.dtype}"
        )
    return new
