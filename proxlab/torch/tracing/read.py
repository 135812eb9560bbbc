"""Where channels are read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Read"]


@dataclass(eq=False)
class Read:
    """A parameter that channels are multiplied with and summed up.

    Attributes
    ----------
    name : str
        The parameter.
    axis : int
        Which of its axes reads the channels.
    index : Tensor
        Which slice across that axis reads each channel that comes in.
    ids : Tensor
        Elements of the flattened parameter that read each channel, shape (channels, rest).
    outputs : Tensor
        The output that each column of ``ids`` adds to; the number of outputs is ``count``.
    low, high, taint : Tensor
        Range of each channel that comes in, over all places and runs, and whether it depends on the input.
    bias : tuple or None
        Name of the bias, and its element for each output.
    shifts : bool
        Whether a constant that comes in is the same constant in each place of the output.
    """

    name: str
    axis: int
    index: Tensor
    ids: Tensor
    outputs: Tensor
    count: int
    low: Tensor
    high: Tensor
    taint: Tensor
    bias: tuple[str, Tensor] | None
    shifts: bool

    @property
    def layer(self) -> str:
        """Path of the module that holds the parameter."""
        return self.name.rpartition(".")[0]

    def see(self, values: Tensor, taint: Tensor) -> None:
        """Widen the ranges by the values of a run, shape (channels, places)."""
        if values.shape[1]:
            self.low = torch.minimum(self.low, values.amin(1))
            self.high = torch.maximum(self.high, values.amax(1))
        self.taint |= taint.any(1)
