"""Calls of a network on example inputs, and copies to call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Call", "copied", "evaluated", "outputs"]

#: Where modules hold their parameters and submodules.
_REGISTERED = {"_parameters", "_modules"}


class Call:
    """How to call the model: on the example inputs, and on random inputs of the same kind."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __init__(self, inputs: Any) -> None:
        if isinstance(inputs, Tensor):
            inputs = (inputs,)
        if isinstance(inputs, Mapping):
            self.args, self.kwargs = (), dict(inputs)
        elif isinstance(inputs, Sequence) and not isinstance(inputs, str) and len(inputs):
            self.args, self.kwargs = tuple(inputs), {}
        else:
            raise TypeError(
                "example_inputs: must be a tensor, or a sequence or mapping of arguments, got "
                f"{type(inputs).__name__}"
            )

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Call:
        new = copy.copy(self)
        new.args, new.kwargs = tree_map(
            lambda a: change(a) if isinstance(a, Tensor) else a, (self.args, self.kwargs)
        )
        return new

    def to(self, dtype: torch.dtype) -> Call:
        """The same with floating-point inputs of another dtype."""
        return self._mapped(lambda a: a.to(dtype) if a.is_floating_point() else a)

    def cpu(self) -> Call:
        """The same with inputs on the host."""
        return self._mapped(Tensor.cpu)

    def tensors(self) -> list[Tensor]:
        """The tensors among the inputs."""
        return [t for t in tree_leaves((self.args, self.kwargs)) if isinstance(t, Tensor)]

    def random(self, seed: int) -> Call:
        """Random inputs: normal with the examples' mean and deviation; integers and flags are permuted."""
        generator = torch.Generator().manual_seed(seed)

        def draw(a: Tensor) -> Tensor:
            if a.is_floating_point() and bool(a.isfinite().all()):
                spread = a.double().std(correction=0).item() if a.numel() else 0.0
                noise = torch.randn(a.shape, generator=generator, dtype=torch.float64)
                return (a.double().mean().item() + (spread or 1.0) * noise).to(a)
            order = torch.randperm(a.numel(), generator=generator)
            return a.reshape(-1)[order.to(a.device)].reshape(a.shape)

        return self._mapped(draw)

    def once(self, model: nn.Module) -> list[Tensor]:
        """Call the model on the example inputs; returns its outputs."""
        return outputs(model(*self.args, **self.kwargs))

    def first(self, model: nn.Module) -> list[Tensor]:
        """Call the model as :meth:`once` does, for the first time.

        Raises
        ------
        ValueError
            If it cannot be called with the example inputs; it names them, and has the model's own error.
        """
        try:
            return self.once(model)
        except Exception as error:  # whatever a model raises
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"example_inputs: must be arguments of a call of the model, which fails with them ({why})"
            ) from error

    def all(self, model: nn.Module) -> list[Tensor]:
        """Call the model on the example inputs and on random ones; returns all outputs."""
        return [t for call in (self, self.random(0), self.random(1)) for t in call.once(model)]


def outputs(result: Any) -> list[Tensor]:
    """All floating-point tensors in what a model returns."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, Mapping):
        return [t for value in result.values() for t in outputs(value)]
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [t for value in result for t in outputs(value)]
    return []


def copied(model: nn.Module) -> nn.Module:
    """A deep copy. What a model has computed and holds, as a masked weight, comes without its graph."""
    memo: dict[int, Any] = {}
    for m in model.modules():
        for t in tree_leaves([value for key, value in vars(m).items() if key not in _REGISTERED]):
            if isinstance(t, Tensor) and not t.is_leaf:
                memo[id(t)] = t.detach().clone()
    return copy.deepcopy(model, memo)


def evaluated(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, without compiled calls."""
    model = copied(model).eval()
    for m in model.modules():
        m._compiled_call_impl = None
    return model
