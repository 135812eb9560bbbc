"""The parts of a network that span several layers: attention, feed-forward blocks, filters with norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

__all__ = [
    "CONFIG",
    "COUNTS",
    "FFN_WIDTHS",
    "HEAD_COUNTS",
    "Attention",
    "Unknown",
    "check_ffn",
    "conv_norm_pairs",
    "find_attention",
    "find_ffn",
    "find_fused",
    "is_conv1d",
    "match_attention",
]

# Names of the layers of attention and of feed-forward blocks in common libraries. A path that begins with a
# dot is taken from the parent of the module that holds the first layer.
_ATTENTION = (
    ("q_proj", "k_proj", "v_proj", ("out_proj", "o_proj")),
    ("query", "key", "value", (".output.dense", "output", "out", "proj")),
    ("q_lin", "k_lin", "v_lin", ("out_lin",)),
    ("to_q", "to_k", "to_v", ("to_out.0", "to_out")),
    ("wq", "wk", "wv", ("wo",)),
    ("q", "k", "v", ("o", "out", "proj")),
)
# Attributes of attention modules, or of their ``config``: the number of heads, that of keys and values where
# heads share them, and the size of a head.
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
_SHARED = ("num_key_value_heads", "n_kv_heads", "num_kv_heads", "n_kv_head", "kv_heads", "num_query_groups")
_SIZES = ("head_dim", "attention_head_size", "head_size", "dim_head", "d_kv", "key_value_proj_dim")
#: Attributes in which attention modules keep the number of heads, and of those of keys and values.
COUNTS = (_HEADS, _SHARED)
HEAD_COUNTS = (*_HEADS, *_SHARED)
#: What stands before the name of a number that a module's configuration keeps.
CONFIG = "config."
#: Attributes of feed-forward blocks and of configurations that are the number of hidden units.
FFN_WIDTHS = (
    "intermediate_size", "ffn_dim", "d_ff", "n_inner", "hidden_dim", "mlp_dim", "encoder_ffn_dim",
    "decoder_ffn_dim",
)  # fmt: skip
#: Projections that hold queries, keys and values together; how, the name does not say.
_FUSED = ("qkv", "qkv_proj", "Wqkv", "wqkv", "c_attn", "query_key_value", "to_qkv", "in_proj_qkv")
_FFN = (
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("wi_0", "wi_1", "wo"),
    ("linear1", "linear2"),
    ("intermediate.dense", "output.dense"),
    ("intermediate_dense", "output_dense"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("lin1", "lin2"),
    ("w1", "w2"),
    ("wi", "wo"),
    ("c_fc", "c_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
)

# Modules that compute element by element.
_ELEMENTWISE = (
    nn.Identity, nn.Dropout, nn.AlphaDropout, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU,
    nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus,
    nn.Softsign, nn.LogSigmoid,
)  # fmt: skip


@dataclass(frozen=True)
class Attention:
    """The four linear layers of multi-head attention, by their paths in the model.

    Parameters
    ----------
    query, key, value, output : str
        Paths of :class:`torch.nn.Linear` modules, as ``model.named_modules()`` spells them.
    heads : int
        Number of heads: the outputs of query, key and value, and the inputs of the output layer, are
        ``heads`` consecutive blocks. Where several query heads share one key and value head, the number of
        the latter.
    """

    query: str
    key: str
    value: str
    output: str
    heads: int

    def __post_init__(self) -> None:
        """Validate the fields."""
        for name in ("query", "key", "value", "output"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name}: must be the path of a module, got {getattr(self, name)!r}")
        if len({self.query, self.key, self.value, self.output}) < 4:
            raise ValueError(
                "attention: query, key, value and output must be four layers, each with its own weights, "
                f"got {self.query!r}, {self.key!r}, {self.value!r}, {self.output!r}"
            )
        heads: Any = self.heads
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
            raise ValueError(f"heads: must be a positive integer, got {heads!r}")

    @property
    def holder(self) -> str:
        """Path of the module that holds the query layer, and with it the number of heads."""
        return self.query.rpartition(".")[0]

    def layers(self, model: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear, nn.Linear]:
        """Return the layers query, key, value and output of ``model``.

        Raises
        ------
        ValueError
            If a path names no linear layer, or the heads do not divide a layer's size.
        """
        q, k, v, o = (
            _linear(model, path, "attention") for path in (self.query, self.key, self.value, self.output)
        )
        sizes = [
            (self.query, q.out_features),
            (self.key, k.out_features),
            (self.value, v.out_features),
            (self.output, o.in_features),
        ]
        for path, size in sizes:
            if size % self.heads:
                raise ValueError(
                    f"attention: {self.heads} heads do not divide the {size} "
                    f"{'inputs' if path == self.output else 'outputs'} of {path!r}"
                )
        return q, k, v, o


class Unknown(NamedTuple):
    """Layers that look like attention, and why their heads are not known."""

    path: str
    reason: str


def _module_at(model: nn.Module, path: str, argument: str) -> nn.Module:
    """Return the module of ``model`` at ``path``, or raise an error that names the argument."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ValueError(f"{argument}: the model has no module {path!r}") from None


