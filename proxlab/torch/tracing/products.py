"""Products with parameters, which make and read channels, and of computed tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from proxlab.torch.tracing.families import FIXED
from proxlab.torch.tracing.labels import coordinates, differing, unique
from proxlab.torch.tracing.pointwise import Pointwise
from proxlab.torch.tracing.read import Read
from proxlab.torch.tracing.values import Piece, Value, fixed

__all__ = ["Products"]


class Products(Pointwise):
    """Follows products, convolutions, embeddings and fused attention."""

    def _read(
        self, piece: Piece, ids: Tensor, outputs: Tensor, count: int, label: Tensor, values: Tensor,
        taint: Tensor, bias: Any, shifts: bool,
    ) -> None:  # fmt: skip
        """Note that slices of a parameter read channels, of labels ``label``."""
        held = self.held[piece.name]
        coords = coordinates(ids, held)
        axes = [a for a, c in enumerate(coords) if bool((c == c[:, :1]).all()) and held.shape[a] > 1]
        axes = [a for a in axes if len(coords[a][:, 0].unique()) == len(ids)]
        if not axes and len(ids) == 1:
            axes = [a for a, c in enumerate(coords) if held.shape[a] == 1][-1:]
        if not axes:
            self._keep(label, f"it is read by {piece.name!r} in a way that is not known")
            return
        axis = axes[0]
        index = coords[axis][:, 0]
        family = self.trace.families.of(piece.name, axis, held.shape[axis])[index]
        self._join_pairs(family, label, "no layer was found that makes it")
        key = (piece.name, axis, int(ids[0, 0]), ids.shape)
        low = torch.full((len(ids),), math.inf, dtype=torch.float64)
        read = self.trace.reads.get(key)
        if read is None:
            read = self.trace.reads[key] = Read(
                piece.name, axis, index, ids, outputs, count, low, -low,
                torch.zeros(len(ids), dtype=torch.bool), bias, shifts,
            )  # fmt: skip
        read.see(values.detach().double(), taint)

    def _made(self, piece: Piece, ids: Tensor) -> Tensor:
        """The channels that slices of a parameter make: ``ids`` of shape (channels, rest)."""
        held = self.held[piece.name]
        coords = coordinates(ids, held)
        for axis, c in enumerate(coords):
            alike = bool((c == c[:, :1]).all()) and (held.shape[axis] > 1 or len(ids) == 1)
            if alike and len(c[:, 0].unique()) == len(ids):
                self.trace.makes.add((piece.name, axis))
                return self.trace.families.of(piece.name, axis, held.shape[axis])[c[:, 0]]
        return torch.full((len(ids),), FIXED)

    def _bias(self, t: Any, made: Tensor) -> tuple[str, Tensor] | None:
        if not isinstance(t, Tensor):
            return None
        known = self._known(t)
        if isinstance(known, Piece) and known.ids.numel() == len(made):
            ids = known.ids.reshape(-1)
            held = self.held[known.name]
            if held.dim() == 1 and len(held) > 1:
                self._join_pairs(self.trace.families.of(known.name, 0, len(held))[ids], made, "")
            elif held.numel() > 1:
                self._keep(made, f"it is coupled with the parameter {known.name!r}")
            return known.name, ids
        if isinstance(known, Piece):
            self._keep(made, f"it is coupled with the parameter {known.name!r}")
        return None

    def _product(self, name: str, args: Any, kwargs: Any, out: Tensor) -> None:
        added = args[0] if name.startswith(("add", "badd")) else None
        a, b = args[1:3] if added is not None else args[:2]
        scaled = any(kwargs.get(k, 1) != 1 for k in ("beta", "alpha"))
        ka, kb = self._known(a), self._known(b)
        if isinstance(ka, Piece) and isinstance(kb, Piece):
            # As a weight of two factors, or a query that is a parameter.
            for piece, other in ((ka, kb), (kb, ka)):
                self._computed(piece, f"is multiplied by {other.name!r}, not by what depends on the input")
            self.known[out] = fixed(out, True)
            return
        if name in ("mv", "addmv", "dot"):
            if isinstance(ka, Piece) or isinstance(kb, Piece):
                self._unknown(name, [a, b], [out])
            else:
                for t in (a, b):
                    v = self._value(t)
                    self._mix(v.label, list(range(v.label.dim())), f"{name!r} sums it with others")
                    self._keep(v.label, f"{name!r} sums it with others")
                self.known[out] = fixed(out, True)
            return
        if name in ("mm", "addmm") and isinstance(kb, Piece) and not scaled:
            self._linear(a, ka, b, kb, added, out)
            return
        if name in ("mm",) and isinstance(ka, Piece) and isinstance(kb, Value):
            flipped = Value(kb.label.t(), kb.taint.t())
            new = out.t()
            self._linear(b.t(), flipped, a.t(), Piece(ka.name, ka.ids.t()), None, new)
            k = self.known[new]
            assert isinstance(k, Value)
            self.known[out] = Value(k.label.t(), k.taint.t().contiguous())
            return
        if (
            isinstance(kb, Piece)
            and a.dim() == 3
            and b.dim() == 3
            and added is None
            and bool((kb.ids == kb.ids[:1]).all())
        ):
            # A batch of products with one matrix.
            flat = a.flatten(0, 1)
            assert isinstance(ka, Value)
            rows = Value(ka.label.flatten(0, 1), ka.taint.flatten(0, 1))
            new = out.flatten(0, 1)
            self._linear(flat, rows, b[0], Piece(kb.name, kb.ids[0]), None, new)
            k = self.known[new]
            assert isinstance(k, Value)
            self.known[out] = Value(k.label.reshape(out.shape), k.taint.reshape(out.shape))
            return
        if isinstance(ka, Piece) or isinstance(kb, Piece):
            for t, k in ((a, ka), (b, kb)):
                self._unknown(name, [t], [])
                if isinstance(k, Piece):
                    self._computed(k)
            self.known[out] = fixed(out, True)
            return
        self._bmm(a, ka, b, kb, out)
        if added is not None:
            self._pointwise("add", [added, out], [out], lambda t: t)

    def _bmm(self, a: Tensor, ka: Value, b: Tensor, kb: Value, out: Tensor) -> None:
        """A product of two tensors that both depend on the input."""
        left, right = ka.label, kb.label
        j = a.dim() - 1
        wa, wb = self._varying(left), self._varying(right)
        reason = "a product of two computed tensors sums it with others"
        for mine, other, varies, e in ((left, right, j in wa, j - 1), (right, left, (j - 1) in wb, j)):
            # Weights of the sum that are no channels cannot be cut.
            if varies and not bool((other.narrow(e, 0, 1) > FIXED).any()):
                self._keep(mine, reason)
        rows = self._mix(left, [j], reason)
        columns = self._mix(right, [j - 1], reason)
        self._join_pairs(rows.expand(out.shape), columns.expand(out.shape), reason)
        if bool((left > FIXED).any()) and bool((right > FIXED).any()):
            self.trace.families.products.update(a for a in unique(rows) + unique(columns) if a > FIXED)
        label = torch.maximum(rows.expand(out.shape), columns.expand(out.shape))
        na, nb = (a.detach() != 0) | ka.taint, (b.detach() != 0) | kb.taint
        taint = (ka.taint.float() @ nb.float() + na.float() @ kb.taint.float()) > 0
        if ka.whole:
            same = (~kb.taint).all(-2, keepdim=True) & (b == b.narrow(-2, 0, 1)).all(-2, keepdim=True)
            taint = taint & ~same
        self.known[out] = Value(label, taint)

    def _linear(self, x: Tensor, kx: Value | Piece, w: Tensor, kw: Piece, added: Any, out: Tensor) -> None:
        assert isinstance(kx, Value)
        label = kx.label
        varying = differing(label)
        taint = (kx.taint.float() @ (w.detach() != 0).float()) > 0
        if 1 not in varying and 0 in varying:
            # Rows are channels and the sum is over places: the weight mixes places.
            self._computed(kw, "sums over places, not over channels")
            self.known[out] = Value(label[:, :1].expand(out.shape), taint)
            if isinstance(added, Tensor):
                self._pointwise("add", [added, out], [out], lambda t: t)
            return
        column = self._mix(label, [0], f"{self.where} sums it with others").reshape(-1)
        made = self._made(kw, kw.ids.t())
        bias = self._bias(added, made)
        self._read(
            kw, kw.ids, torch.arange(w.shape[1]), w.shape[1], column, x.t(), kx.taint.t(), bias,
            not isinstance(added, Tensor) or bias is not None,
        )  # fmt: skip
        self.known[out] = Value(made.expand(out.shape), taint)
        if isinstance(added, Tensor) and isinstance(self._known(added), Value):
            self._pointwise("add", [added, out], [out], lambda t: t)

    def _convolution(self, args: Any, out: Tensor) -> None:
        x, w, b, stride, padding, dilation, transposed, more, groups = args
        kx, kw = self._known(x), self._known(w)
        if isinstance(kx, Piece) or isinstance(kw, Value):
            self._unknown("convolution", [t for t in (x, w, b) if isinstance(t, Tensor)], [out])
            return
        axis = x.dim() - w.dim() + 1
        dims = [d for d in range(x.dim()) if d != axis]
        lead = self._mix(kx.label, dims, f"{self.where} sums it with others").reshape(-1)
        ids = kw.ids.movedim(1, 0) if transposed else kw.ids
        kernel = ids[0, 0].numel()
        whole = groups == 1
        made = self._made(kw, ids.flatten(1)) if whole else self._grouped(kw, lead, groups, transposed)
        bias = self._bias(b, made)
        if groups == 1:
            columns = ids.movedim(1, 0).flatten(2).flatten(1)
            outputs = torch.arange(ids.shape[0]).repeat_interleave(kernel)
            rows = x.movedim(axis, 0).flatten(1), kx.taint.movedim(axis, 0).flatten(1)
            shifts = not transposed and not any(padding) and (b is None or bias is not None)
            self._read(kw, columns, outputs, ids.shape[0], lead, *rows, bias, shifts)
        nonzero = (w.detach() != 0).to(torch.float32)
        reach = torch.ops.aten.convolution(
            kx.taint.to(torch.float32), nonzero, None, stride, padding, dilation, transposed, more, groups
        )
        shape = [1] * out.dim()
        shape[axis] = -1
        self.known[out] = Value(made.reshape(shape).expand(out.shape), reach > 0)

    def _grouped(self, kw: Piece, lead: Tensor, groups: int, transposed: bool) -> Tensor:
        """Couple inputs and outputs of each group of a convolution: they can only go together."""
        held = self.held[kw.name]
        if kw.ids.shape != held.shape or not torch.equal(kw.ids.reshape(-1), torch.arange(held.numel())):
            self._computed(kw)
        family = self.trace.families.of(kw.name, 0, held.shape[0])
        each = held.shape[0] // groups
        inside = held.shape[1]
        outputs = groups * inside if transposed else held.shape[0]
        if inside > 1:
            reason = f"{kw.name.rpartition('.')[0]!r} is a grouped convolution"
            self._keep(lead, reason)
            self.trace.families.keep(family.tolist(), reason)
            if not transposed:
                return family
            return torch.full((outputs,), FIXED)
        per = len(lead) // groups
        source = lead.repeat_interleave(each // per if transposed else each)[: held.shape[0]]
        self._join_pairs(family, source, f"{kw.name!r} passes on what cannot be cut")
        return family

    def _embedding(self, args: Any, outputs: list[Tensor]) -> None:
        known = self._known(args[0])
        for t in args[1:]:
            if isinstance(t, Tensor):
                self._keep(self._value(t).label, "it is used as an index")
        out = outputs[0]
        if not isinstance(known, Piece):
            self._unknown("embedding", [args[0]], outputs)
            return
        made = self._made(known, known.ids.t())
        read = (args[0].detach() != 0).any(0)
        self.known[out] = Value(made.expand(out.shape), read.expand(out.shape).clone())
        for t in outputs[1:]:
            self.known[t] = fixed(t, True)

    def _attention(self, args: Any, outputs: list[Tensor]) -> None:
        """A fused kernel of attention, where the network asked for one by itself."""
        q, k, v = (self._value(t) for t in args[:3])
        reason = "a product of two computed tensors sums it with others"
        for known in (q, k, v):
            self._keep(known.label, reason)
        for t in outputs:
            self.known[t] = fixed(t, True)
