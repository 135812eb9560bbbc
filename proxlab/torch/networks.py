"""Groups of networks: which weights of a model stand and fall together, as param groups for an optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from proxlab.groups import Groups
from proxlab.penalties import Penalty
from proxlab.torch.division import ParamGroups
from proxlab.torch.structures import (
    Attention,
    check_ffn,
    conv_norm_pairs,
    find_attention,
    find_ffn,
    find_fused,
    is_conv1d,
)
from proxlab.torch.text import listed
from proxlab.torch.traced import Run
from proxlab.torch.wrappers import canonical, check_model, check_parameter, weight_of

__all__ = ["param_groups"]

Conv = Literal["filter", "channel", "kernel", "filter+norm"]
Side = Literal["input", "output"]
Recurrent = Literal["input", "output", "unit"]
Parts = list[tuple[str, Groups]]


def param_groups(
    model: nn.Module,
    penalty: Penalty,
    *,
    conv: Conv | None = "channel",
    linear: Side | None = "input",
    embedding: Side | None = None,
    lstm: Recurrent | None = "input",
    attention: Literal["heads"] | Sequence[Attention] | None = None,
    ffn: Literal["neurons"] | Sequence[tuple[str, ...]] | None = None,
    exclude: str | Iterable[str] = (),
    only: str | Iterable[str] | None = None,
    example_inputs: Any = None,
) -> ParamGroups:
    """Divide the parameters of a network into param groups with structured penalties.

    The defaults are the groups of Deleu & Bengio (2021) for VGG, ResNet and BERT: convolutions by input
    channel, linear layers by column. Biases, norms and parameters of other modules are not penalised.

    Parameters
    ----------
    model : torch.nn.Module
        The network. Of a compiled or data-parallel one, that inside it.
    penalty : Penalty
        What each group is penalised with: its ``groups`` are replaced for every kind of layer, its strength
        and ``weights`` (None or ``"sqrt_size"``) stay.
    conv : {"channel", "filter", "kernel", "filter+norm", None}, optional
        Convolutions, transposed and grouped ones too: a group is what reads one input channel, what makes one
        output channel, one spatial kernel, or a filter jointly with its bias and with the scale and shift of
        the batch norm that is registered right after the convolution (without one, the filter alone).
    linear : {"input", "output", None}, optional
        Linear layers, those of attention, and the transposed ones that the library transformers calls Conv1D:
        a group is what reads one input (a column) or makes one output (a row).
    embedding : {"input", "output", None}, optional
        Embeddings: a group is the vector of one token, or one dimension of all tokens.
    lstm : {"input", "output", "unit", None}, optional
        Recurrent layers (LSTM, GRU, RNN): a group is a column of a weight, the rows of all gates of one
        hidden unit in a weight (in that of a projection its column), or the latter jointly in all weights and
        biases of a layer.
    attention : {"heads", None} or sequence of Attention, optional
        With ``"heads"`` a group is a whole head: its rows in queries, keys and values with their biases,
        jointly with its columns in the output layer. :class:`torch.nn.MultiheadAttention` and layers under
        the usual names are found; others can be named. By default as ``linear``.
    ffn : {"neurons", None} or sequence of tuple of str, optional
        With ``"neurons"`` a group is a hidden unit of a feed-forward block: its row in the first layer with
        its bias, jointly with its column in the second. Blocks under the usual names are found; others can be
        given as tuples of module paths, that of the second layer last. By default as ``linear``.
    exclude : str or iterable of str, optional
        Paths of modules or parameters that are not penalised, with the wildcards of :mod:`fnmatch`, without
        what wrappers such as ``torch.compile`` put into paths.
    only : str or iterable of str, optional
        Paths of modules or parameters, as in ``exclude``: the param groups are those of these alone, with the
        names that they have in the model. So a layer joins an optimizer later, by ``add_param_group``.
    example_inputs : Tensor, sequence or mapping, optional
        Arguments of a call, as for :func:`compact`. With them the network is run once and followed. Where
        several columns of a linear layer read one channel, as behind a flattened convolution, they are one
        group (unless the weight is computed, by a mask or a norm). Heads of attention are found however it is
        written, also in a projection that queries, keys and values share. And ``budget="flops"`` of
        :class:`~proxlab.optim.TargetSparsity` knows what each weight costs.

    Returns
    -------
    list of dict
        For ``params`` of an optimizer of :mod:`proxlab.torch`: each with ``params``, their ``names``, their
        ``places`` in ``model.parameters()``, with ``example_inputs`` their ``uses`` in a call, the
        ``penalty`` (None in the last, which holds what is not penalised), and for groups that span several
        parameters ``joint``, the groups of each. Every parameter of the model occurs once; one that several
        modules share goes with the first of them. It prints as a table, with the reason for what stays free
        (``free``, a dict by name).

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the above; if a path, a pattern or an option other than a default fits
        nothing in the model, or nothing at all is penalised; if a joint group would hold a shared parameter,
        a layer's weight is computed in a way that does not keep zeros (weight norm), or parameters are
        shards. The message names the module's path.

    Notes
    -----
    The weight of a layer with a pruning mask or spectral norm is computed from a parameter of the same shape
    and the same zeros, which is penalised in its place.

    References
    ----------
    Deleu & Bengio (2021), "Structured sparsity inducing adaptive optimizers for deep learning",
    arXiv:2102.03869, §5.

    Examples
    --------
    >>> import proxlab as pl
    >>> from torch import nn
    >>> from proxlab.torch import param_groups
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    >>> for group in param_groups(model, pl.GroupLasso(1e-3)):
    ...     print(group["names"], group["penalty"] and group["penalty"].groups)
    ['0.weight'] Groups.conv('channel')
    ['3.weight'] Groups.over(0)
    ['0.bias', '3.bias'] None
    """
    options: dict[str, Any] = {
        "conv": conv, "linear": linear, "embedding": embedding, "lstm": lstm,
        "attention": attention, "ffn": ffn,
    }  # fmt: skip
    exclude = [exclude] if isinstance(exclude, str) else list(exclude)
    chosen = [only] if isinstance(only, str) else None if only is None else list(only)
    groups = divide(model, penalty, exclude=exclude, only=chosen, example_inputs=example_inputs, **options)
    if not any(group["penalty"] is not None for group in groups):
        wanted = [
            f"{_KINDS[name]} ({name}={value!r})" for name, value in options.items() if value is not None
        ]
        raise ValueError(
            f"model: nothing is penalised; looked for {', '.join(wanted) or 'nothing'}"
            + (f" outside of exclude={exclude!r}" if exclude else "")
            + ("" if chosen is None else f" in only={chosen!r}")
            + _told_shared(model)
            + ". Name other layers by attention= or ffn=, or write param groups by hand"
        )
    return groups


def _told_shared(model: nn.Module) -> str:
    """Say which parameters of a model have several names, if any: they go with the first."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    shared = [" and ".join(map(repr, found)) for found in names.values() if len(found) > 1]
    return f"; what is shared goes with its first name: {', '.join(shared[:3])}" if shared else ""


