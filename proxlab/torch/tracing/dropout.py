"""Runs without dropout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["without_dropout"]


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
