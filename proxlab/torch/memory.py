"""What the tensors of a step must be before they are written in place: alike, whole and apart.

Compiled code takes shapes and types on trust, and PyTorch broadcasts a wrong one without a word. A state may
come from anywhere, and ``p.data = …`` changes a parameter under it, so every step looks first.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from proxlab.torch.problems import HALF, Block, name_parameter, on_host
from proxlab.torch.shards import division, has_mesh_of, lies_alike, local

__all__ = [
    "Spans",
    "check_apart",
    "check_counted",
    "check_tensors",
    "check_whole",
    "is_apart",
    "order_of",
    "overlap",
    "spans_of",
]

# Numbers of a state, and whether they count.
_NUMBERS = {"step": True, "weight_sum": False}
# What an exact test of two strided tensors may cost; beyond it they count as overlapping.
_WORK: Any = 100_000


def check_whole(state: Mapping[str, Any], slots: Collection[str], averages: bool, at: str) -> None:
    """Raise an error if the state of a parameter lacks a part, which would start anew without a word.

    Parameters
    ----------
    state : mapping
        The state; a part that is None is none.
    slots : collection of str
        The arrays of state that the method needs.
    averages : bool
        Whether it keeps a sum of weights.
    at : str
        How an error names the place.
    """
    if not isinstance(state, Mapping):
        raise TypeError(f"{at}: its state must be a dict, got {type(state).__name__}")
    held = {name for name, value in state.items() if value is not None}
    # Dual variables are there before the first step. PyTorch's SGD keeps no count, and starts a buffer anew.
    if held <= {"dual"} or set(slots) <= {"momentum_buffer"}:
        return
    for name in (*slots, "step", *(["weight_sum"] if averages else [])):
        if name not in held:
            raise ValueError(f"{at}: its state has no {name!r}, but {', '.join(map(repr, sorted(held)))}")


def check_tensors(
    block: Block, states: Sequence[Mapping[str, Any]], slots: Sequence[str], averages: bool
) -> None:
    """Raise an error if a gradient or a state does not belong to its parameter; it names the place.

    Parameters
    ----------
    block : Block
    states : sequence of mapping
        The state of each parameter of the block.
    slots : sequence of str
        The arrays of state that the step uses.
    averages : bool
        Whether it uses a sum of weights.
    """
    for k, (p, state) in enumerate(zip(block.params, states, strict=True)):
        dtype, here = _wide_dtype(p), local(p)
        if here.is_meta:
            raise ValueError(f"{_where(block, k)}: must not be on the meta device, which holds no numbers")
        check_whole(state, slots, averages, _where(block, k))
        if not here.is_contiguous() and _overlaps_itself(here):
            raise ValueError(
                f"{_where(block, k)}: must have memory for each of its elements, got strides {here.stride()}"
            )
        if p.grad is not None:
            _check(p.grad, p, dtype, block, k, "its gradient", half=True)
            # Other placements are mended once all processes have agreed to take the step.
            if not has_mesh_of(p.grad, p):
                raise ValueError(f"{_where(block, k)}: its gradient {_undivided(p.grad, p)}")
        for name in slots:
            if name in state:
                what = f"its state {name!r}"
                _check(state[name], p, dtype, block, k, what, half=False)
                if not lies_alike(state[name], p):
                    raise ValueError(f"{_where(block, k)}: {what} {_undivided(state[name], p)}")
                _check(local(state[name]), here, dtype, block, k, what, half=False)
        for name, whole in _NUMBERS.items():
            if name in state:
                check_counted(state[name], whole, f"{_where(block, k)}: its state {name!r}")


def check_apart(blocks: Sequence[Block], states: Sequence[Sequence[Mapping[str, Any]]], slots: Any) -> None:
    """Raise an error if tensors that a step writes share memory with one another or with a gradient.

    A gradient may be the memory of its own parameter.

    Parameters
    ----------
    blocks : sequence of Block
        All blocks of the step, checked by :func:`check_tensors`.
    states : sequence of sequence of mapping
        The states of the parameters of each block.
    slots : sequence of sequence of str
        The arrays of state of each block.
    """
    spans = _spans(blocks, states, slots)
    spans.sort(key=_start)
    active: list[_Span] = []
    for new in spans:
        active = [old for old in active if old.stop > new.start]
        for old in active:
            if _conflict(old, new):
                raise ValueError(f"{old.where} and {new.where} must not share memory; copy one of them")
        active.append(new)


class Spans(NamedTuple):
    """Where the memory of tensors starts and stops.

    Attributes
    ----------
    starts, stops : array of int
    """

    starts: Any
    stops: Any


def is_apart(written: Spans, read: Spans) -> bool:
    """Return whether none of some spans touches one of others, which are sorted and apart."""
    following = np.searchsorted(written.stops, read.starts, side="right")
    inside = following < len(written.starts)
    return not bool((written.starts[following[inside]] < read.stops[inside]).any())


def order_of(a: Tensor) -> tuple[int, ...] | None:
    """Return the axes in the order in which a tensor lies in memory, or None where it leaves gaps."""
    if a.is_contiguous():
        return tuple(range(a.dim()))
    strides = a.stride()
    order = tuple(sorted(range(a.dim()), key=lambda k: (-strides[k], -a.shape[k])))
    return order if a.permute(order).is_contiguous() else None


def overlap(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors without gaps share memory."""
    starts, stops = (a.data_ptr(), b.data_ptr()), (a.data_ptr() + a.nbytes, b.data_ptr() + b.nbytes)
    return max(starts) < min(stops)


