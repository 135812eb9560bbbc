"""Why a step of some parameters is no compiled pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from proxlab.arguments import compiles, has_kernels
from proxlab.optim.rules import Rule
from proxlab.rootfinders import RootFinder
from proxlab.torch.memory import order_of
from proxlab.torch.problems import HALF, Block, on_host
from proxlab.torch.shards import local
from proxlab.torch.states import counted

__all__ = ["obstacle"]

States = Mapping[Tensor, Mapping[str, Any]]


def obstacle(rule: Rule, state: States, block: Block, finder: RootFinder) -> str:
    """Say why there is no compiled pass for a block; "" if there is one."""
    obstacles = [_obstacle_of(rule, state, p, block) for p in block.params]
    if any(obstacles):
        return next(filter(None, obstacles))
    if not compiles():
        return "cannot be compiled, since NUMBA_DISABLE_JIT is set"
    from proxlab.optim import fused_cpu, fused_layout

    params = [local(p).detach() for p in block.params]
    orders = [None if p.is_contiguous() else order_of(p) for p in params]
    shapes = [tuple(p.shape) for p in params]
    if not all(map(on_host, params)):
        return _obstacle_on_gpu(block, shapes, orders, finder)
    if block.index is not None:
        found = fused_layout.plan_of(block.penalty, shapes[0], orders[0]) is not None
        return "" if found else f"has a penalty without a compiled pass, {block.penalty!r}"
    if len({counted(state.get(p, {})) for p in block.params}) > 1:
        return "has parameters whose steps are counted differently"
    if not fused_cpu.applies_jointly(block.penalty, block.groups, shapes, orders):
        return f"has joint groups without a compiled pass, {block.penalty!r}"
    return ""


def _obstacle_on_gpu(
    block: Block, shapes: list[tuple[int, ...]], orders: list[Any], finder: RootFinder
) -> str:
    """Say why no compiled pass on a GPU takes a block; "" if one does."""
    if block.index is None:
        return "has joint groups, of which there is no compiled pass on a GPU"
    if not has_kernels():
        return "is on a GPU, whose compiled pass needs numba-cuda: install proxlab[cuda13]"
    from proxlab.optim import fused_cuda

    return fused_cuda.obstacle(block.penalty, shapes[0], orders[0], finder)


def _obstacle_of(rule: Rule, state: States, p: Tensor, block: Block) -> str:
    """Say why no compiled pass takes a parameter; "" if one may."""
    if p.device.type not in ("cpu", "cuda"):
        return f"is on {p.device}, not on a CPU or a GPU of CUDA"
    order, held = order_of(local(p)), state.get(p, {})
    names = [slot.name for slot in rule.select(block.settings).slots]
    grads = () if p.grad is None else (p.grad,)
    tensors = (*grads, *(held[name] for name in names if name in held))
    if order is None or not all(local(a).permute(order).is_contiguous() for a in tensors):
        return "has gaps in memory, or its gradient or state lies in another order"
    if any(local(a).is_neg() for a in (p, *tensors)):
        return "is lazily negative, or its gradient or state is"
    if p.grad is not None and p.grad.dtype != p.dtype and p.dtype not in HALF:
        return f"has a gradient of {p.grad.dtype}"
    return ""
