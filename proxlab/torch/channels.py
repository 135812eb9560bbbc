"""Remove channels: which outputs of layers have no influence, and cutting them with all that depends on them.

torch-pruning traces which layers share a channel. What is removed is decided here, in two steps that leave
the network's function as it is: a channel that is the same constant for every input is folded into the biases
of the layers that read it, whose weights for it become zero; and a channel that nobody reads is set to zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from proxlab.torch.report import Kept, Removed

__all__ = ["remove_channels"]

#: A constant may differ by this many roundings from place to place, after pooling for example.
_ROUNDINGS = 32


class RecurrentPruner(torch_pruning.BasePruningFunc):  # type: ignore[misc]
    """How torch-pruning cuts the hidden units and the inputs of an LSTM or GRU."""

    def prune_out_channels(self, layer: nn.RNNBase, idxs: list[int]) -> nn.RNNBase:
        """Remove hidden units: the rows of all gates, and the columns that read them."""
        keep = [k for k in range(layer.hidden_size) if k not in set(idxs)]
        for name, p in list(layer.named_parameters()):
            rows = torch.unflatten(p.detach(), 0, (-1, layer.hidden_size))[:, keep].flatten(0, 1)
            setattr(layer, name, nn.Parameter(rows[:, keep] if name.startswith("weight_hh") else rows))
        layer.hidden_size = len(keep)
        return _refresh(layer)

    def prune_in_channels(self, layer: nn.RNNBase, idxs: list[int]) -> nn.RNNBase:
        """Remove inputs: columns of the first layer's weights, in both directions."""
        keep = [k for k in range(layer.input_size) if k not in set(idxs)]
        for name in _input_weights(layer):
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach()[:, keep]))
        layer.input_size = len(keep)
        return _refresh(layer)

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        """Count the outputs."""
        return int(layer.hidden_size)

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """Count the inputs."""
        return int(layer.input_size)


