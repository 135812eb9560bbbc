"""Groups that are cut over the chunks of a Dask array: their sums are added over chunks, a pass for each.

A pass reads every chunk, adds up its elements' terms slab by slab, and keeps nothing else: memory is that of
the chunks that are worked on, and of a few numbers for each group.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from proxlab.arguments import check_finite, check_metric_values, float_bits
from proxlab.arguments import problem as check_problem
from proxlab.backends.array_api import choose, shrink, shrunk
from proxlab.backends.members import (
    Cut,
    Fragment,
    Pieces,
    Terms,
    all_first_terms,
    exponents,
    lost,
    units,
)
from proxlab.double_double import add_doubles
from proxlab.groups import AxisLayout, Groups
from proxlab.namespaces import namespace
from proxlab.parts import Part, part_of_box
from proxlab.penalties import Penalty
from proxlab.penalties.base import Piece
from proxlab.penalties.equations import Radial
from proxlab.powers import times_power
from proxlab.rootfinders import RootFinder
from proxlab.types import Array

__all__ = ["by_sums", "prox_of_cut_groups"]

#: Partial sums that one task adds up.
FAN_IN = 16
#: Elements of a slab; terms are formed of so many at a time.
SLAB = 2**18
XP = namespace(np.zeros(1))
#: Where a part of an array begins, and its shape.
Box = tuple[tuple[int, ...], tuple[int, ...]]


def by_sums(penalty: Penalty) -> bool:
    """Whether sums over a group are enough for its prox."""
    return isinstance(penalty.equation, Radial) and penalty.equation.compiled


class _Problem(NamedTuple):
    """What every task knows of the problem."""

    groups: Groups
    shape: tuple[int, ...]
    threshold: float
    nonnegative: bool
    steps: Array


class _Radii(NamedTuple):
    """What a group's elements follow from: the radius, the slope there, and the unit of the metric."""

    radius: Array
    tau: Array
    ed: Array


def prox_of_cut_groups(
    penalty: Penalty,
    x: Any,
    step: Any,
    weights: Array,
    metric: Any,
    root_finder: RootFinder,
    backend: str | None,
    check: bool | None,
) -> Any:
    """Return the prox of a Dask array whose chunks cut groups, as a Dask array that is not computed.

    Parameters
    ----------
    penalty : Penalty
        One for which sums are enough (:func:`by_sums`).
    x : dask array
    step, weights : float, or array of shape (n_groups,)
    metric : float, None, or dask array of the chunks of ``x``
    root_finder, backend, check
        As :func:`proxlab.prox` takes them; invalid values are found in any case.
    """
    import dask

    del check
    if backend not in (None, "array_api"):
        raise ValueError(f'backend: must be None or "array_api" where blocks cut groups, got {backend!r}')
    if not isinstance(x._meta, np.ndarray):
        raise TypeError(f"x: must have blocks of NumPy where these cut groups, got {type(x._meta).__name__}")
    equation, count = penalty.equation, penalty.groups.n_groups(tuple(x.shape))
    assert isinstance(equation, Radial)
    # What the arguments are but for the values of elements.
    shown = np.zeros((count, 1), x.dtype)
    number = metric if metric is None or np.ndim(metric) == 0 else None
    checked = check_problem(
        replace(penalty, groups=Groups.over(-1), weights=None), shown, step, number, backend
    )
    problem = _Problem(
        penalty.groups, tuple(x.shape), penalty.threshold, penalty.nonnegative, checked.group_steps()
    )
    arrays = [a for a in (x, metric) if hasattr(a, "dask")]
    number = 1.0 if number is None else float(number)
    weights = np.broadcast_to(weights, (count,))
    radii = dask.delayed(_find_radii, pure=False)(
        _Chunks(problem, lambda: arrays, number), equation.table, weights, root_finder, float_bits(x._meta)
    )
    return _written(problem, radii, arrays, number)


def _written(problem: _Problem, radii: Any, arrays: list[Any], number: float) -> Any:
    """Return the array of Dask that follows from the radii.

    What is read for it is read by tasks of its own, none of which begins before the radii are known: a
    scheduler loads what it can early, and keeps what it will need again.
    """
    import dask.array as da
    from dask._task_spec import DataNode, Task, TaskRef
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    x = arrays[0]
    name = f"prox-{tokenize(radii.key)}"
    graph, renamed = _read_after(radii.key, arrays)
    shared = f"problem-{name}"
    graph[shared] = DataNode(shared, problem)
    for k, box in _boxes(x).items():
        blocks = ((a.name, *k) for a in arrays)
        graph[(name, *k)] = Task(
            (name, *k),
            _write,
            TaskRef(shared),
            box,
            number,
            TaskRef(radii.key),
            *(TaskRef(renamed.get(b, b)) for b in blocks),
        )
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[radii])
    return da.Array(layers, name, x.chunks, meta=np.empty((0,) * x.ndim, dtype=x.dtype))


