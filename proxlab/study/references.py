"""What validate and compare share: solvers on problems in several dtypes, and the truth of these, once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from proxlab.rootfinders import RootFinder
from proxlab.study.folder import Folder, Result, check_path, unit_name
from proxlab.study.problems import Problem
from proxlab.study.run import Unit, run_units
from proxlab.study.solvers import Solver
from proxlab.study.truth import ExactRows, Truth, assemble, from_arrays, remember, to_arrays
from proxlab.values import listed

__all__ = ["Case", "Running", "attempts", "cases", "check_seeds", "references", "truth_of"]

Array = npt.NDArray[Any]

#: Elements whose truth is one unit of work: about a second.
_CHUNK = 20_000


@dataclass(frozen=True, eq=False)
class Case:
    """A problem in a dtype; ``problem`` is None where its values do not fit, for the ``reason``."""

    label: str
    dtype: str
    problem: Problem | None
    reason: str = ""


@dataclass(frozen=True)
class Running:
    """Where and how units run; see :func:`run_units`."""

    folder: str | Path | None = None
    cluster: str | None = None
    workers: int | None = None
    progress: bool = True

    def units(
        self, units: list[Unit], study: str, settings: Mapping[str, Any], part: str = ""
    ) -> dict[str, Result]:
        """Run units; those of a part have a folder of their own in that of the study."""
        folder = None
        if self.folder is not None:
            folder = Folder(check_path(self.folder) / part, part or study, settings)
        return run_units(
            units, folder=folder, cluster=self.cluster, workers=self.workers, progress=self.progress
        )


def cases(problems: Problem | Iterable[Problem], dtypes: Iterable[Any] | None) -> list[Case]:
    """Return every problem in every dtype; by default in its own.

    Problems of the same name are told apart by a number.
    """
    given = [problems] if isinstance(problems, Problem) else list(problems)
    if not given:
        raise ValueError("problems: must hold at least one problem")
    found: list[Case] = []
    seen: dict[str, int] = {}
    names = None if dtypes is None else _names(dtypes)
    for problem in given:
        if not isinstance(problem, Problem):
            raise TypeError(f"problems: must hold proxlab.study.Problem, got {type(problem).__name__}")
        count = seen[problem.name] = seen.get(problem.name, 0) + 1
        label = problem.name if count == 1 else f"{problem.name} ({count})"
        for name in names or [problem.x.dtype.name]:
            try:
                cast = problem if name == problem.x.dtype.name else problem.astype(name)
                found.append(Case(label, name, cast))
            except ValueError as error:
                found.append(Case(label, name, None, f"does not fit into {name}: {error}"))
    return found


def _names(dtypes: Any) -> list[str]:
    """Return the names of dtypes, or raise an error."""
    given = [dtypes] if isinstance(dtypes, str) else listed("dtypes", dtypes, "dtypes, such as 'float32'")
    names = []
    for one in given:
        try:
            name = np.dtype(one).name
        except TypeError:
            name = repr(one)
        if name not in ("float16", "float32", "float64"):
            raise ValueError(f"dtypes: must be float16, float32 or float64, got {name}")
        names.append(name)
    return names


def check_seeds(seeds: Iterable[int]) -> list[int]:
    """Return seeds, or raise an error."""
    given = listed("seeds", seeds, "integers, such as range(3)")
    if not all(isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) for seed in given):
        raise TypeError(f"seeds: must be different integers from 0 to 2**32 - 1, got {given!r}")
    found = [int(seed) for seed in given]
    if not found:
        raise ValueError("seeds: must hold at least one seed")
    if len(set(found)) < len(found) or not all(0 <= seed < 2**32 for seed in found):
        raise ValueError(f"seeds: must be different integers from 0 to 2**32 - 1, got {found}")
    return found


def attempts(
    given: list[Case],
    solvers: Mapping[str, Solver],
    seeds: list[int],
    tolerances: Iterable[float | None] = (None,),
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every solver on every problem with every seed; root finders at every tolerance.

    Yields
    ------
    unit : tuple of str and dict
        The name of the unit, and its arguments: what it says of itself, the case and the solver.
    """
    for case in given:
        for name, solver in solvers.items():
            for rtol in tolerances if isinstance(solver, RootFinder) else (None,):
                for seed in seeds:
                    about = {"problem": case.label, "solver": name, "tolerance": rtol}
                    about |= {"dtype": case.dtype, "seed": seed}
                    shown = {} if rtol is None else {"tolerance": rtol}
                    key = unit_name(case.label, name, **shown, dtype=case.dtype, seed=seed)
                    yield key, {"about": about, "case": case, "solver": solver}


def _solve(problem: Problem, digits: int, begin: int, end: int) -> Result:
    """Unit of work: the truth of some groups of a problem."""
    return Result({}, to_arrays(ExactRows(problem, digits).solve(begin, end)))


def references(given: list[Case], digits: int, running: Running) -> dict[str, dict[str, Array]]:
    """Return the truth of every problem, by digest: computed once for the same content."""
    chunks: dict[str, list[str]] = {}
    units = []
    for case in given:
        problem = case.problem
        if problem is None or problem.digest in chunks:
            continue
        names = chunks[problem.digest] = []
        ends = np.cumsum(problem.sizes)
        begin = 0
        while begin < len(ends):
            before = ends[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
            names.append(unit_name("truth", problem.digest[:24], digits=digits, groups=f"{begin}-{end}"))
            units.append(
                Unit(names[-1], _solve, {"problem": problem, "digits": digits, "begin": begin, "end": end})
            )
            begin = end
    results = running.units(units, "", {"digits": digits}, "truth") if units else {}
    return {digest: _joined([results[name].arrays for name in names]) for digest, names in chunks.items()}


def _joined(parts: list[dict[str, Array]]) -> dict[str, Array]:
    empty = to_arrays(())
    return {key: np.concatenate([part[key] for part in parts]) if parts else empty[key] for key in empty}


def truth_of(problem: Problem, digits: int, arrays: Mapping[str, Array]) -> Truth:
    """Put a problem's truth together from its arrays; the same content is read once in a process."""
    solved = remember(problem, digits, lambda: from_arrays(arrays))
    return assemble(ExactRows(problem, digits), solved)
