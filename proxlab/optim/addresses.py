"""Arrays at addresses, in compiled code: what :func:`proxlab.optim.fused_many.elements` is in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["array_at"]


def array_at(types: Any, arrayobj: Any) -> Callable[..., Any]:
    """Return what Numba makes an intrinsic of, for its CPU or for its GPU target.

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
