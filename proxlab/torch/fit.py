"""Give a network other widths. The source of :func:`fit` is also written into modelling files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["fit"]


def fit(model: nn.Module, widths: Mapping[str, Any], prefix: str = "") -> None:
    """Give the modules of a network the shapes and numbers that a record says, in place.

    What is left of a tensor keeps its first elements; a parameter that is new is zero.

    Parameters
    ----------
    model : torch.nn.Module
    widths : mapping
        For the path of a module ``{"shapes": {name: shape}, "numbers": {name: value}}``.
    prefix : str, optional
        What all paths begin with; others are passed over.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    done: dict[int, Any] = {}
    for path, entry in widths.items():
        if not path.startswith(prefix):
            continue
        module = modules[path.removeprefix(prefix)]
        for name, shape in entry["shapes"].items():
            old = getattr(module, name)
            if id(old) in done:
                setattr(module, name, done[id(old)][1])
                continue
            like = next(module.parameters(recurse=False)) if old is None else old
            new = torch.zeros(shape, dtype=like.dtype, device=like.device)
            if old is not None:
                common = tuple(slice(min(pair)) for pair in zip(shape, old.shape, strict=True))
                new[common] = old.detach()[common]
            if old is None or isinstance(old, nn.Parameter):
                new = nn.Parameter(new, like.requires_grad)
            # The old one is kept, since an id is that of another once it is gone.
            done[id(old)] = old, new
            setattr(module, name, new)
        for name, value in entry["numbers"].items():
            old = getattr(module, name, None)
            setattr(module, name, tuple(value) if isinstance(old, tuple) else value)
