"""Proximal problems: what a prox was asked for, in memory and in files."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from proxlab import arguments
from proxlab.namespaces import to_numpy
from proxlab.penalties import Penalty
from proxlab.study import descriptions, files
from proxlab.values import check_plain

__all__ = ["Collector", "Problem", "load", "save"]

Array = npt.NDArray[Any]

_FORMAT = "proxlab.study problems"
_VERSION = 1
_DTYPES = (np.float16, np.float32, np.float64)


@dataclass(frozen=True, eq=False)
class Problem:
    """A weighted prox, ``argmin_z h(z) + ‖z - x‖²_D / (2 step)``, with a name.

    Arguments are those of :func:`proxlab.prox`, and are checked as there; groups and weights are the
    penalty's. Arrays of any namespace and device are copied to NumPy, bfloat16 as float32.

    Parameters
    ----------
    name : str
        What the studies call it.
    x : array
        The point.
    step : float or array of shape (n_groups,)
        The step size, or one per group.
    metric : float, array or None
        The diagonal of the metric, broadcastable to ``x``.
    penalty : Penalty
        The function ``h``.
    metadata : mapping, optional
        Where it comes from, in values that JSON has: ``parameter``, ``step_count``, ``versions``, …

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape, dtype or value; the message names it.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> problem = study.Problem("layer 1", np.ones((4, 3)), 0.1, None, pl.GroupLasso(0.5))
    >>> problem.n_groups
    4
    """

    name: str
    x: Array
    step: Any = 1.0
    metric: Any = None
    penalty: Penalty = None  # type: ignore[assignment]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate, and copy what is not NumPy's."""
        name: object = self.name
        if not isinstance(name, str) or not name:
            raise TypeError(f"name: must be text, got {self.name!r}")
        if not isinstance(self.penalty, Penalty):
            raise TypeError(
                f"penalty: must be a proxlab penalty such as GroupLasso(0.1), got {self.penalty!r}"
            )
        for key in ("x", "step", "metric"):
            try:
                check_plain(key, getattr(self, key))
            except TypeError as error:
                raise TypeError(f"{self.name}: {error}") from error
            object.__setattr__(self, key, _on_host(getattr(self, key)))
        try:
            p = arguments.problem(self.penalty, self.x, self.step, self.metric, "array_api")
            arguments.check_values(p)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self.name}: {error}") from error
        object.__setattr__(self, "step", p.step)
        object.__setattr__(self, "metadata", dict(self.metadata))

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self.penalty.groups.n_groups(self.x.shape)

    @property
    def sizes(self) -> Array:
        """Number of elements of each group, shape (n_groups,)."""
        return self.penalty.groups.sizes(self.x.shape)

    def full_metric(self) -> Array:
        """Return the metric in float64, of the shape of ``x``."""
        metric = 1.0 if self.metric is None else self.metric
        return np.broadcast_to(np.asarray(metric, dtype=np.float64), self.x.shape)

    def scales(self) -> dict[str, Array]:
        """Return what errors are divided by to compare them, in float64, each of shape (n_groups,).

        For the distances ``‖x_g‖`` and ``‖x_g‖_D``, for the stationarity ``‖D x_g‖/step`` and for the gap
        ``‖x_g‖²_D/(2 step)``.
        """
        n = self.n_groups
        indptr, indices = self.penalty.groups.indices(self.x.shape)
        x, d = (a.astype(np.float64).reshape(-1)[indices] for a in (self.x, self.full_metric()))
        step = np.broadcast_to(np.asarray(self.step, dtype=np.float64), (n,))
        group = np.repeat(np.arange(n), np.diff(indptr))

        def norm(a: Array) -> Array:
            largest = float(np.abs(a).max(initial=0.0)) or 1.0
            return largest * np.sqrt(np.bincount(group, (a / largest) ** 2, minlength=n))

        with np.errstate(over="ignore", under="ignore"):
            metric = norm(np.sqrt(d) * x)
            return {
                "distance": norm(x),
                "metric_distance": metric,
                "stationarity": norm(d * x) / step,
                "gap": metric * (metric / (2 * step)),
            }

    def astype(self, dtype: npt.DTypeLike) -> Problem:
        """Return the problem with point and metric rounded to another dtype.

        Raises
        ------
        ValueError
            If the values do not fit.
        """
        with np.errstate(all="ignore"):
            metric = self.metric.astype(dtype) if isinstance(self.metric, np.ndarray) else self.metric
            return replace(self, x=self.x.astype(dtype), metric=metric)

    @property
    def digest(self) -> str:
        """What tells problems of different content apart; the name does not count."""
        state = hashlib.sha256()

        def keep(array: Array) -> str:
            state.update(
                repr((array.dtype.str, array.shape)).encode() + np.ascontiguousarray(array).tobytes()
            )
            return ""

        for array in (self.x, np.asarray(self.step), self.full_metric()):
            keep(array)
        table = getattr(self.penalty, "pieces", None)
        state.update(repr((descriptions.describe(self.penalty, self.x.shape, keep), table)).encode())
        return state.hexdigest()


def _on_host(a: Any) -> Any:
    """Copy an array to NumPy in the machine's byte order; what is no array stays for the check."""
    if isinstance(a, np.generic) or not array_api_compat.is_array_api_obj(a):
        return a
    if array_api_compat.is_torch_array(a):
        a = a.detach()
        if arguments.dtype_name(a.dtype) == "bfloat16":
            a = a.float()
    array = np.array(to_numpy(a))
    if array.dtype.type in _DTYPES:
        array = array.astype(array.dtype.newbyteorder("="))
    array.flags.writeable = False
    return array


