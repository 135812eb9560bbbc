"""Run units of work: what is stored is skipped, the rest goes to this process or to workers."""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from proxlab.study import usercode
from proxlab.study.cluster import Cluster, ClusterError
from proxlab.study.digest import digest, is_installed, source_digest
from proxlab.study.environment import usable_cores, version
from proxlab.study.folder import Folder, Result, check_names, check_path
from proxlab.values import check_count

#: Seconds of work that are left to this process: to start workers takes seconds itself.
_SMALL = 5.0


class UnitsFailedError(RuntimeError):
    """Units raised, or lost their workers too often; all others have been computed and stored.

    Attributes
    ----------
    reasons : dict of str to str
        By the unit's name.
    results : dict of str to Result
        Of the other units.
    """

    def __init__(self, reasons: dict[str, str], results: dict[str, Result]) -> None:
        self.reasons, self.results = reasons, results
        listed = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        super().__init__(f"{len(reasons)} of {len(reasons) + len(results)} units failed: {listed}{more}")


@dataclass(frozen=True)
class Unit:
    """A piece of work that is computed, stored and found again as a whole.

    Parameters
    ----------
    name : str
        A file name; see `unit_name`. Parameters and seed belong into it.
    function : callable
        Called with `arguments` by keyword, returns a `Result`. It must follow from them alone.
    arguments : mapping
        Anything that can be pickled.
    """

    name: str
    function: Callable[..., Result]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of what the result follows from: function, arguments and proxlab's sources."""
        label = f"{self.function.__module__}.{self.function.__qualname__}"
        return digest((source_digest(), label, self.function, dict(self.arguments)))


def run_units(
    units: Sequence[Unit],
    *,
    folder: str | Path | Folder | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, Result]:
    """Compute units, or find them in a folder.

    Parameters
    ----------
    units : sequence of Unit
        With names of their own.
    folder : str, Path or Folder, optional
        Where units are stored as they finish and looked up before; locked meanwhile. A run that was
        interrupted goes on where it stopped. By default nothing is stored.
    cluster : str, optional
        Address of a Dask scheduler, ``"tcp://host:8786"``. Its workers need proxlab, and no shared disk.
    workers : int, optional
        Processes of this machine. By default this process alone does what is small, and a process for each
        core the rest; 1 does all in this process.
    progress : bool, default True
        Show a bar on standard error where that is a terminal.

    Returns
    -------
    results : dict of str to Result
        In the order of the units.

    Raises
    ------
    UnitsFailedError
        If units raised, after all others are done.
    ValueError
        If names clash or are no file names.
    FolderError
        If the folder is locked by another run or cannot be written.
    ClusterError
        If the cluster cannot be reached or has no workers.

    Notes
    -----
    Workers of this machine are programs of their own: a script needs no ``if __name__ == "__main__"``.
    """
    if workers is not None:
        workers = check_count("workers", workers)
    check_names([unit.name for unit in units])
    if folder is None:
        return _run(units, None, cluster, workers, progress)
    place = folder if isinstance(folder, Folder) else Folder(check_path(folder))
    with place.lock():
        return _run(units, place, cluster, workers, progress)


def _run(
    units: Sequence[Unit], folder: Folder | None, cluster: str | None, workers: int | None, progress: bool
) -> dict[str, Result]:
    names = [unit.name for unit in units]
    results: dict[str, Result] = {}
    digests: dict[str, str] = {}
    if folder is not None:
        digests = {unit.name: unit.digest for unit in units}
        # Written first, so that a run that is interrupted can be read.
        folder.write_index(names, complete=False, digests=digests)
        for unit in units:
            found = folder.stored(unit.name, digests[unit.name])
            if found is not None:
                results[unit.name] = found.result
    pending = {unit.name: unit for unit in units if unit.name not in results}
    errors: dict[str, Exception] = {}
    label = folder.study if folder is not None else "units"
    with _bar(label, len(units), len(results), progress) as advance:
        for name, outcome, seconds in _compute(pending, cluster, workers):
            if isinstance(outcome, Exception):
                errors[name] = outcome
            else:
                if folder is not None:
                    folder.store(
                        name,
                        outcome,
                        digest=digests[name],
                        parameters=pending[name].arguments,
                        seconds=seconds,
                    )
                results[name] = outcome
            advance()
    if folder is not None:
        folder.write_index(names, complete=not errors, digests=digests)
    ordered = {name: results[name] for name in names if name in results}
    if errors:
        reasons = {n: _reason(errors[n]) for n in names if n in errors}
        raise UnitsFailedError(reasons, ordered) from next(iter(errors.values()))
    return ordered


def _reason(error: Exception) -> str:
    """What an exception says, with its type where that says more."""
    return (
        str(error)
        if type(error) is RuntimeError or isinstance(error, ClusterError)
        else f"{type(error).__name__}: {error}"
    )


_Outcome = tuple[str, Result | Exception, float]


