"""What can be measured in a fresh process only: memory, import and the first call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import numpy as np

from proxlab.study import Result

_MEMORY = """
import json, resource, sys
import numpy as np, proxlab as pl
rows = int(sys.argv[1])
h = pl.GroupLasso(1e-2)
for n in (64, rows):  # compile before the arrays that make the peak
    x = np.full((n, 512), 0.02, dtype=np.float32)
    d = np.full_like(x, 1e-3)
    z = np.ones_like(x)
    if n == 64:
        pl.prox(h, x, 1e-3, metric=d, out=z)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pl.prox(h, x, 1e-3, metric=d, out=z)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"extra": (after - before) * unit, "input": x.nbytes + d.nbytes}))
"""

_IMPORT = """
import time
import numpy
started = time.perf_counter()
import proxlab
print(time.perf_counter() - started)
"""

_FIRST = """
import json, logging, time
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("proxlab").addHandler(handler)
logging.getLogger("proxlab").setLevel(logging.INFO)
import numpy as np, proxlab as pl
x = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(8, 512)
d = np.full_like(x, 1e-3)
started = time.perf_counter()
pl.prox(pl.GroupLasso(1e-2), x, 1e-3, metric=d)
print(json.dumps({"seconds": time.perf_counter() - started, "messages": len(messages)}))
"""


def _in_fresh_process(script: str, *arguments: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | variables
    return _run(script, environment, *arguments)


def measure_imported(environment: dict[str, str]) -> float:
    """Seconds of the import in a process with these variables."""
    return float(_run(_IMPORT, environment))


def measure_first(environment: dict[str, str]) -> float:
    """Seconds of the first call in a process with these variables."""
    return float(json.loads(_run(_FIRST, environment))["seconds"])


def _run(script: str, environment: dict[str, str], *arguments: str) -> str:
    # Of what is installed, bytecode is kept.
    environment = {k: v for k, v in environment.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout


def measure_memory(rows: int) -> Result:
    """Growth of the peak memory of a process over a call with `out`."""
    found = json.loads(_in_fresh_process(_MEMORY, str(rows)))
    return Result({"rows": {"memory|": 100 * found["extra"] / found["input"]}, **found})


def measure_import(repeats: int) -> Result:
    """Time of the import in fresh processes."""
    seconds = [float(_in_fresh_process(_IMPORT)) for _ in range(repeats + 1)][1:]
    return Result({"rows": {"import|": 1e3 * float(np.median(seconds))}, "seconds": seconds})


def measure_first_call(repeats: int) -> Result:
    """The first call of a process, with an empty and with a filled disk cache."""
    with tempfile.TemporaryDirectory() as cache:
        cold = json.loads(_in_fresh_process(_FIRST, NUMBA_CACHE_DIR=cache))
        warm = [json.loads(_in_fresh_process(_FIRST, NUMBA_CACHE_DIR=cache)) for _ in range(repeats)]
    seconds = [found["seconds"] for found in warm]
    rows = {
        "first-cold|": cold["seconds"],
        "first-warm|": float(np.median(seconds)),
        "first-log|": float(cold["messages"]),
    }
    return Result({"rows": rows, "warm": seconds, "messages when warm": warm[0]["messages"]})
