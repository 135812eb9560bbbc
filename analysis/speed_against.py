"""The same measurements of two checkouts, paired in turn: a ratio for each, with an interval.

A process of each checkout makes the calls of :mod:`analysis.speed_cases`; they take turns, so that what else
the machine does meets both.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from analysis import speed_cases
from analysis.results import Say
from analysis.speed_fresh import measure_first, measure_imported

#: The checkout of this file.
HERE = Path(__file__).parents[1]
#: A turn is so long at least, in seconds.
TURN = 4e-3
ROUNDS = 31
#: Rounds of what takes a process each.
FRESH = 9
FRESH_CASES = {"import": measure_imported, "first prox, warm": measure_first}


class CheckoutError(ValueError):
    """What is named is no checkout that can be measured."""


class Ratio(NamedTuple):
    """The time of this checkout over that of the other.

    Attributes
    ----------
    case : str
    here, other : float
        Medians, in seconds.
    ratio, low, high : float
        The median of the ratios of pairs, and an interval that holds it with a probability of 95 %.
    failure : str
        Why there is none, or nothing.
    """

    case: str
    here: float = math.nan
    other: float = math.nan
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    failure: str = ""


class Worker:
    """A process that measures a checkout.

    Parameters
    ----------
    root : Path
        Where the checkout is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        if not (self.root / "proxlab" / "__init__.py").is_file():
            raise CheckoutError(f"{root} is no checkout of proxlab: it has no proxlab/__init__.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(speed_cases.__file__))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(self.root),
        )  # fmt: skip

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request; an answer that is an error raises one."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of {self.root} has ended")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def open(self, case: str) -> None:
        """Make ready for a case."""
        package = Path(self.ask(open=case)["package"])
        if self.root not in package.parents:
            raise CheckoutError(f"{self.root}: its process imports proxlab from {package.parent}")

    def seconds(self, loops: int) -> float:
        """Seconds of a call, the mean of some."""
        return float(self.ask(run=loops)["seconds"])

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def environment(root: Path) -> dict[str, str]:
    """The variables under which a process imports a checkout, whatever is installed."""
    return os.environ | {"PYTHONPATH": str(root)}


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """An interval that holds the median with a probability of 95 %, by the order of the values."""
    ordered, n = np.sort(ratios), len(ratios)
    # The number of values below the median is binomial.
    tail, k = 0.5**n, 0
    while k < (n - 1) // 2 and 2.0 * tail <= 0.05:
        k += 1
        tail += math.comb(n, k) * 0.5**n
    low = max(0, k - 1)
    return float(ordered[low]), float(ordered[n - 1 - low])


def compared(case: str, pairs: Sequence[tuple[float, float]]) -> Ratio:
    """What pairs of seconds come to."""
    here, other = np.array(pairs).T
    ratios = here / other
    low, high = interval(ratios.tolist())
    return Ratio(case, float(np.median(here)), float(np.median(other)), float(np.median(ratios)), low, high)


def measure(case: str, here: Worker, other: Worker, rounds: int) -> Ratio:
    """Compare two checkouts by a case."""
    for worker, name in ((here, "here"), (other, "there")):
        try:
            worker.open(case)
        except RuntimeError as error:
            return Ratio(case, failure=f"not {name}: {error}")
    loops = max(1, math.ceil(TURN / max(here.seconds(1), 1e-7)))
    pairs = []
    for k in range(rounds):
        # Who is first changes, as what is in the cache does.
        order = (here, other) if k % 2 else (other, here)
        seconds = {worker: worker.seconds(loops) for worker in order}
        pairs.append((seconds[here], seconds[other]))
    return compared(case, pairs)


def measure_fresh(case: str, roots: tuple[Path, Path], caches: tuple[str, str], rounds: int) -> Ratio:
    """Compare two checkouts by what a process does once; the first round fills the caches."""
    call = FRESH_CASES[case]
    pairs = []
    for _ in range(rounds + 1):
        here, other = (
            call(environment(root) | {"NUMBA_CACHE_DIR": cache})
            for root, cache in zip(roots, caches, strict=True)
        )
        pairs.append((here, other))
    return compared(case, pairs[1:])


def run(other: Path, say: Say, *, only: Iterable[str] = (), rounds: int = ROUNDS) -> list[Ratio]:
    """Measure this checkout against another, and print the table.

    Parameters
    ----------
    other : Path
        The root of the other checkout, as ``git worktree add ../before v1.0`` makes one.
    say : callable
    only : iterable of str
        Only cases whose name begins with one of these; none means all.
    rounds : int
        Pairs of each case.

    Raises
    ------
    CheckoutError
        If there is no checkout.
    ValueError
        If no case's name begins so.
    """
    words = tuple(only)
    names = [name for name in (*speed_cases.available(), *FRESH_CASES) if not words or name.startswith(words)]
    if not names:
        raise ValueError(
            f"no case begins with {' or '.join(words)}: there are {', '.join(speed_cases.CASES)}"
        )
    found = []
    with Worker(HERE) as here, Worker(other) as there, tempfile.TemporaryDirectory() as caches:
        head = f"{'this checkout / the other':<26}{'ratio':>6}   {'95 %':<16}{'ms here':>9}{'ms there':>10}"
        say(f"[bold]{head}[/bold]")
        places = tuple(str(Path(caches, name)) for name in ("here", "there"))
        for name in names:
            if name in FRESH_CASES:
                roots = (here.root, there.root)
                row = measure_fresh(name, roots, (places[0], places[1]), min(rounds, FRESH))
            else:
                row = measure(name, here, there, rounds)
            found.append(row)
            say(_line(row))
    return found


def _line(row: Ratio) -> str:
    if row.failure:
        return f"{row.case:<24}{row.failure}"
    span = f"{row.low:.3g} to {row.high:.3g}"
    color = "green" if row.high < 1 else "red" if row.low > 1 else ""
    ratio = f"{row.ratio:>8.3g}"
    shown = f"[{color}]{ratio}[/{color}]" if color else ratio
    return f"{row.case:<24}{shown}   {span:<16}{1e3 * row.here:>9.3g}{1e3 * row.other:>10.3g}"
