"""Gradients of tensors: what a function of x, step and metric is worth to PyTorch's autograd.

PyTorch is imported when a tensor comes along. Second derivatives, forward mode and ``vmap`` are refused; the
pullback maps over cotangents, so that ``torch.func.jacrev`` works.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from proxlab.types import Array

__all__ = ["Function", "detached", "record", "records", "written"]


@dataclass(frozen=True)
class Function:
    """A function, and how a cotangent of its value is pulled back.

    Attributes
    ----------
    name : str
        How an error names it.
    value : callable
        ``value(x, step, metric)``, of tensors that record nothing.
    pull : callable
        ``pull(v, value, x, step, metric)`` returns the gradients by ``x``, ``step`` and ``metric``.
    """

    name: str
    value: Callable[[Array, Any, Any], Array]
    pull: Callable[[Array, Array, Array, Any, Any], tuple[Any, Any, Any]]


def records(*arrays: Any) -> bool:
    """Say whether PyTorch keeps track of what is done to one of the arrays."""
    torch = sys.modules.get("torch")
    tensors = [a for a in arrays if torch is not None and isinstance(a, torch.Tensor)]
    if torch is None or not tensors:
        return False
    if torch.is_grad_enabled() and any(a.requires_grad for a in tensors):
        return True
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if any(wrapped(a) for a in tensors):
        return True
    forward = torch.autograd.forward_ad
    # Outside of a level nothing has a tangent.
    return forward._current_level >= 0 and any(forward.unpack_dual(a).tangent is not None for a in tensors)


def detached(a: Any) -> Any:
    """Return a tensor without its history; anything else as it is."""
    torch = sys.modules.get("torch")
    return a.detach() if torch is not None and isinstance(a, torch.Tensor) else a


def written(a: Any) -> None:
    """Tell PyTorch that a tensor's memory was written to, so that nothing is differentiated with what was."""
    torch: Any = sys.modules["torch"]
    if not a.is_inference():
        torch.autograd.graph.increment_version(a)


def record(task: Function, x: Array, step: Any, metric: Any) -> Any:
    """Evaluate a task, so that PyTorch knows its derivative.

    Raises
    ------
    NotImplementedError
        Under forward mode and ``vmap``; and when the derivative is to be differentiated.
    """
    return _function().apply(task, x, step, metric)


@lru_cache(maxsize=1)
def _function() -> Any:
    torch: Any = sys.modules["torch"]

    class Pulled(torch.autograd.Function):  # type: ignore[misc]
        """The derivative, which has none itself."""

        @staticmethod
        def forward(task: Function, v: Any, value: Any, x: Any, step: Any, metric: Any) -> Any:
            if torch._C._functorch.is_legacy_batchedtensor(v):
                raise NotImplementedError(
                    f"{task.name}: its derivative does not take a batch of gradients (is_grads_batched, "
                    "vectorize); use torch.func.jacrev"
                )
            return task.pull(v, value, x, step, metric)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.name = inputs[0].name

        @staticmethod
        def backward(ctx: Any, *_: Any) -> Any:
            raise NotImplementedError(
                f"{ctx.name}: its second derivatives are not known to proxlab; take first derivatives only, "
                "without create_graph where they are differentiated again"
            )

        @staticmethod
        def vmap(info: Any, in_dims: Any, task: Function, *arrays: Any) -> Any:
            found = [
                Pulled.apply(
                    task,
                    *(a if d is None else a.select(d, k) for a, d in zip(arrays, in_dims[1:], strict=True)),
                )
                for k in range(info.batch_size)
            ]
            # What stands for a number, which nobody differentiates by, is a number.
            out = tuple(
                torch.stack(g) if isinstance(g[0], torch.Tensor) else g[0] for g in zip(*found, strict=True)
            )
            return out, tuple(0 if isinstance(g, torch.Tensor) else None for g in out)

    class Recorded(torch.autograd.Function):  # type: ignore[misc]
        """A task whose derivative is known."""

        @staticmethod
        def forward(task: Function, x: Any, step: Any, metric: Any) -> Any:
            return task.value(x, step, metric)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            task, *arrays = inputs
            ctx.task = task
            ctx.numbers = [None if isinstance(a, torch.Tensor) else a for a in arrays]
            ctx.at = [k for k, a in enumerate(arrays) if isinstance(a, torch.Tensor)]
            ctx.save_for_backward(output, *(a for a in arrays if isinstance(a, torch.Tensor)))

        @staticmethod
        def backward(ctx: Any, v: Any) -> Any:
            value, *tensors = ctx.saved_tensors
            arrays = list(ctx.numbers)
            for k, tensor in zip(ctx.at, tensors, strict=True):
                arrays[k] = tensor
            found = Pulled.apply(ctx.task, v, value, *arrays)
            return None, *(g if k in ctx.at else None for k, g in enumerate(found))

        @staticmethod
        def jvp(ctx: Any, *_: Any) -> Any:
            raise NotImplementedError(
                f"{ctx.task.name}: its derivative in forward mode is not known to proxlab; use backward, "
                "torch.func.vjp or proxlab.prox_vjp"
            )

        @staticmethod
        def vmap(info: Any, in_dims: Any, task: Function, *_: Any) -> Any:
            raise NotImplementedError(
                f"{task.name}: does not work under torch.vmap; let the groups be those of the whole batch, "
                "which are solved side by side"
            )

    return Recorded
