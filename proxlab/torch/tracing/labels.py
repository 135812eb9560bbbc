"""Tensors of labels: which values they have, along which axes they differ, and their digest."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

__all__ = ["coordinates", "differing", "digest", "narrow", "pairs", "size_at", "unique"]


def digest(left: Tensor) -> tuple[tuple[int, ...], bytes]:
    """Shape and contents of labels without the negative ones."""
    keep = left >= 0
    shape = tuple(left.shape)
    if not bool(keep.all()):
        axes = range(left.dim())
        shape = tuple(int(keep.movedim(d, 0).reshape(left.shape[d], -1).any(1).sum()) for d in axes)
        left = left[keep]
    return shape, hashlib.blake2b(left.contiguous().numpy().tobytes(), digest_size=16).digest()


def unique(label: Tensor) -> list[int]:
    """Return the labels that occur."""
    for d in range(label.dim()):
        if label.stride(d) == 0 and label.shape[d] > 1:
            label = label.narrow(d, 0, 1)
    values: list[int] = label.unique().tolist()
    return values


def pairs(a: Tensor, b: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of labels that occur at one place of two tensors of one shape, in order."""
    if not a.numel():
        return []
    # One number for a pair: torch.unique of rows takes a hundred times as long.
    first, width = int(b.amin()), int(b.amax()) - int(b.amin()) + 1
    found: list[int] = (a * width + (b - first)).unique().tolist()
    return [(key // width, key % width + first) for key in found]


def differing(label: Tensor) -> set[int]:
    """The axes along which labels differ."""
    axes = [d for d in range(label.dim()) if label.shape[d] > 1 and label.stride(d) != 0]
    return {d for d in axes if bool((label != label.narrow(d, 0, 1)).any())}


def coordinates(ids: Tensor, held: Tensor) -> list[Tensor]:
    """For each axis of a parameter, where the elements are."""
    out, rest = [], ids
    for size in reversed(held.shape):
        out.append(rest % max(size, 1))
        rest = rest // max(size, 1)
    return out[::-1]


def size_at(t: Tensor, d: int, dims: int) -> int:
    """Size of a tensor along an axis of what it is broadcast to."""
    k = d - (dims - t.dim())
    return 1 if k < 0 else t.shape[k]


def narrow(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors, of one shape, without the axes along which both repeat themselves."""
    a, b = torch.broadcast_tensors(a, b)
    for d in range(a.dim()):
        if a.shape[d] > 1 and a.stride(d) == 0 and b.stride(d) == 0:
            a, b = a.narrow(d, 0, 1), b.narrow(d, 0, 1)
    return a, b
