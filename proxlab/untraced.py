"""Calls that ``torch.compile`` leaves alone.

Dynamo, the tracer behind ``torch.compile``, turns NumPy into operations of torch as it reads Python. What
runs here are compiled kernels on memory, and numbers that decide what runs next: read that way, they came out
wrong without a word. A public function is therefore a break in the graph, and runs as it does elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

__all__ = ["untraced"]

F = TypeVar("F", bound=Callable[..., Any])


def untraced(function: F) -> F:
    """Keep the tracer of torch away from a function and from what it calls; without torch, change nothing."""
    alone: Callable[..., Any] | None = None

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal alone
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if alone is None:
            alone = sys.modules["torch"].compiler.disable(function)
        return alone(*args, **kwargs)

    # What is marked so is not read into; the call then turns the tracer off for what it calls.
    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    call._torchdynamo_disable_msg = "proxlab runs as it is"  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