#: What the options look for.
_KINDS = {
    "conv": "convolutions",
    "linear": "linear layers",
    "embedding": "embeddings",
    "lstm": "recurrent layers",
    "attention": "attention",
    "ffn": "feed-forward blocks",
}
_DEFAULTS = {"conv": "channel", "linear": "input", "lstm": "input"}


def divide(
    model: nn.Module,
    penalty: Penalty,
    *,
    conv: Conv | None = "channel",
    linear: Side | None = "input",
    embedding: Side | None = None,
    lstm: Recurrent | None = "input",
    attention: Literal["heads"] | Sequence[Attention] | None = None,
    ffn: Literal["neurons"] | Sequence[tuple[str, ...]] | None = None,
    exclude: Sequence[str] = (),
    only: Sequence[str] | None = None,
    example_inputs: Any = None,
) -> ParamGroups:
    """Divide as :func:`param_groups` does; that nothing is penalised is no error."""
    outer = model
    model = check_model(outer)
    if not isinstance(penalty, Penalty):
        raise TypeError(f"penalty: must be a proxlab penalty, for example GroupLasso(0.1), got {penalty!r}")
    if penalty.weights is not None and not isinstance(penalty.weights, str):
        raise ValueError('penalty: weights must be None or "sqrt_size", since each layer has its own groups')
    for name, value, options in (
        ("conv", conv, get_args(Conv)),
        ("linear", linear, get_args(Side)),
        ("embedding", embedding, get_args(Side)),
        ("lstm", lstm, get_args(Recurrent)),
    ):
        if value is not None and value not in options:
            raise ValueError(f"{name}: must be one of {', '.join(map(repr, options))} or None, got {value!r}")
    # What a wrapper puts before all paths.
    prefix = next(path for path, module in outer.named_modules() if module is model)
    builder = _Builder(model, penalty, exclude, only, canonical(prefix))
    run = None if example_inputs is None else Run(model, example_inputs)
    if attention is not None:
        for parts in _heads(model, attention, run):
            builder.joint("attention", parts)
    if ffn is not None:
        for paths in _blocks(model, ffn):
            builder.joint("ffn", _neurons(model, paths))
    if conv == "filter+norm":
        for path, norm in conv_norm_pairs(model):
            layer = model.get_submodule(path)
            assert isinstance(layer, _ConvNd)
            scalars = [(f"{holder}.{name}", Groups.over(())) for holder, name in (
                *([(path, "bias")] if layer.bias is not None else []), (norm, "weight"), (norm, "bias"),
            )]  # fmt: skip
            builder.joint("conv", [(f"{path}.weight", _conv_groups(layer, "filter")), *scalars])
    if lstm == "unit":
        for path, module in model.named_modules():
            if isinstance(module, nn.RNNBase):
                for parts in _units(path, module):
                    builder.joint("lstm", parts)
    seen = set()
    for path, module in model.named_modules():
        kind = _kind(module)
        seen.add(kind)
        for name, groups in _layer_groups(module, conv, linear, embedding, lstm):
            whole = f"{path}.{name}" if path else name
            if run is not None and kind == "linear" and linear == "input" and name == "weight":
                groups = run.columns(module, whole) or groups
            builder.add(whole, groups)
    for kind, value in (("conv", conv), ("linear", linear), ("embedding", embedding), ("lstm", lstm)):
        if value is not None and value != _DEFAULTS.get(kind) and kind not in seen:
            raise ValueError(f"{kind}: the model has no {_KINDS[kind]}, got {value!r}")
    found = builder.finish({"conv": conv, "linear": linear, "embedding": embedding, "lstm": lstm})
    if run is not None:
        uses = run.uses()
        for group in found:
            group["uses"] = [uses.get(name, 0.0) for name in group["names"]]
    return found


