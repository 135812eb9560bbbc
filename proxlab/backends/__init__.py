"""Backends: one over any array namespace, one compiled for the CPU, one for GPUs; all have one face."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from proxlab.arguments import Problem
from proxlab.backends.records import Bounds, Options, Solved
from proxlab.types import Array

__all__ = ["Backend", "backend_of"]


class Backend(NamedTuple):
    """The face of a backend; problems are validated before."""

    solve: Callable[[Problem, Options], Solved]
    certify: Callable[[Problem, Array], Bounds]


def backend_of(p: Problem) -> Backend:
    """Return the backend that a problem was validated for; what compiles is imported when it is asked for."""
    if p.backend == "numba":
        from proxlab.backends import numba_cpu

        return Backend(numba_cpu.solve, _certify_compiled)
    from proxlab.backends import arrays

    if p.backend == "cuda":
        from proxlab.backends.cuda import launch

        return Backend(launch.solve, arrays.certify)
    return Backend(arrays.solve, arrays.certify)


def _certify_compiled(p: Problem, z: Array) -> Bounds:
    # A prox alone does not wait for what certifies.
    from proxlab.backends import numba_certify

    return numba_certify.certify(p, z)
