"""Trace which channels of a network belong together, which parameters make and read them, what is constant.

A network is run once as it is, and beside every tensor two more are computed: a *label* for each element,
the channel that it belongs to, and a *taint*, whether it depends on the network's input. What only moves
elements (views, slices, concatenations) is done to labels and taints as to the values. What computes element
by element couples the channels that meet; so does what computes channels from one another: norms, softmax,
sorting, sums.
A matrix product or convolution with a parameter makes new channels, one for each slice of the parameter
across its output axis, and reads the old ones by its other axis. Everything that is not known to be one of
these keeps its channels. Only slices of parameters are channels: a channel can be removed by removing the
slices that are coupled with it.

The operations are those that PyTorch dispatches (:mod:`torch.utils._python_dispatch`), so that it does not
matter how a network is written.
"""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from proxlab.torch import operations as op

__all__ = ["LIMIT_OPERATIONS", "LIMIT_SECONDS", "Read", "Trace", "Untraceable", "without_dropout"]

#: Bounds of a trace: operations of one run, seconds of all.
LIMIT_OPERATIONS, LIMIT_SECONDS = 200_000, 120.0

# Labels that are no channel: a value that is the same everywhere; data that no layer makes, as the input.
_UNIFORM, _FIXED = 0, 1


class Untraceable(Exception):
    """The network cannot be followed; the message says why."""


@dataclass(eq=False)
class _Value:
    """Labels and taints of a tensor; ``whole`` says that the last axis adds up to one."""

    label: Tensor
    taint: Tensor
    whole: bool = False
    copied: bool = False


@dataclass(eq=False)
class _Piece:
    """A tensor made of elements of one parameter or buffer: their places in it, flattened."""

    name: str
    ids: Tensor


@dataclass(eq=False)
class _Later:
    """What is found out when it is asked for."""

    make: Callable[[], _Value]


@dataclass(eq=False)
class Read:
    """A parameter that channels are multiplied with and summed up.

    Attributes
    ----------
    name : str
        The parameter.
    axis : int
        Which of its axes reads the channels.
    index : Tensor
        Which slice across that axis reads each channel that comes in.
    ids : Tensor
        Elements of the flattened parameter that read each channel, shape (channels, rest).
    outputs : Tensor
        The output that each column of ``ids`` adds to; the number of outputs is ``count``.
    low, high, taint : Tensor
        Range of each channel that comes in, over all places and runs, and whether it depends on the input.
    bias : tuple or None
        Name of the bias, and its element for each output.
    shifts : bool
        Whether a constant that comes in is the same constant in each place of the output.
    """

    name: str
    axis: int
    index: Tensor
    ids: Tensor
    outputs: Tensor
    count: int
    low: Tensor
    high: Tensor
    taint: Tensor
    bias: tuple[str, Tensor] | None
    shifts: bool

    @property
    def layer(self) -> str:
        """Path of the module that holds the parameter."""
        return self.name.rpartition(".")[0]

    def see(self, values: Tensor, taint: Tensor) -> None:
        """Widen the ranges by the values of a run, shape (channels, places)."""
        if values.shape[1]:
            self.low = torch.minimum(self.low, values.amin(1))
            self.high = torch.maximum(self.high, values.amax(1))
        self.taint |= taint.any(1)


