"""Compiling: what Numba makes of the shared source, and what Python calls of it.

Kernels are built on first use and cached on disk; a log message says so once, since a build takes seconds.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import dis
import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from inspect import signature
from typing import Any, get_type_hints

import numba
from numba.core import cgutils
from numba.core.event import Listener, register
from numba.extending import intrinsic

from proxlab.backends import kernels
from proxlab.backends.closed import ClosedCompiler, PartCompiler
from proxlab.backends.disk_cache import KernelCache, folder
from proxlab.linker import Given, Target, described

__all__ = ["COMPILATION", "TARGET", "alone", "made", "outermost", "parts_of", "read_only"]

logger = logging.getLogger("proxlab")

#: Nothing compiled owns an array: callers hold them, and references are not counted.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "nogil": True, "_nrt": False}
#: Sums and elementwise loops may be reordered and contracted; their error bounds hold for any order.
FAST_MATH = {"reassoc", "contract", "nsz"}
#: What tells compiled code from that of other options.
COMPILATION = f"{OPTIONS} {sorted(FAST_MATH)} straight code inlined, own names, parts as written, as marked"
# Every other byte of code says what it does.
_BACKWARD = dis.opmap["JUMP_BACKWARD"]


def made(function: Callable[..., Any], loose: bool, *, cache: bool = False, native: bool = False) -> Any:
    """Compile a linked function; only what is called from outside is cached, and has wrappers.

    Parameters
    ----------
    function : callable
    loose : bool
        Whether its sums may be reordered.
    cache : bool, optional
        Whether Python calls it, or what other compiled code does by its address.
    native : bool, optional
        Whether the latter.
    """
    options = OPTIONS | {"no_cpython_wrapper": not cache, "no_cfunc_wrapper": not native}
    # Always said: what says nothing has the options of who happens to call it first in this process.
    options["fastmath"] = FAST_MATH if loose else False
    if not cache:
        # Records are free only where the compiler sees both sides of a call.
        straight = _BACKWARD not in function.__code__.co_code[::2]
        options["forceinline"] = straight or hasattr(function, "inlined")
    options["pipeline_class"] = ClosedCompiler if cache else PartCompiler
    compiled = numba.njit(**options)(function)
    place = folder() if cache else None
    if place is not None:
        compiled._cache = KernelCache(compiled.py_func, place)
    return compiled


TARGET = Target(made, COMPILATION)


def outermost(target: Target, kernel: Callable[..., Any], names: Mapping[str, Any]) -> Any:
    """Compile what Python calls, cached on disk under the kernel's name.

    It takes Numba microseconds to find the type of a record: Python hands the parts of records over one by
    one, and compiled code puts them together again.
    """
    hints = get_type_hints(kernel)
    kinds = tuple(parts_of(hints[name]) for name in signature(kernel).parameters)
    given = {**names, "kernel": kernel, "grouped": Given(intrinsic(grouped(kinds)), f"{RECORDS} {kinds}")}
    return made(target.linked(kernels.call_grouped, given, kernel.__name__), False, cache=True)


@lru_cache(maxsize=16)
def alone(kernel: Callable[..., Any]) -> Any:
    """Compile what Python calls, where no name of it means anything else."""
    return outermost(TARGET, kernel, {})


def parts_of(kind: Any) -> Any:
    """Return a type of records, with what this returns for the types of its parts; of other types, None."""
    if not hasattr(kind, "_fields"):
        return None
    return kind, tuple(parts_of(part) for part in get_type_hints(kind).values())


def grouped(kinds: tuple[Any, ...]) -> Callable[..., Any]:
    """Return what makes a kernel's arguments of their parts; ``kinds`` are from :func:`parts_of`."""

    def typed(_: Any, parts: Any) -> Any:
        left = iter(parts)

        def typed_as(kind: Any) -> Any:
            if kind is None:
                return next(left)
            return numba.types.BaseTuple.from_types([typed_as(part) for part in kind[1]], kind[0])

        whole = numba.types.Tuple([typed_as(kind) for kind in kinds])

        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            left = iter(cgutils.unpack_tuple(builder, values[0]))

            def made_of(kind: Any, record: Any) -> Any:
                if kind is None:
                    return next(left)
                return context.make_tuple(builder, record, list(map(made_of, kind[1], record.types)))

            return context.make_tuple(builder, whole, list(map(made_of, kinds, whole.types)))

        return whole(parts), codegen

    return typed


#: What tells how records are made from other ways.
RECORDS = described(grouped.__code__)


def read_only(a: Any) -> Any:
    """Return a view that may not be written: kernels are compiled for what may and what may not."""
    view = a.view()
    view.flags.writeable = False
    return view


class _Announcer(Listener):
    """Says once that kernels are being compiled: the only slow thing that the package does on its own."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said and (event.data["dispatcher"].py_func.__module__ or "").startswith("proxlab"):
            self.said = True
            kept = "; they are cached on disk" if folder() else ""
            logger.warning("compiling kernels on first use, which takes some seconds%s", kept)

    def on_end(self, event: Any) -> None:
        pass


register("numba:compile", _Announcer())
