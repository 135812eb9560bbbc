"""Channels of a network, and which have no influence.

What is removed is decided in two steps that leave the network's function as it is: a channel that is the same
constant for every input is folded into the biases of the layers that read it, whose weights for it become
zero; and a channel that nobody reads is set to zero. :mod:`proxlab.torch.tracing` says which slices of
which parameters are one channel. :mod:`proxlab.torch.removal` cuts those that are dead, and
:mod:`proxlab.torch.sameness` proves that the rest computes the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from proxlab.torch.report import Kept, Removed
from proxlab.torch.tracing import Read, Trace
from proxlab.torch.weights import held_tensors, zero_slices, zero_weights

__all__ = ["Channels", "Head"]

#: A constant may differ by this many roundings from place to place, after pooling for example.
_ROUNDINGS = 32


def _zero_columns(read: Read, weight: Tensor) -> Tensor:
    """Which channels have no influence on what reads them."""
    zero: Tensor = (weight.detach().reshape(-1)[read.ids] == 0).all(1)
    return zero


@dataclass(frozen=True)
class Head:
    """The heads of an attention: for each the channel that all of it is.

    Attributes
    ----------
    path : str
        The module that holds the attention.
    reader : str
        The layer after it.
    roots : tuple of int
        The channel of each head.
    """

    path: str
    reader: str
    roots: tuple[int, ...]


@dataclass
class Channels:
    """The channels of a traced network: slices of parameters that go together."""

    trace: Trace
    roots: Tensor
    obstacles: dict[int, str]
    slices: dict[int, list[tuple[str, int, int]]] = field(default_factory=dict)
    readers: dict[int, list[tuple[Read, int]]] = field(default_factory=dict)
    heads: list[Head] = field(default_factory=list)
    # Biases that constants were folded into and that were not there before, and their weights.
    biases: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, trace: Trace, model: nn.Module) -> Channels:
        """Put together what a trace found.

        Parameters
        ----------
        trace : Trace
        model : torch.nn.Module
            The network that was traced.
        """
        families = trace.families
        new = cls(trace, families.roots(), {})
        held = held_tensors(model)
        for (name, axis), (start, size) in families.base.items():
            for k, root in enumerate(new.roots[start : start + size].tolist()):
                new.slices.setdefault(root, []).append((name, axis, k))
        for read in trace.reads.values():
            for j, root in enumerate(new.of_read(read).tolist()):
                new.readers.setdefault(root, []).append((read, j))
        products = {int(new.roots[a]) for a in trace.families.products}
        new.obstacles = families.obstacles(products)
        new._keep_idle(model, held)
        new._find_heads(products)
        return new

    def of_read(self, read: Read) -> Tensor:
        """The channels that come in."""
        start, _ = self.trace.families.base[read.name, read.axis]
        found: Tensor = self.roots[start + read.index]
        return found

    def idle(self, model: nn.Module) -> dict[str, list[Tensor]]:
        """Modules none of whose parameters any run used, and these."""
        found: dict[str, list[Tensor]] = {}
        for name, p in held_tensors(model).items():
            if isinstance(p, nn.Parameter) and name not in self.trace.touched and not self._ran(name):
                found.setdefault(name.rpartition(".")[0], []).append(p)
        return found

    def unused(self, model: nn.Module) -> list[str]:
        """Parameters that no run used, of modules that have others, or modules in them, that ran."""
        return [
            name
            for name, p in held_tensors(model).items()
            if isinstance(p, nn.Parameter) and name not in self.trace.touched and self._ran(name)
        ]

    def _ran(self, name: str) -> bool:
        """Whether another parameter of a parameter's module, or of a module in that, was used."""
        path, dot, _ = name.rpartition(".")
        return any(other.startswith(path + dot) for other in self.trace.touched)

    def _keep_idle(self, model: nn.Module, held: dict[str, Tensor]) -> None:
        """Keep what a module may read that did not run, and what a parameter may that was not used."""
        idle = self.idle(model)
        reads: dict[int, str] = {}
        for path, tensors in idle.items():
            for t in tensors:
                for size in t.shape:
                    reads.setdefault(size, f"{path!r}, which did not run in the trace, may read it")
        for name in self.unused(model):
            for size in held[name].shape:
                reads.setdefault(size, f"{name!r}, which was not used in the trace, may go with it")
        if not reads:
            return
        widths: dict[int, set[int]] = {}
        for atom, sizes in self.trace.widths.items():
            widths.setdefault(int(self.roots[atom]), set()).update(sizes)
        for root, slices in self.slices.items():
            sizes = {self.trace.families.base[name, axis][1] for name, axis, _ in slices}
            for size in sizes | widths.get(root, set()):
                if size > 1 and size in reads:
                    self.obstacles.setdefault(root, reads[size])

    def _find_heads(self, products: set[int]) -> None:
        for read in self.trace.reads.values():
            roots = self.of_read(read).tolist()
            if len(roots) < 2 or not all(r in products for r in roots):
                continue
            each = list(dict.fromkeys(roots))
            size = len(roots) // len(each)
            if size < 2 or roots != [r for r in each for _ in range(size)]:
                continue
            makers = [n for n, a, _ in self.slices[each[0]] if (n, a) in self.trace.makes and n != read.name]
            if makers:
                layer = makers[-1].rpartition(".")[0]
                own = makers[-1].endswith("in_proj_weight") or makers[-1].endswith("v_proj_weight")
                path = layer if own else layer.rpartition(".")[0]
                self.heads.append(Head(path, read.layer, tuple(each)))

    # ------------------------------------------------------------------------------------------------
    # What is dead.

    def settle(self, model: nn.Module, allowed: Callable[[int], bool]) -> set[int]:
        """Fold constants and clear what is not read, in place; returns the channels that can be cut.

        Parameters
        ----------
        model : torch.nn.Module
            The network that was traced, or a copy of it.
        allowed : callable
            Whether a channel may be removed.
        """
        held = held_tensors(model)
        reads = list(self.trace.reads.values())
        closed = torch.ones(len(self.roots), dtype=torch.bool)
        for root in self.readers:
            closed[root] = root < 2 or root in self.obstacles or not allowed(root)
        with torch.no_grad():
            lost = closed.clone()
            for read in reads:
                lost[self.of_read(read)[~self._takes(read, model, held[read.name])]] = True
            for read in reads:
                fold = ~lost[self.of_read(read)] & ~_zero_columns(read, held[read.name])
                if bool(fold.any()):
                    _fold(model, read, held[read.name], fold, self.biases)
            held = held_tensors(model)
            dead = torch.zeros_like(closed)
            while True:
                alive = closed.clone()
                for read in reads:
                    alive[self.of_read(read)[~_zero_columns(read, held[read.name])]] = True
                new = ~alive & ~dead
                if not bool(new.any()):
                    break
                dead |= new
                for (name, axis), (start, size) in self.trace.families.base.items():
                    where = dead[self.roots[start : start + size]]
                    # What a norm remembers of a channel that is zero does not matter.
                    if isinstance(held.get(name), nn.Parameter) and bool(where.any()):
                        held[name].movedim(axis, 0)[where] = 0
        return self._leave(dead, model)

    def _takes(self, read: Read, model: nn.Module, weight: Tensor) -> Tensor:
        """Which channels that come in are zero, or constants that can go to the bias."""
        zero = _zero_columns(read, weight)
        constant = ~read.taint & (read.high - read.low <= _spread(read, weight))
        return zero | (constant & ((read.low == 0) & (read.high == 0) | _can_fold(model, read)))

    def _leave(self, dead: Tensor, model: nn.Module) -> set[int]:
        """Take back channels so that every layer keeps one, and the parts of recurrent layers as many."""
        families = {
            key: self.roots[start : start + size] for key, (start, size) in self.trace.families.base.items()
        }
        levels: dict[str, list[Tensor]] = {}
        for (name, _), roots in families.items():
            if ":" in name:
                levels.setdefault(name.partition(":")[0], []).append(roots)
        for _ in range(len(families) + 1):
            changed = False
            for roots in families.values():
                if bool(dead[roots].all()) and len(roots):
                    dead[roots[0]] = False
                    changed = True
            for parts in levels.values():
                fewest = min(int(dead[roots].sum()) for roots in parts)
                for roots in parts:
                    extra = int(dead[roots].sum()) - fewest
                    if extra:
                        dead[roots[dead[roots]][-extra:]] = False
                        changed = True
            if not changed:
                break
        used = set(self.readers)
        return {int(r) for r in torch.nonzero(dead).flatten().tolist() if r in used and r > 1}

    # ------------------------------------------------------------------------------------------------
    # Words.

    def explain(self, given: nn.Module, gone: set[int], refused: dict[int, str]) -> list[Kept]:
        """Say which slices of parameters are zero and stay, and why.

        Parameters
        ----------
        given : torch.nn.Module
            The network as it was given.
        gone : set of int
            The channels that were removed.
        refused : dict
            Those that could not be removed, and why.
        """
        found: Counter[tuple[str, str, str]] = Counter()
        unread = self.settled_unread(given)
        for head in self.heads:
            for root in head.roots:
                if root in refused:
                    found[head.path, "heads", refused[root]] += 1
                elif root not in gone and all(self._dead_in(root)) and root not in self.obstacles:
                    found[head.path, "heads", "a layer keeps at least one head"] += 1
        for layer, name, axis, what, slices in zero_weights(given):
            for k in slices:
                reason = self._reason(name, axis, k, what, gone, refused)
                if reason is not None:
                    found[layer, what, reason] += 1
        for path, m in given.named_modules():
            if isinstance(m, nn.RNNBase):
                for reason in self._units(path, m, gone, refused, unread):
                    found[path, "outputs", reason] += 1
        return [Kept(layer, what, count, reason) for (layer, what, reason), count in found.items()]

    def settled_unread(self, model: nn.Module) -> dict[int, bool]:
        """Whether each channel is read by no weight other than zero."""
        held = held_tensors(model)
        out: dict[int, bool] = dict.fromkeys(self.readers, True)
        for read in self.trace.reads.values():
            for root, zero in zip(
                self.of_read(read).tolist(), _zero_columns(read, held[read.name]).tolist(), strict=True
            ):
                out[root] &= zero
        return out

    def _units(
        self, path: str, layer: nn.RNNBase, gone: set[int], refused: dict[int, str], unread: dict[int, bool]
    ) -> list[str]:
        """Hidden units whose weights are all zero, or that nobody reads, and that stay."""
        out: list[str] = []
        gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
        for (name, axis), (start, size) in self.trace.families.base.items():
            if not name.startswith(f"{path}:"):
                continue
            end = name.partition(":")[2]
            rows = torch.cat(
                [
                    p.detach().reshape(p.shape[0], -1)
                    for n, p in layer.named_parameters()
                    if n.endswith(end) and not n.startswith("weight_hr")
                ],
                1,
            )
            zero = ~(rows.unflatten(0, (gates, size)) != 0).any(2).any(0)
            for k, root in enumerate(self.roots[start : start + size].tolist()):
                if root not in gone and (bool(zero[k]) or unread.get(root, False)):
                    what = "outputs" if bool(zero[k]) else "inputs"
                    reason = self._reason(name, axis, k, what, gone, refused)
                    if reason is not None:
                        out.append(reason)
        return out

    def _reason(
        self, name: str, axis: int, k: int, what: str, gone: set[int], refused: dict[int, str]
    ) -> str | None:
        base = self.trace.families.base.get((name, axis))
        if base is None:
            if name not in self.trace.touched:
                return "it did not run in the trace"
            if what.startswith("slices"):
                return "what reads the parameter does not say what it does along the axis"
            return "no layer was found that makes it" if what == "inputs" else "it is not along channels"
        root = int(self.roots[base[0] + k])
        if root in gone:
            return None
        if root in refused:
            return refused[root]
        if root in self.obstacles:
            return self.obstacles[root]
        if root not in self.readers:
            return "no layer was found that reads it"
        if all(self._dead_in(root)):
            if any(":" in n for n, _, _ in self.slices[root]):
                return "a layer keeps at least one channel, and all parts of a recurrent layer as many"
            return "a layer keeps at least one channel"
        if any(root in head.roots for head in self.heads):
            alive = self._alive_elsewhere(root)
            if alive is not None:
                return f"it is one head with what {alive!r} reads, which is not zero"
            return "it is in an attention head, of which only the whole is removed"
        if root in self.trace.families.mixed_roots():
            return self.trace.families.mixed_roots()[root]
        if what == "inputs":
            reader = next((r for r, j in self.readers[root] if not self.zeros[id(r)][j]), None)
            if reader is None:
                return "it is read where it cannot be left out"
            if reader.name.rpartition(".")[2].startswith("weight_hh"):
                return "other hidden units read it"
            return f"{reader.layer!r} reads it too"
        reader, channel = next(
            ((r, j) for r, j in self.readers[root] if not self.takes[id(r)][j]), self.readers[root][0]
        )
        maker = next(
            (
                n.rpartition(".")[0]
                for n, a, i in self.slices[root]
                if (n, a) in self.trace.makes and not bool(self.zero_made[n, a][i])
            ),
            None,
        )
        if maker is not None:
            return f"it is coupled with {maker!r}, which is not zero"
        if reader.taint[channel]:
            return f"it reaches {reader.layer!r} with what is not zero"
        if reader.low[channel] != reader.high[channel]:
            return f"it reaches {reader.layer!r} as a constant that differs by place, or in training mode"
        return f"it is a constant other than zero, which {reader.layer!r} cannot take into its bias"

    def look(self, model: nn.Module) -> None:
        """Remember what the weights of a network say, for :meth:`explain`."""
        held = held_tensors(model)
        self.zeros = {id(r): _zero_columns(r, held[r.name]) for r in self.trace.reads.values()}
        self.takes = {id(r): self._takes(r, model, held[r.name]) for r in self.trace.reads.values()}
        self.zero_made = {(n, a): zero_slices(held[n], a) for n, a in self.trace.makes if n in held}

    def _dead_in(self, root: int) -> list[bool]:
        return [bool(self.zeros[id(r)][j]) for r, j in self.readers[root]]

    def _alive_elsewhere(self, root: int) -> str | None:
        """The layer that reads a head, where another that reads it as well has only zeros for it."""
        dead: dict[str, bool] = {}
        for r, j in self.readers[root]:
            if any(root in head.roots and r.layer == head.reader for head in self.heads):
                dead[r.layer] = dead.get(r.layer, True) and bool(self.zeros[id(r)][j])
        return next((name for name, zero in dead.items() if not zero), None) if any(dead.values()) else None

    def removed(self, model: nn.Module, gone: set[int]) -> list[Removed]:
        """List the layers that have fewer outputs, and the attention with fewer heads."""
        out: list[Removed] = []
        inside: set[int] = set()
        for head in self.heads:
            inside |= set(head.roots)
            left = sum(r not in gone for r in head.roots)
            if left < len(head.roots):
                out.append(Removed(head.path, "heads", len(head.roots), left))
        for name, axis in sorted(self.trace.makes):
            start, size = self.trace.families.base[name, axis]
            roots = self.roots[start : start + size].tolist()
            if all(r in inside for r in roots):
                continue
            layer = name.rpartition(".")[0]
            m = model.get_submodule(layer)
            if isinstance(m, nn.RNNBase):
                if not name.endswith("weight_ih_l0"):
                    continue
                start, size = self.trace.families.base[f"{layer}:_l0", 0]
                roots = self.roots[start : start + size].tolist()
            left = sum(r not in gone for r in roots)
            if left < size:
                out.append(Removed(layer, "outputs", size, left))
        return out


