"""
A sweep on a cluster
====================

Studies run on Dask. Without a word they take the processors of this machine; with
``cluster="tcp://host:8786"``, or ``--cluster`` on the command line, the workers of a scheduler that is
there already. Units of work go to the workers, results come back to this process, which writes them:
workers need proxlab and no shared disk. A worker that dies loses the unit that it had, and another one does
it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import proxlab as pl
from proxlab import study

# %%
# A scheduler and two workers, here as processes of this machine. On a cluster the same two commands run on
# its nodes, ``dask scheduler`` on one and ``dask worker tcp://host:8786`` on the others; ``dask-jobqueue``
# and ``dask-kubernetes`` start them for you.

folder = Path(tempfile.mkdtemp())
written = folder / "scheduler.json"
local = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(written)]


def start(what, *options):
    command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *local, *options]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


processes = [start("scheduler", "--port", "0")]
while not written.exists():
    time.sleep(0.1)
processes += [start("worker", "--no-nanny", "--nthreads", "1") for _ in range(2)]

# %%
# The sweep: four strengths × three spreads of the metric × three root finders × two seeds. Sizes and
# penalties may differ from problem to problem. Each unit is a file in ``folder``; start the script again,
# and what is there is not computed again.

rng = np.random.default_rng(0)
problems = [
    study.Problem(
        f"λ = {lam:g}, spread {spread:g}",
        rng.normal(size=(50, 32)),
        1.0,
        rng.lognormal(sigma=spread, size=(50, 32)),
        pl.GroupLasso(lam),
    )
    for lam in (0.1, 1.0, 3.0, 10.0)
    for spread in (0.5, 1.5, 3.0)
]
address = json.loads(written.read_text())["address"]
try:
    comparison = study.compare(
        problems,
        {"Newton": pl.Newton(), "Halley": pl.Halley(), "Brent": pl.Brent()},
        seeds=[0, 1],
        cluster=address,
        folder=folder / "sweep",
    )
finally:
    for process in processes:
        process.terminate()
        process.wait()
comparison.summary()

# %%
# Which root finder is cheapest where? Mean evaluations of a group:

table = comparison.frame.pivot_table("evaluations", "problem", "solver", "mean", sort=False)
print(table.round(2).to_string())

# %%
comparison.profile(by="evaluations")

# %%
# From a terminal:
#
# .. code-block:: console
#
#    $ proxlab compare captured/ --solver Newton --solver Halley --seed 0,1 --cluster tcp://host:8786 -o out/
#
# The page of a folder can be written at any time, also while a sweep is running: ``proxlab report out/``.
