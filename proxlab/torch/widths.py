"""The widths of a network: what its modules hold, written down and compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

__all__ = ["Contents", "Difference", "contents", "differences", "kind", "record"]


# Attributes that say how a network is used or where it came from.
_OTHER = ("training", "name_or_path")


class Contents(NamedTuple):
    """What a module holds besides other modules.

    Attributes
    ----------
    kind : str
        Its class.
    shapes : dict
        The shapes of its tensors by name: parameters, buffers, plain attributes.
    numbers : dict
        Its public attributes that are numbers, flags, words or lists of such.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]
    numbers: dict[str, Any]


class Difference(NamedTuple):
    """Where a network differs from another of its class: a module, and how in words."""

    path: str
    how: str

    def __str__(self) -> str:
        return f"{self.path!r} {self.how}" if self.path else f"the model {self.how}"


def kind(module: nn.Module) -> str:
    """Return the name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def contents(module: nn.Module) -> Contents:
    """Write down what a module holds."""
    stores: list[dict[str, Any]] = [module._parameters, module._buffers, vars(module)]
    shapes = {n: tuple(t.shape) for store in stores for n, t in store.items() if isinstance(t, Tensor)}
    numbers = {
        name: value
        for name, value in vars(module).items()
        if name not in _OTHER and not name.startswith("_") and _is_plain(value)
    }
    return Contents(kind(module), shapes, numbers)


def differences(model: nn.Module, other: nn.Module) -> Iterator[Difference]:
    """Go through what differs between the modules of two networks; their own classes are not compared."""
    ours, theirs = (dict(m.named_modules(remove_duplicate=False)) for m in (model, other))
    for path in [*(p for p in ours if p not in theirs), *(p for p in theirs if p not in ours)]:
        yield Difference(path, "is in one of them only")
    for path in (p for p in ours if p in theirs):
        a, b = contents(ours[path]), contents(theirs[path])
        if path and a.kind != b.kind:
            yield Difference(path, f"is a {a.kind}, not a {b.kind}")
        for name in {**a.shapes, **b.shapes}:
            if a.shapes.get(name) != b.shapes.get(name):
                yield Difference(path, f"has {name} of shape {a.shapes.get(name)}, not {b.shapes.get(name)}")
        for name in {**a.numbers, **b.numbers}:
            if a.numbers.get(name) != b.numbers.get(name):
                yield Difference(path, f"has {name} = {a.numbers.get(name)!r}, not {b.numbers.get(name)!r}")


def record(model: nn.Module, other: nn.Module) -> dict[str, Any]:
    """Write down what :func:`~proxlab.torch.fit.fit` has to change in another network to make it this one."""
    found: dict[str, Any] = {}
    theirs = dict(other.named_modules(remove_duplicate=False))
    for path, module in model.named_modules(remove_duplicate=False):
        if path not in theirs:
            continue
        a, b = contents(module), contents(theirs[path])
        shapes = {n: list(shape) for n, shape in a.shapes.items() if b.shapes.get(n) != shape}
        numbers = {n: value for n, value in a.numbers.items() if b.numbers.get(n, a) != value}
        if shapes or numbers:
            found[path] = {"shapes": shapes, "numbers": numbers}
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