class _Builder:
    """Collects param groups so that every parameter occurs once."""

    def __init__(
        self,
        model: nn.Module,
        penalty: Penalty,
        exclude: Sequence[str],
        only: Sequence[str] | None,
        prefix: str,
    ) -> None:
        self.model = model
        self.prefix = prefix
        self.penalty = penalty
        self.named = dict(model.named_parameters(remove_duplicate=False))
        for name, p in self.named.items():
            check_parameter(name, p)
        # The first name of each parameter is that under which it is listed.
        self.first: dict[int, str] = {}
        for name, p in self.named.items():
            self.first.setdefault(id(p), name)
        self.places = {name: place for place, name in enumerate(self.first.values())}
        self.excluded = self._found("exclude", exclude)
        self.outside: set[str] = set()
        if only is not None:
            self.outside = set(self.first.values()) - self._found("only", only)
            self.excluded |= self.outside
        self.taken: set[str] = set()
        self.groups: dict[Groups, list[str]] = {}
        self.joints: list[Parts] = []

    def _found(self, argument: str, patterns: Sequence[str]) -> set[str]:
        """The parameters that patterns fit, by their own paths and by those of the weights made of them."""
        paths: dict[str, list[str]] = {name: [canonical(name)] for name in self.named}
        for path, module in self.model.named_modules():
            for name in _weights(module):
                weight = weight_of(module, name)
                for part in weight.names if weight.how else ():
                    paths[_join(path, part)].append(canonical(_join(path, name)))
        found = set()
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise TypeError(f"{argument}: must hold paths of modules or parameters, got {pattern!r}")
            asked = canonical(pattern)
            for wanted in (asked, asked.removeprefix(f"{self.prefix}.")):
                hits = {name for name, own in paths.items() if any(_is_under(path, wanted) for path in own)}
                if hits:
                    break
            else:
                raise ValueError(f"{argument}: {pattern!r} fits no module or parameter of the model")
            found |= {self.first[id(self.named[name])] for name in hits}
        return found

    def _parameter(self, argument: str, path: str) -> str | None:
        """Return the name of the parameter that is penalised for a weight, None where there is none."""
        holder, _, name = path.rpartition(".")
        weight = weight_of(self.model.get_submodule(holder), name)
        if weight.exact:
            return _join(holder, weight.names[0]) if weight.names else None
        names = [_join(holder, part) for part in weight.names]
        if all(self.first[id(self.named[n])] in self.excluded for n in names):
            return None
        raise ValueError(
            f"{argument}: {canonical(path)!r} is computed by {weight.how}, so that zeros of a parameter are "
            f"not zeros of the weight; exclude={canonical(path)!r} leaves it free"
        )

    def add(self, path: str, groups: Groups) -> None:
        """Penalise a weight by itself, unless that is settled."""
        name = self._parameter("model", path)
        if name is None or name in self.taken or name in self.excluded:
            return
        if self.first[id(self.named[name])] != name:
            return
        self.taken.add(name)
        self.groups.setdefault(groups, []).append(name)

    def joint(self, argument: str, paths: Parts) -> None:
        """Penalise groups that span several parameters."""
        if self.penalty.is_elementwise:
            raise ValueError(
                f"{argument}: joint groups need a penalty on groups; {type(self.penalty).__name__} is "
                "elementwise"
            )
        resolved = ((self._parameter(argument, path), groups) for path, groups in paths)
        parts = [(name, groups) for name, groups in resolved if name is not None]
        own: set[str] = set()
        for name, _ in parts:
            first = self.first[id(self.named[name])]
            if name in self.taken or name in own or first != name:
                other = "another joint group" if name in self.taken else f"{first!r}"
                raise ValueError(
                    f"{argument}: {name!r} is shared with {other}, so it cannot be in this group"
                )
            own.add(name)
        kept = [(name, groups) for name, groups in parts if name not in self.excluded]
        if kept:
            self.taken |= {name for name, _ in kept}
            self.joints.append(kept)

    def finish(self, options: Mapping[str, Any]) -> ParamGroups:
        """Return the param groups; ``options`` are what was asked of the kinds of layers."""
        out = []
        for parts in self.joints:
            group = self._group([name for name, _ in parts], Groups.over(-1))
            out.append(group | {"joint": [groups for _, groups in parts]})
        if self.penalty.is_elementwise:
            names = [name for members in self.groups.values() for name in members]
            out += [self._group(names, None) | {"penalty": self.penalty}] if names else []
        else:
            out += [self._group(names, groups) for groups, names in self.groups.items()]
        free = [name for name in self.first.values() if name not in self.taken and name not in self.outside]
        if free:
            out.append(self._group(free, None))
        return ParamGroups(out, {name: self._why_free(name, options) for name in free})

    def _why_free(self, name: str, options: Mapping[str, Any]) -> str:
        """Say why a parameter is not penalised."""
        if name in self.excluded:
            return "excluded"
        p, reasons = self.named[name], {}
        for path, module in self.model.named_modules(remove_duplicate=False):
            kind = _kind(module)
            for weight in _weights(module):
                names = weight_of(module, weight).names
                if any(self.named[_join(path, part)] is p for part in names):
                    reasons[_join(path, weight)] = kind
        if not reasons:
            holder, _, own = name.rpartition(".")
            kind = type(self.model.get_submodule(holder)).__name__
            return f"{own} of a {kind}"
        (first, kind), *others = reasons.items()
        asked = f"{kind}={options[kind]!r}"
        if not others:
            return asked
        return (
            f"shared by {first} and {listed([other for other, _ in others])}; it goes with the first, {asked}"
        )

    def _group(self, names: list[str], groups: Groups | None) -> dict[str, Any]:
        penalty = None if groups is None else dataclasses.replace(self.penalty, groups=groups)
        places = [self.places[name] for name in names]
        params = [self.named[name] for name in names]
        return {"params": params, "names": names, "places": places, "penalty": penalty}