class Collector:
    """A file of problems in the making: each is written when it comes, the file appears at the end.

    Parameters
    ----------
    path : str or path
        A file .npz or .safetensors.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._writer = files.Writer(path)
        self._entries: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self._entries)

    def _keep(self, array: Array) -> str:
        """Write an array under a name of its content: groups and weights that come again are written once."""
        text = repr((array.dtype.str, array.shape)).encode() + np.ascontiguousarray(array).tobytes()
        name = hashlib.sha256(text).hexdigest()[:32]
        if name not in self._writer.names:
            self._writer.add(name, array)
        return name

    def add(self, problem: Problem) -> None:
        """Write a problem.

        Raises
        ------
        TypeError
            If a parameter of its penalty cannot be stored.
        """
        described = descriptions.describe(problem.penalty, problem.x.shape, self._keep)
        entry = {"name": problem.name, "penalty": described, "metadata": dict(problem.metadata)}
        for key in ("x", "step", "metric"):
            value = getattr(problem, key)
            entry[key] = {"array": self._keep(value)} if isinstance(value, np.ndarray) else value
        self._entries.append(entry)

    def close(self) -> None:
        """Put the file in its place."""
        versions: dict[str, str | None] = {"python": platform.python_version()}
        versions |= {package: _version(package) for package in ("proxlab", "numpy", "torch")}
        self._writer.close(
            {"format": _FORMAT, "version": _VERSION, "versions": versions, "problems": self._entries}
        )

    def discard(self) -> None:
        """Leave no file."""
        self._writer.discard()


def _version(package: str) -> str | None:
    try:
        return installed.version(package)
    except installed.PackageNotFoundError:
        return None


def save(path: str | os.PathLike[str], problems: Problem | Iterable[Problem]) -> None:
    """Save problems to a file, without pickle.

    The file is complete or not there: it is written under another name first.

    Parameters
    ----------
    path : str or path
        A file .npz or .safetensors (to read it takes the package ``safetensors``).
    problems : Problem or iterable of Problem

    Raises
    ------
    TypeError
        If something else is among the problems, or a parameter of a penalty cannot be stored.
    ValueError
        If the file is to be of another kind.
    """
    collector = Collector(path)
    try:
        for problem in [problems] if isinstance(problems, Problem) else problems:
            if not isinstance(problem, Problem):
                raise TypeError(f"problems: must hold proxlab.study.Problem, got {type(problem).__name__}")
            collector.add(problem)
        collector.close()
    except BaseException:
        collector.discard()
        raise


def load(
    *paths: str | os.PathLike[str], penalty: Penalty | type[Penalty] | None = None
) -> tuple[Problem, ...]:
    """Load problems from files and folders.

    Parameters
    ----------
    *paths : str or path
        Files that :func:`save` or :func:`capture` have written, and folders of such files.
    penalty : Penalty or class, optional
        In place of the penalties that are stored: one for all problems, or the class that takes the stored
        parameters. A class of one's own is known if its module has been imported; otherwise it has to be
        given here, since files run no code.

    Returns
    -------
    tuple of Problem
        In the order of the files, those of a folder by name. Each problem's ``metadata`` has the versions
        that it was saved with.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or none in a folder.
    ValueError
        If a file is of another kind or damaged, was written by a newer version, or names an unknown class.

    Examples
    --------
    >>> import os, tempfile, numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> problem = study.Problem("layer 1", np.ones((4, 3)), 0.1, None, pl.GroupLasso(0.5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "captured.npz")
    ...     study.save(path, [problem])
    ...     (again,) = study.load(path)
    >>> again.name, again.penalty.lam, bool((again.x == problem.x).all())
    ('layer 1', 0.5, True)
    """
    if not paths:
        raise TypeError("load: needs at least one file or folder")
    given_class = isinstance(penalty, type) and issubclass(penalty, Penalty)
    if not (penalty is None or given_class or isinstance(penalty, Penalty)):
        raise TypeError(f"penalty: must be a proxlab penalty, a class of penalties or None, got {penalty!r}")
    given = [item for p in paths for item in (p if isinstance(p, (list, tuple)) else [p])]
    return tuple(problem for path in given for file in _files(Path(path)) for problem in _load(file, penalty))


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if (path / "study.json").exists() or (path / "units").is_dir():
        raise ValueError(
            f"path: {os.fspath(path)!r} is a folder of results, not of problems: see proxlab report"
        )
    found = sorted(p for p in path.iterdir() if p.suffix in files.SUFFIXES and not p.name.startswith("."))
    if not found:
        raise FileNotFoundError(f"path: {os.fspath(path)!r} holds no .npz or .safetensors files")
    return found


def _load(path: Path, penalty: Penalty | type[Penalty] | None) -> list[Problem]:
    header, arrays = files.read(path)
    where = f"path: {os.fspath(path)!r}"
    if header.get("format") != _FORMAT:
        raise ValueError(f"{where} holds no problems of proxlab.study")
    if header.get("version") != _VERSION:
        raise ValueError(
            f"{where} is of version {header.get('version')!r} of the format, this proxlab reads {_VERSION}"
        )
    problems = []
    for entry in header["problems"]:
        try:
            values = {key: _restored(entry[key], arrays) for key in ("x", "step", "metric")}
            if isinstance(penalty, Penalty):
                chosen = penalty
            else:
                chosen = descriptions.restore(entry["penalty"], arrays, penalty)
            about = {**entry["metadata"], "versions": header["versions"]}
            problems.append(Problem(entry["name"], penalty=chosen, metadata=about, **values))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: {entry.get('name')!r}: {error}") from error
    return problems


def _restored(value: Any, arrays: Mapping[str, Array]) -> Any:
    return arrays[value["array"]] if isinstance(value, dict) else value
