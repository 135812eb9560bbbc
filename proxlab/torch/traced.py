"""What a run of a network shows of its groups: which columns read one channel, which weights are one head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from proxlab.groups import Groups
from proxlab.torch.calls import Call, copied, evaluated, outputs
from proxlab.torch.channels import Channels
from proxlab.torch.structures import is_conv1d
from proxlab.torch.tracing import Trace, Untraceable
from proxlab.torch.wrappers import weight_of

__all__ = ["Run"]

Parts = list[tuple[str, Groups]]


@dataclass(eq=False)
class Run:
    """A run of a network on example inputs.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it is not changed.
    inputs : Any
        One tensor, or positional or keyword arguments.
    """

    model: nn.Module
    inputs: Any

    @cached_property
    def _call(self) -> Call:
        return Call(self.inputs)

    @cached_property
    def _channels(self) -> Channels:
        model, trace = evaluated(self.model).cpu(), Trace()
        call = self._call.cpu()
        with torch.no_grad():
            call.first(copied(model))
        try:
            trace.run(copied(model), call.once, call.tensors())
        except Untraceable as error:
            raise ValueError(f"example_inputs: the network cannot be followed, since {error}") from error
        return Channels.of(trace, model)

    def _roots(self, name: str, axis: int) -> list[int] | None:
        """The channel of each slice of a parameter across an axis."""
        families, name = self._channels.trace.families, self._first(name)
        if (name, axis) not in families.base:
            return None
        start, size = families.base[name, axis]
        found: list[int] = self._channels.roots[start : start + size].tolist()
        return found

    def _first(self, name: str) -> str:
        """The name under which a parameter that modules share is known."""
        held = dict(self.model.named_parameters(remove_duplicate=False))
        return next((other for other, p in held.items() if p is held.get(name)), name)

    def columns(self, layer: nn.Module, name: str) -> Groups | None:
        """Return the groups of a linear layer's weight whose inputs are several to a channel.

        So it is behind a flattened convolution: all columns that read one channel are a group. None where
        every input is a channel of its own, or not one that a layer makes.
        """
        own = name.rpartition(".")[2]
        axis = 0 if is_conv1d(layer) else 1
        weight = weight_of(layer, own)
        shape = tuple(getattr(layer, own).shape)
        if not weight.exact:
            return None
        # What is computed, by a mask for example, is traced as what the module holds.
        path = name.removesuffix(own)
        roots = next((r for n in (*weight.names, own) if (r := self._roots(path + n, axis))), None)
        if roots is None:
            return None
        several = {root for root, n in Counter(roots).items() if n > 1 and self._is_one_channel(root, name)}
        if not several:
            return None
        labels = _numbered([root if root in several else -k - 1 for k, root in enumerate(roots)])
        return _groups(labels, axis, shape)

    def _is_one_channel(self, root: int, reader: str) -> bool:
        """Whether a channel is one output of each layer that makes it, and there is such a layer."""
        makes = self._channels.trace.makes
        made = Counter((n, a) for n, a, _ in self._channels.slices.get(root, []) if (n, a) in makes)
        return any(n != reader for n, _ in made) and set(made.values()) == {1}

    def heads(self) -> list[tuple[str, Parts]]:
        """Return the heads of attention: a path, and the groups of the parameters that hold them.

        Raises
        ------
        ValueError
            If the parts of the heads do not lie one after the other in a parameter; it names the parameter.
        """
        found, held = [], dict(self.model.named_parameters(remove_duplicate=False))
        for head in self._channels.heads:
            order = {root: k for k, root in enumerate(head.roots)}
            parts: Parts = []
            for (name, axis), (start, size) in self._channels.trace.families.base.items():
                roots = self._channels.roots[start : start + size].tolist()
                # Buffers, such as the statistics of a norm, have no groups.
                if name not in held or not any(root in order for root in roots):
                    continue
                shape = tuple(held[name].shape)
                groups = None
                if all(root in order for root in roots):
                    groups = _regular([order[root] for root in roots], axis, shape)
                if groups is None:
                    raise ValueError(
                        f"attention: the heads of {head.path!r} do not lie in {name!r} with equal parts "
                        "of each, one after the other; leave them by attention=None"
                    )
                parts.append((name, groups))
            found.append((head.path, parts))
        return found

    def uses(self) -> dict[str, float]:
        """Return how often a call uses each element of the parameters of layers, by the parameters' names."""
        model, call = evaluated(self.model), self._call
        found: dict[str, float] = {}
        handles = []

        def hook(path: str) -> Any:
            def count(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
                for name, p in module.named_parameters(recurse=isinstance(module, nn.MultiheadAttention)):
                    full = f"{path}.{name}" if path else name
                    given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
                    found[full] = found.get(full, 0.0) + _times(module, p, given, outputs(out))

            return count

        for path, module in model.named_modules():
            if module._parameters:
                handles.append(module.register_forward_hook(hook(path), with_kwargs=True))
        try:
            with torch.no_grad():
                call.first(model)
        finally:
            for handle in handles:
                handle.remove()
        return found


def _times(module: nn.Module, p: Tensor, given: list[Tensor], out: list[Tensor]) -> float:
    """How often a call of a layer uses an element of a parameter."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or not given or not out:
        return 0.0
    if isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        return given[0].numel() / given[0].shape[-1]
    if isinstance(module, _ConvTransposeNd) and p.dim() > 1:
        return given[0].numel() / module.in_channels
    if isinstance(module, _ConvNd):
        return out[0].numel() / module.out_channels
    return out[0].numel() / out[0].shape[-1] if p.dim() > 1 else out[0].numel() / p.numel()


def _numbered(labels: list[int]) -> list[int]:
    """Number labels from 0 in the order in which they come."""
    numbers: dict[int, int] = {}
    return [numbers.setdefault(label, len(numbers)) for label in labels]


def _regular(labels: list[int], axis: int, shape: tuple[int, ...]) -> Groups | None:
    """Return the groups of slices with these labels as axes of a view, None where they are none."""
    n, count = len(labels), max(labels) + 1
    run = next((k for k, label in enumerate(labels) if label != labels[0]), n)
    if n % (run * count):
        return None
    view = (n // (run * count), count, run)
    wanted = np.broadcast_to(np.arange(count)[:, None], view).reshape(-1)
    if not np.array_equal(wanted, labels):
        return None
    # Sizes of 1 say nothing; another axis is left open, as the groups are the same whatever its size is.
    sizes = [(size, k == 1) for k, size in enumerate(view) if k == 1 or size > 1]
    before, after = [(m, False) for m in shape[:axis]], [(m, False) for m in shape[axis + 1 :]]
    for side in (before, after):
        if side:
            side[0] = (-1, False)
            break
    full = [*before, *sizes, *after]
    kept = next(k for k, (_, group) in enumerate(full) if group)
    axes = tuple(k for k in range(len(full)) if k != kept)
    view_shape = tuple(m for m, _ in full)
    return Groups.over(axes) if len(view_shape) == len(shape) else Groups.over(axes, shape=view_shape)


def _groups(labels: list[int], axis: int, shape: tuple[int, ...]) -> Groups:
    """Return the groups of slices with these labels."""
    found = _regular(labels, axis, shape)
    if found is not None:
        return found
    each = np.array(labels).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return Groups.labels(np.broadcast_to(each, shape))
