"""A fused step of one NumPy array, as the tests take it, and the layouts that they draw groups in."""

import numpy as np
import pytest

from proxlab.optim.fused_cpu import Batch

#: Layouts and dtypes, two of them in every run.
LAYOUTS = [
    pytest.param(
        layout,
        dtype,
        marks=[] if (layout, dtype) in (("columns", "f4"), ("rows", "f8")) else [pytest.mark.kernels],
    )
    for layout in ("rows", "columns", "side")
    for dtype in ("f4", "f8")
]


def fused_step(rule, settings, penalty, w, grad, slots, t, carry, finder):
    """Take a step in place, of arrays in C order that share no memory; returns the new carry."""
    assert all(a.flags.c_contiguous and a.dtype == w.dtype and a.shape == w.shape for a in (grad, *slots))
    assert not any(np.may_share_memory(a, b) for a in (w, *slots) for b in (grad, *slots) if a is not b)
    batch = Batch(rule, settings, penalty, [w.shape], w.dtype, [None])
    batch.addresses[0] = [a.ctypes.data for a in (w, grad, *slots)]
    return batch.step(settings, t, carry, finder, lambda _: "")