class _OneStep(torch.autograd.Function):
    """Passes on results as if they came from the input in one operation, for tracing only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
        return tuple(r.view_as(r) for r in results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("the traced graph is not differentiated")


def _as_one_step(layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    """Forward hook: hide what a recurrent layer does over time, where channels are not channels."""
    if not isinstance(args[0], Tensor):
        return output
    lstm = isinstance(output[1], tuple)
    results = (output[0], *(output[1] if lstm else output[1:]))
    weight = next(layer.parameters())
    first, *states = _OneStep.apply(args[0], weight, *(r.detach() for r in results))  # type: ignore[no-untyped-call]
    return first, tuple(states) if lstm else states[0]


def _refresh(layer: nn.RNNBase) -> nn.RNNBase:
    # The module keeps references to its weights in one flat list.
    layer._flat_weights = [getattr(layer, name) for name in layer._flat_weights_names]
    layer.flatten_parameters()
    return layer


def _input_weights(layer: nn.RNNBase) -> list[str]:
    return [name for name, _ in layer.named_parameters() if name.startswith("weight_ih_l0")]


# ----------------------------------------------------------------------------------------------------
# What a layer's weights say of one of its channels.


def _in_axis(layer: nn.Module) -> int:
    return 0 if isinstance(layer, _ConvTransposeNd) else 1


def _zero_slices(weight: Tensor, axis: int) -> Tensor:
    return ~(weight.detach() != 0).movedim(axis, 0).flatten(1).any(dim=1)


def _zero_outputs(layer: nn.Module) -> Tensor:
    """Which outputs of a layer do not depend on its inputs."""
    if isinstance(layer, nn.RNNBase):
        if _obstacle(layer, "", False) is not None:
            return torch.zeros(layer.hidden_size, dtype=torch.bool)
        # A candidate state of zero keeps the hidden state, which starts at zero, at zero.
        rows = torch.cat([p.detach().reshape(p.shape[0], -1) for p in layer.parameters()], dim=1)
        return _zero_slices(torch.unflatten(rows, 0, (-1, layer.hidden_size))[2], 0)
    if isinstance(layer, nn.Embedding):
        return _zero_slices(layer.weight, 1)
    assert isinstance(layer, (nn.Linear, _ConvNd))
    return _zero_slices(layer.weight, 1 - _in_axis(layer))


def _zero_inputs(layer: nn.Module) -> Tensor:
    """Which inputs of a layer have no influence on it."""
    if isinstance(layer, nn.RNNBase):
        return torch.stack([_zero_slices(getattr(layer, n), 1) for n in _input_weights(layer)]).all(dim=0)
    assert isinstance(layer, (nn.Linear, _ConvNd))
    return _zero_slices(layer.weight, _in_axis(layer))


def _clear_outputs(layer: nn.Module, where: list[int]) -> None:
    if isinstance(layer, nn.RNNBase):
        for name, p in layer.named_parameters():
            torch.unflatten(p, 0, (-1, layer.hidden_size))[:, where] = 0
            if name.startswith("weight_hh"):
                p[:, where] = 0
        return
    axis = 1 if isinstance(layer, nn.Embedding) else 0
    if isinstance(layer, _ConvNd):
        axis = 1 - _in_axis(layer)
    if isinstance(layer.weight, Tensor):
        layer.weight.movedim(axis, 0)[where] = 0
    if isinstance(getattr(layer, "bias", None), Tensor):
        layer.bias[where] = 0  # type: ignore[operator]


def _clear_inputs(layer: nn.Module, where: list[int]) -> None:
    if isinstance(layer, nn.RNNBase):
        for name in _input_weights(layer):
            getattr(layer, name)[:, where] = 0
        return
    assert isinstance(layer, (nn.Linear, _ConvNd))
    layer.weight.movedim(_in_axis(layer), 0)[where] = 0


def _can_fold(layer: nn.Module) -> bool:
    """Whether a constant input adds the same constant everywhere to what the layer computes."""
    if isinstance(layer, nn.RNNBase):
        return bool(layer.bias)
    if isinstance(layer, _ConvTransposeNd):
        return False
    if isinstance(layer, _ConvNd) and layer.padding_mode == "zeros":
        same = layer.padding == "same" and any(k > 1 for k in layer.kernel_size)
        return not same and (isinstance(layer.padding, str) or not any(layer.padding))
    return True


def _fold(layer: nn.Module, where: list[int], constant: Tensor) -> None:
    """Add what constant inputs contribute to the bias."""
    if not bool(constant.any()):
        return
    if isinstance(layer, nn.RNNBase):
        for name in _input_weights(layer):
            bias = getattr(layer, name.replace("weight", "bias"))
            bias += getattr(layer, name)[:, where] @ constant
        return
    assert isinstance(layer, (nn.Linear, _ConvNd))
    shift = layer.weight[:, where].flatten(2).sum(dim=2) if layer.weight.dim() > 2 else layer.weight[:, where]
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(shift[:, 0]))
    layer.bias += shift @ constant


# ----------------------------------------------------------------------------------------------------
# What the layers read.


@dataclass
class _Range:
    """Least and greatest value of each input channel of a layer, over all places and all runs."""

    low: Tensor
    high: Tensor

    def constant(self) -> Tensor:
        """The value of constant channels, NaN elsewhere."""
        spread = self.high - self.low
        allowed = _ROUNDINGS * torch.finfo(self.low.dtype).eps * self.low.abs()
        return torch.where(spread <= allowed, self.low, torch.nan)


def _watch(model: nn.Module, run: Callable[[nn.Module], Any]) -> dict[nn.Module, _Range]:
    seen: dict[nn.Module, _Range] = {}

    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach() if args and isinstance(args[0], Tensor) else None
        if x is None or not x.is_floating_point() or x.numel() == 0:
            return
        axis = x.dim() - 1
        if isinstance(module, _ConvNd):
            axis -= len(module.kernel_size)
        rows = x.movedim(axis, 0).flatten(1)
        low, high = rows.amin(dim=1), rows.amax(dim=1)
        if module in seen:
            low, high = torch.minimum(low, seen[module].low), torch.maximum(high, seen[module].high)
        seen[module] = _Range(low, high)

    watched = (nn.Linear, _ConvNd, nn.RNNBase)
    hooks = [m.register_forward_pre_hook(hook) for m in model.modules() if isinstance(m, watched)]
    try:
        run(model)
    finally:
        for handle in hooks:
            handle.remove()
    return seen


# ----------------------------------------------------------------------------------------------------
# Groups of coupled channels.


class _Member(NamedTuple):
    """A layer with the channels of it that belong to each channel of the group's root."""

    name: str
    layer: nn.Module
    channels: Tensor
    roots: Tensor

    def every(self, holds: Tensor, count: int) -> Tensor:
        """Which of the root's channels have ``holds`` true in all that belongs to them in this layer."""
        out = torch.ones(count, dtype=torch.bool)
        out[self.roots[~holds.cpu()[self.channels]]] = False
        return out

    def of(self, chosen: Tensor) -> list[int]:
        """The layer's channels that belong to the chosen ones of the root."""
        return self.channels[chosen[self.roots]].tolist()


