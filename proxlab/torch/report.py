"""What compacting a network removed and gained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from proxlab.torch.text import format_table
from proxlab.torch.transfer import Carried, transfer

__all__ = ["CompactReport", "Kept", "Removed"]


@dataclass(frozen=True)
class Removed:
    """What was removed: how many ``what`` ("outputs" or "heads") a layer had before and has after."""

    layer: str
    what: str
    before: int
    after: int


@dataclass(frozen=True)
class Kept:
    """What is zero and stays: ``count`` "outputs", "inputs" or "heads" of a layer, with the reason."""

    layer: str
    what: str
    count: int
    reason: str


@dataclass(frozen=True)
class CompactReport:
    """What :func:`compact` removed and gained; printed as tables. Pairs are before and after.

    Attributes
    ----------
    parameters : tuple of int
        Number of parameters.
    flops : tuple of int
        Floating-point operations of a call on the example inputs, counted by
        :mod:`torch.utils.flop_counter` (matrix products and convolutions).
    latency : tuple of float
        Median time of a call on the example inputs, in seconds.
    difference : float
        Greatest difference of the outputs, relative to the greatest output, in the model's own precision.
    removed : tuple of Removed
        Layers with fewer outputs, and attention with fewer heads; what depends on them lost as many inputs.
    kept : tuple of Kept
        What is zero and could not be removed, with the reason.
    idle : tuple of str
        Modules with parameters that did not run, neither in evaluation nor in training mode, and parameters
        that a module which ran did not use. What they may read is kept.
    notes : tuple of str
        What could not be done, as a comparison in training mode.
    dead : bool
        Whether the outputs do not depend on the inputs: a smaller network that computes the same is no gain.
    """

    parameters: tuple[int, int]
    flops: tuple[int, int]
    latency: tuple[float, float]
    difference: float
    removed: tuple[Removed, ...]
    kept: tuple[Kept, ...]
    idle: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dead: bool = False
    _carried: Carried | None = field(default=None, repr=False, compare=False)

    def transfer(self, optimizer: torch.optim.Optimizer, small: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of the small network, with the settings and the state of the large one's.

        Of each moment what belongs to the weights that are left is kept, and so are steps, strengths, param
        groups and penalties. A bias that :func:`compact` added joins the param group of its layer's weight,
        or one without a penalty.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            That of the model which was given to :func:`compact`: one of :mod:`proxlab.torch`, or any other
            whose state is numbers and tensors shaped like the parameters. It is not changed.
        small : torch.nn.Module
            The network that :func:`compact` returned with this report.

        Returns
        -------
        torch.optim.Optimizer
            A new one, of the same class.

        Raises
        ------
        TypeError, ValueError
            If the optimizer is of another model, or its state or its groups cannot be cut. The message names
            the param group and why.

        Examples
        --------
        >>> import torch
        >>> from proxlab.torch import compact
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> model(torch.randn(3, 4)).sum().backward()
        >>> optimizer.step()
        >>> with torch.no_grad():
        ...     model[2].weight[:, :6] = 0
        >>> small, report = compact(model, torch.randn(3, 4))
        >>> new = report.transfer(optimizer, small)
        >>> new.state[small[0].weight]["exp_avg"].shape
        torch.Size([2, 4])
        """
        if self._carried is None:
            raise ValueError("report: must be the one that compact returned, and not a copy of it")
        return transfer(self._carried, optimizer, small)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_carried"}

    def __str__(self) -> str:
        gains = [
            (name, f"{before:{style}}", f"{after:{style}}", f"{before / after:.2f} ×" if after else "")
            for name, (before, after), style in (
                ("parameters", self.parameters, ","),
                ("FLOPs", self.flops, ","),
                ("latency [ms]", (self.latency[0] * 1e3, self.latency[1] * 1e3), ".3f"),
            )
        ]
        if not self.removed:
            gains = [(name, before, after, "") for name, before, after, _ in gains]
        tables = [format_table(("", "before", "after", "gain"), gains)]
        if self.dead:
            tables.insert(0, "The network is dead: its outputs do not depend on its inputs.")
        if self.removed:
            rows = [(f"{r.layer} ({r.what})", f"{r.before}", f"{r.after}") for r in self.removed]
            tables.append(format_table(("removed from", "before", "after"), rows))
        if self.kept:
            lines = [f"  {k.layer}: {k.count} {k.what}: {k.reason}" for k in self.kept]
            tables.append("\n".join(["zero, but not removed", *lines]))
        if self.idle:
            idle = [f"  {path}" for path in self.idle]
            tables.append(
                "\n".join(["did not run, or was not used, so that what it may read is kept", *idle])
            )
        tables += self.notes
        return "\n\n".join(tables)
