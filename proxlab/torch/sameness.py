"""The proof that a network without its dead channels computes the same.

Both networks are traced, and each operation of the small one must have the labels of the large one without
the removed channels: then it computes the same from the same elements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from proxlab.torch.channels import Channels
from proxlab.torch.removal import Cut
from proxlab.torch.tracing import Trace
from proxlab.torch.weights import held_tensors

__all__ = ["is_same"]


def is_same(
    big: nn.Module,
    small: nn.Module,
    once: Callable[[nn.Module], list[Tensor]],
    inputs: Iterable[Tensor],
    channels: Channels,
    gone: set[int],
    made: Cut,
) -> str | None:
    """Compare the traces of two networks, operation by operation; returns what differs, if anything.

    Parameters
    ----------
    big, small : torch.nn.Module
        Before and after :func:`cut`, in the same mode.
    once : callable
        Calls a network.
    inputs : iterable of Tensor
        What it is called with.
    channels, gone, made
        What was removed.
    """
    inputs = list(inputs)
    families = channels.trace.families
    lost = torch.zeros(len(channels.roots), dtype=torch.bool)
    lost[list(gone)] = True
    shapes = {name: t.shape for name, t in held_tensors(big).items()}

    def record(trace: Trace, left: dict[tuple[str, int], Tensor]) -> Callable[[Tensor, str | None], Tensor]:
        """Names in the large network; what is removed is negative."""

        def labels() -> Tensor:
            table = torch.ones(len(trace.families.parent), dtype=torch.int64)
            table[0] = 0
            for key, (start, size) in trace.families.base.items():
                if key in families.base:
                    first, full = families.base[key]
                    places = left.get(key, torch.arange(full))
                    if len(places) == size:
                        roots = channels.roots[first + places]
                        table[start : start + size] = torch.where(lost[roots], -1, roots)
            return table

        def elements(ids: Tensor, name: str) -> Tensor:
            found, gone_too, step = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool), 1
            for axis in reversed(range(len(shapes[name]))):
                full = shapes[name][axis]
                places = left.get((name, axis), torch.arange(full))
                place = places[ids % len(places)] if len(places) else ids
                ids = ids // max(len(places), 1)
                if (name, axis) in made.left:
                    stays = torch.zeros(full, dtype=torch.bool)
                    stays[made.left[name, axis]] = True
                    gone_too |= ~stays[place]
                found += step * place
                step *= full
            return torch.where(gone_too, -1, found)

        return lambda t, name: labels()[t] if name is None else elements(t, name)

    records = []
    for model, left in ((big, {}), (small, made.left)):
        trace = Trace()
        records.append(trace.run(model, once, inputs, record(trace, left)))
    for a, b in zip(*records, strict=False):
        if a != b:
            return f"the operation {a[0]!r} then computes something else"
    return None if len(records[0]) == len(records[1]) else "other operations are run then"
