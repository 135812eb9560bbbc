"""
Arrays that do not fit into memory
==================================

A prox and its certificate ask for a group at a time. Arrays that are larger than memory are files of which
a block is read, solved, certified and written. Blocks hold whole groups; the totals are those of one
certificate over everything.
"""

import tempfile
from pathlib import Path

import dask.array as da
import numpy as np

import proxlab as pl
from proxlab import study

# %%
# Three memory maps in float32: the point, the metric and the result. Here 20 000 groups of 100 elements;
# nothing below changes where there are a thousand times as many.

folder = Path(tempfile.mkdtemp())
shape, block = (20_000, 100), 4_000


def create(name):
    return np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.float32, shape=shape)


x, metric, z = create("x"), create("metric"), create("z")
rng = np.random.default_rng(0)
parts = [slice(start, start + block) for start in range(0, len(x), block)]
for part in parts:
    x[part] = rng.normal(size=(block, shape[1]))
    metric[part] = rng.lognormal(size=(block, shape[1]))

# %%
# Solve, block by block, straight into the file; then certify what stands there. ``certify_blocks`` takes
# any iterator, holds one block at a time, and names the block in which something is wrong.

h = pl.GroupLasso(10.0)
for part in parts:
    z[part] = pl.prox(h, x[part], 1.0, metric=metric[part])

found = study.certify_blocks((h, z[part], x[part], 1.0, metric[part]) for part in parts)
print(found)

# %%
# The distance is a proof for all elements together: ‖z − prox(x)‖ over ‖x‖ is at most

norm = np.sqrt(sum(float(np.sum(np.square(x[part], dtype=np.float64))) for part in parts))
print(f"{found.total.distance / norm:.1e}, float32 rounds to {np.finfo(np.float32).eps / 2:.1e}")

# %%
# The same with Dask: :func:`proxlab.prox` of a Dask array is a Dask array, computed when it is asked for. A
# block must hold whole groups; where one is cut, the error says how to rechunk.

lazy = pl.prox(h, da.from_array(x, chunks=(block, -1)), 1.0, metric=da.from_array(metric, chunks=(block, -1)))
print(lazy)
print("largest difference:", float(abs(lazy - z).max().compute()))

try:
    pl.prox(h, da.from_array(x, chunks=(block, 30)), 1.0)
except ValueError as error:
    print(error)
