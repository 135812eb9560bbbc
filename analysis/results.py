"""Where a study keeps what it measured: units of work, written whole or not at all, and found again.

A study cuts its work into *units*: a name, a dictionary of parameters and a function of exactly these
parameters. `Study.run` computes the units that are not stored yet and skips those that are, so an interrupted
study goes on where it stopped. A stored unit counts only while its parameters, and the sources that it came
from, are unchanged.

Layout of a results directory::

    bounds/units/<unit>.json, .npz    values and arrays of one unit
    bounds/study.json                 units, command, profile, seconds and environment of the last run
    tables/<study>-<table>.csv        every table of the report
    index.html                        the report
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from threadpoolctl import threadpool_limits

import proxlab as pl

T = TypeVar("T")

#: Distributions whose version can change a result.
RECORDED_PACKAGES = (
    "proxlab",
    "numpy",
    "scipy",
    "numba",
    "array-api-compat",
    "scikit-learn",
    "cvxpy",
    "clarabel",
    "mpmath",
    "python-flint",
    "pandas",
    "matplotlib",
    "torch",
)


class MissingResultsError(FileNotFoundError):
    """A study has not been run in this results directory."""


@dataclass(frozen=True)
class Profile:
    """How much work a study does.

    Parameters
    ----------
    name : {"quick", "full"}
        ``quick`` keeps all studies together below eight minutes on two cores.
    seed : int
        Every random number of a study follows from it.
    threads : int
        Threads of proxlab's kernels and of BLAS, and processes of `Study.run`.
    """

    name: str = "quick"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.name not in ("quick", "full"):
            raise ValueError(f"profile must be 'quick' or 'full', got {self.name!r}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")

    @property
    def is_full(self) -> bool:
        """Whether this is the large profile."""
        return self.name == "full"

    def pick(self, quick: T, full: T) -> T:
        """The first value in the quick profile, the second in the full one."""
        return full if self.is_full else quick

    def command(self, study: str) -> str:
        """The command that runs a study with this profile, as captions show it."""
        seed = f" --seed {self.seed}" if self.seed else ""
        return f"python -m analysis {study} --profile {self.name}{seed}"

    @contextmanager
    def limit_threads(self) -> Iterator[None]:
        """Hold proxlab and BLAS to `threads` threads."""
        before = pl.get_num_threads()
        pl.set_num_threads(self.threads)
        try:
            with threadpool_limits(self.threads):
                yield
        finally:
            pl.set_num_threads(before)


@dataclass(frozen=True)
class Record:
    """What one unit of work found: JSON values, and arrays by name."""

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class Progress:
    """Progress bars on the terminal; one plain line a step where there is no terminal.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to draw; standard error by default, so that output can be piped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = RichProgress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, highlight=False)

    @contextmanager
    def bar(self, description: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar of `total` steps; yields the function that advances it by one."""
        started = time.perf_counter()
        task = self._bars.add_task(description, total=total)
        yield lambda: self._bars.advance(task)
        if not self.console.is_terminal:
            self.say(f"{description}: {total} done in {time.perf_counter() - started:.1f} s")


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all: into a temporary neighbour first, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _jsonable(value: object) -> object:
    """NumPy scalars and arrays as plain values, for `json.dumps`."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a record's values must be JSON or NumPy values, got {type(value).__name__}")


def _dump(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=_jsonable)


