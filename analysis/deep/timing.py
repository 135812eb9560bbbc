"""How long training steps take: of all methods in turn, in one process; and a whole study, foretold."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from analysis.deep.blocks import sparsity
from analysis.deep.catalogue import Plan
from analysis.deep.course import Course, start
from analysis.deep.loop import BATCH, batches, evaluate, tensor
from analysis.deep.methods import Method
from analysis.deep.samples import Samples
from analysis.deep.tasks import Task
from analysis.deep.training import CALL, FAILURES
from analysis.results import Profile, ResultsDir, Say
from proxlab.study import Folder, Result, Unit
from proxlab.torch import compact

#: Steps of a method that tell how long its runs will take, after so many that are not timed.
_TRIED, _NOT_TIMED = 4, 2
#: Samples whose test tells how long that of all takes.
_TESTED = 1000


def measurer(task: Task, chosen: Mapping[Method, float], before: int) -> Callable[..., Result]:
    """The function of a timing's unit: methods, each at a strength, after so many steps that do not count."""

    def measure(**given: Any) -> Result:
        return _measured(
            task, chosen, before, **{k: v for k, v in given.items() if k not in ("task", "full")}
        )

    return measure


def _measured(
    task: Task,
    chosen: Mapping[Method, float],
    before: int,
    *,
    rounds: int,
    threads: int,
    seed: int,
    data: str,
) -> Result:
    """Time steps of all methods of a task in turn.

    Parameters
    ----------
    task : Task
    chosen : mapping of Method to float
        Their strengths.
    before : int
        Steps before the clock runs.
    rounds : int
        Steps of each method that are timed.
    threads : int
        Of PyTorch.
    seed : int
        Of the initial weights and the order of the samples.
    data : str
        Digest of the data.
    """
    torch.set_num_threads(threads)
    loaded = task.load(data)
    runs = [_begun(task, m, value, seed, 2 * (before + rounds), loaded) for m, value in chosen.items()]
    # not a number for a method that fails on the way
    found = np.full((rounds, len(runs), 2), np.nan)
    failed: set[int] = set()
    given = _endless(task, loaded, seed)
    for number in range(-before, rounds):
        x, y = next(given)
        for k, step in enumerate(runs):
            if k in failed:
                continue
            try:
                taken = step(x, y)
            except FAILURES:
                failed.add(k)
                continue
            if number >= 0:
                found[number, k] = taken
    courses = [step.course for step in runs]
    values = {
        "methods": [method.name for method in chosen],
        "weighted": [sparsity(c.blocks, [b.alive() for b in c.blocks]).weighted for c in courses],
        "per_epoch": len(loaded.train) // BATCH,
    }
    return Result(values, {"seconds": found})


class _Stepper:
    """A network with its optimizer; a call is a training step, and returns the seconds of its two parts."""

    def __init__(self, model: torch.nn.Module, course: Course) -> None:
        self.model, self.course = model, course

    def __call__(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        started = time.perf_counter()
        self.course.optimizer.zero_grad()
        functional.cross_entropy(self.model(x), y).backward()
        half = time.perf_counter()
        self.course.step()
        return half - started, time.perf_counter() - half


def _begun(task: Task, method: Method, strength: float, seed: int, steps: int, loaded: Samples) -> _Stepper:
    torch.manual_seed(seed)
    model = task.build(loaded)
    return _Stepper(model, start(task, method, strength, model, steps))


def _endless(task: Task, loaded: Samples, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng([seed, 2])
    return itertools.chain.from_iterable(batches(loaded.train, rng, task.bucketed) for _ in itertools.count())


def announce(plan: Plan, profile: Profile, units: list[Unit], results: ResultsDir, say: Say) -> None:
    """Say how many runs are to do and about how long they take, from a few steps of each method."""
    folder = Folder(results.path / plan.name)
    pending = [unit for unit in units if folder.stored(unit.name, unit.digest) is None]
    if not pending:
        return
    torch.set_num_threads(1)
    cost: dict[tuple[str, str], float] = {}
    ended: dict[str, tuple[float, float]] = {}
    total = 0.0
    for unit in pending:
        a = unit.arguments
        task, method = plan.task(a["task"]), plan.method(a["method"])
        loaded = task.load(a["data"])
        if (task.name, method.name) not in cost:
            cost[task.name, method.name] = _tried(task, method, a["strength"], loaded)
        if task.name not in ended:
            ended[task.name] = _after(task, loaded)
        steps = a["epochs"] * (len(loaded.train.head(a["samples"])) // BATCH)
        a_sample, once = ended[task.name]
        # tested as it is, and once more without its zeros
        compacted = a.get("compacted", True)
        tests = (1 + compacted) * len(loaded.test.head(a.get("tested")))
        total += steps * cost[task.name, method.name] + tests * a_sample + compacted * once
    workers = min(profile.threads, len(pending))
    say(
        f"{len(pending)} of {len(units)} training runs to do: about {total / workers / 60.0:.1f} minutes in "
        f"{workers} process{'es' if workers > 1 else ''}, from the time of a few steps; stopped and started "
        "again, it goes on where it was"
    )


def _after(task: Task, loaded: Samples) -> tuple[float, float]:
    """Seconds that a sample's test takes, and those of removing zeros."""
    model = task.build(loaded)
    few = loaded.test.head(_TESTED)
    started = time.perf_counter()
    evaluate(model, few)
    tested = time.perf_counter()
    compact(model.eval(), tensor(few.x[:CALL]))
    return (tested - started) / len(few), time.perf_counter() - tested


def _tried(task: Task, method: Method, strength: float, loaded: Samples) -> float:
    """Median seconds of a few steps; 0 for a method that fails in them."""
    try:
        step = _begun(task, method, strength, 0, 100, loaded)
        given = itertools.islice(_endless(task, loaded, 0), _NOT_TIMED + _TRIED)
        return float(np.median([sum(step(x, y)) for x, y in given][_NOT_TIMED:]))
    except FAILURES:
        return 0.0
