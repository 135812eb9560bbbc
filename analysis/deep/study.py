"""What the studies on networks run: every method with its strengths, and how long their steps take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from analysis.deep import fetch, timing
from analysis.deep.catalogue import SCALES, Plan, suffix, unit_name
from analysis.deep.methods import Method
from analysis.deep.runs import middle
from analysis.deep.tasks import Task
from analysis.deep.training import trainer
from analysis.results import Profile, ResultsDir, Say
from proxlab.study import Unit


def units(plan: Plan, profile: Profile, digests: dict[str, str]) -> list[Unit]:
    """The training runs, those that take longest first."""
    scale = SCALES[profile.name]
    found: list[Unit] = []
    for task in plan.budgets(profile.name):
        for draw in range(scale.draws):
            found += _draw(plan, plan.methods, task, draw, profile, digests)
    for task in plan.budgets(profile.name):
        for draw in range(scale.solver_draws):
            found += _draw(plan, plan.solvers, task, draw, profile, digests)
    return found


def _draw(
    plan: Plan, of: tuple[Method, ...], task: Task, draw: int, profile: Profile, digests: dict[str, str]
) -> Iterator[Unit]:
    """One seed of every strength of some methods."""
    budget = task.budgets[profile.name]
    for method, values in plan.strengths(task, profile.name, of).items():
        runs = method.runs_on(task)
        for strength in values:
            given: dict[str, Any] = {
                "task": task.name,
                "method": method.name,
                "strength": strength,
                "seed": profile.seed + draw,
                "samples": budget.samples,
                "epochs": budget.epochs,
                "data": digests[task.name],
                "probe": draw == 0 and runs is not None and runs.probed == strength,
            }
            if budget.tested is not None:
                given["tested"] = budget.tested
            if not SCALES[profile.name].compacts_all and (draw or of is plan.solvers):
                given["compacted"] = False
            name = unit_name(task.name, method.name, strength, draw) + suffix(profile.name)
            yield Unit(name, trainer(task, method), given)


def run(plan: Plan, profile: Profile, results: ResultsDir, say: Say) -> None:
    """Train, as many runs at a time as there are threads, then time the steps of all methods in turn."""
    digests = {task.name: fetch.digest(task.files(say)) for task in plan.budgets(profile.name)}
    runs = units(plan, profile, digests)
    timing.announce(plan, profile, runs, results, say)
    results.run(plan.name, profile, runs)
    # The runs are found again, and the study is then all of them.
    results.run(plan.name, profile, [*runs, *_timed(plan, profile, digests)], timed=True)


def _timed(plan: Plan, profile: Profile, digests: dict[str, str]) -> Iterator[Unit]:
    scale = SCALES[profile.name]
    sets = {"timing": plan.methods} | ({"solver-timing": plan.solvers} if scale.solver_draws else {})
    for task in plan.budgets(profile.name):
        for label, of in sets.items():
            listed = plan.strengths(task, profile.name, of)
            chosen = {method: middle(values) for method, values in listed.items()}
            given = {
                "task": task.name,
                "full": profile.is_full,
                "rounds": scale.rounds,
                "threads": profile.threads,
                "seed": profile.seed,
                "data": digests[task.name],
            }
            if chosen:
                name = f"{task.name}-{label}{suffix(profile.name)}"
                yield Unit(name, timing.measurer(task, chosen, scale.before), given)
