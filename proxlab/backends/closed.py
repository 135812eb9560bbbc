"""Kernels whose compiled code is the same in the process that compiles them and in those that load them.

What only other compiled functions call has no code of its own: each kernel optimises its own copy of it.
"""

# mypy: disable-error-code="misc,no-untyped-call"

from __future__ import annotations

import hashlib
from typing import Any

from llvmlite import binding as llvm
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

__all__ = ["ClosedCompiler", "PartCompiler"]


class _ClosedLibrary(JITCodeLibrary):
    """A library that calls its own copies of what is linked into it.

    Numba leaves them to be merged with those of other libraries in the process: a kernel then calls copies
    that were compiled with their functions alone. These round otherwise where sums may be reordered, and a
    process that loads the kernel has none.
    """

    def _optimize_final_module(self) -> None:
        linked = [f for f in self._final_module.functions if not f.is_declaration]
        own = "".join(f.name for f in linked if f.linkage == llvm.Linkage.external)
        tag = hashlib.sha256(own.encode()).hexdigest()[:16]
        for function in linked:
            if function.linkage == llvm.Linkage.linkonce_odr:
                function.linkage = llvm.Linkage.internal
                # The compiler may change its arguments now, and the loader would take it, by its name, for
                # what other libraries have under that name.
                function.name = f"{function.name}.{tag}"
        super()._optimize_final_module()


class ClosedCompiler(Compiler):
    """Numba's compiler, into a library of this kind."""

    def define_pipelines(self) -> Any:
        """Return Numba's passes."""
        if self.state.library is None:
            library = _ClosedLibrary(self.state.targetctx.codegen(), self.state.func_id.func_qualname)
            library.enable_object_caching()
            self.state.library = library
        return super().define_pipelines()


class _Uses:
    """Numba's code generator for a library that has no code of its own."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)

    def set_env(self, name: str, environment: Any) -> None:
        """Do nothing: there is no address."""


class _PartLibrary(JITCodeLibrary):
    """A library that is only linked into others, which optimise it and make code of it."""

    @property
    def codegen(self) -> Any:
        """As others see it."""
        return _Uses(self._codegen)

    def get_pointer_to_function(self, name: str) -> int:
        """Return that there is none."""
        self._ensure_finalized()
        return 0

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class PartCompiler(Compiler):
    """Numba's compiler of functions that only other compiled functions call."""

    def define_pipelines(self) -> Any:
        """Return Numba's passes."""
        if self.state.library is None:
            self.state.library = _PartLibrary(
                self.state.targetctx.codegen(), self.state.func_id.func_qualname
            )
        return super().define_pipelines()
