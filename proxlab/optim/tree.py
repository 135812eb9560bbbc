"""Trees of parameters: nested dicts, lists and tuples with arrays at their leaves, or one array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["leaves", "like", "rebuild", "spread"]


def _children(tree: Any) -> list[tuple[Any, Any]] | None:
    """Return the keys and children of a node; None for a leaf."""
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, (list, tuple)):
        return list(enumerate(tree))
    return None


def leaves(tree: Any, path: str) -> dict[str, Any]:
    """Return the leaves by their paths, as one would write them: ``params['conv'][0]``."""
    children = _children(tree)
    if children is None:
        return {path: tree}
    found: dict[str, Any] = {}
    for key, child in children:
        found |= leaves(child, f"{path}[{key!r}]")
    return found


def rebuild(tree: Any, values: Iterator[Any]) -> Any:
    """Return a tree of the same structure with other leaves, in the order of :func:`leaves`."""
    children = _children(tree)
    if children is None:
        return next(values)
    new = [(key, rebuild(child, values)) for key, child in children]
    if isinstance(tree, Mapping):
        return type(tree)(new)  # type: ignore[call-arg]
    parts = [child for _, child in new]
    return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)


def like(tree: Any, params: Any, name: str) -> list[Any]:
    """Return the leaves of a tree in the order of those of ``params``.

    Raises
    ------
    TypeError
        If the two differ in structure; the message names the place.
    """
    if _children(params) is None:
        return [tree]
    return [leaf for place, a, b in _pairs(tree, params, name) for leaf in like(a, b, place)]


def spread(prefix: Any, params: Any, name: str) -> list[Any]:
    """Return a value for each leaf of ``params``: a leaf of the prefix goes to all leaves below it."""
    if _children(params) is None or _children(prefix) is None:
        return [prefix] * len(leaves(params, name))
    return [leaf for place, a, b in _pairs(prefix, params, name) for leaf in spread(a, b, place)]


def _pairs(tree: Any, params: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Go through the children of two trees: the place, and what either has there."""
    children, given = _children(params) or [], dict(_children(tree) or [])
    same = isinstance(tree, Mapping) if isinstance(params, Mapping) else isinstance(tree, (list, tuple))
    keys = [key for key, _ in children]
    if not same or set(given) != set(keys):
        got = f"the keys {list(given)}" if given else f"{type(tree).__name__}"
        raise TypeError(f"{name}: must have the structure of params, here the keys {keys}, got {got}")
    for key, child in children:
        yield f"{name}[{key!r}]", given[key], child