def _is_under(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: k + 1]), pattern) for k in range(len(parts)))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _kind(module: nn.Module) -> str:
    """Return the option that concerns a module, or an empty string."""
    if isinstance(module, _ConvNd):
        return "conv"
    if isinstance(module, (nn.Linear, nn.MultiheadAttention)) or is_conv1d(module):
        return "linear"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    return "lstm" if isinstance(module, nn.RNNBase) else ""


def _weights(module: nn.Module) -> list[str]:
    """Names of the matrices and kernels that a module of a known kind holds itself."""
    if isinstance(module, nn.MultiheadAttention):
        names = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        return [name for name in names if getattr(module, name) is not None]
    if isinstance(module, nn.RNNBase):
        return [name for layer in module._all_weights for name in layer if name.startswith("weight")]
    return ["weight"] if _kind(module) else []


def _layer_groups(
    module: nn.Module, conv: Conv | None, linear: Side | None, embedding: Side | None, lstm: Recurrent | None
) -> Parts:
    """Groups of the weights that a module holds itself."""
    names = _weights(module)
    if isinstance(module, _ConvNd) and conv is not None:
        groups = _conv_groups(module, "filter" if conv == "filter+norm" else conv)
        return [(name, groups) for name in names]
    if _kind(module) == "linear" and linear is not None:
        return [(name, _matrix_groups(linear, module)) for name in names]
    if _kind(module) == "embedding" and embedding is not None:
        return [(name, Groups.over(-1 if embedding == "input" else 0)) for name in names]
    if isinstance(module, nn.RNNBase) and lstm in ("input", "output"):
        return [(name, Groups.over(0) if lstm == "input" else _unit_rows(name, module)) for name in names]
    return []


