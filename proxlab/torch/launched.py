"""Launches of the fused step of the optimizers, over the tensors of a batch where they lie on a GPU.

Where they lie is told in a table on the device, which is copied anew where an address has changed, as the few
numbers of a step are in each; nothing else is copied and nothing waits.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from proxlab.arguments import float_bits
from proxlab.backends.cuda.launch import Device
from proxlab.optim.fused_block import COLUMNS, GROUP, OF_RULE, STRIDE
from proxlab.optim.fused_cuda import FINISHING, FLOWING, Form, Kernel, compiled, form_of, lies
from proxlab.optim.fused_layout import plan_of, slope_of
from proxlab.optim.rules import Rule, Settings
from proxlab.penalties import Penalty
from proxlab.rootfinders import RootFinder

__all__ = ["Launched"]

Array = np.ndarray[Any, Any]

#: Blocks that look for groups that were left, at most.
LOOKING = 1056


class _Launch(NamedTuple):
    """Tensors of a batch whose groups are solved in one form: a part of its table, and how many blocks."""

    form: Form | None
    lies: str
    first: int
    last: int
    blocks: int


class Launched:
    """Tensors on a GPU whose steps a few launches take.

    Parameters
    ----------
    rule, settings, penalty, shapes, dtype, orders
        As of :class:`proxlab.optim.fused_cpu.Batch`.
    like : Tensor
        One of those on the device.

    Attributes
    ----------
    addresses : array of int
        As there.
    bad : Tensor of one int
        Becomes 1 where a point or a metric was not finite, though gradients were.
    """

    def __init__(
        self,
        rule: Rule,
        settings: Settings,
        penalty: Penalty | None,
        shapes: Sequence[tuple[int, ...]],
        dtype: Any,
        orders: Sequence[tuple[int, ...] | None],
        like: Tensor,
    ) -> None:
        self.rule, self.penalty, self.dtype = rule, penalty, np.dtype(dtype)
        self.update, self._like = rule.select(settings), like
        self._shapes, self._orders = list(shapes), list(orders)
        found = [plan_of(penalty, *how) for how in zip(shapes, orders, strict=True)]
        plans = [plan for plan in found if plan is not None]
        assert len(plans) == len(shapes)
        slope = slope_of(penalty)
        assert slope is not None
        self.slope = slope
        self.addresses = np.zeros((len(plans), 2 + len(self.update.slots)), np.int64)
        alike: dict[tuple[Form | None, str], list[int]] = {}
        for k, plan in enumerate(plans):
            flows = plan.name == "flow"
            alike.setdefault((None, "whole") if flows else (form_of(plan), lies(plan)), []).append(k)
        self._launches: list[_Launch] = []
        self._order: list[int] = []
        weights: list[Array] = []
        rows: list[list[int]] = []
        groups = 0
        for (form, lie), chosen in alike.items():
            first, blocks = len(rows), 0
            for k in chosen:
                shape = (1, 1, 1, math.prod(shapes[k])) if form is None else plans[k].spans[0][:4]
                own = np.asarray(plans[k].weights, float)
                rows.append([0] * 5 + [*shape, blocks, groups, sum(map(len, weights)), int(len(own) > 1)])
                weights.append(own)
                if form is None:
                    blocks += -(-shape[3] // (STRIDE * FLOWING))
                else:
                    groups += shape[0] * shape[2]
                    blocks += -(-shape[0] * shape[2] // form.groups)
            self._launches.append(_Launch(form, lie, first, len(rows), blocks))
            self._order += chosen
        rows.append([0] * COLUMNS)
        rows[-1][GROUP] = self._groups = groups
        self._table = np.array(rows, np.int64)
        self._free: Launched | None = None
        # What is written anew before a step, here and on the device; the rest stays.
        self._values = np.zeros(OF_RULE + len(rule.coefficients(settings, 1, 0.0).formulas))
        put = {
            "table": torch.from_numpy(self._table), "values": torch.from_numpy(self._values),
            "strengths": torch.from_numpy(np.concatenate(weights)),
            "marks": torch.zeros(max(groups, 1), dtype=torch.int32),
            "bad": torch.zeros((), dtype=torch.int32).reshape(1),
        }  # fmt: skip
        self._there = {name: a.to(like.device, copy=True) for name, a in put.items()}
        self.bad = self._there["bad"][0]
        with Device(like) as here:
            self._views = {name: here.view(a) for name, a in self._there.items()}
            parts = [self._there["table"][part.first : part.last + 1] for part in self._launches]
            self._parts = list(map(here.view, parts))
        self._pieces: tuple[Any, Any, Any] = None, None, None

    def follow(self, penalty: Penalty | None, own: Mapping[int, Penalty]) -> bool:
        """Take a penalty that differs in its strength alone; returns whether the same kernels take it."""
        if own:
            return False
        if penalty is not self.penalty:
            slope = slope_of(penalty)
            if slope is None or not self.slope.is_like(slope):
                return False
            self.penalty, self.slope = penalty, slope
        return True

    def step(self, settings: Settings, t: int, carry: float, finder: RootFinder) -> float:
        """Take a step of all tensors in place, whose gradients are finite; returns the new carry.

        The parameters are those of :meth:`proxlab.optim.fused_cpu.Batch.step`.
        """
        found = self.rule.coefficients(settings, t, carry)
        if self.penalty is not None and not found.step > 0.0:
            if self._free is None:
                rule, orders = self.rule, self._orders
                self._free = Launched(rule, settings, None, self._shapes, self.dtype, orders, self._like)
            self._free.addresses[...] = self.addresses
            return self._free.step(settings, t, carry, finder)
        keep = settings["momentum"] if self.rule.averages else 0.0
        slope = self.slope
        numbers = slope.numbers(
            found.step, finder.relative_tolerance(float_bits(self.dtype.type(1))), self.dtype
        )
        values = [
            found.step * slope.cut, slope.minus, keep, numbers.alone, numbers.finest, numbers.rtol,
            numbers.unit, numbers.low, found.step, *found.formulas,
        ]  # fmt: skip
        with Device(self._like) as here:
            self._tell("values", self._values, np.array(values, float))
            self._tell("table", self._table[:-1, : self.addresses.shape[1]], self.addresses[self._order])
            pieces = self._pieces_of(here, numbers.table) if slope.pieces else None
            there, update, formulas = self._views, self.update, type(found.formulas)
            shrinks, averages = slope.shrinks, keep > 0.0
            for part, table in zip(self._launches, self._parts, strict=True):
                if part.form is None:
                    kernel = Kernel("step_elements", update, formulas, shrinks, averages, self.dtype.name)
                    arguments: tuple[Any, ...] = table, there["bad"], there["values"]
                    here.launch(compiled(kernel), part.blocks, FLOWING, arguments)
                else:
                    kernel = Kernel(
                        "step_groups", update, formulas, shrinks, averages, self.dtype.name, part.form,
                        part.lies,
                    )  # fmt: skip
                    arguments = table, there["strengths"], there["marks"], there["values"], pieces
                    here.launch(compiled(kernel), part.blocks, part.form.threads, arguments)
            if self._groups:
                # Where a point is formed anew, so is what the elementwise part leaves of it.
                kernel = Kernel(
                    "finish_groups", update, formulas, shrinks and averages, averages, self.dtype.name,
                    count=len(slope.pieces),
                )  # fmt: skip
                names = "table", "strengths", "marks", "bad", "values"
                blocks = min(-(-self._groups // FINISHING), LOOKING)
                arguments = *(there[name] for name in names), pieces
                here.launch(compiled(kernel), blocks, FINISHING, arguments)
        return found.carry

    def _tell(self, name: str, here: Array, now: Array) -> None:
        """Copy an array to the device where it has changed."""
        if not np.array_equal(here, now):
            here[...] = now
            whole = self._table if name == "table" else self._values
            held = torch.from_numpy(whole.copy())
            self._there[name].copy_(held.pin_memory() if self._like.is_cuda else held, non_blocking=True)

    def _pieces_of(self, here: Device, table: Array) -> Any:
        """Return the table of the penalty's pieces on the device."""
        pieces = self.slope.pieces
        if self._pieces[0] != pieces:
            held = torch.from_numpy(table.copy()).to(self._like.device)
            self._pieces = pieces, held, here.view(held)
        return self._pieces[2]