class _Families:
    """Channels: numbered slices of parameters, and which of them are coupled."""

    def __init__(self) -> None:
        self.parent: list[int] = [_UNIFORM, _FIXED]
        self.base: dict[tuple[str, int], tuple[int, int]] = {}
        self.reasons: dict[int, list[str]] = {}
        # Reasons that do not hold for whole heads of attention; why channels were mixed; what is in heads.
        self.soft: dict[int, str] = {}
        self.mixed: dict[int, str] = {}
        self.products: set[int] = set()
        self._roots: Tensor | None = None

    def of(self, name: str, axis: int, size: int) -> Tensor:
        """The channels that are slices of a parameter across an axis."""
        if (name, axis) not in self.base:
            self.base[name, axis] = (len(self.parent), size)
            self.parent += range(len(self.parent), len(self.parent) + size)
            self._roots = None
        start, size = self.base[name, axis]
        return torch.arange(start, start + size)

    def find(self, a: int) -> int:
        parent = self.parent
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    def join(self, a: int, b: int) -> None:
        """Couple two channels; one with what is fixed cannot be removed."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        a, b = min(a, b), max(a, b)
        self.parent[b] = a
        self._roots = None

    def roots(self) -> Tensor:
        """One representative for each channel, those coupled the same."""
        if self._roots is None:
            p = torch.tensor(self.parent)
            while True:
                q = p[p]
                if torch.equal(p, q):
                    break
                p = q
            self._roots = p
            self.parent = p.tolist()
        return self._roots

    def keep(self, labels: Iterable[int], reason: str) -> None:
        """Say why channels cannot be removed."""
        for a in labels:
            if a > _FIXED:
                reasons = self.reasons.setdefault(a, [])
                if reason not in reasons and len(reasons) < 4:
                    reasons.append(reason)

    def obstacles(self, heads: set[int]) -> dict[int, str]:
        """The first reason of each representative; some do not hold for whole heads."""
        roots = self.roots()
        found: dict[int, str] = {}
        for a, reasons in self.reasons.items():
            found.setdefault(int(roots[a]), reasons[0])
        for a, reason in self.soft.items():
            if int(roots[a]) not in heads:
                found.setdefault(int(roots[a]), reason)
        return found

    def mixed_roots(self) -> dict[int, str]:
        """Why the channels of each representative were coupled by an operation that computes with all."""
        roots = self.roots()
        return {int(roots[a]): reason for a, reason in self.mixed.items()}


@dataclass
class Trace:
    """What runs of a network showed.

    Attributes
    ----------
    families : _Families
        The channels and how they are coupled.
    reads : dict
        Where channels are read, by parameter.
    makes : set
        Parameters and axes that make channels.
    ran : set
        Paths of the modules that ran.
    touched : set
        Names of the parameters and buffers that were used.
    widths : dict
        For each channel the sizes of the axes that it was found in.
    norms : dict
        The channels of each norm that counts them, by its path.
    dead : bool
        Whether no output depends on an input.
    end : float
        When time is up.
    """

    families: _Families = field(default_factory=_Families)
    reads: dict[Any, Read] = field(default_factory=dict)
    makes: set[tuple[str, int]] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    widths: dict[int, set[int]] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    dead: bool = True
    end: float = field(default_factory=lambda: time.monotonic() + LIMIT_SECONDS)

    def run(
        self,
        model: nn.Module,
        once: Callable[[nn.Module], list[Tensor]],
        inputs: Iterable[Tensor],
        record: Callable[[Tensor, str | None], Tensor] | None = None,
    ) -> list[Any]:
        """Follow one run.

        Parameters
        ----------
        model : torch.nn.Module
            The network, in the mode that it runs in.
        once : callable
            Calls it and returns its outputs.
        inputs : iterable of Tensor
            What it is called with.
        record : callable, optional
            What to call the labels of a tensor, or the places in the parameter of the given name, in the list
            of operations that is returned; negative where they are left out.

        Raises
        ------
        Untraceable
            If a bound is reached, or a tensor is written in a way that cannot be followed.
        """
        mode = _Tracer(self, model, list(inputs), record)
        backend = sdpa_kernel(SDPBackend.MATH)
        with torch.no_grad(), without_dropout(model), mode.hooked(), backend, mode:
            outputs = once(model)
        for t in outputs:
            mode.finish(t)
        return mode.records


class _NoDropout(TorchFunctionMode):
    """Dropout passes its input on."""

    names = frozenset(
        f"{kind}{end}"
        for kind in ("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
        for end in ("", "_", "1d", "2d", "3d")
    )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in self.names and (args or "input" in kwargs):
            return args[0] if args else kwargs["input"]
        if func is functional.scaled_dot_product_attention:
            args, kwargs = (*args[:4], 0.0, *args[5:]), {k: v for k, v in kwargs.items() if k != "dropout_p"}
            if len(args) < 5 or len(args[:4]) < 4:
                args = args[:-1]
        elif func is functional.multi_head_attention_forward:
            args = (*args[:10], 0.0, *args[11:])
        return func(*args, **kwargs)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Run without dropout in training mode too, and without PyTorch's fused kernels of transformer layers."""
    changed: list[tuple[Any, str, Any]] = []
    for m in model.modules():
        for name in ("dropout", "attention_dropout", "dropout_p", "attn_dropout"):
            value = m.__dict__.get(name)
            if isinstance(value, float) and value:
                changed.append((m, name, value))
                setattr(m, name, 0.0)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with _NoDropout():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m, name, value in changed:
            setattr(m, name, value)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a network holds: parameters, buffers, and plain attributes."""
    for path, m in module.named_modules():
        prefix = f"{path}." if path else ""
        for store in (m._parameters, m._buffers, m.__dict__):
            for name, t in store.items():
                if isinstance(t, Tensor):
                    yield prefix + name, t


class _Tracer(TorchDispatchMode):
    """Computes labels and taints beside a run."""

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
                self.known[t] = _Piece(name, torch.arange(t.numel()).reshape(t.shape))
                self.held[name] = t
        for t in inputs:
            self.known[t] = _fixed(t, True)
        self.path: list[str] = [""]
        self.paused = 0
        self.count = 0
        self.records: list[Any] = []

    # ------------------------------------------------------------------------------------------------
    # Modules.

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Follow which module runs, and take recurrent layers as one operation."""
        names = {m: name for name, m in self.model.named_modules()}
        with ExitStack() as stack:
            for m, name in names.items():
                if isinstance(m, torch.jit.ScriptModule):
                    continue
                stack.callback(m.register_forward_pre_hook(self._enter(name)).remove)
                stack.callback(m.register_forward_hook(self._leave, always_call=True).remove)
            yield

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self.path.append(name)
            self.trace.ran.add(name)
            self.paused += isinstance(module, nn.RNNBase)
            if isinstance(module, _NormBase) and args and isinstance(args[0], Tensor) and args[0].dim() > 1:
                with _disable_current_modes():
                    label = self._value(args[0]).label
                    if label.numel():
                        self.trace.norms[name] = label.movedim(1, 0).flatten(1)[:, 0].clone()

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self.path.pop()
        if isinstance(module, nn.RNNBase):
            self.paused -= 1
            if not self.paused and output is not None:
                with _disable_current_modes():
                    self._recurrent(name, module, args, output)

    @property
    def where(self) -> str:
        """The module that runs, as a report names it."""
        path = self.path[-1]
        return f"{type(self.model.get_submodule(path)).__name__} {path!r}"

    # ------------------------------------------------------------------------------------------------
    # Dispatch.

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        self.count += 1
        if self.count > LIMIT_OPERATIONS:
            raise Untraceable(f"the network takes more than {LIMIT_OPERATIONS:,} operations")
        if time.monotonic() > self.trace.end:
            raise Untraceable(f"following the network takes more than {LIMIT_SECONDS:g} seconds")
        name = func._schema.name.rpartition("::")[2]
        if torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ) and not func.name().startswith("aten::_to_copy"):
            with self:
                found = func.decompose(*args, **kwargs)
                if found is not NotImplemented:
                    return found
        if name == "bernoulli_":
            # What is kept is then scaled by its share: dropout that keeps all.
            share = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            if not isinstance(share, Tensor):
                args[0].fill_(share)
                self.known[args[0]] = _plain(args[0], _UNIFORM, False)
                return args[0]
        before = None
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if func._schema.is_mutable and name not in op.BATCH_NORMS:
            before = {id(t): t.detach().clone() for t in inputs}
        out = func(*args, **kwargs)
        values = before or {}
        self._follow(func, name, args, kwargs, inputs, out, lambda t: values.get(id(t), t))
        if self.record is not None and name not in op.MOVES and name not in op.JOINS:
            self._note(name, args, inputs, out)
        return out

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
        for t in (*inputs, *(t for t in tree_leaves(out) if isinstance(t, (Tensor, _Value)))):
            known = t if isinstance(t, _Value) else self.known.get(t)
            if isinstance(known, _Piece):
                made.append((known.name, *_digest(self.record(known.ids, known.name))))
            elif isinstance(known, _Value) and bool((known.label != _UNIFORM).any()):
                made.append(_digest(self.record(known.label, None)))
        self.records.append((name, scalars, tuple(made)))

    # ------------------------------------------------------------------------------------------------
    # What is known of a tensor.

    def _known(self, t: Tensor) -> _Value | _Piece:
        known = self.known.get(t)
        if known is None:
            # A constant that the code holds, or a result that was not followed.
            known = self.known[t] = _constant(t)
        if isinstance(known, _Later):
            known = self.known[t] = known.make()
        if isinstance(known, _Piece):
            self.trace.touched.add(known.name)
        result: _Value | _Piece = known
        return result

    def _value(self, t: Tensor) -> _Value:
        """Labels of a tensor; a piece of a parameter with one axis has the channels across that axis."""
        known = self._known(t)
        if isinstance(known, _Value):
            return known
        held = self.held[known.name]
        long = list(_varying(known.ids))
        coords = _coordinates(known.ids, held)
        if len(long) == 1:
            for axis, c in enumerate(coords):
                if held.shape[axis] > 1 and len(c.unique()) == t.shape[long[0]]:
                    return _Value(
                        self.trace.families.of(known.name, axis, held.shape[axis])[c], _full(t, True)
                    )
        return _Value(torch.full(t.shape, _FIXED), _full(t, True))

    def _keep(self, label: Tensor, reason: str) -> None:
        self.trace.families.keep(_unique(label), reason)

    def _join_pairs(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Couple labels place by place; what meets fixed data is kept."""
        a, b = _narrow(a, b)
        roots = self.trace.families.roots()
        a, b = roots[a].reshape(-1), roots[b].reshape(-1)
        differ = (a != b) & (a != _UNIFORM) & (b != _UNIFORM)
        if not bool(differ.any()):
            return
        for x, y in torch.unique(torch.stack([a[differ], b[differ]], 1), dim=0).tolist():
            if x == _FIXED or y == _FIXED:
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
                    for a in _unique(label):
                        if a > _FIXED:
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

    # ------------------------------------------------------------------------------------------------
    # Operations.

    def _follow(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        inputs: list[Tensor],
        out: Any,
        old: Callable[[Tensor], Tensor],
    ) -> None:
        plain = name.rstrip("_") if not name.startswith("_") else name
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        fresh = [t for t in outputs if all(t is not s for s in inputs)]
        if name in op.IGNORED:
            for t in inputs:
                self._keep(self._value(t).label, f"{name!r} reads it as a number")
            return
        if name in op.FACTORIES or name in op.UNIFORM:
            same = name in op.UNIFORM
            for t in outputs:
                self.known[t] = _plain(t, _UNIFORM if same else _FIXED, not same)
        elif name in ("zero_", "fill_"):
            self.known[args[0]] = self.known.get(args[0]) or _plain(args[0], _UNIFORM, False)
        elif name == "copy_":
            self._copy(args[0], args[1])
        elif plain in op.MOVES:
            self._move(func, args, kwargs, inputs, outputs)
        elif plain in op.JOINS:
            self._cat(func, args, kwargs, outputs)
        elif plain in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"):
            self._product(plain, args, kwargs, outputs[0])
        elif plain == "convolution":
            self._convolution(args, outputs[0])
        elif plain in ("embedding", "_embedding_bag", "_embedding_bag_forward_only"):
            self._embedding(args, outputs)
        elif plain in op.BATCH_NORMS:
            self._batch_norm(name, args, outputs)
        elif plain in ("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm"):
            self._norm(plain, args, outputs)
        elif plain in op.PLACES:
            self._places(args[0], outputs, op.PLACES[plain])
        elif plain in op.REDUCTIONS or plain in op.ALONG or plain == "topk":
            if plain in ("max", "min") and len(inputs) == 2:
                self._pointwise(name, inputs, outputs, old)
            else:
                self._along(func, plain, args, kwargs, outputs)
        elif "scaled_dot_product" in plain:
            self._attention(args, outputs)
        elif plain == "native_dropout":
            known = self._value(args[0])
            self.known[outputs[0]] = known
            self.known[outputs[1]] = _plain(outputs[1], _UNIFORM, False)
        elif torch.Tag.pointwise in func.tags or plain in op.POINTWISE or name in op.POINTWISE:
            self._pointwise(plain, inputs, outputs, old)
        else:
            self._unknown(name, inputs, outputs)
        for t in fresh:
            if self.known.get(t) is None:
                self.known[t] = _fixed(t, True)

    def _unknown(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        """Couple nothing and keep all: what the operation does with channels is not known."""
        for t in inputs:
            known = self._known(t)
            if isinstance(known, _Piece):
                for axis, size in enumerate(self.held[known.name].shape):
                    if (known.name, axis) in self.trace.families.base:
                        family = self.trace.families.of(known.name, axis, size)
                        self.trace.families.keep(family.tolist(), f"the operation {name!r} uses it")
            else:
                self._keep(known.label, f"the operation {name!r} may mix it with others")
        for t in outputs:
            self.known[t] = _fixed(t, True)

    def _move(self, func: Any, args: Any, kwargs: Any, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        source = args[0] if isinstance(args[0], Tensor) else inputs[0]
        known = self._known(source)
        for t in inputs:
            if t is not source:
                self._keep(self._value(t).label, "it is used as an index")
                if isinstance(known, _Value) and bool(self._value(t).taint.any()):
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

        if isinstance(known, _Piece):
            if name in ("constant_pad_nd", "im2col", "tril", "triu") or not _same_numbers(
                name, source, outputs
            ):
                for t in outputs:
                    self.known[t] = _fixed(t, True)
                return
            for t, ids in zip(outputs, moved(known.ids), strict=True):
                self.known[t] = _Piece(known.name, ids)
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
            self.known[t] = _Value(
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
                for a in _unique(label.movedim(d, 0).flatten(1)[:, :1] if label.dim() > 1 else label)[:64]:
                    if a > _FIXED:
                        self.trace.widths.setdefault(families.find(a), set()).add(label.shape[d])

    def _cat(self, func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        parts = [self._value(t) for t in args[0]]
        empty = [p.label.numel() == 0 and p.label.dim() == 1 for p in parts]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        name = func._schema.name.rpartition("::")[2]
        label = func([p.label for p in parts], *args[1:], **kwargs)
        taint = func([p.taint for p in parts], *args[1:], **kwargs)
        self.known[outputs[0]] = _Value(label, taint)
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
        if isinstance(known, _Piece):
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

    def _pointwise(
        self, name: str, inputs: list[Tensor], outputs: list[Tensor], old: Callable[[Tensor], Tensor]
    ) -> None:
        known = [self._known(t) for t in inputs]
        values = [(t, k) for t, k in zip(inputs, known, strict=True) if isinstance(k, _Value)]
        pieces = [
            (t, k) for t, k in zip(inputs, known, strict=True) if isinstance(k, _Piece) and t.numel() > 1
        ]
        shape = outputs[0].shape
        if pieces and all(bool((k.label == _UNIFORM).all()) for _, k in values):
            # Computed from parameters alone, as a weight that is parametrized.
            for t in outputs:
                self.known[t] = _fixed(t, True)
            for _, piece in pieces:
                self._computed(piece)
            return
        label: Tensor | None = None
        taint = torch.zeros(shape, dtype=torch.bool)
        for _, k in values:
            label = k.label.expand(shape) if label is None else self._meet(label, k.label, shape)
            taint = taint | k.taint
        if label is None:
            label = torch.full(shape, _UNIFORM)
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
            if isinstance(known_out, _Value) and any(t is s for s in inputs):
                self._write(known_out, label, taint)
            elif isinstance(known_out, _Piece):
                self._keep(label, f"it is written to {known_out.name!r}")
            else:
                self.known[t] = _Value(label, taint)

    def _write(self, known: _Value, label: Tensor, taint: Tensor) -> None:
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

    def _computed(self, piece: _Piece, how: str = "is not used as it is (parametrized)") -> None:
        """Keep all slices of a parameter."""
        held = self.held[piece.name]
        for axis, size in enumerate(held.shape):
            family = self.trace.families.of(piece.name, axis, size)
            self.trace.families.keep(family.tolist(), f"{piece.name!r} {how}")

    def _meet(self, a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
        """Labels of what is computed element by element from two."""
        thin = {d for d in range(len(shape)) if shape[d] > 1 and _size_at(b, d, len(shape)) == 1}
        b = b.expand(shape)
        slim = {d for d in range(len(shape)) if shape[d] > 1 and a.stride(d) == 0}
        va, vb = self._varying(a), self._varying(b)
        over_b = bool(va) and va <= thin
        over_a = bool(vb) and vb <= slim
        if over_a and over_b:
            for label in (a, b):
                self._keep(label, "it meets every channel of another layer")
            return torch.full(shape, _FIXED)
        if over_b:
            self._keep(b, "it meets every channel of another layer")
            return a
        if over_a:
            self._keep(a, "it meets every channel of another layer")
            return b
        self._join_pairs(a, b, "it is coupled with the input or with what cannot be cut")
        return torch.maximum(a, b)

    def _beside(self, piece: _Piece, t: Tensor, label: Tensor) -> Tensor:
        """Couple channels with slices of a parameter that meets them element by element; returns taints."""
        held, shape = self.held[piece.name], label.shape
        ids = piece.ids.expand(shape)
        thin = {d for d in range(len(shape)) if shape[d] > 1 and _size_at(piece.ids, d, len(shape)) == 1}
        varying = _varying(label)
        whole = piece.ids.numel() == held.numel()
        flat = held.detach().reshape(-1)
        tainted = torch.full(shape, not (whole and bool((flat == flat[0]).all())))
        if not varying or varying <= thin:
            single = [d for d in range(len(shape)) if _size_at(piece.ids, d, len(shape)) > 1]
            if bool((label > _FIXED).any()) and not varying and single:
                self._keep(label, f"it meets the parameter {piece.name!r}")
            return tainted
        ids, label = _narrow(ids, label)
        roots = self.trace.families.roots()
        coords = _coordinates(ids, held)
        for labels, axis in product((label, roots[label]), range(held.dim())):
            if held.shape[axis] == 1:
                continue
            pairs = torch.unique(torch.stack([coords[axis].reshape(-1), labels.reshape(-1)], 1), dim=0)
            if len(pairs[:, 0].unique()) < len(pairs):
                continue
            if len(pairs) < 2 and held.dim() > 1:
                continue
            family = self.trace.families.of(piece.name, axis, held.shape[axis])
            for k, root in pairs.tolist():
                if root > _FIXED:
                    self.trace.families.join(int(family[k]), root)
                elif root == _FIXED:
                    self.trace.families.keep([int(family[k])], "it is coupled with what cannot be cut")
            others = [d for d in range(held.dim()) if d != axis and held.shape[d] > 1]
            return tainted if others or not whole else torch.zeros_like(tainted)
        reason = f"it is coupled with the parameter {piece.name!r}, which cannot be cut along it"
        self._keep(label, reason)
        for axis in range(held.dim()):
            if (piece.name, axis) in self.trace.families.base:
                family = self.trace.families.of(piece.name, axis, held.shape[axis])
                self.trace.families.keep(family.tolist(), reason)
        return tainted

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
            self.known[outputs[0]] = _Value(a, taint)
            return
        whole = "softmax" in name and "log" not in name and listed == [source.dim() - 1]
        taint = known.taint
        for d in listed:
            taint = taint.any(d, keepdim=True)

        def reduced(label: Tensor, shape: torch.Size) -> _Value:
            label, dirt = self._mix(label, listed, reason), taint
            if len(shape) != label.dim():
                for d in sorted(listed, reverse=True):
                    label, dirt = label.squeeze(d), dirt.squeeze(d)
            return _Value(label.expand(shape), dirt.expand(shape).clone(), whole)

        # What nobody looks at, as the mean of attention weights over heads, couples nothing.
        later = name in op.REDUCTIONS
        label = known.label.clone() if later else known.label
        for t in outputs:
            make = functools.partial(reduced, label, t.shape)
            self.known[t] = _Later(make) if later else make()

    def _places(self, source: Tensor, outputs: list[Tensor], count: int) -> None:
        known = self._value(source)
        dims = list(range(source.dim() - count, source.dim()))
        label = self._mix(known.label, dims, "it is pooled with others")
        taint = known.taint
        for d in dims:
            taint = taint.any(d, keepdim=True)
        for t in outputs:
            self.known[t] = _Value(label.expand(t.shape), taint.expand(t.shape).clone())

    def _norm(self, name: str, args: Any, outputs: list[Tensor]) -> None:
        known = self._value(args[0])
        label = known.label
        weights = {"native_group_norm": args[1:3], "_fused_rms_norm": args[2:3]}.get(name, args[2:4])
        for t in weights:
            if isinstance(t, Tensor):
                k = self._known(t)
                if isinstance(k, _Piece):
                    ids = k.ids
                    if name == "native_group_norm":
                        ids = ids.reshape(1, -1, *[1] * (label.dim() - 2))
                    self._beside(_Piece(k.name, ids), t, label)
        if name == "native_group_norm":
            dims = list(range(1, label.dim()))
            if 1 in self._varying(label):
                self._keep(label, f"{self.where} normalises it together with others")
        else:
            shape = args[1]
            dims = list(range(label.dim() - len(shape), label.dim()))
            self._mix(label, dims, f"{self.where} normalises it together with others")
        taint = known.taint
        for d in dims:
            taint = taint.any(d, keepdim=True)
        self.known[outputs[0]] = _Value(label, taint.expand(label.shape).clone())
        for t in outputs[1:]:
            self.known[t] = _fixed(t, True)

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
                if isinstance(k, _Piece):
                    self._beside(_Piece(k.name, k.ids.reshape(shape)), t, label)
        taint = known.taint
        for d in dims:
            taint = taint.any(d, keepdim=True)
        scale = args[1]
        if isinstance(scale, Tensor):
            taint = taint & (scale.detach() != 0).reshape(shape)
        self.known[outputs[0]] = _Value(label, taint.expand(label.shape).clone())
        for t in outputs[1:]:
            if t.numel() == label.shape[1]:
                lead = label.movedim(1, 0).flatten(1)[:, 0]
                self.known[t] = _Value(lead.reshape(t.shape).clone(), _full(t, True))

    # ------------------------------------------------------------------------------------------------
    # Products with parameters, which make and read channels.

    def _read(
        self, piece: _Piece, ids: Tensor, outputs: Tensor, count: int, label: Tensor, values: Tensor,
        taint: Tensor, bias: Any, shifts: bool,
    ) -> None:  # fmt: skip
        """Note that slices of a parameter read channels, of labels ``label``."""
        held = self.held[piece.name]
        coords = _coordinates(ids, held)
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

    def _made(self, piece: _Piece, ids: Tensor) -> Tensor:
        """The channels that slices of a parameter make: ``ids`` of shape (channels, rest)."""
        held = self.held[piece.name]
        coords = _coordinates(ids, held)
        for axis, c in enumerate(coords):
            alike = bool((c == c[:, :1]).all()) and (held.shape[axis] > 1 or len(ids) == 1)
            if alike and len(c[:, 0].unique()) == len(ids):
                self.trace.makes.add((piece.name, axis))
                return self.trace.families.of(piece.name, axis, held.shape[axis])[c[:, 0]]
        return torch.full((len(ids),), _FIXED)

    def _bias(self, t: Any, made: Tensor) -> tuple[str, Tensor] | None:
        if not isinstance(t, Tensor):
            return None
        known = self._known(t)
        if isinstance(known, _Piece) and known.ids.numel() == len(made):
            ids = known.ids.reshape(-1)
            held = self.held[known.name]
            if held.dim() == 1 and len(held) > 1:
                self._join_pairs(self.trace.families.of(known.name, 0, len(held))[ids], made, "")
            elif held.numel() > 1:
                self._keep(made, f"it is coupled with the parameter {known.name!r}")
            return known.name, ids
        if isinstance(known, _Piece):
            self._keep(made, f"it is coupled with the parameter {known.name!r}")
        return None

    def _product(self, name: str, args: Any, kwargs: Any, out: Tensor) -> None:
        added = args[0] if name.startswith(("add", "badd")) else None
        a, b = args[1:3] if added is not None else args[:2]
        scaled = any(kwargs.get(k, 1) != 1 for k in ("beta", "alpha"))
        ka, kb = self._known(a), self._known(b)
        if isinstance(ka, _Piece) and isinstance(kb, _Piece):
            self._computed(ka)
            self._computed(kb)
            self.known[out] = _fixed(out, True)
            return
        if name in ("mv", "addmv", "dot"):
            if isinstance(ka, _Piece) or isinstance(kb, _Piece):
                self._unknown(name, [a, b], [out])
            else:
                for t in (a, b):
                    v = self._value(t)
                    self._mix(v.label, list(range(v.label.dim())), f"{name!r} sums it with others")
                    self._keep(v.label, f"{name!r} sums it with others")
                self.known[out] = _fixed(out, True)
            return
        if name in ("mm", "addmm") and isinstance(kb, _Piece) and not scaled:
            self._linear(a, ka, b, kb, added, out)
            return
        if name in ("mm",) and isinstance(ka, _Piece) and isinstance(kb, _Value):
            flipped = _Value(kb.label.t(), kb.taint.t())
            new = out.t()
            self._linear(b.t(), flipped, a.t(), _Piece(ka.name, ka.ids.t()), None, new)
            k = self.known[new]
            assert isinstance(k, _Value)
            self.known[out] = _Value(k.label.t(), k.taint.t().contiguous())
            return
        if (
            isinstance(kb, _Piece)
            and a.dim() == 3
            and b.dim() == 3
            and added is None
            and bool((kb.ids == kb.ids[:1]).all())
        ):
            # A batch of products with one matrix.
            flat = a.flatten(0, 1)
            assert isinstance(ka, _Value)
            rows = _Value(ka.label.flatten(0, 1), ka.taint.flatten(0, 1))
            new = out.flatten(0, 1)
            self._linear(flat, rows, b[0], _Piece(kb.name, kb.ids[0]), None, new)
            k = self.known[new]
            assert isinstance(k, _Value)
            self.known[out] = _Value(k.label.reshape(out.shape), k.taint.reshape(out.shape))
            return
        if isinstance(ka, _Piece) or isinstance(kb, _Piece):
            for t, k in ((a, ka), (b, kb)):
                self._unknown(name, [t], [])
                if isinstance(k, _Piece):
                    self._computed(k)
            self.known[out] = _fixed(out, True)
            return
        self._bmm(a, ka, b, kb, out)
        if added is not None:
            self._pointwise("add", [added, out], [out], lambda t: t)

    def _bmm(self, a: Tensor, ka: _Value, b: Tensor, kb: _Value, out: Tensor) -> None:
        """A product of two tensors that both depend on the input."""
        left, right = ka.label, kb.label
        j = a.dim() - 1
        wa, wb = self._varying(left), self._varying(right)
        reason = "a product of two computed tensors sums it with others"
        for mine, other, varies, e in ((left, right, j in wa, j - 1), (right, left, (j - 1) in wb, j)):
            # Weights of the sum that are no channels cannot be cut.
            if varies and not bool((other.narrow(e, 0, 1) > _FIXED).any()):
                self._keep(mine, reason)
        rows = self._mix(left, [j], reason)
        columns = self._mix(right, [j - 1], reason)
        self._join_pairs(rows.expand(out.shape), columns.expand(out.shape), reason)
        if bool((left > _FIXED).any()) and bool((right > _FIXED).any()):
            self.trace.families.products.update(a for a in _unique(rows) + _unique(columns) if a > _FIXED)
        label = torch.maximum(rows.expand(out.shape), columns.expand(out.shape))
        na, nb = (a.detach() != 0) | ka.taint, (b.detach() != 0) | kb.taint
        taint = (ka.taint.float() @ nb.float() + na.float() @ kb.taint.float()) > 0
        if ka.whole:
            same = (~kb.taint).all(-2, keepdim=True) & (b == b.narrow(-2, 0, 1)).all(-2, keepdim=True)
            taint = taint & ~same
        self.known[out] = _Value(label, taint)

    def _linear(self, x: Tensor, kx: _Value | _Piece, w: Tensor, kw: _Piece, added: Any, out: Tensor) -> None:
        assert isinstance(kx, _Value)
        label = kx.label
        varying = _varying(label)
        taint = (kx.taint.float() @ (w.detach() != 0).float()) > 0
        if 1 not in varying and 0 in varying:
            # Rows are channels and the sum is over places: the weight mixes places.
            self._computed(kw, "sums over places, not over channels")
            self.known[out] = _Value(label[:, :1].expand(out.shape), taint)
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
        self.known[out] = _Value(made.expand(out.shape), taint)
        if isinstance(added, Tensor) and isinstance(self._known(added), _Value):
            self._pointwise("add", [added, out], [out], lambda t: t)

    def _convolution(self, args: Any, out: Tensor) -> None:
        x, w, b, stride, padding, dilation, transposed, more, groups = args
        kx, kw = self._known(x), self._known(w)
        if isinstance(kx, _Piece) or isinstance(kw, _Value):
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
        self.known[out] = _Value(made.reshape(shape).expand(out.shape), reach > 0)

    def _grouped(self, kw: _Piece, lead: Tensor, groups: int, transposed: bool) -> Tensor:
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
            return torch.full((outputs,), _FIXED)
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
        if not isinstance(known, _Piece):
            self._unknown("embedding", [args[0]], outputs)
            return
        made = self._made(known, known.ids.t())
        read = (args[0].detach() != 0).any(0)
        self.known[out] = _Value(made.expand(out.shape), read.expand(out.shape).clone())
        for t in outputs[1:]:
            self.known[t] = _fixed(t, True)

    def _attention(self, args: Any, outputs: list[Tensor]) -> None:
        """A fused kernel of attention, where the network asked for one by itself."""
        q, k, v = (self._value(t) for t in args[:3])
        reason = "a product of two computed tensors sums it with others"
        for known in (q, k, v):
            self._keep(known.label, reason)
        for t in outputs:
            self.known[t] = _fixed(t, True)

    # ------------------------------------------------------------------------------------------------
    # Recurrent layers.

    def _recurrent(self, path: str, layer: nn.RNNBase, args: Any, output: Any) -> None:
        families, prefix = self.trace.families, f"{path}." if path else ""
        size, gates = layer.hidden_size, {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
        directions = 2 if layer.bidirectional else 1
        wide = layer.proj_size or size
        source = args[0].data if isinstance(args[0], nn.utils.rnn.PackedSequence) else args[0]
        known = self._value(source)
        started = len(args) > 1 and args[1] is not None
        if started:
            for t in tree_leaves(args[1]):
                if isinstance(t, Tensor):
                    self._keep(self._value(t).label, f"it is the first state of {path!r}")
        lead = self._mix(
            known.label, list(range(known.label.dim() - 1)), f"{path!r} sums it with others"
        ).reshape(-1)
        values = source.detach().reshape(-1, source.shape[-1]).t()
        taints = known.taint.reshape(-1, source.shape[-1]).t()
        states: list[Tensor] = []
        cells: list[Tensor] = []
        dirt: list[Tensor] = []
        for level in range(layer.num_layers):
            heads: list[Tensor] = []
            marks: list[Tensor] = []
            for d in range(directions):
                end = f"_l{level}" + ("_reverse" if d else "")
                names = [f"{prefix}{n}{end}" for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
                names = [n for n in names if n in self.held]
                self.trace.touched |= {*names, f"{prefix}weight_hr{end}"}
                cell = families.of(f"{path}:{end}", 0, size)
                for n in names:
                    rows = families.of(n, 0, gates * size)
                    self._join_pairs(rows, cell.repeat(gates), "")
                if started:
                    families.keep(cell.tolist(), f"{path!r} is given its first state")
                # A candidate state of zero keeps the hidden state, which starts at zero, at zero.
                rows = torch.cat([self.held[n].detach().reshape(gates * size, -1) for n in names], 1)
                candidate = rows.unflatten(0, (gates, size))[{4: 2, 3: 2, 1: 0}[gates]]
                stays = ~(candidate != 0).any(1) & torch.tensor(not started)
                ih, hh = self.held[names[0]], self.held[names[1]]
                bias = (names[2], torch.arange(gates * size)) if layer.bias else None
                count = gates * size
                ids = torch.arange(ih.numel()).reshape(ih.shape).t()
                self._read(
                    _Piece(names[0], ids), ids, torch.arange(count), count, lead, values, taints, bias, True
                )
                hidden = cell
                mark = ~stays
                if layer.proj_size:
                    name = f"{prefix}weight_hr{end}"
                    hr = self.held[name]
                    ids = torch.arange(hr.numel()).reshape(hr.shape)
                    hidden = self._made(_Piece(name, ids), ids)
                    zeros = torch.zeros(size, 1, dtype=torch.float64)
                    self._read(
                        _Piece(name, ids), ids.t(), torch.arange(len(hr)), len(hr), cell, zeros,
                        mark[:, None], None, False,
                    )  # fmt: skip
                    mark = ((hr.detach() != 0) & mark).any(1)
                elif not started:
                    self.trace.makes.add((names[0], 0))
                ids = torch.arange(hh.numel()).reshape(hh.shape).t()
                own = torch.arange(wide)[:, None] + size * torch.arange(gates)
                if layer.proj_size:
                    others, places = ids, torch.arange(count)
                else:
                    keep = torch.ones_like(ids, dtype=torch.bool).scatter_(1, own, False)
                    others, places = ids[keep].reshape(wide, -1), torch.arange(count - gates)
                zeros = torch.zeros(wide, 1, dtype=torch.float64)
                if others.shape[1]:
                    self._read(
                        _Piece(names[1], ids),
                        others,
                        places,
                        count,
                        hidden,
                        zeros,
                        mark[:, None],
                        None,
                        False,
                    )
                else:
                    self._join_pairs(families.of(names[1], 1, wide), hidden, "")
                heads.append(hidden)
                marks.append(mark)
                cells.append(cell)
                states.append(hidden)
                dirt.append(mark)
            lead, mark = torch.cat(heads), torch.cat(marks)
            values = torch.zeros(len(lead), 1, dtype=torch.float64)
            taints = mark[:, None]
        result, final = output
        data = result.data if isinstance(result, nn.utils.rnn.PackedSequence) else result
        self.known[data] = _Value(lead.expand(data.shape), taints[:, 0].expand(data.shape).clone())
        ends = final if isinstance(final, tuple) else (final,)
        for t, labels, marks in zip(
            ends, (states, cells), (dirt, [torch.ones(size, dtype=torch.bool)] * len(cells)), strict=False
        ):
            lab, m = torch.stack(labels), torch.stack(marks)
            if t.dim() == 3:
                lab, m = lab[:, None], m[:, None]
            self.known[t] = _Value(lab.expand(t.shape), m.expand(t.shape).clone())
        if self.record is not None:
            # Levels and directions side by side, since each may lose other units.
            pairs = zip((*states, *cells), (*dirt, *dirt), strict=True)
            parts = [_Value(labels, marks) for labels, marks in pairs]
            self._note("recurrent", (), [source], [data, *parts])

    def finish(self, output: Tensor) -> None:
        """Keep what an output shows."""
        known = self._value(output)
        self._keep(known.label, "it is an output of the model")
        self.trace.dead &= not bool(known.taint.any())


# ----------------------------------------------------------------------------------------------------


def _digest(left: Tensor) -> tuple[tuple[int, ...], bytes]:
    """Shape and contents of labels without the negative ones."""
    keep = left >= 0
    shape = tuple(left.shape)
    if not bool(keep.all()):
        axes = range(left.dim())
        shape = tuple(int(keep.movedim(d, 0).reshape(left.shape[d], -1).any(1).sum()) for d in axes)
        left = left[keep]
    return shape, hashlib.blake2b(left.contiguous().numpy().tobytes(), digest_size=16).digest()


def _unique(label: Tensor) -> list[int]:
    for d in range(label.dim()):
        if label.stride(d) == 0 and label.shape[d] > 1:
            label = label.narrow(d, 0, 1)
    values: list[int] = label.unique().tolist()
    return values


def _varying(label: Tensor) -> set[int]:
    """The axes along which labels differ."""
    axes = [d for d in range(label.dim()) if label.shape[d] > 1 and label.stride(d) != 0]
    return {d for d in axes if bool((label != label.narrow(d, 0, 1)).any())}


def _full(t: Tensor, taint: bool) -> Tensor:
    return torch.full(t.shape, taint)


def _plain(t: Tensor, label: int, taint: bool) -> _Value:
    return _Value(torch.full(t.shape, label), torch.full(t.shape, taint))


def _fixed(t: Tensor, taint: bool) -> _Value:
    return _plain(t, _FIXED, taint)


def _constant(t: Tensor) -> _Value:
    """A tensor that no operation made."""
    same = t.numel() == 1 or (t.numel() and bool((t == t.reshape(-1)[0]).all()))
    return _plain(t, _UNIFORM if same else _FIXED, not same)


def _coordinates(ids: Tensor, held: Tensor) -> list[Tensor]:
    """For each axis of a parameter, where the elements are."""
    out, rest = [], ids
    for size in reversed(held.shape):
        out.append(rest % max(size, 1))
        rest = rest // max(size, 1)
    return out[::-1]


def _size_at(t: Tensor, d: int, dims: int) -> int:
    """Size of a tensor along an axis of what it is broadcast to."""
    k = d - (dims - t.dim())
    return 1 if k < 0 else t.shape[k]


def _narrow(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both tensors, of one shape, without the axes along which both repeat themselves."""
    a, b = torch.broadcast_tensors(a, b)
    for d in range(a.dim()):
        if a.shape[d] > 1 and a.stride(d) == 0 and b.stride(d) == 0:
            a, b = a.narrow(d, 0, 1), b.narrow(d, 0, 1)
    return a, b


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


def _argument(func: Any, args: Any, kwargs: Any, names: tuple[str, ...]) -> Any:
    for k, a in enumerate(func._schema.arguments):
        if a.name in names:
            return args[k] if k < len(args) else kwargs.get(a.name, a.default_value)
    return None