@dataclass
class _Group:
    """Coupled channels: the layers that make them, pass them on, and read them; which ones are dead."""

    root: nn.Module
    name: str
    count: int
    dead: Tensor
    makers: list[_Member] = field(default_factory=list)
    passing: list[_Member] = field(default_factory=list)
    readers: list[_Member] = field(default_factory=list)
    obstacle: str | None = None

    def constant(self) -> Tensor:
        """Which channels do not depend on the input, as far as the layers that make them say."""
        out = torch.ones(self.count, dtype=torch.bool)
        for m in self.makers:
            out &= m.every(_zero_outputs(m.layer), self.count)
        return out

    def unread(self) -> Tensor:
        """Which channels nobody reads."""
        out = torch.ones(self.count, dtype=torch.bool)
        for m in self.readers:
            out &= m.every(_zero_inputs(m.layer), self.count)
        for m in self.makers:
            if isinstance(m.layer, nn.RNNBase):
                out &= m.every(_unread_states(m.layer), self.count)
        return out


def _recurrent(layer: nn.RNNBase) -> Tensor:
    weight: Any = layer.weight_hh_l0
    assert isinstance(weight, Tensor)
    return weight


def _unread_states(layer: nn.RNNBase) -> Tensor:
    """Which hidden units no other hidden unit reads."""
    w = torch.unflatten(_recurrent(layer).detach(), 0, (-1, layer.hidden_size))
    others = ~torch.eye(layer.hidden_size, dtype=torch.bool, device=w.device)
    read: Tensor = ((w != 0) & others).any(dim=0).any(dim=0)
    return ~read


def _obstacle(layer: nn.Module, name: str, reading: bool) -> str | None:
    """Why a channel that this layer makes or passes on cannot be removed, if so."""
    if isinstance(layer, torch_pruning.ops._OutputOp):
        return "it is an output of the model"
    if isinstance(layer, nn.Parameter):
        return f"it is coupled with the parameter {name!r}, which is in no layer that is known"
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.modules.instancenorm._InstanceNorm):
        return f"{type(layer).__name__} {name!r} normalises it together with others"
    if isinstance(layer, nn.MultiheadAttention):
        return f"it is part of the width of the attention {name!r}"
    if parametrize.is_parametrized(layer):
        return f"{name!r} is parametrized"
    if isinstance(layer, _ConvNd) and layer.groups > 1 and not _is_depthwise(layer):
        return f"{name!r} is a grouped convolution"
    manifold = isinstance(layer, nn.RNNBase) and (
        layer.num_layers > 1 or layer.bidirectional or layer.proj_size > 0
    )
    if manifold and not reading:
        return f"{name!r} has several layers, directions or a projection"
    return None


def _is_depthwise(layer: nn.Module) -> bool:
    return (
        isinstance(layer, _ConvNd)
        and not isinstance(layer, _ConvTransposeNd)
        and layer.groups == layer.in_channels == layer.out_channels > 1
    )


def _read_group(
    graph: Any, root: nn.Module, names: dict[Any, str], blocked: Mapping[tuple[Any, str], str]
) -> _Group:
    pruner = graph.get_pruner_of_module(root)
    count = pruner.get_out_channels(root)
    group = _Group(root, names[root], count, torch.zeros(count, dtype=torch.bool))
    obstacles: list[str | None] = []
    try:
        items = list(graph.get_pruning_group(root, pruner.prune_out_channels, list(range(count))))
    except Exception as error:  # torch-pruning meets an operation that it cannot follow
        items, obstacles = [], [f"torch-pruning cannot trace what reads it ({type(error).__name__}: {error})"]
    for item in items:
        layer = item.dep.target.module
        name = names.get(layer, "")
        depthwise = _is_depthwise(layer)
        reading = item.dep.handler.__name__ == "prune_in_channels" and not depthwise
        obstacles += [
            _obstacle(layer, name, reading),
            blocked.get((layer, "inputs" if reading else "outputs")),
        ]
        member = _Member(name, layer, torch.tensor(item.idxs), torch.tensor(item.root_idxs))
        if isinstance(layer, (_BatchNorm, nn.PReLU)) or depthwise:
            group.passing.append(member)
        elif isinstance(layer, (nn.Linear, _ConvNd, nn.RNNBase, nn.Embedding)):
            size = len(_zero_inputs(layer)) if reading else len(_zero_outputs(layer))
            if bool((member.channels >= size).any()):
                obstacles.append(f"its channels do not fit those of {name!r}, with which it seems coupled")
            else:
                (group.readers if reading else group.makers).append(member)
    if not group.readers:
        obstacles.append("no layer was found that reads it")
    group.obstacle = next((o for o in obstacles if o is not None), None)
    return group


