"""Build GPU kernels: the shared source with a team's words, compiled by numba-cuda on first use."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from proxlab.backends.addresses import array_at
from proxlab.backends.cuda import source
from proxlab.backends.disk_cache import without_cache
from proxlab.backends.one_group import EQUATION_NAMES
from proxlab.equations import EQUATIONS
from proxlab.linker import Given, Target, functions_of, state

__all__ = ["Variant", "compiled", "device_source", "elements_at", "jitted", "linked", "names_of"]

#: Registers that a thread may take: two blocks of 256 threads fit beside each other with 128, and four of 128
#: threads; three of these with 168.
FEW_REGISTERS, MORE_REGISTERS = 128, 168
_TEAM = ("lane", "width", "first", "stride", "combine", "greatest", "precise")


@dataclass(frozen=True)
class Variant:
    """Which kernel: all that is constant when it is compiled.

    Attributes
    ----------
    kernel : {"solve_groups", "solve_tile", "shrink_elements"}
    team : {"lanes", "block", "grid"}
    index : {"contiguous", "strided", "gathered"}
    width : int
        Lanes of a team: 1, 4 or 32; a block adds up by warps of so many.
    warps : int
        Such warps of a block.
    dense, shrinks, rescales, narrow, explain : bool
        Whether there is a metric per element, an elementwise part, data whose squares may leave the range, a
        first search in single precision, an explained result.
    count : int
        Pieces of the penalty's slope.
    equation : {"radial", "clipped"}
    finder : type of RootFinder or None
    tile : int
        Elements of a tile.
    dtypes : tuple of (str, str, str)
        Of point, metric and indices.
    """

    kernel: str = "solve_groups"
    team: str = "lanes"
    index: str = "contiguous"
    width: int = 32
    warps: int = 4
    dense: bool = True
    shrinks: bool = False
    rescales: bool = False
    narrow: bool = False
    explain: bool = False
    count: int = 1
    equation: str = "radial"
    finder: Any = None
    tile: int = 1
    dtypes: tuple[str, str, str] = ("float32", "float32", "int32")

    def constants(self) -> dict[str, Any]:
        """Return the constants that the source calls by name."""
        names = ("dense", "shrinks", "rescales", "narrow", "explain", "count", "width", "warps")
        values: dict[str, Any] = {name.upper(): getattr(self, name) for name in names}
        values |= {"RAGGED": self.index == "gathered", "TILE": self.tile, "AHEAD": source.AHEAD}
        x, d, i = map(np.dtype, self.dtypes)
        values |= {"X_DTYPE": x, "D_DTYPE": d, "number_x": x.type, "number_d": d.type, "number_i": i.type}
        values["ATTEMPTS"] = source.ATTEMPTS
        values["NEEDS_BRACKET"] = self.finder is not None and self.finder.needs_bracket
        return values

    @property
    def registers(self) -> int | None:
        """The most registers that a thread may take, or None for what the compiler wants."""
        if self.team == "block" or (self.width == 1 and self.narrow and self.count == 1 and not self.explain):
            return FEW_REGISTERS
        # Several pieces, an explained result and runs take more, and two blocks fit.
        few = self.count == 1 and not self.explain and self.index != "strided"
        return MORE_REGISTERS if self.team == "lanes" and few else None

    def aliases(self) -> dict[str, str]:
        """Return what the source means by the names that a target sets."""
        chosen = {name: f"{name}_{self.team}" for name in _TEAM}
        return chosen | {"index": f"index_{self.index}"}


# A team's words replace those of one thread, of the same name.
_FUNCTIONS = functions_of(source)


def linked(
    variant: Variant,
    make: Callable[[Callable[..., Any]], Any],
    operations: dict[str, Any],
    replaced: dict[str, str],
) -> Callable[..., Any]:
    """Return a kernel's function, with all that it calls made by ``make``.

    Parameters
    ----------
    variant : Variant
    make : callable
        Makes a device function of a plain one.
    operations : dict
        Modules that the source calls: ``cuda``, ``math``.
    replaced : dict
        Names of functions that other ones stand for.
    """
    names = names_of(variant) | {name: _FUNCTIONS[target] for name, target in replaced.items()}
    names |= {name: Given(value, f"operation {name}") for name, value in operations.items()}
    return Target(lambda function, _: make(function)).linked(
        _FUNCTIONS[variant.kernel], names, variant.kernel
    )


def names_of(variant: Variant) -> dict[str, Any]:
    """Return what the source means by the names that a variant sets."""
    names: dict[str, Any] = _FUNCTIONS | EQUATION_NAMES[variant.equation]
    names |= {name: _FUNCTIONS[target] for name, target in variant.aliases().items()}
    names |= EQUATIONS[variant.equation].names()
    names |= {"float64": np.float64, **variant.constants()}
    if variant.finder is not None:
        names["propose"] = variant.finder.propose
    return names


def device_source(variant: Variant) -> Callable[..., Any]:
    """Return a kernel's function as numba-cuda compiles it."""
    from numba import cuda
    from numba.cuda import libdevice

    def make(function: Callable[..., Any]) -> Any:
        return cuda.jit(device=True)(function)

    operations = {"cuda": cuda, "math": math, "libdevice": libdevice, "elements": elements_at()}
    return linked(variant, make, operations, {"two_product": "two_product_fused"})


@lru_cache(maxsize=1)
def elements_at() -> Any:
    """Return what is the array at an address in code for a GPU."""
    from numba.cuda import types
    from numba.cuda.extending import intrinsic
    from numba.cuda.np import arrayobj

    return intrinsic(array_at(types, arrayobj))


def compiled(variant: Variant) -> Any:
    """Return a kernel, compiled at its first launch and cached on disk."""
    return _compiled(variant, "" if variant.finder is None else state(variant.finder.propose))


@lru_cache(maxsize=256)
def _compiled(variant: Variant, _: str) -> Any:
    return jitted(device_source(variant), variant.registers)


def jitted(function: Callable[..., Any], registers: int | None) -> Any:
    """Return a kernel of a linked function, whose threads take so many registers at most."""
    from numba import cuda

    options: dict[str, Any] = {} if registers is None else {"max_registers": registers}
    try:
        return cuda.jit(cache=True, **options)(function)
    except RuntimeError as error:  # no folder for it
        without_cache(str(error))
        return cuda.jit(**options)(function)
