"""Mutation run: change an operator or a comparison of the mathematics and see whether a test fails.

``python -m tests.mutate`` (``make mutants``) takes a random sample of the mutants of cosmic-ray, for so many
minutes, in a copy of the package. Kernels are run by the interpreter (:mod:`tests.interpreted`), and nothing
is compiled again. It prints the survivors; those that were looked at are explained in ``tests/mutants.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RULES = ["optim/rules.py", "optim/updates.py", "optim/cube_root.py"]
#: What is compiled again for each mutant.
COMPILED = [*RULES, "optim/fused_curves.py", "optim/fused_clipped.py"]
#: What is mutated, the tests that should notice, those first that find most in least time, and words in the
#: names of those that say nothing about it, or take minutes where kernels are not compiled.
SUITES = [
    (
        ["search.py", "choose.py", "equations"],
        "ties rootfinders extremes",
        "certificate values vanishing spread",
    ),
    (
        [f"backends/{k}.py" for k in ("one_group", "sums", "kernels")],
        "engine ties rootfinders extremes kernels",
        "certificate values vanishing array_api forty columns strided root_against",
    ),
    (
        ["backends/column_kernels.py", "backends/column_sums.py"],
        "engine ties kernels",
        "forty in_single_precision rows",
    ),
    (
        ["backends/array_api.py", "backends/array_search.py"],
        "ties rootfinders extremes",
        "certificate values vanishing numba",
    ),
    (["bounds.py", "double_double.py", "powers.py"], "rootfinders extremes certificate", "stopped_early"),
    (["backends/array_tables.py"], "tables check", ""),
    (
        [
            "curves.py",
            *(f"backends/{k}.py" for k in ("curved_search", "curved_path", "array_curved", "curved_certify")),
            "backends/curved_group.py",
        ],
        "curved curved_compiled curved_extremes",
        "cannot_be_compiled",
    ),
    (["backends/tiles.py", "backends/copies.py"], "copies", ""),
    (["backends/decimal_rows.py"], "extremes", "certificate"),
    (
        [f"backends/{k}.py" for k in ("certify_kernels", "certify_sums", "certify_elements")],
        "certificate extremes kernels",
        "array_api prox spread values vanishing finders forty precision root_against threshold columns",
    ),
    (
        [f"backends/{k}.py" for k in ("array_certify", "clipped_certify", "enclosed_root", "scaled_rows")],
        "certificate tables extremes",
        "numba stopped_early optimizers vanishing prox_at prox_is brackets values spread far_below",
    ),
    (
        [f"backends/{k}.py" for k in ("radial_certify", "radial_boxes", "path_boxes", "boxes")],
        "tables certificate",
        "numba stopped_early optimizers vanishing prox_is namespaces",
    ),
    (["certificate.py"], "certificate mutants", ""),
    (["rootfinders"], "rootfinders ties", ""),
    (["inexactness.py"], "inexactness", ""),
    (["penalties"], "penalties tables inexactness prox extremes optim/sparsity", ""),
    (["derivative.py", "backends/array_derivative.py"], "derivative", ""),
    (
        [f"optim/fused_{k}.py" for k in ("groups", "blocks", "side")],
        "optim/fused_groups engine optim/fused_cpu",
        "training rows_are columns_are",
    ),
    (RULES, "optim/rules optim/fused_cpu optim/optimizers", ""),
    (["optim/fused_curves.py"], "optim/fused_curves", ""),
    (["optim/fused_clipped.py"], "optim/fused_clipped", ""),
]
CONFIG = """
[cosmic-ray]
module-path = {modules}
timeout = {timeout}
excluded-modules = []
test-command = {command}

[cosmic-ray.distributor]
name = "local"
"""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long, in all")
    parser.add_argument("--sample", type=int, default=5, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="*", default=[""], help="parts of the paths to mutate, from proxlab/ on"
    )
    return parser.parse_args()


def sampled(session: Path, modules: list[str], sample: int, rng: random.Random) -> None:
    """Skip all but a random sample of each module's mutants."""
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    def place(item: Any) -> tuple[Any, ...]:
        (one,) = item.mutations
        return str(one.module_path), one.start_pos, one.operator_name, one.occurrence

    with use_db(str(session)) as db:
        items = sorted(db.pending_work_items, key=place)
        for module in modules:
            jobs = [item.job_id for item in items if place(item)[0].startswith(f"proxlab/{module}")]
            for job in rng.sample(jobs, max(len(jobs) - sample, 0)):
                db.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def survivors(session: Path) -> tuple[int, list[str]]:
    """Return how many mutants were tried, and the changes of those that no test noticed.

    Those after which the tests do not end count as noticed.
    """
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome

    with use_db(str(session)) as db:
        results = [r for _, r in db.results if r.worker_outcome == WorkerOutcome.NORMAL]
    return len(results), [r.diff or "" for r in results if r.test_outcome == TestOutcome.SURVIVED]


def run(
    modules: list[str], tests: str, left_out: str, options: argparse.Namespace, copy: Path, left: float
) -> None:
    """Try a sample of the mutants of some modules, and print which survived."""
    name = modules[0].replace("/", "_")
    config, session = copy / f"{name}.toml", copy / f"{name}.sqlite"
    files = " ".join(re.sub(r"(\w+)$", r"test_\1.py", f"tests/{test}") for test in tests.split())
    plugins = "-p no:cacheprovider"
    if not set(modules) <= set(COMPILED):
        words = f"million without_a_module torch {left_out}".split()
        plugins += f" -p tests.interpreted -k '{' and '.join(f'not {word}' for word in words)}'"
    command = f"{sys.executable} -m pytest -x -q {plugins} {files}"
    paths = json.dumps([f"proxlab/{module}" for module in modules])
    environment = os.environ | {
        "PYTHONPATH": str(copy), "PROXLAB_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(copy / "cache")
    }  # fmt: skip

    def settings(seconds: float) -> None:
        config.write_text(CONFIG.format(modules=paths, timeout=seconds, command=json.dumps(command)))

    def tool(*words: str, seconds: float | None = None) -> None:
        subprocess.run(
            [sys.executable, "-m", "cosmic_ray.cli", *words],
            cwd=copy, env=environment, timeout=seconds, check=True,
        )  # fmt: skip

    # Without a change they pass, or what follows means nothing.
    settings(1800.0)
    begun = time.monotonic()
    tool("baseline", config.name)
    # A mutant that hangs is noticed.
    settings(60.0 + 3.0 * (time.monotonic() - begun))
    tool("init", config.name, session.name)
    sampled(session, modules, options.sample, random.Random(options.seed))
    try:
        tool("exec", config.name, session.name, seconds=max(left, 1.0))
    except subprocess.TimeoutExpired:
        print("(out of time)")
    tried, alive = survivors(session)
    print(f"{', '.join(modules)}: {tried} mutants, {len(alive)} survived", flush=True)
    for change in alive:
        print(change, flush=True)


def main() -> None:
    """Run the suites one after the other."""
    options = arguments()
    end = time.monotonic() + 60.0 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for part in ("proxlab", "tests", "docs", "pyproject.toml", "README.md", "CHANGELOG.md"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        # In an order of the seed's, for the time may not be enough for all.
        for modules, tests, left_out in random.Random(options.seed).sample(SUITES, len(SUITES)):
            chosen = [m for m in modules if any(part in f"proxlab/{m}" for part in options.only)]
            if chosen and time.monotonic() < end:
                run(chosen, tests, left_out, options, copy, end - time.monotonic())


if __name__ == "__main__":
    main()
