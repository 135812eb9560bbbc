"""The search of a root over arrays: a group a row, all at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from proxlab import search
from proxlab.backends.records import over_parts
from proxlab.equations import Equation, Sums, Task
from proxlab.linker import Given, over_arrays, state
from proxlab.rootfinders import RootFinder
from proxlab.search import OPEN, SEEKING, Root, Search
from proxlab.types import Array

__all__ = ["find_root"]


def find_root(
    xp: Any,
    finder: RootFinder,
    equation: Equation,
    sums: Callable[[Array], Sums],
    task: Task,
    active: Array,
) -> Root:
    """Find the up-crossing of ``f`` in the active rows.

    Parameters
    ----------
    xp : module
    finder : RootFinder
    equation : Equation
    sums : callable
        Returns the sums of every row, at a radius for each.
    task : Task
    active : array of bool
        The rows to solve.
    """
    steps = ("begin", "bracketed", "seek", "ask", "advance", "finish")
    begin, bracketed, seek, ask, advance, finish = (_linked(step, xp, finder, equation) for step in steps)
    none = xp.zeros_like(xp.astype(active, xp.int64))
    known = begin(task, task.at, sums(task.at), none)
    if finder.needs_bracket:
        known = _where(xp, active, bracketed(known, sums(task.far), task), known)
        while bool(xp.any(rows := active & (known.code == SEEKING))):
            known = _where(xp, rows, seek(known, sums(known.r), task), known)
    while bool(xp.any(rows := active & (known.code == OPEN))):
        asked = ask(known, task)
        known = _where(xp, rows, advance(asked, sums(asked.r), task), known)
    root = finish(known, task, True)
    exists = root.exists & active
    return Root(
        exists,
        xp.where(exists, root.r, xp.zeros_like(root.r)),
        root.lower,
        root.upper,
        root.converged | ~active,
        root.unknown & active,
        xp.where(active, root.iterations, none),
        xp.where(active, root.evaluations, none),
    )


def _linked(step: str, xp: Any, finder: RootFinder, equation: Equation) -> Callable[..., Any]:
    kind: Any = type(finder)
    names = equation.names() | {
        "propose": _proposal(kind, xp, state(kind.propose)), "NEEDS_BRACKET": kind.needs_bracket
    }  # fmt: skip
    return over_arrays(getattr(search, step), xp, names)


@lru_cache(maxsize=64)
def _proposal(kind: Any, xp: Any, known: str) -> Any:
    """Return a root finder's proposal; that of a user under watch, for the state that it is in."""
    if not known:
        return kind.propose
    propose = over_arrays(kind.propose, xp)

    def watched(r: Array, *others: Array) -> list[Array]:
        try:
            new, m0, m1, m2, m3, m4 = propose(r, *others)
            return [_as_numbers(xp, v, r) for v in (new, m0, m1, m2, m3, m4)]
        except Exception as error:
            raise TypeError(
                f"root_finder: {kind.__name__}.propose does not run over arrays: {type(error).__name__}: "
                f"{error}; write it without if, with the operations of proxlab.scalar, and let it return six "
                "numbers that are real"
            ) from error

    return Given(watched, f"watched {known}")


def _as_numbers(xp: Any, new: Any, like: Array) -> Array:
    """Return what a root finder proposes as an array, or raise an error if it is none of real numbers."""
    if isinstance(new, (bool, int, float)):
        return xp.full_like(like, float(new))
    if xp.isdtype(new.dtype, "complex floating"):
        raise TypeError(f"the points that it returns are of {new.dtype}")
    # Numbers of another shape are an error here.
    return xp.where(xp.ones_like(like, dtype=xp.bool), xp.astype(new, like.dtype), like)


def _where(xp: Any, rows: Array, new: Search, old: Search) -> Search:
    found: Search = over_parts(lambda a, b: xp.where(rows, a, b), new, old)
    return found
