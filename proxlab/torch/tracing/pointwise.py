"""Operations element by element, which couple the channels that meet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from proxlab.torch.tracing.families import FIXED, UNIFORM
from proxlab.torch.tracing.knowledge import Knowledge, Untraceable
from proxlab.torch.tracing.labels import coordinates, differing, narrow, pairs, size_at
from proxlab.torch.tracing.values import Piece, Value, fixed

__all__ = ["Pointwise"]


class Pointwise(Knowledge):
    """Follows what computes element by element."""

    def _pointwise(
        self, name: str, inputs: list[Tensor], outputs: list[Tensor], old: Callable[[Tensor], Tensor]
    ) -> None:
        known = [self._known(t) for t in inputs]
        values = [(t, k) for t, k in zip(inputs, known, strict=True) if isinstance(k, Value)]
        pieces = [
            (t, k) for t, k in zip(inputs, known, strict=True) if isinstance(k, Piece) and t.numel() > 1
        ]
        shape = outputs[0].shape
        if pieces and all(bool((k.label == UNIFORM).all()) for _, k in values):
            # Computed from parameters alone, as a weight that is parametrized.
            for t in outputs:
                self.known[t] = fixed(t, True)
            for _, piece in pieces:
                self._computed(piece)
            return
        label: Tensor | None = None
        taint = torch.zeros(shape, dtype=torch.bool)
        for _, k in values:
            label = k.label.expand(shape) if label is None else self._meet(label, k.label, shape)
            taint = taint | k.taint
        if label is None:
            label = torch.full(shape, UNIFORM)
        for t, piece in pieces:
            taint = taint | self._beside(piece, t, label)
        if name in ("mul", "mul_") and len(inputs) == 2:
            for t, k in values:
                taint = taint & ~((old(t) == 0) & ~k.taint)
            for t, piece in pieces:
                if t.numel() == self.held[piece.name].numel():
                    taint = taint & ~(old(t) == 0)
        for t in outputs:
            known_out = self.known.get(t)
            if isinstance(known_out, Value) and any(t is s for s in inputs):
                self._write(known_out, label, taint)
            elif isinstance(known_out, Piece):
                self._keep(label, f"it is written to {known_out.name!r}")
            else:
                self.known[t] = Value(label, taint)

    def _write(self, known: Value, label: Tensor, taint: Tensor) -> None:
        """Note what an operation in place did."""
        roots = self.trace.families.roots()
        if not torch.equal(roots[known.label], roots[label]):
            if known.copied or (0 in known.label.stride() and known.label.numel() > 1):
                if known.copied:
                    raise Untraceable("a tensor is written through a view that cannot be followed")
                known.label = label.clone()
            else:
                known.label.copy_(label)
        if not torch.equal(known.taint, taint):
            if known.copied or (0 in known.taint.stride() and known.taint.numel() > 1):
                raise Untraceable("a tensor is written through a view that cannot be followed")
            known.taint.copy_(taint)

    def _meet(self, a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
        """Labels of what is computed element by element from two."""
        thin = {d for d in range(len(shape)) if shape[d] > 1 and size_at(b, d, len(shape)) == 1}
        b = b.expand(shape)
        slim = {d for d in range(len(shape)) if shape[d] > 1 and a.stride(d) == 0}
        va, vb = self._varying(a), self._varying(b)
        over_b = bool(va) and va <= thin
        over_a = bool(vb) and vb <= slim
        if over_a and over_b:
            for label in (a, b):
                self._keep(label, "it meets every channel of another layer")
            return torch.full(shape, FIXED)
        if over_b:
            self._keep(b, "it meets every channel of another layer")
            return a
        if over_a:
            self._keep(a, "it meets every channel of another layer")
            return b
        self._join_pairs(a, b, "it is coupled with the input or with what cannot be cut")
        return torch.maximum(a, b)

    def _beside(self, piece: Piece, t: Tensor, label: Tensor) -> Tensor:
        """Couple channels with slices of a parameter that meets them element by element; returns taints."""
        held, shape = self.held[piece.name], label.shape
        ids = piece.ids.expand(shape)
        thin = {d for d in range(len(shape)) if shape[d] > 1 and size_at(piece.ids, d, len(shape)) == 1}
        varying = differing(label)
        whole = piece.ids.numel() == held.numel()
        flat = held.detach().reshape(-1)
        tainted = torch.full(shape, not (whole and bool((flat == flat[0]).all())))
        if not varying or varying <= thin:
            single = [d for d in range(len(shape)) if size_at(piece.ids, d, len(shape)) > 1]
            if bool((label > FIXED).any()) and not varying and single:
                self._keep(label, f"it meets the parameter {piece.name!r}")
            return tainted
        ids, label = narrow(ids, label)
        roots = self.trace.families.roots()
        coords = coordinates(ids, held)
        for labels, axis in product((label, roots[label]), range(held.dim())):
            if held.shape[axis] == 1:
                continue
            met = pairs(coords[axis].reshape(-1), labels.reshape(-1))
            if len({k for k, _ in met}) < len(met):
                continue
            if len(met) < 2 and held.dim() > 1:
                continue
            family = self.trace.families.of(piece.name, axis, held.shape[axis])
            for k, root in met:
                if root > FIXED:
                    self.trace.families.join(int(family[k]), root)
                elif root == FIXED:
                    self.trace.families.keep([int(family[k])], "it is coupled with what cannot be cut")
            others = [d for d in range(held.dim()) if d != axis and held.shape[d] > 1]
            return tainted if others or not whole else torch.zeros_like(tainted)
        if set[int]() < self._varying(label) <= thin:
            # It is broadcast over them, as the weight of a norm over all heads: it stays where some go.
            self._computed(piece, "meets all channels of another layer alike")
            return tainted
        reason = f"it is coupled with the parameter {piece.name!r}, which cannot be cut along it"
        self._keep(label, reason)
        for axis in range(held.dim()):
            if (piece.name, axis) in self.trace.families.base:
                family = self.trace.families.of(piece.name, axis, held.shape[axis])
                self.trace.families.keep(family.tolist(), reason)
        return tainted
