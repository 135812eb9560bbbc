"""Remove channels from a network in place, with all that counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from proxlab.torch.channels import Channels
from proxlab.torch.heads import HeadAttention, scale_counts
from proxlab.torch.structures import FFN_WIDTHS, is_conv1d
from proxlab.torch.weights import held_tensors, outputs_axis

__all__ = ["Cut", "cut"]


@dataclass(frozen=True)
class Cut:
    """What is left: for each tensor and axis that lost slices, their places before."""

    left: dict[tuple[str, int], Tensor]


def cut(model: nn.Module, channels: Channels, gone: set[int]) -> Cut:
    """Remove channels in place.

    Parameters
    ----------
    model : torch.nn.Module
        The network, settled.
    channels : Channels
        Those of it.
    gone : set of int
        Which to remove.
    """
    held = held_tensors(model)
    lost = torch.zeros(len(channels.roots), dtype=torch.bool)
    lost[list(gone)] = True
    left: dict[tuple[str, int], Tensor] = {}
    for (name, axis), (start, size) in channels.trace.families.base.items():
        keep = torch.nonzero(~lost[channels.roots[start : start + size]]).flatten()
        if len(keep) < size:
            left[name, axis] = keep
    for name, weight in channels.biases.items():
        axis = outputs_axis(model.get_submodule(weight.rpartition(".")[0]))
        if name in held and (weight, axis) in left:
            left[name, 0] = left[weight, axis]
    new: dict[int, Tensor] = {}
    for (name, axis), keep in left.items():
        if name not in held:
            continue
        old = held[name]
        t = new.get(id(old), old.detach())
        new[id(old)] = t.index_select(axis, keep)
    for key, t in new.items():
        new[key] = t.contiguous()
    changed: list[tuple[str, nn.Module, dict[str, torch.Size]]] = []
    done: dict[int, Tensor] = {}
    for path, m in model.named_modules():
        shapes: dict[str, torch.Size] = {}
        stores: list[dict[str, Any]] = [m._parameters, m._buffers, m.__dict__]
        for store in stores:
            for name, old_t in list(store.items()):
                if isinstance(old_t, Tensor) and id(old_t) in new:
                    shapes[name] = old_t.shape
                    if id(old_t) not in done:
                        fresh = new[id(old_t)]
                        done[id(old_t)] = (
                            nn.Parameter(fresh, old_t.requires_grad)
                            if isinstance(old_t, nn.Parameter)
                            else fresh
                        )
                    store[name] = done[id(old_t)]
        if shapes:
            changed.append((path, m, shapes))
    for path, m, shapes in changed:
        _refit(m, shapes)
        _recount(model.get_submodule(path.rpartition(".")[0]), m, shapes)
    for path, label in channels.trace.norms.items():
        m = model.get_submodule(path)
        if isinstance(m, _NormBase):
            m.num_features = int((~lost[channels.roots[label]]).sum())
    for head in channels.heads:
        keep_heads = [k for k, r in enumerate(head.roots) if r not in gone]
        if len(keep_heads) < len(head.roots):
            holder = model.get_submodule(head.path)
            if isinstance(holder, HeadAttention):
                holder.keep(keep_heads)
            else:
                scale_counts(holder, len(keep_heads), len(head.roots))
    return Cut(left)


def _refit(m: nn.Module, shapes: dict[str, torch.Size]) -> None:
    """Make the numbers that a module keeps fit its tensors again."""
    if isinstance(m, nn.Linear):
        m.out_features, m.in_features = m.weight.shape
    elif isinstance(m, _ConvNd):
        old = shapes.get("weight", m.weight.shape)
        rows, columns = m.weight.shape[:2]
        if m.groups > 1:
            m.groups = m.groups * rows // old[0]
            m.in_channels, m.out_channels = m.groups * columns, rows
            if isinstance(m, _ConvTransposeNd):
                m.in_channels, m.out_channels = rows, m.groups * columns
        elif isinstance(m, _ConvTransposeNd):
            m.in_channels, m.out_channels = rows, columns
        else:
            m.in_channels, m.out_channels = columns, rows
    elif isinstance(m, nn.Embedding | nn.EmbeddingBag):
        m.embedding_dim = m.weight.shape[1]
    elif isinstance(m, nn.RNNBase):
        ih: Any = m.weight_ih_l0
        hh: Any = m.weight_hh_l0
        m.input_size = ih.shape[1]
        if m.proj_size:
            hr: Any = m.weight_hr_l0
            m.proj_size, m.hidden_size = hr.shape
        else:
            m.hidden_size = hh.shape[1]
        m._flat_weights = [getattr(m, name) for name in m._flat_weights_names]
        m.flatten_parameters()
    elif isinstance(m, nn.GroupNorm):
        m.num_channels = m.weight.shape[0]
    elif isinstance(m, nn.LayerNorm | nn.RMSNorm):
        m.normalized_shape = tuple(m.weight.shape)
    elif isinstance(m, nn.PReLU):
        m.num_parameters = m.weight.shape[0]
    elif is_conv1d(m):
        weight: Any = m.weight
        counts: Any = m
        counts.nx, counts.nf = weight.shape


def _recount(holder: nn.Module, m: nn.Module, shapes: dict[str, torch.Size]) -> None:
    """Make the number of hidden units that a block keeps, of which a layer was cut, fit it again."""
    old, new = shapes.get("weight", torch.Size()), tuple(getattr(m, "weight", torch.empty(0)).shape)
    for name in FFN_WIDTHS:
        count = getattr(holder, name, None)
        sizes = {n for before, n in zip(old, new, strict=False) if before != n and before == count}
        if isinstance(count, int) and len(sizes) == 1:
            setattr(holder, name, sizes.pop())
