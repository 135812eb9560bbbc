"""Types that the whole package shares."""

from __future__ import annotations

from typing import Any

__all__ = ["Array"]

Array = Any
"""An array of any array-API namespace (NumPy, CuPy, torch, …)."""
