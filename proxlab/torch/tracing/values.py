"""What is known of a tensor: labels and taints, or that it is a piece of a parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxlab.torch.tracing.families import FIXED, UNIFORM

__all__ = ["Later", "Piece", "Value", "constant", "fixed", "full", "uniform"]


@dataclass(eq=False)
class Value:
    """Labels and taints of a tensor; ``whole`` says that the last axis adds up to one."""

    label: Tensor
    taint: Tensor
    whole: bool = False
    copied: bool = False


@dataclass(eq=False)
class Piece:
    """A tensor made of elements of one parameter or buffer: their places in it, flattened."""

    name: str
    ids: Tensor


@dataclass(eq=False)
class Later:
    """What is found out when it is asked for."""

    make: Callable[[], Value]


def full(t: Tensor, taint: bool) -> Tensor:
    """One taint for all elements of a tensor."""
    return torch.full(t.shape, taint)


def uniform(t: Tensor, label: int, taint: bool) -> Value:
    """One label and one taint for all elements of a tensor."""
    return Value(torch.full(t.shape, label), torch.full(t.shape, taint))


def fixed(t: Tensor, taint: bool) -> Value:
    """Data that no layer makes."""
    return uniform(t, FIXED, taint)


def constant(t: Tensor) -> Value:
    """A tensor that no operation made."""
    same = t.numel() == 1 or (t.numel() and bool((t == t.reshape(-1)[0]).all()))
    return uniform(t, UNIFORM if same else FIXED, not same)