def _compute(pending: dict[str, Unit], cluster: str | None, workers: int | None) -> Iterator[_Outcome]:
    """Outcomes of units as they finish, and the seconds that each took."""
    left = dict(pending)
    if cluster is None:
        alone = workers == 1 or (workers is None and usable_cores() == 1)
        taken: list[float] = []
        while left and (alone or len(left) == 1 or (workers is None and _is_small(taken, len(left)))):
            name = next(iter(left))
            outcome, seconds = _here(left.pop(name))
            taken.append(seconds)
            yield name, outcome, seconds
        if not left:
            return
    opened = (
        Cluster.start(min(workers or usable_cores(), len(left)))
        if cluster is None
        else Cluster.connect(cluster)
    )
    with opened as workforce:
        tasks = _Payloads(left, remote=cluster is not None)
        for finished in workforce.run(_there, tasks):
            if finished.error is not None:
                yield finished.name, finished.error, 0.0
            else:
                yield finished.name, *finished.value


def _is_small(taken: Sequence[float], left: int) -> bool:
    """Whether the units that are left take no longer than workers need to start, from what others took.

    The first unit may have compiled kernels, so that a second one is needed to tell.
    """
    if len(taken) < 2:
        return sum(taken) < 2 * _SMALL
    return statistics.median(taken[1:]) * left < _SMALL


def _here(unit: Unit) -> tuple[Result | Exception, float]:
    started = time.perf_counter()
    try:
        outcome: Result | Exception = _checked(unit.function(**unit.arguments))
    except Exception as error:
        outcome = error
    return outcome, time.perf_counter() - started


def _checked(result: object) -> Result:
    if not isinstance(result, Result):
        raise TypeError(f"a unit's function must return a Result, got {type(result).__name__}")
    return result


class _Payloads(Mapping[str, tuple[Any, ...]]):
    """What is sent for each unit, made when it is sent."""

    def __init__(self, units: dict[str, Unit], *, remote: bool) -> None:
        self._units, self._remote = units, remote

    def __getitem__(self, name: str) -> tuple[Any, ...]:
        import cloudpickle

        unit = self._units[name]
        shipped = usercode.sources()
        with contextlib.ExitStack() as stack:
            # Modules that a worker cannot import travel as they are.
            for name in _modules((unit.function, dict(unit.arguments))):
                module = sys.modules.get(name)
                if module is None or name in shipped or is_installed(name):
                    continue
                if self._remote or not _is_found(name):
                    cloudpickle.register_pickle_by_value(module)
                    stack.callback(cloudpickle.unregister_pickle_by_value, module)
            pickled = cloudpickle.dumps((unit.function, dict(unit.arguments)))
        return source_digest(), version("proxlab"), shipped, pickled

    def __iter__(self) -> Iterator[str]:
        return iter(self._units)

    def __len__(self) -> int:
        return len(self._units)


@functools.cache
def _is_found(name: str) -> bool:
    """Whether a process with the search path of this one finds a module by its name."""
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for k in range(len(parts)):
        spec = PathFinder.find_spec(".".join(parts[: k + 1]), path)
        if spec is None:
            return False
        path = spec.submodule_search_locations
    return spec is not None and spec.origin == getattr(sys.modules[name], "__file__", None)


def _modules(value: object) -> set[str]:
    """Modules of the functions and objects in a value, as far as containers and attributes show them."""
    found: set[str] = set()
    met: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if id(item) in met or item is None or isinstance(item, str | bytes | bool | int | float):
            continue
        met.add(id(item))
        if isinstance(item, Mapping):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        else:
            named = item if hasattr(item, "__qualname__") else type(item)
            module = getattr(named, "__module__", None)
            if module is not None and module != "__main__":
                found.add(module)
            if named is not item:
                waiting += vars(item).values() if hasattr(item, "__dict__") else ()
    return found


def _there(
    sources: str, release: str, shipped: dict[str, str], pickled: bytes
) -> tuple[Result | Exception, float]:
    """Compute a unit on a worker."""
    import cloudpickle
    from threadpoolctl import threadpool_limits

    from proxlab.backends.threads import set_num_threads

    if source_digest() != sources:
        raise RuntimeError(
            f"the worker runs other sources of proxlab ({version('proxlab')}) than this process ({release})"
        )
    set_num_threads(1)
    usercode.install(shipped)
    function, arguments = cloudpickle.loads(pickled)
    with threadpool_limits(1):
        outcome, seconds = _here(Unit("", function, arguments))
    if isinstance(outcome, Exception):
        # The exception itself may not survive the way back.
        outcome = RuntimeError(f"{type(outcome).__name__}: {outcome}")
    return outcome, seconds


@contextlib.contextmanager
def _bar(label: str, total: int, done: int, shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; yields the function that advances it by one."""
    console = Console(stderr=True)
    if not (shown and console.is_terminal):
        yield lambda: None
        return
    bars = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )
    with bars:
        task = bars.add_task(label, total=total, completed=done)
        yield lambda: bars.advance(task)