def _read_groups(graph: Any, names: dict[Any, str], blocked: Mapping[tuple[Any, str], str]) -> list[_Group]:
    groups: list[_Group] = []
    seen: set[nn.Module] = set()
    roots = (nn.Linear, _ConvNd, nn.Embedding, nn.LSTM, nn.GRU)
    for layer in list(graph.module2node):
        if isinstance(layer, roots) and layer not in seen and not _is_depthwise(layer):
            group = _read_group(graph, layer, names, blocked)
            seen |= {layer, *(m.layer for m in group.makers)}
            groups.append(group)
    return groups


# ----------------------------------------------------------------------------------------------------
# Removing.


def _settle(group: _Group, seen: dict[nn.Module, _Range], scaled: dict[nn.Module, nn.Module]) -> bool:
    """Fold constants and clear what is not read; returns whether more channels than before are dead."""
    for m in group.passing:
        if m.layer in scaled and isinstance(m.layer.weight, Tensor):
            # What a batch norm multiplies by zero is not read.
            _clear_outputs(scaled[m.layer], torch.nonzero(m.layer.weight == 0).flatten().tolist())
    constant = group.constant()
    for m in group.makers:
        if isinstance(m.layer, nn.RNNBase):
            _recurrent(m.layer)[:, m.of(constant)] = 0
    foldable = constant.clone()
    for m in group.readers:
        foldable &= m.every(_takes(m.layer, seen), group.count)
    for m in group.readers:
        todo = torch.tensor(m.of(foldable), dtype=torch.long)
        todo = todo[~_zero_inputs(m.layer).cpu()[todo]]
        if len(todo):
            where: list[int] = todo.tolist()
            _fold(m.layer, where, seen[m.layer].constant()[where])
            _clear_inputs(m.layer, where)
    dead = group.unread()
    new = dead & ~group.dead
    for m in (*group.makers, *group.passing):
        # One slope of a PReLU may serve all channels; it keeps zeros whatever it is.
        if not isinstance(m.layer, nn.PReLU):
            _clear_outputs(m.layer, m.of(new))
    group.dead = dead
    return bool(new.any())


def _takes(layer: nn.Module, seen: dict[nn.Module, _Range]) -> Tensor:
    """Which inputs of a layer, if they are constant, can go to its bias."""
    zero = _zero_inputs(layer)
    if layer not in seen:
        return zero
    value = seen[layer].constant()
    return zero | (value == 0) | (~value.isnan() & _can_fold(layer))


def _explain(group: _Group, seen: dict[nn.Module, _Range]) -> Counter[tuple[str, str, str]]:
    """Count, by layer, side and reason, what is zero and stays."""
    made = [m.every(_zero_outputs(m.layer), group.count) for m in group.makers]
    read = [m.every(_zero_inputs(m.layer), group.count) for m in group.readers]
    taken = [m.every(_takes(m.layer, seen), group.count) for m in group.readers]
    unread = group.unread()

    def first(members: list[_Member], holds: list[Tensor], root: int) -> str | None:
        return next((m.name for m, held in zip(members, holds, strict=True) if not held[root]), None)

    def reason(what: str, root: int) -> str:
        if group.obstacle is not None:
            return group.obstacle
        if unread[root]:
            return "a layer keeps at least one channel"
        if what == "inputs":
            reader = first(group.readers, read, root)
            return "other hidden units read it" if reader is None else f"{reader!r} reads it too"
        maker = first(group.makers, made, root)
        if maker is not None:
            return f"it is coupled with {maker!r}, which is not zero"
        reader = first(group.readers, taken, root)
        return f"it is a constant other than zero, which {reader!r} cannot take into its bias"

    found: Counter[tuple[str, str, str]] = Counter()
    for members, what, zeros in (
        (group.makers, "outputs", _zero_outputs),
        (group.readers, "inputs", _zero_inputs),
    ):
        for m in members:
            zero = zeros(m.layer).cpu()[m.channels] & ~group.dead[m.roots]
            for root in m.roots[zero].tolist():
                found[m.name, what, reason(what, root)] += 1
    return found


