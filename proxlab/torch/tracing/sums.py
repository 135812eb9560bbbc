"""Operations along axes: sums, sorting, softmax, pooling and norms."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from proxlab.torch.tracing import operations as op
from proxlab.torch.tracing.pointwise import Pointwise
from proxlab.torch.tracing.values import Later, Piece, Value, fixed, full

__all__ = ["Sums"]


class Sums(Pointwise):
    """Follows what computes along axes."""

    def _along(self, func: Any, name: str, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        source = args[0]
        known = self._value(source)
        dims = _argument(func, args, kwargs, ("dim", "axis"))
        if name in op.REDUCTIONS and dims is None:
            dims = list(range(source.dim()))
        if name in ("topk", "sort", "argsort", "glu") and dims is None:
            dims = -1
        listed = [dims] if isinstance(dims, int) else list(dims or range(source.dim()))
        listed = [d % source.dim() for d in listed] if source.dim() else []
        shown = name.removeprefix("_").removeprefix("safe_")
        reason = f"the operation {shown!r} computes it together with others"
        if name == "glu":
            half = known.label.shape[listed[0]] // 2
            a, b = known.label.split(half, listed[0])
            self._join_pairs(a, b, reason)
            taint = known.taint.narrow(listed[0], 0, half) | known.taint.narrow(listed[0], half, half)
            self.known[outputs[0]] = Value(a, taint)
            return
        whole = "softmax" in name and "log" not in name and listed == [source.dim() - 1]
        taint = known.taint
        for d in listed:
            taint = taint.any(d, keepdim=True)

        def reduced(label: Tensor, shape: torch.Size) -> Value:
            label, dirt = self._mix(label, listed, reason), taint
            if len(shape) != label.dim():
                for d in sorted(listed, reverse=True):
                    label, dirt = label.squeeze(d), dirt.squeeze(d)
            return Value(label.expand(shape), dirt.expand(shape).clone(), whole)

        # What nobody looks at, as the mean of attention weights over heads, couples nothing.
        later = name in op.REDUCTIONS
        label = known.label.clone() if later else known.label
        for t in outputs:
            make = functools.partial(reduced, label, t.shape)
            self.known[t] = Later(make) if later else make()

    def _places(self, source: Tensor, outputs: list[Tensor], count: int) -> None:
        known = self._value(source)
        dims = list(range(source.dim() - count, source.dim()))
        label = self._mix(known.label, dims, "it is pooled with others")
        taint = known.taint
        for d in dims:
            taint = taint.any(d, keepdim=True)
        for t in outputs:
            self.known[t] = Value(label.expand(t.shape), taint.expand(t.shape).clone())

    def _norm(self, name: str, args: Any, outputs: list[Tensor]) -> None:
        known = self._value(args[0])
        label, taint, lead = known.label, known.taint, None
        reason = f"{self.where} normalises it together with others"
        if name == "native_group_norm":
            dims = list(range(1, label.dim()))
            if 1 in self._varying(label):
                self._keep(label, reason)
        else:
            dims = list(range(label.dim() - len(args[1]), label.dim()))
            # Before the weights: those that all heads share are seen to meet each of them whole.
            lead = self._mix(label, dims, reason)
        weights = {"native_group_norm": args[1:3], "_fused_rms_norm": args[2:3]}.get(name, args[2:4])
        for t in weights:
            if isinstance(t, Tensor):
                k = self._known(t)
                if isinstance(k, Piece):
                    ids = k.ids
                    if name == "native_group_norm":
                        ids = ids.reshape(1, -1, *[1] * (label.dim() - 2))
                    self._beside(Piece(k.name, ids), t, label)
        for d in dims:
            taint = taint.any(d, keepdim=True)
        self.known[outputs[0]] = Value(label, taint.expand(label.shape).clone())
        for t in outputs[1:]:
            # Mean and deviation: one of each for all that is normalised together.
            if lead is not None and lead.shape == t.shape:
                self.known[t] = Value(lead.clone(), full(t, True))
            else:
                self.known[t] = fixed(t, True)

    def _batch_norm(self, name: str, args: Any, outputs: list[Tensor]) -> None:
        known = self._value(args[0])
        label = known.label
        shape = [1, -1, *[1] * (label.dim() - 2)]
        dims = [d for d in range(label.dim()) if d != 1]
        if self._varying(label) & set(dims):
            self._mix(label, dims, f"{self.where} normalises it together with others")
        for t in args[1:5]:
            if isinstance(t, Tensor) and t.numel() > 1:
                k = self._known(t)
                if isinstance(k, Piece):
                    self._beside(Piece(k.name, k.ids.reshape(shape)), t, label)
        taint = known.taint
        for d in dims:
            taint = taint.any(d, keepdim=True)
        scale = args[1]
        if isinstance(scale, Tensor):
            taint = taint & (scale.detach() != 0).reshape(shape)
        self.known[outputs[0]] = Value(label, taint.expand(label.shape).clone())
        for t in outputs[1:]:
            if t.numel() == label.shape[1]:
                lead = label.movedim(1, 0).flatten(1)[:, 0]
                self.known[t] = Value(lead.reshape(t.shape).clone(), full(t, True))


def _argument(func: Any, args: Any, kwargs: Any, names: tuple[str, ...]) -> Any:
    for k, a in enumerate(func._schema.arguments):
        if a.name in names:
            return args[k] if k < len(args) else kwargs.get(a.name, a.default_value)
    return None