def find_attention(model: nn.Module) -> list[Attention]:
    """Find attention made of separate linear layers, by the names that common libraries give them.

    Raises
    ------
    ValueError
        If the number of heads is not known, or names and shapes of layers disagree about it.
    """
    found, unknown = match_attention(model)
    for path, reason in unknown:
        raise ValueError(
            f"attention: {path!r} looks like attention, but {reason}; name its layers by "
            "proxlab.torch.Attention"
        )
    return found


def match_attention(model: nn.Module) -> tuple[list[Attention], list[Unknown]]:
    """Find attention made of separate linear layers, and what looks like it but does not say its heads."""
    found: list[Attention] = []
    unknown: list[Unknown] = []
    for path, module in model.named_modules():
        names = _match_attention(model, path, module)
        if names is None:
            continue
        heads = _head_count(module, [model.get_submodule(name) for name in names])
        if isinstance(heads, str):
            unknown.append(Unknown(path, heads))
        else:
            found.append(Attention(*names, heads=heads))
    return found, unknown


def _head_count(module: nn.Module, layers: list[Any]) -> int | str:
    """Return the number of heads with keys and values of their own, or a sentence that says why not."""
    query, key, value, output = layers
    wide, narrow, values = query.out_features, key.out_features, value.out_features
    counts, shared, sizes = (named_counts(module, names) for names in (_HEADS, _SHARED, _SIZES))
    if own_counts(module):
        # A configuration is of all layers, from which this one may differ.
        counts, shared, sizes = map(_own, (counts, shared, sizes))
    if not counts and not sizes:
        return f"has none of the attributes {', '.join(HEAD_COUNTS)}"
    heads = next(iter(counts.values())) if counts else wide // max(1, next(iter(sizes.values())))
    size = wide // max(1, heads)
    own = narrow // max(1, size)
    fits = size > 0 and own > 0 and (size * heads, size * own) == (wide, narrow)
    if not (
        fits and values % own == 0 and heads % own == 0 and output.in_features == heads * (values // own)
    ):
        return (
            f"{_listed(counts or sizes)} does not fit its layers, with {wide} outputs of query, {narrow} of "
            f"key, {values} of value and {output.in_features} inputs of output"
        )
    expected = [*((counts, heads), (sizes, size)), *([(shared, own)] if shared else [])]
    for named, right in expected:
        wrong = {name: n for name, n in named.items() if n != right}
        if wrong:
            return f"{_listed(wrong)} disagrees with {right} by the shapes of its layers"
    return own


def named_counts(module: nn.Module, names: tuple[str, ...]) -> dict[str, int]:
    """Return the positive integers that a module keeps under some names, or else its configuration."""
    for holder, prefix in ((module, ""), (getattr(module, "config", None), CONFIG)):
        found = {
            prefix + name: n
            for name in names
            if isinstance(n := getattr(holder, name, None), int) and not isinstance(n, bool) and n > 0
        }
        if found:
            return found
    return {}


def own_counts(module: nn.Module) -> dict[str, int]:
    """Return what a module itself says of the number or the size of its heads."""
    return _own(named_counts(module, _HEADS)) or _own(named_counts(module, _SIZES))


def _own(counts: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if not name.startswith(CONFIG)}


def _listed(named: dict[str, int]) -> str:
    return " and ".join(f"{name} = {n}" for name, n in named.items())


def find_fused(model: nn.Module) -> str | None:
    """Find a layer that looks like queries, keys and values in one projection."""
    for path, module in model.named_modules():
        sizes = _sizes(module)
        if path.rpartition(".")[2] in _FUSED and sizes is not None and sizes[1] > sizes[0]:
            return path
    return None


def find_ffn(model: nn.Module) -> list[tuple[str, ...]]:
    """Find feed-forward blocks: the paths of the layers into the hidden units, last of that out of them."""
    found: list[tuple[str, ...]] = []
    for path, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            found += [tuple(_join(path, name) for name in pair) for pair in _sequential_ffn(module)]
            continue
        for names in _FFN:
            paths = tuple(_join(path, name) for name in names)
            sizes = [m for p in paths if (m := _sizes(_submodule(model, p))) is not None]
            if len(sizes) == len(paths) and all(m[1] == sizes[-1][0] for m in sizes[:-1]):
                found.append(paths)
                break
    return found


def _sizes(layer: nn.Module | None) -> tuple[int, int] | None:
    """The inputs and outputs of a linear layer, transposed ones too; None for any other module."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if layer is not None and is_conv1d(layer):
        weight: Any = layer.weight
        rows, columns = weight.shape
        return int(rows), int(columns)
    return None


def _sequential_ffn(module: nn.Sequential) -> list[tuple[str, str]]:
    """Find the feed-forward block that a Sequential is: two linear layers with activations between them."""
    names = list(module._modules)
    layers = [module.get_submodule(name) for name in names]
    sizes = [(k, size) for k, layer in enumerate(layers) if (size := _sizes(layer)) is not None]
    if len(sizes) != 2:
        return []
    (first, before), (last, after) = sizes
    others = [*layers[first + 1 : last], *layers[last + 1 :]]
    before_it = all(isinstance(m, (nn.LayerNorm, nn.RMSNorm, *_ELEMENTWISE)) for m in layers[:first])
    if last == first + 1 or not before_it or before[1] != after[0]:
        return []
    if any(type(m) not in _ELEMENTWISE for m in others):
        return []
    return [(names[first], names[last])]


def check_ffn(model: nn.Module, blocks: Iterable[Any]) -> list[tuple[str, ...]]:
    """Return the feed-forward blocks that the user names, or raise an error that names the path."""
    checked = []
    for paths in blocks:
        if not isinstance(paths, (tuple, list)) or len(paths) < 2:
            raise TypeError(f"ffn: must list tuples of two or more module paths, got {paths!r}")
        layers = [_module_at(model, path, "ffn") for path in paths]
        sizes = []
        for path, layer in zip(paths, layers, strict=True):
            size = _sizes(layer)
            if size is None:
                raise ValueError(f"ffn: {path!r} must be a torch.nn.Linear, but is a {type(layer).__name__}")
            sizes.append(size)
        if len(set(map(id, layers))) < len(layers):
            raise ValueError(f"ffn: must name different layers, got {tuple(paths)!r}")
        inputs = sizes[-1][0]
        for path, (_, outputs) in zip(paths[:-1], sizes[:-1], strict=True):
            if outputs != inputs:
                raise ValueError(
                    f"ffn: {path!r} has {outputs} outputs, but {paths[-1]!r} has {inputs} inputs"
                )
        checked.append(tuple(paths))
    return checked


def conv_norm_pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the paths of each convolution and of the affine batch norm that is registered right after it.

    Norms may hold modules of their own, such as the activation that they apply.
    """
    before: tuple[str, nn.Module] | None = None
    for path, module in model.named_modules():
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if norm and before is not None and module.affine and module.num_features == before[1].out_channels:
            yield before[0], path
        if isinstance(module, nn.modules.conv._ConvNd):
            before = path, module
        elif norm or not (isinstance(module, nn.Identity) or any(module.children())):
            before = None


def is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is the transposed linear layer of the library transformers, Conv1D."""
    weight = getattr(module, "weight", None)
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(weight, "ndim", 0) == 2


def _match_attention(model: nn.Module, path: str, module: nn.Module) -> tuple[str, str, str, str] | None:
    for *inputs, outputs in _ATTENTION:
        if not all(isinstance(_submodule(module, str(name)), nn.Linear) for name in inputs):
            continue
        for name in outputs:
            start = path.rpartition(".")[0] if name.startswith(".") else path
            output = _join(start, name.lstrip("."))
            if isinstance(_submodule(model, output), nn.Linear):
                q, k, v = (_join(path, str(n)) for n in inputs)
                return q, k, v, output
    return None


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _linear(model: nn.Module, path: str, argument: str) -> nn.Linear:
    module = _module_at(model, path, argument)
    if not isinstance(module, nn.Linear):
        raise ValueError(f"{argument}: {path!r} must be a torch.nn.Linear, but is a {type(module).__name__}")
    return module


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
