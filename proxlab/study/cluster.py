"""Dask as the engine: processes of this machine by default, or the workers of an existing cluster."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxlab.study import worker

#: Held while Dask is imported.
_IMPORT = threading.Lock()
#: Seconds to wait for an answer of a scheduler.
PATIENCE = 30.0
#: Seconds to wait for workers where none are left: some clusters start them when there is work.
WORKERLESS = 120.0
#: So often is a local worker that died replaced, for each worker.
_REPLACEMENTS = 10
#: Tasks that are sent ahead, for each worker: none waits for its input, and memory stays small.
_AHEAD = 3
#: Threads of numerical libraries in a worker.
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMBA_NUM_THREADS",
    ),
    "1",
)


class ClusterError(RuntimeError):
    """The workers cannot be reached, or none are left; the message says what to do."""


class _WorkersDiedError(ClusterError):
    """Workers died that had this task, and perhaps others."""


@dataclass(frozen=True)
class Finished:
    """A task that came to its end.

    Attributes
    ----------
    name : str
    value : object
        What it returned.
    error : Exception or None
        What it raised, or that its workers died.
    """

    name: str
    value: Any
    error: Exception | None


@dataclass
class Cluster:
    """Workers that are open for tasks; made by `connect` and `start`."""

    client: Any
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _spare: int = 0
    _scratch: str = ""

    @classmethod
    @contextlib.contextmanager
    def connect(cls, address: str) -> Iterator[Cluster]:
        """Use an existing scheduler.

        Parameters
        ----------
        address : str
            ``"tcp://host:8786"``.

        Raises
        ------
        ClusterError
            If nothing answers there.
        """
        from distributed import Client

        with _quiet():
            try:
                client = Client(address, timeout=PATIENCE, set_as_default=False, name="proxlab")
            except (OSError, ValueError, TypeError) as error:
                raise ClusterError(f"no Dask scheduler answers at {address!r}: {error}") from error
            try:
                yield cls(client)
            finally:
                client.close(timeout=5)

    @classmethod
    @contextlib.contextmanager
    def start(cls, workers: int) -> Iterator[Cluster]:
        """Start a scheduler in this process and so many workers beside it; they end with it.

        Parameters
        ----------
        workers : int
            Processes, of one thread each.
        """
        with _IMPORT:  # two threads at once find half a package
            import dask
            from distributed import Client, LocalCluster

        with contextlib.ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="proxlab-"))
            settings = {"distributed.scheduler.worker-ttl": None, "distributed.scheduler.allowed-failures": 1}
            stack.enter_context(dask.config.set(settings))
            stack.enter_context(_quiet())
            local = stack.enter_context(
                LocalCluster(
                    n_workers=0,
                    processes=False,
                    host="127.0.0.1",
                    protocol="tcp://",
                    dashboard_address=None,
                    # Any port: another cluster of this machine may have the usual one.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    silence_logs=logging.CRITICAL,
                    local_directory=scratch,
                )
            )
            client = stack.enter_context(Client(local, set_as_default=False, name="proxlab"))
            processes = [_start_worker(local.scheduler_address, scratch) for _ in range(workers)]
            cluster = cls(client, processes, _REPLACEMENTS * workers, scratch)
            try:
                yield cluster
            finally:
                for process in cluster.processes:
                    process.kill()
                for process in cluster.processes:
                    process.communicate()

    def run(self, function: Callable[..., Any], tasks: Mapping[str, tuple[Any, ...]]) -> Iterator[Finished]:
        """Call a function with the arguments of each task, and yield the tasks as they end.

        A task whose worker dies goes to another worker. One that has met several deaths waits until the
        others are done, and is then tried alone.

        Parameters
        ----------
        function : callable
            Importable on the workers.
        tasks : mapping of str to tuple
            Arguments by the task's name.

        Yields
        ------
        finished : Finished
            In the order in which they end.

        Raises
        ------
        ClusterError
            If no worker is left.
        """
        waiting = list(tasks)[::-1]
        suspects: list[str] = []
        alone: set[str] = set()
        ended: queue.SimpleQueue[Finished] = queue.SimpleQueue()
        futures: dict[str, Any] = {}
        alive = time.monotonic()
        try:
            while waiting or futures or suspects:
                if not waiting and not futures:
                    # Alone, so that a death is its own.
                    waiting.append(suspects.pop())
                    alone.add(waiting[0])
                while waiting and len(futures) < _AHEAD * max(1, self._width()):
                    name = waiting.pop()
                    with warnings.catch_warnings():
                        warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                        futures[name] = self.client.submit(function, *tasks[name], pure=False)
                    futures[name].add_done_callback(lambda future, name=name: ended.put(_fetch(name, future)))
                try:
                    finished = ended.get(timeout=0.3)
                except queue.Empty:
                    self._replace_dead()
                    if self._width():
                        alive = time.monotonic()
                    elif time.monotonic() - alive > WORKERLESS:
                        raise ClusterError(
                            f"the cluster at {self.client.scheduler.address} has had no workers for "
                            f"{WORKERLESS:.0f} s: start some, and the same command goes on from here"
                        ) from None
                    continue
                alive = time.monotonic()
                del futures[finished.name]
                if isinstance(finished.error, _WorkersDiedError) and finished.name not in alone:
                    suspects.append(finished.name)
                else:
                    yield finished
        finally:
            with contextlib.suppress(Exception):
                self.client.cancel(list(futures.values()))

    def _width(self) -> int:
        """Threads of all workers that are there."""
        try:
            return sum(self.client.nthreads().values())
        except (OSError, TimeoutError):
            return 0

    def _replace_dead(self) -> None:
        for place, process in enumerate(self.processes):
            if process.poll() is not None and self._spare > 0:
                self._spare -= 1
                process.communicate()
                self.processes[place] = _start_worker(self.client.scheduler.address, self._scratch)


def _fetch(name: str, future: Any) -> Finished:
    """What a future holds that is done; waits where a worker took its result with it."""
    try:
        error = future.exception()
        if error is None:
            return Finished(name, future.result(), None)
    except BaseException as caught:
        # Cancelled, or the scheduler is gone.
        error = ClusterError(f"the scheduler dropped it ({type(caught).__name__})")
    if type(error).__name__ == "KilledWorker":
        error = _WorkersDiedError("every worker that computed it died, perhaps for lack of memory")
    return Finished(name, None, error)


def _start_worker(address: str, scratch: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "proxlab.study.worker", address, scratch],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | _ONE_THREAD | {worker.PARENT: json.dumps([sys.path, sys.argv])},
        # Ctrl-C is for the parent, which then ends its workers.
        start_new_session=True,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log of lost connections off the terminal: what matters of it is an error here."""
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]
    loggers = [logging.getLogger(name) for name in ("distributed", "asyncio", *names)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
