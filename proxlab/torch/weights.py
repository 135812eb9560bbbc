"""The tensors of a network by their names, and which slices of its weights are zero."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from proxlab.torch.structures import is_conv1d

__all__ = ["computed_zeros", "held_tensors", "outputs_axis", "zero_slices", "zero_weights", "zeros"]


def held_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of a network by their first names: parameters, buffers, plain attributes."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, m in model.named_modules():
        for store in (m._parameters, m._buffers, m.__dict__):
            for name, t in store.items():
                if isinstance(t, Tensor) and id(t) not in seen:
                    seen.add(id(t))
                    found[f"{path}.{name}" if path else name] = t
    return found


def outputs_axis(layer: nn.Module) -> int:
    """The axis of a layer's weight that makes its outputs."""
    swapped = isinstance(layer, (_ConvTransposeNd, nn.Embedding, nn.EmbeddingBag))
    return 1 if swapped or is_conv1d(layer) else 0


def zero_slices(weight: Tensor, axis: int) -> Tensor:
    """Which slices across an axis are zero."""
    zero: Tensor = ~(weight.detach() != 0).movedim(axis, 0).flatten(1).any(dim=1)
    return zero


def computed_zeros(model: nn.Module) -> list[tuple[str, str, int]]:
    """Count the zero slices of weights that are set before each call, as by a mask: like :func:`zeros`."""
    return [
        (path, what, len(which))
        for path, m in model.named_modules()
        for name, t in vars(m).items()
        if isinstance(t, Tensor)
        for _, what, which in _zero_sides(m, name, t)
    ]


def zeros(model: nn.Module) -> list[tuple[str, str, int]]:
    """Count the zero slices of weights: layer, "outputs" or "inputs", how many."""
    return [(layer, what, len(which)) for layer, _, _, what, which in zero_weights(model)]


def zero_weights(model: nn.Module) -> Iterator[tuple[str, str, int, str, list[int]]]:
    """Zero slices of the weights: layer, parameter, axis, "outputs" or "inputs", and which."""
    first = {id(t): name for name, t in held_tensors(model).items()}
    for path, m in model.named_modules():
        for name, p in m._parameters.items():
            if p is not None:
                for axis, what, which in _zero_sides(m, name, p):
                    yield path, first[id(p)], axis, what, which


def _zero_sides(m: nn.Module, name: str, p: Tensor) -> Iterator[tuple[int, str, list[int]]]:
    """Zero slices of a module's weight: axis, "outputs" or "inputs", and which; none of what is no weight.

    Of a parameter of a module of another kind, along each of its axes, unless it is zero altogether.
    """
    if p.dim() < 2:
        return
    if not _is_weight(m, name):
        if not _is_layer(m) and bool((p != 0).any()):
            for axis in range(p.dim()):
                found: list[int] = torch.nonzero(zero_slices(p, axis)).flatten().tolist()
                if found:
                    yield axis, f"slices of {name} along axis {axis}", found
        return
    sides = [(outputs_axis(m), "outputs"), (1 - outputs_axis(m), "inputs")]
    if isinstance(m, nn.RNNBase):
        sides = [(1, "inputs")]
    elif isinstance(m, nn.Embedding | nn.EmbeddingBag) or (isinstance(m, _ConvNd) and m.groups > 1):
        sides = sides[:1]
    for axis, what in sides:
        which: list[int] = torch.nonzero(zero_slices(p, axis)).flatten().tolist()
        if which:
            yield axis, what, which


def _is_weight(module: nn.Module, name: str) -> bool:
    if isinstance(module, nn.RNNBase):
        return name.startswith("weight_ih_l0")
    if isinstance(module, nn.MultiheadAttention):
        return name.endswith("weight")
    return name == "weight" and _is_layer(module)


def _is_layer(module: nn.Module) -> bool:
    """Whether it is known which axes of a module's weights are outputs and inputs."""
    known = (nn.Linear, _ConvNd, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.MultiheadAttention)
    return isinstance(module, known) or is_conv1d(module)
