"""A fused step of one NumPy array, as the tests take it."""

import numpy as np

from proxlab.optim.fused_cpu import Batch


def fused_step(rule, settings, penalty, w, grad, slots, t, carry, finder):
    """Take a step in place, of arrays in C order that share no memory; returns the new carry."""
    assert all(a.flags.c_contiguous and a.dtype == w.dtype and a.shape == w.shape for a in (grad, *slots))
    assert not any(np.may_share_memory(a, b) for a in (w, *slots) for b in (grad, *slots) if a is not b)
    batch = Batch(rule, settings, penalty, [w.shape], w.dtype, [None])
    batch.addresses[0] = [a.ctypes.data for a in (w, grad, *slots)]
    return batch.step(settings, t, carry, finder, lambda _: "")
