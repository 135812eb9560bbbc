"""Mutation run: change an operator or a comparison of the mathematics and see whether a test fails.

``python -m tests.mutate`` (``make mutants``) takes a random sample of the mutants of cosmic-ray, for so many
minutes, in a copy of the package: what is compiled is the mutated source. It prints the survivors; those that
were looked at are explained in ``tests/mutants.md``.
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
#: What is mutated, and the tests that should notice, those first that find most.
SUITES = [
    (
        ["search.py", "choose.py", "equations", "bounds.py", "double_double.py", "powers.py"],
        "exact ties rootfinders tables certificate extremes",
    ),
    (
        ["backends/sums.py", "backends/one_group.py", "backends/kernels.py"],
        "exact ties kernels rootfinders prox extremes",
    ),
    (["backends/column_kernels.py"], "kernels prox ties exact"),
    (["backends/array_api.py"], "exact ties rootfinders prox extremes"),
    (["backends/array_tables.py"], "tables check"),
    (
        [f"backends/{k}.py" for k in ("curved_search", "curved_path", "array_curved", "curved_certify")],
        "curved",
    ),
    (["backends/decimal_rows.py"], "extremes"),
    (["backends/certify_kernels.py"], "certificate kernels extremes"),
    (
        [f"backends/{k}.py" for k in ("array_certify", "clipped_certify", "enclosed_root", "scaled_rows")],
        "certificate extremes tables",
    ),
    (["backends/table_certify.py", "certificate.py"], "certificate tables extremes mutants"),
    (["rootfinders"], "rootfinders exact"),
    (["inexactness.py"], "inexactness"),
    (["penalties"], "penalties tables inexactness prox extremes optim/sparsity"),
    (["derivative.py", "backends/array_derivative.py"], "derivative"),
    (["optim/rules.py", "optim/updates.py"], "optim/rules optim/fused_cpu optim/optimizers"),
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
    parser.add_argument("--sample", type=int, default=20, help="mutants of each suite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="a part of the paths to mutate")
    return parser.parse_args()


def sampled(session: Path, sample: int, rng: random.Random) -> None:
    """Skip all but a random sample of the mutants of a session."""
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    def place(item: Any) -> tuple[Any, ...]:
        (one,) = item.mutations
        return str(one.module_path), one.start_pos, one.operator_name, one.occurrence

    with use_db(str(session)) as db:
        jobs = [item.job_id for item in sorted(db.pending_work_items, key=place)]
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


def run(modules: list[str], tests: str, options: argparse.Namespace, copy: Path, left: float) -> None:
    """Try a sample of the mutants of some modules, and print which survived."""
    name = modules[0].replace("/", "_")
    config, session = copy / f"{name}.toml", copy / f"{name}.sqlite"
    files = " ".join(re.sub(r"(\w+)$", r"test_\1.py", f"tests/{test}") for test in tests.split())
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {files}"
    paths = json.dumps([f"proxlab/{module}" for module in modules])
    config.write_text(CONFIG.format(modules=paths, timeout=600.0, command=json.dumps(command)))
    # What is not changed is compiled once.
    environment = os.environ | {
        "PYTHONPATH": str(copy), "PROXLAB_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(copy / "cache")
    }  # fmt: skip

    def tool(*words: str, seconds: float | None = None) -> None:
        subprocess.run(
            [sys.executable, "-m", "cosmic_ray.cli", *words],
            cwd=copy, env=environment, timeout=seconds, check=True,
        )  # fmt: skip

    # Without a change they pass, or what follows means nothing.
    tool("baseline", config.name)
    tool("init", config.name, session.name)
    sampled(session, options.sample, random.Random(options.seed))
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
        for modules, tests in SUITES:
            chosen = [m for m in modules if options.only in m]
            if chosen and time.monotonic() < end:
                run(chosen, tests, options, copy, end - time.monotonic())


if __name__ == "__main__":
    main()
