"""The fused step of the optimizers on a GPU: which kernel takes groups, and how it is made.

Groups are solved in a *form* (:func:`form_of`): so many by a block, by so many threads each. The source is
:mod:`proxlab.optim.fused_block`; :mod:`proxlab.torch.launched` launches it.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from proxlab.backends.cuda import build
from proxlab.linker import Given, Target
from proxlab.optim import fused_block as block
from proxlab.optim import fused_elements as elements
from proxlab.optim import fused_many as many
from proxlab.optim.fused_layout import Plan, plan_of, slope_of
from proxlab.optim.updates import Update
from proxlab.penalties import Penalty
from proxlab.rootfinders import Newton, RootFinder

__all__ = ["Form", "Kernel", "compiled", "device_source", "form_of", "lies", "linked", "obstacle"]

#: Groups whose runs are no longer than this are taken side by side: less than an access to memory brings.
SHORT = 7
#: Threads of a block where no groups are, and of one that looks for groups that were left.
FLOWING, FINISHING = 256, 128
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


def obstacle(
    penalty: Penalty | None, shape: tuple[int, ...], order: tuple[int, ...] | None, finder: RootFinder
) -> str:
    """Say why no fused step on a GPU takes an array, whose axes lie in an order; "" if one does."""
    plan, slope = plan_of(penalty, shape, order), slope_of(penalty)
    if plan is None or slope is None or slope.kind != "table":
        return f"has a penalty without a compiled pass, {penalty!r}"
    if plan.name == "flow":
        return ""
    if finder != Newton():
        return f"has a root finder of which there is no compiled pass on a GPU, {finder!r}"
    if form_of(plan) is None:
        return f"has groups of {plan.size} elements, which no compiled pass on a GPU takes"
    return ""


@lru_cache(maxsize=1)
def _target() -> Target:
    from numba import cuda

    return Target(
        lambda function, _: cuda.jit(device=True)(function), operations={many.elements: build.elements_at()}
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
            if self.averages:
                names |= {
                    "given": block.given_by_state, "store": block.store_average, "soft": elements.soft,
                }  # fmt: skip
        else:
            names |= self.form.constants() | {"WARP": 32, "write": getattr(elements, f"write{slots}")}
            names["place"] = getattr(block, f"place_{self.lies}")
        kind, fields = np.dtype(self.dtype), self.formulas._fields
        names |= {
            "read": getattr(elements, f"read{slots}"), "SHRINKS": self.shrinks, "AVERAGES": self.averages,
            "blend": elements.blend_average if self.averages else elements.blend_new,
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
def compiled(kernel: Kernel) -> Any:
    """Return a kernel, compiled at its first launch and cached on disk."""
    return build.jitted(device_source(kernel), kernel.registers)
