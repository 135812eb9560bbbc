"""What is known of the tensors of a run, and what couples or keeps their channels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from proxlab.torch.tracing import operations as op
from proxlab.torch.tracing.families import FIXED, UNIFORM
from proxlab.torch.tracing.labels import coordinates, differing, digest, narrow, pairs, unique
from proxlab.torch.tracing.values import Later, Piece, Value, constant, fixed, full

if TYPE_CHECKING:
    from proxlab.torch.tracing.trace import Trace


__all__ = ["Knowledge", "Untraceable"]


class Untraceable(Exception):
    """The network cannot be followed; the message says why."""


class Knowledge:
    """What is known of each tensor of a run."""

    def __init__(
        self,
        trace: Trace,
        model: nn.Module,
        inputs: list[Tensor],
        record: Callable[[Tensor, str | None], Tensor] | None,
    ) -> None:
        super().__init__()
        self.trace, self.model, self.record = trace, model, record
        self.known: Any = WeakTensorKeyDictionary()
        self.held: dict[str, Tensor] = {}
        for name, t in _tensors(model):
            if t not in self.known and t.layout == torch.strided:
                self.known[t] = Piece(name, torch.arange(t.numel()).reshape(t.shape))
                self.held[name] = t
        for t in inputs:
            self.known[t] = fixed(t, True)
        self.path: list[str] = [""]
        self.paused = 0
        self.count = 0
        self.records: list[Any] = []

    @property
    def where(self) -> str:
        """The module that runs, as a report names it."""
        path = self.path[-1]
        return f"{type(self.model.get_submodule(path)).__name__} {path!r}"

    def _known(self, t: Tensor) -> Value | Piece:
        known = self.known.get(t)
        if known is None:
            # A constant that the code holds, or a result that was not followed.
            known = self.known[t] = constant(t)
        if isinstance(known, Later):
            known = self.known[t] = known.make()
        if isinstance(known, Piece):
            self.trace.touched.add(known.name)
        result: Value | Piece = known
        return result

    def _value(self, t: Tensor) -> Value:
        """Labels of a tensor; a piece of a parameter with one axis has the channels across that axis."""
        known = self._known(t)
        if isinstance(known, Value):
            return known
        held = self.held[known.name]
        long = list(differing(known.ids))
        coords = coordinates(known.ids, held)
        if len(long) == 1:
            for axis, c in enumerate(coords):
                if held.shape[axis] > 1 and len(c.unique()) == t.shape[long[0]]:
                    return Value(self.trace.families.of(known.name, axis, held.shape[axis])[c], full(t, True))
        return Value(torch.full(t.shape, FIXED), full(t, True))

    def _keep(self, label: Tensor, reason: str) -> None:
        self.trace.families.keep(unique(label), reason)

    def _join_pairs(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Couple labels place by place; what meets fixed data is kept."""
        a, b = narrow(a, b)
        roots = self.trace.families.roots()
        a, b = roots[a].reshape(-1), roots[b].reshape(-1)
        differ = (a != b) & (a != UNIFORM) & (b != UNIFORM)
        if not bool(differ.any()):
            return
        for x, y in pairs(a[differ], b[differ]):
            if x == FIXED or y == FIXED:
                self.trace.families.soft.setdefault(max(x, y), reason)
            else:
                self.trace.families.join(x, y)

    def _mix(self, label: Tensor, dims: list[int], reason: str) -> Tensor:
        """Couple all labels along axes; returns the labels with these axes of size one."""
        for d in dims:
            if label.shape[d] == 0:
                return label.sum(dims, keepdim=True)
            first = label.narrow(d, 0, 1)
            if label.shape[d] > 1 and label.stride(d) != 0:
                roots = self.trace.families.roots()
                if not torch.equal(roots[label], roots[first].expand_as(label)):
                    self._join_pairs(label, first.expand_as(label), reason)
                    for a in unique(label):
                        if a > FIXED:
                            self.trace.families.mixed.setdefault(a, reason)
                    first = label.amax(d, keepdim=True)
            label = first
        return label

    def _varying(self, label: Tensor) -> set[int]:
        roots = self.trace.families.roots()
        r = roots[label]
        return {
            d for d in range(r.dim())
            if r.shape[d] > 1 and r.stride(d) != 0 and bool((r != r.narrow(d, 0, 1)).any())
        }  # fmt: skip

    def _computed(self, piece: Piece, how: str = "is not used as it is (parametrized)") -> None:
        """Keep all slices of a parameter."""
        held = self.held[piece.name]
        for axis, size in enumerate(held.shape):
            family = self.trace.families.of(piece.name, axis, size)
            self.trace.families.keep(family.tolist(), f"{piece.name!r} {how}")

    def _unknown(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Couple nothing and keep all: what the operation does with channels is not known."""
        for t in inputs:
            known = self._known(t)
            if isinstance(known, Piece):
                for axis, size in enumerate(self.held[known.name].shape):
                    if (known.name, axis) in self.trace.families.base:
                        family = self.trace.families.of(known.name, axis, size)
                        self.trace.families.keep(family.tolist(), f"the operation {name!r} uses it")
            else:
                self._keep(known.label, f"the operation {name!r} may mix it with others")
        for t in outputs:
            self.known[t] = fixed(t, True)

    def _note(self, name: str, args: Any, inputs: list[Tensor], out: Any) -> None:
        """Add an operation to the record: its numbers, and what its tensors are made of."""
        assert self.record is not None
        numbers = int | float if name.strip("_") in op.SCALED else float
        scalars = tuple(a for a in tree_leaves(args) if isinstance(a, numbers))
        if name == "native_group_norm":
            scalars = (*scalars, args[4] / args[6])  # channels in each group
        if name in ("full", "full_like", "new_full", "scalar_tensor") and out.numel():
            scalars = (*scalars, float(out.reshape(-1)[0]))
        made: list[Any] = []
        for t in (*inputs, *(t for t in tree_leaves(out) if isinstance(t, (Tensor, Value)))):
            known = t if isinstance(t, Value) else self.known.get(t)
            if isinstance(known, Piece):
                made.append((known.name, *digest(self.record(known.ids, known.name))))
            elif isinstance(known, Value) and bool((known.label != UNIFORM).any()):
                made.append(digest(self.record(known.label, None)))
        self.records.append((name, scalars, tuple(made)))


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a network holds: parameters, buffers, and plain attributes."""
    for path, m in module.named_modules():
        prefix = f"{path}." if path else ""
        for store in (m._parameters, m._buffers, m.__dict__):
            for name, t in store.items():
                if isinstance(t, Tensor):
                    yield prefix + name, t