def _read_after(first: str, arrays: list[Any]) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the tasks of arrays under other keys, to run after a task, and what each key became.

    What a cluster holds already is taken as it is.
    """
    from dask._task_spec import GraphNode, Task, TaskRef, convert_legacy_graph
    from dask.base import clone_key

    tasks = {k: t for a in arrays for k, t in dict(a.__dask_graph__()).items()}
    held = {k: t for k, t in tasks.items() if isinstance(t, TaskRef)}
    nodes: dict[Any, GraphNode] = convert_legacy_graph(
        {k: t for k, t in tasks.items() if k not in held}, all_keys=set(tasks)
    )
    renamed = {k: clone_key(k, first) for k in nodes}
    graph = dict(held)
    for k, node in nodes.items():
        own = node.substitute(renamed, key=renamed[k])
        if not node.dependencies & nodes.keys():
            own = Task(renamed[k], _after, TaskRef(first), own)
        graph[renamed[k]] = own
    return graph, renamed


def _after(first: object, value: Any) -> Any:
    """Return what has waited for something else."""
    del first
    return value


def _write(problem: _Problem, box: Box, number: float, found: _Radii, block: Array, *metric: Array) -> Array:
    """Return a block of the result."""
    out = np.empty_like(block)
    for part, at in _slabs(problem, box):
        d = metric[0][at] if metric else np.full_like(block[at], number)
        ids = _ids(part)
        rows = []
        for m in _matrices(problem, part, block[at], d):
            own = ids[m.ids]
            scaled = times_power(XP, m.d, -found.ed[own][:, None])
            with np.errstate(all="ignore"):
                rows.append(shrunk(XP, m.x, scaled, found.radius[own], found.tau[own]))
        out[at] = part.layout.join(rows, block[at].astype(np.float64))
    return out


def _find_radii(
    chunks: _Chunks, table: tuple[Piece, ...], weights: Array, finder: RootFinder, bits: int
) -> _Radii:
    """Solve the scalar equations of all groups."""
    ex = ed = np.zeros(len(weights))
    with np.errstate(all="ignore"):
        members = _Groups(chunks, ex, ed)
        if not members.in_range:
            ex, ed = units(XP, chunks.total(np.maximum, exponents, ex))
            (apart,) = chunks.total(np.add, _lost, ed)
            if apart.any():
                raise ValueError(
                    f"x: elements and metric of group {int(np.argmax(apart > 0))} spread too far for a group "
                    "that is cut by chunks; rechunk so that a block holds it whole"
                )
            members = _Groups(chunks, ex, ed)
        rtol = finder.relative_tolerance(bits)
        choice = choose(XP, members, chunks.problem.steps, weights, table, finder, rtol)
    return _Radii(choice.radius, choice.tau, ed)


class _Chunks:
    """The chunks of a point and of a metric, over which numbers of groups are put together."""

    def __init__(self, problem: _Problem, arrays: Callable[[], list[Any]], number: Any) -> None:
        self.problem, self._arrays, self._number = problem, arrays, number

    def total(
        self, how: Callable[..., Any], function: Callable[..., Array], *values: Array, check: bool = False
    ) -> Array:
        """Put together what ``function(xp, parts, *values)`` returns for every chunk.

        Returns an array whose last axis are the groups.
        """
        import dask

        x, *metric = self._arrays()
        boxes, shared = _boxes(x), dask.delayed((self.problem, values), traverse=False)
        blocks = [a.to_delayed() for a in (x, *metric)]
        alike: dict[tuple[int, ...], list[Any]] = {}
        one = dask.delayed(_of_chunk, pure=False)
        kept = _kept_axes(self.problem)
        for k in product(*(range(len(c)) for c in x.chunks)):
            d = blocks[1][k] if metric else self._number
            task = one(shared, how, function, check, boxes[k], blocks[0][k], d)
            # Chunks along the axes inside a group have the same groups.
            alike.setdefault(tuple(k[a] for a in kept), []).append(task)
        merge = dask.delayed(partial(_merged, how), pure=False)
        roots = []
        for tasks in alike.values():
            while len(tasks) > 1:
                tasks = [merge(tasks[k : k + FAN_IN]) for k in range(0, len(tasks), FAN_IN)]
            roots += tasks
        found = _merged(how, _compute(roots))
        table = np.zeros((len(found.table), len(self.problem.steps)))
        table[:, found.ids] = found.table
        return table


class _Table(NamedTuple):
    """Numbers of some groups, ``ids``, which are in order."""

    ids: Array
    table: Array


def _of_chunk(
    shared: tuple[_Problem, tuple[Array, ...]], how: Callable[..., Any], function: Callable[..., Array],
    check: bool, box: Box, x: Array, d: Any,
) -> _Table:  # fmt: skip
    problem, values = shared
    if check:
        check_finite("x", x, XP)
        if np.ndim(d):
            check_metric_values(d, XP)
    found = []
    for part, at in _slabs(problem, box):
        parts = _matrices(problem, part, x[at], d[at] if np.ndim(d) else np.full_like(x[at], d))
        ids = _ids(part)
        with np.errstate(all="ignore"):
            found.append(_Table(ids, function(XP, parts, *(v[ids] for v in values))))
    return _merged(how, found)


def _slabs(problem: _Problem, box: Box) -> Iterator[tuple[Part, tuple[slice, ...]]]:
    """Cut a chunk along its longest axis, across groups if it can: the groups of a slab, and its place."""
    layout, (offsets, shape) = problem.groups.layout(problem.shape), box
    if not (isinstance(layout, AxisLayout) and layout.shape == problem.shape):
        yield part_of_box(problem.groups, problem.shape, *box), (slice(None),) * len(shape)
        return
    axis = max(range(len(shape)), key=lambda a: (a in layout.reduced and shape[a] > 1, shape[a]))
    size = max(1, SLAB * shape[axis] // max(math.prod(shape), 1))
    for first in range(0, max(shape[axis], 1), size):
        at = tuple(
            slice(first, min(first + size, n)) if a == axis else slice(0, n) for a, n in enumerate(shape)
        )
        begin = tuple(o + s.start for o, s in zip(offsets, at, strict=True))
        part = part_of_box(problem.groups, problem.shape, begin, tuple(s.stop - s.start for s in at))
        yield part, at


def _matrices(problem: _Problem, part: Part, x: Array, d: Array) -> list[Fragment]:
    """Arrange a chunk as rows of groups, after the elementwise part of the penalty."""
    ids = _ids(part)
    steps = part.layout.split_groups(problem.steps[ids])
    rows = (part.layout.split(a.astype(np.float64), fill) for a, fill in ((x, 0.0), (d, 1.0)))
    local = part.layout.split_groups(np.arange(len(ids)))
    return [
        Fragment(shrink(XP, r, s, m, problem.threshold, problem.nonnegative), m, k)
        for r, m, s, k in zip(*rows, steps, local, strict=True)
        if r.shape[0]
    ]


def _ids(part: Part) -> Array:
    return np.arange(part.n_groups) if part.ids is None else part.ids


def _merged(how: Callable[..., Any], found: Sequence[_Table]) -> _Table:
    """Put numbers of groups together."""
    ids = found[0].ids
    if any(not np.array_equal(ids, t.ids) for t in found):
        ids = np.unique(np.concatenate([t.ids for t in found]))
    first = found[0].table
    total = np.full((*first.shape[:-1], len(ids)), -math.inf if how is np.maximum else 0.0)
    for t in found:
        at = np.searchsorted(ids, t.ids)
        total[:, at] = how(total[:, at], t.table)
    return _Table(ids, total)


class _Groups(Cut):
    """Groups whose sums are added over chunks."""

    def __init__(self, chunks: _Chunks, ex: Array, ed: Array) -> None:
        self._chunks = chunks
        problem = chunks.problem
        size = int(problem.groups.sizes(problem.shape).max(initial=0))
        super().__init__(XP, ex, ed, size)

    def sum(self, terms: Terms, *values: Array) -> tuple[Array, ...]:
        """Add up the terms of each group, at the numbers of each group."""
        first = terms is all_first_terms
        return tuple(
            self._chunks.total(np.add, partial(_sums, terms), self.ex, self.ed, *values, check=first)
        )

    def exact_square(self) -> tuple[Array, Array]:
        """Return ``‖b‖²`` as a double-double."""
        high, low = self._chunks.total(add_doubles, _squares, self.ex, self.ed)
        return high, low


def _sums(terms: Terms, xp: Any, parts: Sequence[Fragment], ex: Array, ed: Array, *values: Array) -> Array:
    return Pieces(xp, parts, ex, ed).sum(terms, *values)


def _squares(xp: Any, parts: Sequence[Fragment], ex: Array, ed: Array) -> Array:
    return Pieces(xp, parts, ex, ed).exact_square()


def _lost(xp: Any, parts: Sequence[Fragment], ed: Array) -> Array:
    return lost(xp, parts, ed)[None, :]


def _boxes(x: Any) -> dict[tuple[int, ...], Box]:
    """Return where every chunk begins, and its shape."""
    starts = [np.concatenate([[0], np.cumsum(c)]).tolist() for c in x.chunks]
    return {
        k: (
            tuple(starts[a][i] for a, i in enumerate(k)),
            tuple(int(x.chunks[a][i]) for a, i in enumerate(k)),
        )
        for k in product(*(range(len(c)) for c in x.chunks))
    }


def _kept_axes(problem: _Problem) -> tuple[int, ...]:
    """Return axes along which chunks have other groups, where that is so along some."""
    layout = problem.groups.layout(problem.shape)
    whole = isinstance(layout, AxisLayout) and layout.shape == problem.shape
    return layout.kept if whole and isinstance(layout, AxisLayout) else ()


def _compute(tasks: list[Any]) -> list[Any]:
    """Compute within a task, by whoever computes the task; threads are some of our own, so that all end."""
    import dask

    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            distributed.get_worker()
        except ValueError:
            pass
        else:
            return list(dask.compute(*tasks))
    if threading.current_thread() is threading.main_thread():
        return list(dask.compute(*tasks, scheduler="sync"))
    with ThreadPoolExecutor(dask.config.get("num_workers", None) or dask.system.CPU_COUNT) as pool:
        return list(dask.compute(*tasks, scheduler="threads", pool=pool))
