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
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: What is mutated, and the tests that should notice.
SUITES = {
    "tests/test_exact.py tests/test_ties.py tests/test_rootfinders.py tests/test_prox.py": [
        "proxlab/search.py",
        "proxlab/equations",
        "proxlab/double_double.py",
        "proxlab/powers.py",
        "proxlab/rootfinders",
        "proxlab/backends/kernels.py",
        "proxlab/backends/column_kernels.py",
        "proxlab/backends/array_api.py",
    ],
    "tests/test_certificate.py tests/test_extremes.py tests/test_mutants.py": [
        "proxlab/bounds.py",
        "proxlab/certificate.py",
        "proxlab/backends/numba_certify.py",
        "proxlab/backends/array_certify.py",
    ],
    "tests/test_inexactness.py": ["proxlab/inexactness.py"],
    "tests/test_penalties.py tests/test_extremes.py tests/optim/test_sparsity.py": ["proxlab/penalties"],
    "tests/optim/test_rules.py tests/optim/test_fused_cpu.py tests/optim/test_optimizers.py": [
        "proxlab/optim/rules.py"
    ],
}
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

    with use_db(str(session)) as db:
        jobs = sorted(item.job_id for item in db.pending_work_items)
        for job in rng.sample(jobs, max(len(jobs) - sample, 0)):
            db.set_result(job, WorkResult(worker_outcome=WorkerOutcome.SKIPPED))


def survivors(session: Path) -> tuple[int, list[str]]:
    """Return how many mutants were tried, and the changes of those that no test noticed."""
    from cosmic_ray.work_db import use_db
    from cosmic_ray.work_item import TestOutcome, WorkerOutcome

    with use_db(str(session)) as db:
        results = [r for _, r in db.results if r.worker_outcome == WorkerOutcome.NORMAL]
    return len(results), [r.diff or "" for r in results if r.test_outcome == TestOutcome.SURVIVED]


def run(tests: str, modules: list[str], options: argparse.Namespace, copy: Path, left: float) -> int:
    """Try a sample of the mutants of some modules; returns how many survived."""
    name = modules[0].replace("/", "_")
    config, session = copy / f"{name}.toml", copy / f"{name}.sqlite"
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider {tests}"
    config.write_text(CONFIG.format(modules=json.dumps(modules), timeout=600.0, command=json.dumps(command)))
    environment = os.environ | {"PYTHONPATH": str(copy), "PROXLAB_NUM_THREADS": "1"}

    def tool(*words: str, seconds: float | None = None) -> None:
        subprocess.run(
            [sys.executable, "-m", "cosmic_ray.cli", *words],
            cwd=copy, env=environment, timeout=seconds, check=True,
        )  # fmt: skip

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
    return len(alive)


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
        for tests, modules in SUITES.items():
            chosen = [m for m in modules if options.only in m]
            if chosen and time.monotonic() < end:
                run(tests, chosen, options, copy, end - time.monotonic())


if __name__ == "__main__":
    main()