def _spread(read: Read, weight: Tensor) -> Tensor:
    eps = torch.finfo(weight.dtype).eps
    return _ROUNDINGS * eps * read.low.abs()


def _can_fold(model: nn.Module, read: Read) -> bool:
    """Whether a constant input adds the same constant everywhere to what the layer computes."""
    return read.shifts and (read.bias is not None or _owner(model, read) is not None)


def _owner(model: nn.Module, read: Read) -> nn.Module | None:
    """The layer of a weight, where it can be given a bias."""
    if not read.name.endswith("weight"):
        return None
    m = model.get_submodule(read.layer)
    plain = isinstance(m, (nn.Linear, _ConvNd)) and m.bias is None
    own = type(m).forward in (nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward)
    return m if plain and own else None


def _fold(model: nn.Module, read: Read, weight: Tensor, which: Tensor, new_bias: dict[str, str]) -> None:
    """Add what constant inputs contribute to the bias, and clear the weights that read them."""
    where = torch.nonzero(which).flatten()
    flat = weight.reshape(-1)
    values = read.low[where].to(weight.dtype)
    if bool((values != 0).any()):
        shift = torch.zeros(read.count, dtype=weight.dtype)
        parts = (flat[read.ids[where]] * values[:, None]).sum(0)
        shift.index_add_(0, read.outputs, parts)
        if read.bias is not None:
            name, ids = read.bias
            path, _, last = name.rpartition(".")
            bias = getattr(model.get_submodule(path), last)
            bias.reshape(-1)[ids] += shift
        else:
            owner = _owner(model, read)
            assert owner is not None
            owner.bias = nn.Parameter(shift)
            new_bias[f"{read.layer}.bias" if read.layer else "bias"] = read.name
    weight.reshape(-1)[read.ids[where].reshape(-1)] = 0
