"""The namespace of arrays: NumPy itself for its own, else the one that array-api-compat wraps."""

from __future__ import annotations

from typing import Any

import array_api_compat
import numpy as np
import numpy.typing as npt

from proxlab.types import Array

__all__ = ["namespace", "to_numpy"]

# From 2.1 on NumPy has all that is used here; to wrap it loads every module of it, which takes longer than
# all else of a process's first call.
_IS_ENOUGH = hasattr(np, "cumulative_sum")


def namespace(*arrays: Array) -> Any:
    """Return the namespace of some arrays, which is one."""
    if _IS_ENOUGH and all(isinstance(a, (np.ndarray, np.generic)) for a in arrays):
        return np
    return array_api_compat.array_namespace(*arrays)


def to_numpy(a: Array) -> npt.NDArray[Any]:
    """Copy an array of any namespace and device to NumPy."""
    if array_api_compat.is_cupy_array(a):
        return np.asarray(a.get())
    return np.asarray(array_api_compat.to_device(a, "cpu") if array_api_compat.is_torch_array(a) else a)
