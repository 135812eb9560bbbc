"""The fused step of the optimizers on a GPU: a few launches take the tensors of a batch where they lie.

What a launch takes are the tensors whose groups are solved in the same form (:func:`form_of`). Where they lie
is told in a table on the device, which is copied again only where an address has changed; nothing else is
copied and nothing waits. Groups that the pass leaves are solved by a launch that looks for them.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from proxlab.arguments import float_bits
from proxlab.backends.cuda import build
from proxlab.backends.cuda.launch import Device
from proxlab.backends.disk_cache import without_cache
from proxlab.linker import Given, Target
from proxlab.optim import fused_block as block
from proxlab.optim import fused_elements as elements
from proxlab.optim import fused_many as many
from proxlab.optim.fused_layout import Plan, plan_of, slope_of
from proxlab.optim.rules import Rule, Settings
from proxlab.optim.updates import Update
from proxlab.penalties import Penalty
from proxlab.rootfinders import Newton, RootFinder

__all__ = ["Batch", "Form", "applies", "form_of"]

Array = np.ndarray[Any, Any]

#: Groups whose runs are no longer than this are taken side by side: less than an access to memory brings.
SHORT = 7
#: Threads of a block where no groups are; of one that looks for groups that were left, and such blocks.
FLOWING, FINISHING, LOOKING = 256, 128, 1056
#: The greatest of registers that a thread may take, by the threads of a block.
REGISTERS = {128: 128, 256: 80, 512: 128, 1024: 64}


@dataclass(frozen=True)
class Form:
    """How a block takes groups: how many, by how many threads each, of which each holds so many elements."""

    groups: int
    rows: int
    held: int
    side_by_side: bool = False

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.groups * self.rows

    @property
    def size(self) -> int:
        """The most elements of a group."""
        return self.rows * self.held

    def constants(self) -> dict[str, Any]:
        """Return the constants that the source calls by name."""
        wide = self.side_by_side or self.rows > 32
        lanes = 32 if wide else self.rows
        return {
            "GROUPS": self.groups, "ROWS": self.rows, "HELD": self.held, "THREADS": self.threads,
            "ALL_WARPS": self.threads // 32,
            "SIDE_BY_SIDE": self.side_by_side, "WIDTH": lanes, "HIGH": lanes,
            "LOW": self.groups if self.side_by_side else 1,
            "PLACES": self.groups if self.side_by_side else 1,
            "DOUBT": self.held + 5.0 + 32.0,
            "WARPS": (self.threads if self.side_by_side else self.rows) // 32 if wide else 1,
        }  # fmt: skip


#: In order of the size of the groups that they take.
ROWS = (
    Form(128, 1, 4), Form(32, 4, 8), Form(16, 8, 8), Form(8, 16, 8), Form(4, 32, 8), Form(4, 32, 16),
    Form(1, 128, 8),
    Form(1, 256, 8), Form(1, 256, 16), Form(1, 512, 16), Form(1, 1024, 16),
)  # fmt: skip
COLUMNS = (
    Form(32, 8, 8, True), Form(32, 8, 16, True), Form(16, 16, 16, True), Form(8, 32, 16, True),
    Form(8, 64, 16, True), Form(4, 128, 16, True), Form(4, 128, 32, True), Form(2, 256, 32, True),
)  # fmt: skip


def lies(plan: Plan) -> str:
    """Return how the elements of a group lie: "whole", as a "column" or in "runs"."""
    _, length, _, run, _ = plan.spans[0]
    return "whole" if length == 1 else "column" if run == 1 else "runs"


def form_of(plan: Plan) -> Form | None:
    """Return how the groups of a plan are solved, or None where they are too large."""
    _, length, kept, run, _ = plan.spans[0]
    forms = COLUMNS if length > 1 and kept > 1 and run <= SHORT else ROWS
    return next((form for form in forms if form.size >= plan.size), None)


def applies(
    rule: Rule, settings: Settings, penalty: Penalty | None, shape: tuple[int, ...],
    order: tuple[int, ...] | None, finder: RootFinder,
) -> bool:  # fmt: skip
    """Return whether there is a fused step on a GPU for an array of a shape whose axes lie in an order."""
    plan = plan_of(penalty, shape, order)
    if plan is None or plan.name == "flow":
        return plan is not None
    averages = rule.averages and settings["momentum"] > 0.0
    return not averages and finder == Newton() and form_of(plan) is not None


@lru_cache(maxsize=1)
def _target() -> Target:
    from numba import cuda
    from numba.cuda import types as kinds
    from numba.cuda.extending import intrinsic
    from numba.cuda.np import arrayobj

    types: Any = kinds

    @intrinsic
    def elements_at(typing: Any, address: Any, n: Any, one: Any) -> Any:
        kind = types.Array(one, 1, "C")

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            item = context.get_data_type(one)
            width = context.get_constant(types.intp, context.get_abi_sizeof(item))
            array = context.make_array(kind)(context, builder)
            arrayobj.populate_array(
                array, data=builder.inttoptr(arguments[0], item.as_pointer()), shape=[arguments[1]],
                strides=[width], itemsize=width, meminfo=None,
            )  # fmt: skip
            return array._getvalue()

        return kind(types.int64, types.int64, one), codegen

    return Target(
        lambda function, _: cuda.jit(device=True)(function), operations={many.elements: elements_at}
    )


@dataclass(frozen=True)
class Kernel:
    """Which kernel: all that is constant when it is compiled.

    Attributes
    ----------
    name : {"step_groups", "step_elements", "finish_groups"}
    update : Update
    formulas : type
        The named tuple of the numbers of its step.
    shrinks, averages : bool
        Whether there is an elementwise part, and whether the new weight is an average.
    dtype : str
    form : Form
    lies : {"whole", "column", "runs"}
    count : int
        Pieces of the penalty's slope.
    """

    name: str
    update: Update
    formulas: Any
    shrinks: bool = False
    averages: bool = False
    dtype: str = "float32"
    form: Form = Form(1, FLOWING, 1)
    lies: str = "whole"
    count: int = 1

    def names(self, operations: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the source means by the names that a target sets."""
        update, slots = self.update, len(self.update.slots)
        names: dict[str, Any] = {}
        if self.name == "finish_groups":
            team = build.Variant(
                team="block", index="strided", warps=FINISHING // 32, rescales=True, count=self.count,
                finder=Newton,
            )  # fmt: skip
            names |= build.names_of(team) | {"given": block.given_anew}
        else:
            chosen = {
                "write": f"write{slots}",
                "blend": "blend_average" if self.averages else "blend_new",
            }
            names |= {key: getattr(elements, target) for key, target in chosen.items()}
            names |= self.form.constants() | {"SHRINKS": self.shrinks, "WARP": 32}
            names["place"] = getattr(block, f"place_{self.lies}")
        kind, fields = np.dtype(self.dtype), self.formulas._fields
        names |= {
            "read": getattr(elements, f"read{slots}"),
            "metric": elements.metric_unit if update.metric is None else elements.metric_own,
            "held": getattr(many, f"held{slots}"),
            "hold": getattr(block, f"hold{slots}"), "take": getattr(block, f"take{slots}"),
            "Formulas": self.formulas, "coefficients": getattr(block, f"coefficients{len(fields)}"),
            "state": update.state, "point": update.point, "COUNT": self.count, "MOST": Newton.max_iterations,
            "KIND": kind, "number": kind.type, "float64": np.float64,
        }  # fmt: skip
        if update.metric is not None:
            names["form"] = update.metric
        return names | {name: Given(value, f"operation {name}") for name, value in operations.items()}

    @property
    def registers(self) -> int | None:
        """The most registers that a thread may take, or None for what the compiler wants."""
        return REGISTERS.get(self.form.threads) if self.name == "step_groups" else None


