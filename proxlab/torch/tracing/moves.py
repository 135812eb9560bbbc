"""Operations that move elements: views, slices, copies, concatenations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from proxlab.torch.tracing.families import FIXED
from proxlab.torch.tracing.knowledge import Knowledge, Untraceable
from proxlab.torch.tracing.labels import unique
from proxlab.torch.tracing.values import Piece, Value, fixed

__all__ = ["Moves"]


class Moves(Knowledge):
    """Follows what moves elements."""

    def _move(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        source = args[0] if isinstance(args[0], Tensor) else inputs[0]
        known = self._known(source)
        for t in inputs:
            if t is not source:
                self._keep(self._value(t).label, "it is used as an index")
                if isinstance(known, Value) and bool(self._value(t).taint.any()):
                    self._mix(known.label, _indexed(args), "data says which of them is taken")
        if source.layout != torch.strided:
            return
        name = func._schema.name.rpartition("::")[2]

        def moved(a: Tensor) -> list[Tensor]:
            new = (a, *args[1:])
            if name in ("detach", "alias", "lift", "lift_fresh"):
                return [a]
            if name in ("_to_copy", "clone", "contiguous", "lift_fresh_copy"):
                # A tensor that repeats itself is never written to.
                return [a if 0 in a.stride() else a.clone()]
            if name in ("view", "_unsafe_view", "_reshape_alias", "_reshape_copy", "view_copy"):
                return [a.reshape(outputs[0].shape)]
            if name == "constant_pad_nd":
                return [functional.pad(a, list(args[1]), value=0)]
            if name.startswith(("reflection_pad", "replication_pad")):
                return [t.long() for t in [func(a.double(), *args[1:])]]
            if name == "im2col":
                return [func(a.double(), *args[1:], **kwargs).long()]
            found = func(*new, **kwargs)
            return [t for t in tree_leaves(found) if isinstance(t, Tensor)]

        if isinstance(known, Piece):
            if name in ("constant_pad_nd", "im2col", "tril", "triu") or not _same_numbers(
                name, source, outputs
            ):
                for t in outputs:
                    self.known[t] = fixed(t, True)
                return
            for t, ids in zip(outputs, moved(known.ids), strict=True):
                self.known[t] = Piece(known.name, ids)
            return
        labels = moved(known.label)
        taints = moved(known.taint.long() if name in ("im2col",) or "_pad" in name else known.taint)
        whole = known.whole and name in (
            "expand",
            "view",
            "_unsafe_view",
            "clone",
            "_to_copy",
            "detach",
            "alias",
        )
        for t, label, taint in zip(outputs, labels, taints, strict=True):
            # A view of the values whose labels had to be copied: writing to it would not be seen.
            lost = _shares(t, source) and not (_shares(label, known.label) and _shares(taint, known.taint))
            self.known[t] = Value(
                label, taint.bool(), whole and t.shape[-1:] == source.shape[-1:], known.copied or lost
            )
        if name in (
            "view",
            "_unsafe_view",
            "reshape",
            "_reshape_alias",
            "slice",
            "split",
            "split_with_sizes",
            "select",
        ):
            self._widths(labels)

    def _widths(self, labels: list[Tensor]) -> None:
        """Note how wide the axes are along which channels are found."""
        families = self.trace.families
        for label in labels:
            for d in self._varying(label):
                for a in unique(label.movedim(d, 0).flatten(1)[:, :1] if label.dim() > 1 else label)[:64]:
                    if a > FIXED:
                        self.trace.widths.setdefault(families.find(a), set()).add(label.shape[d])

    def _cat(self, func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        parts = [self._value(t) for t in args[0]]
        empty = [p.label.numel() == 0 and p.label.dim() == 1 for p in parts]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        name = func._schema.name.rpartition("::")[2]
        label = func([p.label for p in parts], *args[1:], **kwargs)
        taint = func([p.taint for p in parts], *args[1:], **kwargs)
        self.known[outputs[0]] = Value(label, taint)
        if name == "cat" and not any(empty):
            self._stacked([p.label for p in parts], dim % label.dim())
        self._widths([label])

    def _stacked(self, labels: list[Tensor], dim: int) -> None:
        """Couple what is stacked along an axis that is not that of the channels, such as tokens."""
        first = labels[0]
        varying = set[int]().union(*(self._varying(label) for label in labels)) - {dim}
        if not varying:
            return
        for label in labels[1:]:
            if label.shape[dim] and first.shape[dim]:
                self._join_pairs(
                    first.narrow(dim, 0, 1), label.narrow(dim, 0, 1), "it is put beside what cannot be cut"
                )

    def _copy(self, to: Tensor, source: Tensor) -> None:
        known, value = self._known(to), self._value(source)
        if isinstance(known, Piece):
            self._keep(value.label, f"it is written to {known.name!r}")
            return
        label = value.label.expand(to.shape)
        if 0 in known.label.stride() and known.label.numel() > 1:
            self._join_pairs(known.label, label, "it is written over what cannot be cut")
        else:
            if known.copied:
                raise Untraceable("a tensor is written through a view that cannot be followed")
            known.label.copy_(label)
        if 0 in known.taint.stride() and known.taint.numel() > 1:
            raise Untraceable("a tensor is written through a view that cannot be followed")
        known.taint.copy_(value.taint.expand(to.shape))


def _shares(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _same_numbers(name: str, source: Tensor, outputs: list[Tensor]) -> bool:
    """Whether a copy keeps the numbers, up to their precision."""
    return name != "_to_copy" or all(t.is_floating_point() == source.is_floating_point() for t in outputs)


def _indexed(args: Any) -> list[int]:
    """The axes that an operation indexes by tensors."""
    if not isinstance(args[1], (list, tuple)):
        return [args[1] % args[0].dim()] if isinstance(args[1], int) else list(range(args[0].dim()))
    axes, d = [], 0
    for t in args[1]:
        count = t.dim() if t is not None and t.dtype in (torch.bool, torch.uint8) else 1
        axes += [] if t is None else list(range(d, d + count))
        d += count
    return axes
