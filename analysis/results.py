"""How much work a study does, and the folder that holds all studies.

Layout of a results directory::

    bounds/                           the folder of a study: see proxlab.study.Folder
    tables/<study>-<table>.csv        every table of the report
    index.html                        the report
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from threadpoolctl import threadpool_limits

import proxlab as pl
from proxlab.study import Folder, MissingResultsError, StoredStudy, Unit, run_units

T = TypeVar("T")

#: Prints a line for who watches a run.
Say = Callable[[str], None]


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
        Threads of proxlab's kernels and of BLAS, and processes of a study that is not timed.
    cluster : str, optional
        Address of a Dask scheduler that takes the place of these processes.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("quick", "full")

    name: str = "quick"
    seed: int = 0
    threads: int = 1
    cluster: str | None = None

    def __post_init__(self) -> None:
        if self.name not in self.NAMES:
            raise ValueError(f"profile must be {' or '.join(map(repr, self.NAMES))}, got {self.name!r}")
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
class DeepProfile(Profile):
    """How much work a study on networks does.

    Of its names ``paper`` takes at most two and a half hours a study on two cores, and ``tiny`` is a short
    trial of whether everything runs.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("quick", "full", "paper", "tiny")


@dataclass(frozen=True)
class ResultsDir:
    """A directory of results.

    Parameters
    ----------
    path : pathlib.Path
        Made when something is written.
    """

    path: Path

    def run(self, study: str, profile: Profile, units: Sequence[Unit], *, timed: bool = False) -> None:
        """Compute the units of a study that are not stored yet, and store them.

        Parameters
        ----------
        study : str
            A folder below this one.
        profile : Profile
            Goes into the record.
        units : sequence of Unit
            In the order of the report.
        timed : bool, default False
            One after the other in this process, for what measures time.
        """
        settings = {"profile": profile.name, "seed": profile.seed, "threads": profile.threads}
        folder = Folder(self.path / study, study, settings, profile.command(study))
        with profile.limit_threads():
            if timed or (profile.threads == 1 and profile.cluster is None):
                run_units(units, folder=folder, workers=1)
            else:
                run_units(units, folder=folder, workers=profile.threads, cluster=profile.cluster)

    def read(self, study: str) -> StoredStudy:
        """Read a study back, as far as it is there.

        Raises
        ------
        MissingResultsError
            If it has not been run here.
        """
        try:
            return Folder(self.path / study).read()
        except MissingResultsError:
            raise MissingResultsError(
                f"{self.path} holds no results of the study {study!r}: run python -m analysis {study}"
            ) from None
