"""Arrays as addresses: where one lies, and in compiled code the array that lies there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import array_api_compat

from proxlab.types import Array

__all__ = ["address", "array_at"]


def address(a: Array) -> int:
    """Return where an array of NumPy, CuPy or PyTorch begins."""
    if array_api_compat.is_torch_array(a):
        return int(a.data_ptr())
    return int(a.ctypes.data if array_api_compat.is_numpy_array(a) else a.data.ptr)


def array_at(types: Any, arrayobj: Any) -> Callable[..., Any]:
    """Return what Numba makes an intrinsic of, for its CPU or for its GPU target: ``f(address, n, one)``.

    The array is flat, has ``n`` elements and the type of ``one``.

    Parameters
    ----------
    types, arrayobj : module
        The target's types, and its arrays.
    """

    def elements(typing: Any, address: Any, n: Any, one: Any) -> Any:
        kind = types.Array(one, 1, "C")

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            item = context.get_data_type(one)
            width = context.get_constant(types.intp, context.get_abi_sizeof(item))
            array = context.make_array(kind)(context, builder)
            arrayobj.populate_array(
                array, data=builder.inttoptr(arguments[0], item.as_pointer()), shape=[arguments[1]],
                strides=[width], itemsize=width, meminfo=None,
            )  # fmt: skip
            return array._getvalue()

        return kind(types.intp, types.intp, one), codegen

    return elements