def linked(kernel: Kernel, target: Target, operations: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a kernel's function, with all that it calls made by a target."""
    return target.linked(getattr(block, kernel.name), kernel.names(operations), kernel.name)


def device_source(kernel: Kernel) -> Callable[..., Any]:
    """Return a kernel's function as numba-cuda compiles it."""
    from numba import cuda
    from numba.cuda import libdevice

    return linked(kernel, _target(), {"cuda": cuda, "math": math, "libdevice": libdevice})


@lru_cache(maxsize=256)
def _compiled(kernel: Kernel) -> Any:
    from numba import cuda

    function, most = device_source(kernel), kernel.registers
    options: dict[str, Any] = {} if most is None else {"max_registers": most}
    try:
        return cuda.jit(cache=True, **options)(function)
    except RuntimeError as error:  # no folder for it
        without_cache(str(error))
        return cuda.jit(**options)(function)


class _Launch(NamedTuple):
    """Tensors of a batch whose groups are solved in one form: a part of its table, and how many blocks."""

    form: Form | None
    lies: str
    first: int
    last: int
    blocks: int


def _torch() -> Any:
    import torch

    return torch


class Batch:
    """Tensors on a GPU whose steps a few launches take; the face is that of the one on the CPU.

    Parameters
    ----------
    rule, settings, penalty, shapes, dtype, orders
        As of :class:`proxlab.optim.fused_cpu.Batch`.
    like : Tensor
        One on the device.

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
        like: Any,
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
                    blocks += -(-shape[3] // (block.STRIDE * FLOWING))
                else:
                    groups += shape[0] * shape[2]
                    blocks += -(-shape[0] * shape[2] // form.groups)
            self._launches.append(_Launch(form, lie, first, len(rows), blocks))
            self._order += chosen
        rows.append([0] * block.COLUMNS)
        rows[-1][block.GROUP] = self._groups = groups
        self._table = np.array(rows, np.int64)
        self._free: Batch | None = None
        torch = _torch()
        # What is written anew before a step, here and on the device; the rest stays.
        self._values = np.zeros(block.OF_RULE + len(rule.coefficients(settings, 1, 0.0).formulas))
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

    def __len__(self) -> int:
        """Return the number of proxes."""
        return len(self._shapes)

    def follow(self, penalty: Penalty | None, own: Mapping[int, Penalty] | None = None) -> bool:
        """Take a penalty that differs in its strength alone; returns whether the same kernels take it."""
        if own:
            return False
        if penalty is not self.penalty:
            slope = slope_of(penalty)
            # Without a radial part, which is a strength of zero, groups are none.
            if slope is None or bool(slope.pieces) != bool(self.slope.pieces):
                return False
            self.penalty, self.slope = penalty, slope
        return True

    def tell(self, settings: Settings, t: int, carry: float) -> None:
        """Say that nothing is told of groups before a step."""

    def step(
        self, settings: Settings, t: int, carry: float, finder: RootFinder, where: Callable[[int], str]
    ) -> float:
        """Take a step of all tensors in place; returns the new carry.

        Gradients are finite (:func:`proxlab.torch.together._look`). The parameters are those of the CPU's.
        """
        found = self.rule.coefficients(settings, t, carry)
        if self.penalty is not None and not found.step > 0.0:
            if self._free is None:
                rule, orders = self.rule, self._orders
                self._free = Batch(rule, settings, None, self._shapes, self.dtype, orders, self._like)
            self._free.addresses[...] = self.addresses
            return self._free.step(settings, t, carry, finder, where)
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
            for part, table in zip(self._launches, self._parts, strict=True):
                if part.form is None:
                    kernel = Kernel(
                        "step_elements", update, formulas, slope.shrinks, keep > 0.0, self.dtype.name
                    )
                    arguments: tuple[Any, ...] = table, there["values"]
                    here.launch(_compiled(kernel), part.blocks, FLOWING, arguments)
                else:
                    kernel = Kernel(
                        "step_groups", update, formulas, slope.shrinks, False, self.dtype.name, part.form,
                        part.lies,
                    )  # fmt: skip
                    arguments = table, there["strengths"], there["marks"], there["values"], pieces
                    here.launch(_compiled(kernel), part.blocks, part.form.threads, arguments)
            if self._groups:
                kernel = Kernel(
                    "finish_groups", update, formulas, dtype=self.dtype.name, count=len(slope.pieces)
                )
                names = "table", "strengths", "marks", "bad", "values"
                blocks = min(-(-self._groups // FINISHING), LOOKING)
                arguments = *(there[name] for name in names), pieces
                here.launch(_compiled(kernel), blocks, FINISHING, arguments)
        return found.carry

    def _tell(self, name: str, here: Array, now: Array) -> None:
        """Copy an array to the device where it has changed."""
        if not np.array_equal(here, now):
            here[...] = now
            whole = self._table if name == "table" else self._values
            held = _torch().from_numpy(whole.copy())
            self._there[name].copy_(held.pin_memory() if self._like.is_cuda else held, non_blocking=True)

    def _pieces_of(self, here: Device, table: Array) -> Any:
        """Return the table of the penalty's pieces on the device."""
        pieces = self.slope.pieces
        if self._pieces[0] != pieces:
            held = _torch().from_numpy(table.copy()).to(self._like.device)
            self._pieces = pieces, held, here.view(held)
        return self._pieces[2]