def remove_channels(
    model: nn.Module,
    once: Callable[[nn.Module], list[Tensor]],
    run: Callable[[nn.Module], list[Tensor]],
    blocked: Mapping[tuple[Any, str], str],
    allowed: Callable[[str], bool],
) -> tuple[list[Removed], list[Kept]]:
    """Remove, in place, the channels that have no influence on a network's outputs.

    Parameters
    ----------
    model : torch.nn.Module
        Every parameter must require a gradient, by which the network is traced.
    once, run : callable
        Call a model, on one input and on several, and return its outputs.
    blocked : mapping
        For pairs of a module and "inputs" or "outputs", why these cannot be removed.
    allowed : callable
        Whether the channels that a layer makes may be removed, by its path.

    Returns
    -------
    removed : list of Removed
    kept : list of Kept
    """
    names: dict[Any, str] = {m: name for name, m in model.named_modules()}
    names |= {p: name for name, p in model.named_parameters()}
    pruner = RecurrentPruner()
    recurrent = [m for m in model.modules() if isinstance(m, (nn.LSTM, nn.GRU))]
    hooks = [m.register_forward_hook(_as_one_step) for m in recurrent]
    try:
        graph = torch_pruning.DependencyGraph().build_dependency(
            model,
            example_inputs=None,
            # A further operation makes torch-pruning see that these are outputs, whatever makes them.
            forward_fn=lambda m, _: [t * 1 for t in once(m)],
            customized_pruners={nn.LSTM: pruner, nn.GRU: pruner},
            verbose=False,
        )
    finally:
        for hook in hooks:
            hook.remove()
    groups = _read_groups(graph, names, blocked)
    scaled: dict[nn.Module, nn.Module] = {
        node.module: node.inputs[0].module
        for node in graph.module2node.values()
        if isinstance(node.module, _BatchNorm)
        and len(node.inputs) == 1
        and len(node.inputs[0].outputs) == 1
        and isinstance(node.inputs[0].module, (nn.Linear, _ConvNd))
    }
    open_groups = [g for g in groups if g.obstacle is None and allowed(g.name)]
    with torch.no_grad():
        seen = _watch(model, run)
        while any([_settle(g, seen, scaled) for g in open_groups]):  # noqa: C419 (all of them)
            pass
    removed: list[Removed] = []
    cuts: list[tuple[_Group, list[int]]] = []
    for g in open_groups:
        if bool(g.dead.all()):
            g.dead[0] = False
        dead = torch.nonzero(g.dead).flatten().tolist()
        if dead:
            cuts.append((g, dead))
            removed.append(Removed(g.name, "outputs", g.count, g.count - len(dead)))
    found: Counter[tuple[str, str, str]] = Counter()
    for g in groups:
        if g.obstacle is not None or allowed(g.name):
            found += _explain(g, seen)
    found += _unreached(graph, groups, names)
    for g, dead in cuts:
        prune = graph.get_pruner_of_module(g.root).prune_out_channels
        graph.get_pruning_group(g.root, prune, dead).prune(record_history=False)
    return removed, [Kept(layer, what, count, reason) for (layer, what, reason), count in found.items()]


def _unreached(graph: Any, groups: list[_Group], names: dict[Any, str]) -> Counter[tuple[str, str, str]]:
    """Zero inputs that no layer makes."""
    found: Counter[tuple[str, str, str]] = Counter()
    for layer in graph.module2node:
        if isinstance(layer, (nn.Linear, _ConvNd, nn.LSTM, nn.GRU)) and not _is_depthwise(layer):
            zero = _zero_inputs(layer).cpu()
            for g in groups:
                for m in g.readers:
                    if m.layer is layer:
                        zero[m.channels] = False
            if count := int(zero.sum()):
                found[names[layer], "inputs", "no layer was found that makes it"] += count
    return found
