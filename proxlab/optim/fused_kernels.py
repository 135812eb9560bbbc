"""The compiled functions of the fused pass on the CPU, and what a thread keeps for them."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic
from numba.np import arrayobj

from proxlab.backends.addresses import array_at
from proxlab.backends.compiling import COMPILATION, made, outermost
from proxlab.backends.numba_curved import CALLED, called
from proxlab.linker import Given, Target
from proxlab.optim import fused_clipped as clipped
from proxlab.optim import fused_columns as columns
from proxlab.optim import fused_curves as curves
from proxlab.optim import fused_elements as elements
from proxlab.optim import fused_many as many
from proxlab.optim import fused_rows, fused_side, turning, updates
from proxlab.optim.cube_root import cube_root
from proxlab.optim.fused_blocks import ROWS_OF_BLOCK
from proxlab.optim.fused_rows import RowRoom
from proxlab.optim.updates import SGD, Update

__all__ = ["column_room", "kernel_of", "plain_kernel", "row_room"]

#: Elements of a thread's scratch.
SCRATCH = 1 << 16
OPERATIONS = {
    many.elements: intrinsic(array_at(numba.types, arrayobj)),
    updates.cube_root: cube_root,
    fused_side.turn: turning.turn,
}


def written(operations: Iterable[Any]) -> str:
    """Return what tells operations from those of another day: the linker does not read how they are made."""
    files = sorted({Path(str(sys.modules[operation.__module__].__file__)) for operation in operations})
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


TARGET = Target(made, f"{COMPILATION} {written(OPERATIONS.values())}", operations=OPERATIONS)

#: What means something else under a curve; where groups are clipped; and there in the look at the weights.
CURVED: dict[str, Any] = {
    word: getattr(curves, word) for word in ("advance", "first_radius", "is_single", "open_group", "tau_at")
} | {"call": Given(called, CALLED)}
CLIPPED: dict[str, Any] = {
    word: getattr(clipped, word)
    for word in (
        "add7", "add_part", "advance", "clear", "column_terms", "first_radius", "fold_all",
        "forget_sums", "is_single", "joined", "last_of", "measured", "open_group", "plus7", "quotient",
        "ratio_of", "row_radius", "shrunk", "terms", "terms_at_zero", "third", "topped",
    )
}  # fmt: skip
LOOKING: dict[str, Any] = CLIPPED | {"add_part": clipped.keep_part, "fold_all": clipped.keep_folded}
#: And of groups of which norms are asked for alone.
NORMS: dict[str, Any] = {"tell_four": columns.norm_four, "tell_row": fused_rows.norm_row}
OTHERS: dict[str, dict[str, Any]] = {"table": {}, "curve": CURVED, "clipped": CLIPPED, "norms": NORMS}

_local = threading.local()


@lru_cache(maxsize=256)
def kernel_of(name: str, update: Update, averages: bool, shrinks: bool, kind: str = "table") -> Any:
    """Compile a function of :mod:`proxlab.optim.fused_many` for a rule; it is cached on disk.

    ``kind`` is that of the penalty (:attr:`proxlab.optim.fused_layout.Slope.kind`); or ``"norms"``.
    """
    count = len(update.slots)
    chosen = {
        "read": f"read{count}",
        "write": f"write{count}",
        "metric": "metric_unit" if update.metric is None else "metric_own",
        "blend": "blend_average" if averages else "blend_new",
    }
    names = {key: getattr(elements, target) for key, target in chosen.items()}
    names |= {"state": update.state, "point": update.point, "SHRINKS": shrinks}
    if update.metric is not None:
        names["form"] = update.metric
    names["note_metric"] = many.drop_metric if update.metric is None else many.keep_metric
    names["held"] = getattr(many, f"held{count}")
    names |= LOOKING if kind == "clipped" and name == "scan_of" else OTHERS[kind]
    return outermost(TARGET, getattr(many, name), names)


def plain_kernel(name: str, kind: str = "table") -> Any:
    """Compile a function that uses nothing of a rule."""
    return kernel_of(name, SGD, False, False, kind)


def row_room(size: int, dtype: Any) -> RowRoom:
    """Return the thread's scratch for groups of so many elements; it is kept unless it is large."""
    held: dict[Any, Any] = _local.__dict__
    room: RowRoom | None = held.get(f"rows {dtype.char}")
    if room is None or len(room.x) < size:
        n = max(size, SCRATCH)
        room = RowRoom(np.empty(n, dtype), np.empty(n, dtype), np.empty(n, np.int64), np.empty(1, dtype))
        if n == SCRATCH:
            held[f"rows {dtype.char}"] = room
    return room


def column_room(dtype: Any) -> columns.ColumnRoom:
    """Return the thread's scratch for blocks of columns, which is kept."""
    held: dict[Any, Any] = _local.__dict__
    room: columns.ColumnRoom | None = held.get(f"columns {dtype.char}")
    if room is None:
        block, pitch = columns.BLOCK, int(columns.PITCH)
        # Seven sums at most, ratio and rest.
        part, total, tile = np.zeros(9 * pitch, dtype), np.empty(7 * pitch), np.empty(8 * pitch, dtype)
        room = columns.ColumnRoom(
            np.empty(block, np.int64), part, total, tile, np.zeros((ROWS_OF_BLOCK, pitch))
        )
        held[f"columns {dtype.char}"] = room
    return room
