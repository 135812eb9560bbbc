"""A compiled pass over arrays that takes no step: what a rule asks of the prox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from proxlab.backends import threads
from proxlab.optim import fused_many as many
from proxlab.optim.fused_elements import Step, Tensor
from proxlab.optim.fused_kernels import kernel_of
from proxlab.optim.rules import Proposal, Rule, Settings
from proxlab.optim.updates import Update

__all__ = ["propose"]

Array = np.ndarray[Any, Any]


def propose(
    rule: Rule,
    settings: Settings,
    w: Array,
    grad: Array,
    slots: tuple[Array, ...],
    t: int,
    carry: float,
    empty: Callable[[], Array],
) -> Proposal:
    """Form what a rule asks of the prox in one pass (:meth:`proxlab.optim.rules.Rule.propose`).

    Parameters
    ----------
    rule, settings, t, carry
        As there.
    w, grad : array
        In C order, of one shape and dtype.
    slots : tuple of array
        The state, which stays as it is.
    empty : callable
        Returns a new array of the same shape and dtype.

    Raises
    ------
    TypeError, ValueError
        If an array is not as above.
    """
    update, found = rule.select(settings), rule.coefficients(settings, t, carry)
    _check_arrays(update, w, grad, slots)
    x, *new = (empty() for _ in range(1 + len(slots)))
    d = x if update.metric is None else empty()
    number = w.dtype.type
    one = number(1.0)
    step = Step(type(found.formulas)(*[number(a) for a in found.formulas]), one, one, one, one)
    w_flat, g_flat, x_flat, d_flat = (a.reshape(-1) for a in (w, grad, x, d))
    old, after = tuple(a.reshape(-1) for a in slots), tuple(a.reshape(-1) for a in new)
    given = Tensor(w_flat, g_flat, old, ())
    kernel = kernel_of("points", update, False, False)

    def points(begin: int, finish: int) -> int:
        kernel(*given, *many.Asked(x_flat, d_flat, after), *step, begin, finish)
        return -1

    threads.run(points, w.size, w.size)
    return Proposal(x, None if update.metric is None else d, found.step, tuple(new), found.carry)


def _check_arrays(update: Update, w: Array, grad: Array, slots: tuple[Array, ...]) -> None:
    """Raise an error if compiled code would read or write beside an array, or read what it has written."""
    names = [slot.name for slot in update.slots]
    if len(slots) != len(names):
        raise ValueError(f"slots: must be {', '.join(names) or 'none'}, got {len(slots)} arrays")
    arrays: list[tuple[str, Any]] = [("w", w), ("grad", grad), *zip(names, slots, strict=True)]
    for name, a in arrays:
        if not isinstance(a, np.ndarray) or a.dtype not in (np.float32, np.float64) or a.dtype != w.dtype:
            kind = f"an array of {a.dtype}" if isinstance(a, np.ndarray) else type(a).__name__
            raise TypeError(f"{name}: must be an array of float32 or float64 as the others, got {kind}")
        if a.shape != w.shape:
            raise ValueError(f"{name}: must have the shape of w, {w.shape}, got {a.shape}")
        flags = a.flags
        if not (flags.c_contiguous and flags.aligned and (flags.writeable or a is grad)):
            raise ValueError(f"{name}: must be in C order, aligned and writeable")
    for k, (name, a) in enumerate(zip(names, slots, strict=True)):
        if any(np.may_share_memory(a, b) for b in (w, *slots[:k])):
            raise ValueError(f"{name}: must not share memory with w or another array of the state")