def _matrix_groups(side: Side, layer: nn.Module) -> Groups:
    return Groups.over(0 if (side == "input") != is_conv1d(layer) else -1)


def _conv_groups(module: _ConvNd, kind: Literal["filter", "channel", "kernel"]) -> Groups:
    """Groups of a convolution's weight, which is transposed where the convolution is."""
    transposed = isinstance(module, _ConvTransposeNd)
    kernel = tuple(range(2, module.weight.ndim))
    if kind == "kernel" or (module.groups == 1 and not transposed):
        return Groups.conv(kind)
    # Rows of the weight are output channels, or input channels where the convolution is transposed.
    if (kind == "filter") != transposed:
        return Groups.over((1, *kernel))
    if module.groups == 1:
        return Groups.over((0, *kernel))
    # The second axis counts the channels of one block; every block of rows has its own.
    rows, columns, *spatial = module.weight.shape
    view = (module.groups, rows // module.groups, columns, *spatial)
    return Groups.over((1, *range(3, len(view))), shape=view)


def _unit_rows(name: str, module: nn.RNNBase) -> Groups:
    """The rows of all gates of each hidden unit, in a weight or bias of a recurrent layer."""
    if name.startswith("weight_hr"):
        return Groups.over(0)  # the projection reads the hidden units
    rows = getattr(module, name).shape[0]
    gates = (rows // module.hidden_size, module.hidden_size)
    return Groups.over(0, shape=gates) if name.startswith("bias") else Groups.over((0, 2), shape=(*gates, -1))


def _units(path: str, module: nn.RNNBase) -> list[Parts]:
    prefix = f"{path}." if path else ""
    return [[(prefix + name, _unit_rows(name, module)) for name in layer] for layer in module._all_weights]


def _heads(model: nn.Module, attention: str | Sequence[Attention], run: Run | None) -> list[Parts]:
    found: list[Parts] = []
    traced: list[tuple[str, Parts]] = []
    if isinstance(attention, str):
        if attention != "heads":
            raise ValueError(
                f'attention: must be "heads", a sequence of Attention or None, got {attention!r}'
            )
        for path, module in model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                found.append(_stacked_heads(path, module))
        attention = find_attention(model)
        traced = [] if run is None else run.heads()
        if run is None and (path := find_fused(model)) is not None:
            raise ValueError(
                f"attention: {path!r} looks like queries, keys and values in one projection; give "
                "example_inputs, by which its heads are found, or exclude it by naming others as Attention"
            )
    for layers in attention:
        if not isinstance(layers, Attention):
            raise TypeError(f"attention: must hold proxlab.torch.Attention, got {layers!r}")
        found.append(_separate_heads(model, layers))
    # What was found by names is found in the trace again.
    named = {name for parts in found for name, _ in parts}
    found += [parts for _, parts in traced if not any(name in named for name, _ in parts)]
    if not found:
        raise ValueError(
            "attention: the model has no attention layer that is known; name its layers"
            + (", or give example_inputs" if run is None else "")
        )
    return found


def _stacked_heads(path: str, module: nn.MultiheadAttention) -> Parts:
    prefix = f"{path}." if path else ""
    heads, size = module.num_heads, module.head_dim
    parts: Parts = []
    if module.in_proj_weight is not None:
        parts.append(("in_proj_weight", Groups.over((0, 2, 3), shape=(3, heads, size, -1))))
    else:
        rows = Groups.over((1, 2), shape=(heads, size, -1))
        parts += [(name, rows) for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight")]
    if module.in_proj_bias is not None:
        parts.append(("in_proj_bias", Groups.over((0, 2), shape=(3, heads, size))))
    parts.append(("out_proj.weight", Groups.over((0, 2), shape=(-1, heads, size))))
    return [(prefix + name, groups) for name, groups in parts]


def _separate_heads(model: nn.Module, layers: Attention) -> Parts:
    q, k, v, o = layers.layers(model)
    parts: Parts = []
    for path, layer in ((layers.query, q), (layers.key, k), (layers.value, v)):
        size = layer.out_features // layers.heads
        parts.append((f"{path}.weight", Groups.over((1, 2), shape=(layers.heads, size, -1))))
        if layer.bias is not None:
            parts.append((f"{path}.bias", Groups.over(1, shape=(layers.heads, size))))
    columns = (-1, layers.heads, o.in_features // layers.heads)
    return [*parts, (f"{layers.output}.weight", Groups.over((0, 2), shape=columns))]


def _blocks(model: nn.Module, ffn: str | Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    if not isinstance(ffn, str):
        return check_ffn(model, ffn)
    if ffn != "neurons":
        raise ValueError(f'ffn: must be "neurons", a sequence of tuples of paths or None, got {ffn!r}')
    found = find_ffn(model)
    if not found:
        raise ValueError("ffn: the model has no feed-forward block that is known; name its layers")
    return found


def _neurons(model: nn.Module, paths: tuple[str, ...]) -> Parts:
    *first, last = paths
    parts: Parts = []
    for path in first:
        layer = model.get_submodule(path)
        parts.append((f"{path}.weight", _matrix_groups("output", layer)))
        if layer.bias is not None:
            parts.append((f"{path}.bias", Groups.over(())))
    return [*parts, (f"{last}.weight", _matrix_groups("input", model.get_submodule(last)))]
