"""What the studies on networks run: every method with its strengths, and how long their steps take."""

from __future__ import annotations

from typing import Any

from analysis.deep import fetch, tasks, timing, training
from analysis.deep.catalogue import PROBED, Plan, budgets, strengths, unit_name
from analysis.results import Profile, ResultsDir, Say
from proxlab.study import Unit


def units(plan: Plan, profile: Profile, digests: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The parameters of each training run, those that take longest first."""
    found = {}
    for task, (count, epochs) in budgets(plan, full=profile.is_full).items():
        for draw in range(profile.pick(1, 3)):
            for method, values in strengths(task, full=profile.is_full).items():
                for strength in values:
                    found[unit_name(task, method, strength, draw)] = {
                        "task": task,
                        "method": method,
                        "strength": strength,
                        "seed": profile.seed + draw,
                        "samples": count,
                        "epochs": epochs,
                        "data": digests[task],
                        "probe": draw == 0 and PROBED.get((task, method)) == strength,
                    }
    return found


def run(plan: Plan, profile: Profile, results: ResultsDir, say: Say) -> None:
    """Train, as many runs at a time as there are threads, then time the steps of all methods in turn."""
    digests = {
        task: fetch.digest(tasks.TASKS[task].files(say)) for task in budgets(plan, full=profile.is_full)
    }
    runs = [Unit(name, training.train, given) for name, given in units(plan, profile, digests).items()]
    results.run(plan.name, profile, runs)
    timed = [
        Unit(
            f"{task}-timing",
            timing.measure,
            {
                "task": task,
                "full": profile.is_full,
                "rounds": profile.pick(20, 100),
                "threads": profile.threads,
                "seed": profile.seed,
                "data": digest,
            },
        )
        for task, digest in digests.items()
    ]
    # The runs are found again, and the study is then all of them.
    results.run(plan.name, profile, [*runs, *timed], timed=True)
