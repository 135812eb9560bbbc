"""The parts of a network that span several layers: attention, feed-forward blocks, filters with norms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import nn

__all__ = ["Attention", "check_ffn", "check_module", "conv_norm_pairs", "find_attention", "find_ffn"]

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
#: Attributes in which attention modules keep the number of heads; the last counts shared keys and values.
HEAD_COUNTS = (
    "num_heads",
    "num_attention_heads",
    "n_heads",
    "n_head",
    "heads",
    "nhead",
    "num_key_value_heads",
)
_FFN = (
    ("gate_proj", "up_proj", "down_proj"),
    ("w1", "w3", "w2"),
    ("linear1", "linear2"),
    ("intermediate.dense", "output.dense"),
    ("fc1", "fc2"),
    ("lin1", "lin2"),
    ("w1", "w2"),
    ("wi", "wo"),
)


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


def check_module(model: object) -> nn.Module:
    """Return ``model``, or raise an error that names the argument where it is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module, got {type(model).__name__}")
    return model


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
        If the module that holds the layers does not say the number of heads.
    """
    found = []
    for path, module in model.named_modules():
        names = _match_attention(model, path, module)
        if names is None:
            continue
        heads = next((h for name in HEAD_COUNTS if isinstance(h := getattr(module, name, None), int)), None)
        if heads is None:
            raise ValueError(
                f"attention: {path!r} looks like attention, but has none of the attributes "
                f"{', '.join(HEAD_COUNTS)}; name its layers by proxlab.torch.Attention"
            )
        kv = getattr(module, "num_key_value_heads", None)
        found.append(Attention(*names, heads=kv if isinstance(kv, int) else heads))
    return found


def find_ffn(model: nn.Module) -> list[tuple[str, ...]]:
    """Find feed-forward blocks: the paths of the layers into the hidden units, last of that out of them."""
    found: list[tuple[str, ...]] = []
    for path, _ in model.named_modules():
        for names in _FFN:
            paths = tuple(_join(path, name) for name in names)
            layers = [m for p in paths if isinstance(m := _submodule(model, p), nn.Linear)]
            if len(layers) == len(paths) and all(
                m.out_features == layers[-1].in_features for m in layers[:-1]
            ):
                found.append(paths)
                break
    return found


def check_ffn(model: nn.Module, blocks: Iterable[Any]) -> list[tuple[str, ...]]:
    """Return the feed-forward blocks that the user names, or raise an error that names the path."""
    checked = []
    for paths in blocks:
        if not isinstance(paths, (tuple, list)) or len(paths) < 2:
            raise TypeError(f"ffn: must list tuples of two or more module paths, got {paths!r}")
        *first, last = (_linear(model, path, "ffn") for path in paths)
        for path, layer in zip(paths[:-1], first, strict=True):
            if layer.out_features != last.in_features:
                raise ValueError(
                    f"ffn: {path!r} has {layer.out_features} outputs, but {paths[-1]!r} has "
                    f"{last.in_features} inputs"
                )
        checked.append(tuple(paths))
    return checked


def conv_norm_pairs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the paths of each convolution and of the affine batch norm that is registered right after it."""
    leaves = [(path, m) for path, m in model.named_modules() if not any(m.children())]
    for (path, conv), (other, norm) in pairwise(leaves):
        if (
            isinstance(conv, nn.modules.conv._ConvNd)
            and isinstance(norm, nn.modules.batchnorm._BatchNorm)
            and norm.affine
            and norm.num_features == conv.out_channels
        ):
            yield path, other


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