def spans_of(
    blocks: Sequence[Block], states: Sequence[Sequence[Mapping[str, Any]]], slots: Any
) -> tuple[Spans, Spans]:
    """Return the spans that a step writes, and those that it reads, of what :func:`check_apart` takes."""
    spans = _spans(blocks, states, slots)
    written, read = (
        np.array([(s.start, s.stop) for s in spans if s.written is kind], np.int64).reshape(-1, 2)
        for kind in (True, False)
    )
    return Spans(written[:, 0], written[:, 1]), Spans(read[:, 0], read[:, 1])


def _spans(blocks: Sequence[Block], states: Sequence[Sequence[Mapping[str, Any]]], slots: Any) -> list[_Span]:
    spans: list[_Span] = []
    for block, own, names in zip(blocks, states, slots, strict=True):
        for k, (p, state) in enumerate(zip(block.params, own, strict=True)):
            if not on_host(p) or local(p).numel() == 0:
                continue
            spans.append(_span(p, block, k, "", True))
            if p.grad is not None:
                spans.append(_span(p.grad, block, k, "the gradient of ", False))
            held = [name for name in names if name in state]
            spans += [_span(state[name], block, k, f"the state {name!r} of ", True) for name in held]
    return spans


class _Span(NamedTuple):
    """The memory of a tensor, and whose it is."""

    start: int
    stop: int
    tensor: Tensor
    block: Block
    place: int
    role: str
    written: bool

    @property
    def where(self) -> str:
        return f"{self.role}{_where(self.block, self.place)}"


def _start(span: _Span) -> int:
    return span.start


def _span(a: Tensor, block: Block, k: int, role: str, written: bool) -> _Span:
    a = local(a)
    start = a.data_ptr()
    size: int = a.nbytes
    if not a.is_contiguous():
        last = sum((n - 1) * stride for n, stride in zip(a.shape, a.stride(), strict=True))
        size = (last + 1) * a.element_size()
    return _Span(start, start + size, a, block, k, role, written)


def _conflict(a: _Span, b: _Span) -> bool:
    """Return whether two spans whose bounds overlap may not."""
    if not (a.written or b.written):
        return False
    if a.written != b.written and a.block is b.block and a.place == b.place:
        return False
    if a.tensor.is_contiguous() and b.tensor.is_contiguous():
        return True
    try:
        return bool(np.shares_memory(_bytes(a.tensor), _bytes(b.tensor), max_work=_WORK))
    except np.exceptions.TooHardError:
        return True


def _bytes(a: Tensor) -> Any:
    # NumPy has no bfloat16.
    return a.detach().view(torch.int16).numpy() if a.dtype in HALF else a.detach().numpy()


def _overlaps_itself(a: Tensor) -> bool:
    """Return whether two elements may be one; only what is nested axis by axis is known not to be."""
    extent = 1
    for stride, n in sorted(zip(a.stride(), a.shape, strict=True)):
        if n > 1:
            if stride < extent:
                return a.numel() > 0
            extent += (n - 1) * stride
    return False


def _wide_dtype(p: Tensor) -> torch.dtype:
    return torch.float32 if p.dtype in HALF else p.dtype


def _where(block: Block, k: int) -> str:
    index = k if block.index is None else block.index
    return f"param group {block.number}, {name_parameter(block.group, index)}"


def _check(a: Any, p: Tensor, dtype: torch.dtype, block: Block, k: int, what: str, *, half: bool) -> None:
    """Raise an error if a gradient, which may be of half precision, or a state does not fit."""
    if not isinstance(a, Tensor):
        raise TypeError(f"{_where(block, k)}: {what} must be a tensor, got {a!r}")
    if a.layout is not torch.strided:
        raise ValueError(f"{_where(block, k)}: {what} must be dense, got a tensor of layout {a.layout}")
    if a.shape != p.shape:
        raise ValueError(f"{_where(block, k)}: {what} must have its shape, got {tuple(a.shape)}")
    if a.dtype != dtype and not (half and _wide_dtype(a) == dtype):
        raise ValueError(f"{_where(block, k)}: {what} must be of {dtype}, got {a.dtype}")
    if a.device != p.device:
        raise ValueError(f"{_where(block, k)}: {what} must be on {p.device}, got {a.device}")


def _undivided(a: Tensor, p: Tensor) -> str:
    return f"must be divided over processes as it is, {division(p)}, got {division(a)}"


def check_counted(value: Any, whole: bool, what: str) -> None:
    """Raise an error if a number of a state, which may be a tensor, is none or negative."""
    single = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, (int, float))
    number = float(value) if single else math.nan
    if not (0.0 <= number < math.inf) or (whole and number % 1.0):
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{what} must be {kind} >= 0, got {value!r}")