def _digest(*parts: bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(hashlib.sha256(part).digest())
    return state.hexdigest()


def _source_digest(modules: Sequence[ModuleType]) -> str:
    """Digest of proxlab's sources and of some modules': results of other code are not taken for ours."""
    package = Path(inspect.getfile(pl)).parent
    files = sorted(package.rglob("*.py")) + [Path(inspect.getfile(module)) for module in modules]
    return _digest(*(file.read_bytes() for file in files))


class Study:
    """The units of one study, open for computing; made by `ResultsDir.study`."""

    def __init__(self, directory: Path, profile: Profile, modules: Sequence[ModuleType]) -> None:
        self.directory = directory
        self.profile = profile
        self._sources = _source_digest(modules)
        self._units: list[str] = []
        self.computed = 0
        self.skipped = 0

    def run(
        self,
        function: Callable[..., Record],
        units: Mapping[str, Mapping[str, Any]],
        progress: Progress,
        description: str,
        *,
        workers: int = 1,
    ) -> None:
        """Compute ``function(**parameters)`` for each unit that is not stored yet, and store it.

        Parameters
        ----------
        function : callable
            Module-level function of the parameters that returns a `Record`. What it needs beyond them it
            must derive from them (data by name, random numbers from a seed): they are all that is compared.
        units : mapping of str to mapping
            Parameters (JSON values) by unit name. Names are file names.
        progress : Progress
            Where to draw the bar.
        description : str
            The bar's label.
        workers : int, default 1
            Processes. Keep 1 for anything that is timed.
        """
        digests = {name: self._unit_digest(function, parameters) for name, parameters in units.items()}
        pending = {name: p for name, p in units.items() if not self._is_stored(name, digests[name])}
        self.skipped += len(units) - len(pending)
        finished = units.keys() - pending.keys()
        try:
            with progress.bar(description, len(units)) as advance:
                for _ in finished:
                    advance()
                for name, record, seconds in _compute(function, pending, min(workers, len(pending))):
                    self._store(name, units[name], digests[name], record, seconds)
                    finished.add(name)
                    self.computed += 1
                    advance()
        finally:
            self._units += [name for name in units if name in finished]

    def _unit_digest(self, function: Callable[..., Record], parameters: Mapping[str, Any]) -> str:
        label = f"{function.__module__}.{function.__qualname__}"
        return _digest(label.encode(), self._sources.encode(), _dump(dict(parameters)).encode())

    def _path(self, name: str, suffix: str) -> Path:
        return self.directory / "units" / f"{name}{suffix}"

    def _is_stored(self, name: str, digest: str) -> bool:
        path = self._path(name, ".json")
        return path.exists() and json.loads(path.read_text())["digest"] == digest

    def _store(
        self, name: str, parameters: Mapping[str, Any], digest: str, record: Record, seconds: float
    ) -> None:
        # The JSON file goes first and comes last: where it exists, its arrays are there and are its own.
        head, arrays = self._path(name, ".json"), self._path(name, ".npz")
        head.unlink(missing_ok=True)
        if record.arrays:
            write_arrays(arrays, record.arrays)
        else:
            arrays.unlink(missing_ok=True)
        stored = {"parameters": dict(parameters), "digest": digest, "seconds": seconds}
        write_atomically(head, _dump(stored | {"values": record.values}))

    def _write_index(self, seconds: float, *, complete: bool) -> None:
        index = {
            "study": self.directory.name,
            "complete": complete,
            "units": self._units,
            "computed": self.computed,
            "skipped": self.skipped,
            "seconds": seconds,
            "command": self.profile.command(self.directory.name),
            "environment": environment(self.profile),
        }
        write_atomically(self.directory / "study.json", _dump(index))


def _limit_worker() -> None:
    pl.set_num_threads(1)
    threadpool_limits(1)


def _timed(function: Callable[..., Record], parameters: Mapping[str, Any]) -> tuple[Record, float]:
    started = time.perf_counter()
    record = function(**parameters)
    return record, time.perf_counter() - started


def _compute(
    function: Callable[..., Record], units: Mapping[str, Mapping[str, Any]], workers: int
) -> Iterator[tuple[str, Record, float]]:
    if workers <= 1:
        for name, parameters in units.items():
            yield name, *_timed(function, parameters)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_limit_worker) as pool:
        names = {pool.submit(_timed, function, parameters): name for name, parameters in units.items()}
        try:
            for future in as_completed(names):
                yield names[future], *future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as a compressed npz file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as temporary:
        written = Path(temporary) / path.name
        np.savez_compressed(written, allow_pickle=False, **arrays)
        os.replace(written, path)


@dataclass(frozen=True)
class StoredUnit:
    """One unit of a finished study, read back."""

    name: str
    parameters: dict[str, Any]
    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    seconds: float


@dataclass(frozen=True)
class StoredStudy:
    """A study read back from its results directory: what plots and tables are made of.

    Attributes
    ----------
    name : str
        The study.
    command : str
        The command that made it.
    complete : bool
        False where the run was interrupted; `units` then holds what was finished.
    environment : dict
        Versions, machine, seed and threads of the run.
    seconds : float
        Wall time of all units, whenever they were computed.
    units : list of StoredUnit
        In the order of the study.
    """

    name: str
    command: str
    complete: bool
    environment: dict[str, Any]
    seconds: float
    units: list[StoredUnit]

    def unit(self, name: str) -> StoredUnit:
        """The unit of that name."""
        return next(unit for unit in self.units if unit.name == name)


@dataclass(frozen=True)
class ResultsDir:
    """A directory of results.

    Parameters
    ----------
    path : pathlib.Path
        Made when something is written.
    """

    path: Path

    @contextmanager
    def study(self, name: str, profile: Profile, *modules: ModuleType) -> Iterator[Study]:
        """Open a study for computing; on leaving, its index is written, also after an interruption.

        Parameters
        ----------
        name : str
            The study, a directory below this one.
        profile : Profile
            Goes into the record.
        *modules : module
            Modules of `analysis` the results depend on: a change of their source, as one of proxlab's,
            makes stored units stale.
        """
        study = Study(self.path / name, profile, modules)
        started = time.perf_counter()
        complete = False
        try:
            with profile.limit_threads():
                yield study
            complete = True
        finally:
            study._write_index(time.perf_counter() - started, complete=complete)

    def read(self, name: str) -> StoredStudy:
        """Read a study back.

        Raises
        ------
        MissingResultsError
            If it has not been run here.
        """
        path = self.path / name / "study.json"
        if not path.exists():
            raise MissingResultsError(
                f"{self.path} holds no results of the study {name!r}: run python -m analysis {name}"
            )
        index = json.loads(path.read_text())
        units = [self._read_unit(name, unit) for unit in index["units"]]
        seconds = math.fsum(unit.seconds for unit in units)
        return StoredStudy(name, index["command"], index["complete"], index["environment"], seconds, units)

    def _read_unit(self, study: str, name: str) -> StoredUnit:
        stem = self.path / study / "units" / name
        stored = json.loads(Path(f"{stem}.json").read_text())
        arrays: dict[str, NDArray[Any]] = {}
        if Path(f"{stem}.npz").exists():
            with np.load(f"{stem}.npz") as file:
                arrays = dict(file)
        return StoredUnit(name, stored["parameters"], stored["values"], arrays, stored["seconds"])


def _cpu_model() -> str:
    """The processor's name, as well as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str:
    """The commit of the checkout that proxlab runs from, marked where files differ from it."""
    where = Path(inspect.getfile(pl)).parent
    command = ["git", "-C", str(where), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(profile: Profile) -> dict[str, Any]:
    """Versions, machine, seed, threads, commit and time: everything that a rerun should know."""
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in RECORDED_PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "threads": profile.threads,
        "profile": profile.name,
        "seed": profile.seed,
        "commit": _git_commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
