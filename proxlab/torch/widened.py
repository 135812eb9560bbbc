"""Parameters in half precision in a compiled pass: copies of them in single precision, and back.

State and arithmetic are of float32. The copies of some parameters follow one another in a scratch that all
batches of a step on a device share, so that it holds the largest batch. On a CPU a batch of several stays in
the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from proxlab.torch.problems import HALF

__all__ = ["Widened", "batches", "is_half", "scratch_of"]

#: Elements that batches of several parameters have at most, on a CPU and elsewhere.
LARGEST, LARGEST_THERE = 1 << 20, 1 << 24


class Widened:
    """The copies of the parameters and gradients of a batch.

    Parameters
    ----------
    like : sequence of Tensor
        The parameters: whatever of them lies here, without gaps.
    scratch : Tensor, shape (2, n)
        In float32, of at least as many elements as the parameters have.

    Attributes
    ----------
    weights, gradients : list of Tensor
        The copies, which lie in memory in the order of the parameters.
    """

    def __init__(self, like: Sequence[Tensor], scratch: Tensor) -> None:
        self.weights, self.gradients = (_views(like, part) for part in scratch)

    def read(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Copy parameters and gradients."""
        torch._foreach_copy_(self.weights, list(weights))
        torch._foreach_copy_(self.gradients, list(gradients))

    def write(self, weights: Sequence[Tensor]) -> None:
        """Round the copies of the parameters to them."""
        torch._foreach_copy_(list(weights), self.weights)


def _views(like: Sequence[Tensor], flat: Tensor) -> list[Tensor]:
    views, begin = [], 0
    for a in like:
        views.append(flat[begin : begin + a.numel()].as_strided(a.shape, a.stride()))
        begin += a.numel()
    return views


def is_half(a: Tensor) -> bool:
    """Return whether a tensor is in half precision."""
    return a.dtype in HALF


def batches(sizes: Sequence[int], here: bool) -> list[list[int]]:
    """Divide tensors of some sizes, in order, into batches of bounded size; returns their places.

    ``here`` says whether they are on the CPU.
    """
    found: list[list[int]] = []
    room, most = 0, LARGEST if here else LARGEST_THERE
    for k, size in enumerate(sizes):
        if size > room or not found:
            found.append([])
            room = most
        found[-1].append(k)
        room -= size
    return found


def scratch_of(sizes: Iterable[int], device: torch.device) -> Tensor:
    """Return a scratch for batches of some sizes."""
    return torch.empty((2, max(sizes)), dtype=torch.float32, device=device)
