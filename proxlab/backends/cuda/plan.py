"""Which GPU kernels solve a problem: chosen by the shape of its groups.

Nothing here asks for a device or reads an array's values, so that the same plans run in a simulator.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from proxlab.arguments import Problem, dtype_name
from proxlab.backends.addresses import address
from proxlab.backends.cuda.build import Variant
from proxlab.backends.cuda.source import (
    CHOSEN,
    GROUPS,
    INDICES,
    INDPTR,
    INVALID,
    MOST,
    NONNEGATIVE,
    OUT,
    PARTIAL,
    SHAPE,
    SIZE,
    STEPS,
    WEIGHTS,
    WHOLE,
    D,
    X,
    Z,
)
from proxlab.backends.records import GroupResults, Options
from proxlab.groups import IndexLayout, Layout
from proxlab.rootfinders import Newton
from proxlab.types import Array

__all__ = ["MAX_BLOCKS", "Launch", "Memory", "Place", "arrange", "launches"]

#: Largest groups of the teams within a warp, and their lanes; a block adds up by warps of the last. Each lane
#: solves the equation, which takes as long as some 50 elements: so many that a lane has 16 to 64.
LIMITS, LANES = (16, 64, 256, 1024, 2048), (1, 2, 8, 16, 32)
#: Least size of groups for which all blocks work together, where there are fewer than multiprocessors.
GIANT = 65536
THREADS = {"lanes": 128, "block": 256, "grid": 256}
#: Most blocks that work together, and elements that each should have.
MAX_BLOCKS, PER_BLOCK = 1024, 4096
#: Bytes of shared memory of a tile, and the bytes that one access to memory brings.
TILE_BYTES, SECTOR = 40960, 32
#: Blocks of the elementwise kernel at most; beyond, a thread takes several elements.
ELEMENT_BLOCKS = 16384

Shape = tuple[int, int, int, int]
#: Arrays by the place of their address.
Arrays = dict[int, Array | None]


@dataclass(frozen=True)
class Launch:
    """A kernel with its grid and its arguments; where all blocks work together, fewer may be launched.

    Attributes
    ----------
    variant : Variant
    blocks, threads : int
    arguments : tuple
        Whole numbers and real ones, at the places that :mod:`proxlab.backends.cuda.source` names.
    arrays : list of array
        Those whose addresses are among the whole numbers.
    """

    variant: Variant
    blocks: int
    threads: int
    arguments: tuple[tuple[int, ...], tuple[float, ...]]
    arrays: list[Array]


@dataclass(frozen=True, eq=False)
class Place:
    """Where a problem's arrays are, and on which stream things happen.

    Attributes
    ----------
    xp : namespace
    device : device
        As the namespace knows it.
    number, stream, processors : int
        Of the device: its number, the handle of the current stream, its multiprocessors.
    """

    xp: Any
    device: Any
    number: int
    stream: int
    processors: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells it from other places; CuPy's devices cannot be keys."""
        return self.xp, self.number, self.stream

    def put(self, values: Any) -> Array:
        """Copy an array from the host."""
        return self.xp.asarray(values, device=self.device)


def arrange(layout: Layout, size_x: int, size_d: int) -> tuple[str, Shape]:
    """Say how kernels reach the elements of a group.

    Parameters
    ----------
    layout : Layout
    size_x, size_d : int
        Bytes of an element of the point and of the metric; 0 for a metric that is one number.

    Returns
    -------
    how : {"gathered", "contiguous", "strided", "tile", "transposed"}
        By indices; one after the other; in runs that fill an access to memory; in shorter runs, a tile of
        neighbouring groups at once; in a copy with a group per row.
    shape : tuple of int
        (outer kept, outer reduced, inner kept, inner reduced).
    """
    if isinstance(layout, IndexLayout):
        return "gathered", (1, 1, 1, 1)
    n = layout.group_size
    shape = layout.canonical_shape()
    if shape is not None and shape[1] == 1:
        return "contiguous", shape
    # Kernels divide by the length of a run in 32 bits.
    if shape is not None and shape[3] * size_x >= SECTOR and n < 2**32:
        return "strided", shape
    if shape is not None and _tile_groups(n, size_x, size_d) >= min(4, shape[2]):
        return "tile", shape
    return "transposed", (layout.n_groups, 1, 1, n)


def _tile_groups(n: int, size_x: int, size_d: int) -> int:
    return TILE_BYTES // (size_x + size_d) // (n | 1)


def team(n: int, count: int, processors: int) -> tuple[str, int]:
    """Choose who solves one of ``count`` groups of ``n`` elements: a kind of team, its lanes in a warp."""
    for limit, lanes in zip(LIMITS, LANES, strict=True):
        if n <= limit:
            return "lanes", lanes
    return ("grid" if n >= GIANT and count < processors else "block"), LANES[-1]


class Memory(NamedTuple):
    """What kernels read and write.

    Attributes
    ----------
    x, d, z : array
        Flat: the point, the metric (``x`` again where that is a number) and the result, which may be ``x``.
    bad : array of one int32
        Becomes 1 where input is invalid.
    results : GroupResults or None
        Where to put what is known of the groups, if that was asked for.
    """

    x: Array
    d: Array
    z: Array
    bad: Array
    results: GroupResults | None


def launches(
    p: Problem, options: Options, how: str, shape: Shape, memory: Memory, place: Place
) -> list[Launch]:
    """Choose the launches that solve a problem, in order.

    Parameters
    ----------
    p : Problem
    options : Options
    how, shape : str, tuple of int
        From :func:`arrange`.
    memory : Memory
    place : Place
    """
    x, d, z, bad, results = memory
    penalty, layout, equation = p.penalty, p.layout, p.equation
    finder, pieces, radial = options.finder, equation.rows, equation.kernel == "radial"
    dense = p.metric is not None and not isinstance(p.metric, float)
    metric = 1.0 if p.metric is None or dense else p.metric
    count, size, one = layout.n_groups, x.shape[0], isinstance(p.step, float)
    weights = np.asarray(p.weights)
    weight, own = float(weights[0]) if len(weights) else 1.0, None
    if weights.min(initial=np.inf) < weights.max(initial=-np.inf):
        own = _upload(weights.tobytes(), place)
    arrays: Arrays = {X: x, Z: z, INVALID: bad, WEIGHTS: own}
    arrays |= {D: d if dense else None, STEPS: None if one else p.step} | dict(enumerate(results or (), OUT))
    real = (
        metric, p.step if one else 1.0, weight, float(penalty.threshold), options.rtol, float(finder.atol),
        *pieces.ravel().tolist(),
    )  # fmt: skip
    numbers = {SIZE: size, MOST: finder.max_iterations, NONNEGATIVE: int(penalty.nonnegative)}

    def made(variant: Variant, blocks: int, threads: int, groups: int, more: Arrays | None = None) -> Launch:
        there = arrays | (more or {})
        whole = numbers | {GROUPS: groups} | dict(enumerate(shape, SHAPE))
        whole |= {k: 0 if a is None else address(a) for k, a in there.items()}
        arguments = tuple(whole.get(k, 0) for k in range(WHOLE)), real
        return Launch(variant, blocks, threads, arguments, [a for a in there.values() if a is not None])

    dtypes = (dtype_name(x.dtype), dtype_name(d.dtype), "int32")
    if equation.flat and how == "contiguous" and count == size and results is None:
        variant = Variant("shrink_elements", dense=dense, width=1, count=0, dtypes=dtypes)
        return [made(variant, min(-(-size // 256), ELEMENT_BLOCKS), 256, count)]
    shrinks = penalty.threshold > 0 or penalty.nonnegative
    rescales = shrinks or "float64" in dtypes
    base = Variant(
        dense=dense, shrinks=shrinks, rescales=rescales,
        narrow=radial and not rescales and type(finder) is Newton, explain=results is not None,
        count=len(pieces), equation=equation.kernel, finder=type(finder), dtypes=dtypes,
    )  # fmt: skip

    n = shape[1] * shape[3]
    if how == "tile":
        size_d = d.dtype.itemsize if dense else 0
        elements = TILE_BYTES // (x.dtype.itemsize + size_d)
        # All threads have a group, as far as there is room, and each but one.
        width = min(1 << (n * THREADS["lanes"] // elements).bit_length(), LANES[-1])
        groups = min(_tile_groups(n, x.dtype.itemsize, size_d), THREADS["lanes"] // width)
        variant = replace(base, kernel="solve_tile", width=width, tile=elements)
        return [made(variant, shape[0] * -(-shape[2] // groups), THREADS["lanes"], groups)]

    def launch(base: Variant, n: int, some: int, more: Arrays) -> Launch:
        kind, width = team(n, some, place.processors)
        threads = THREADS[kind]
        variant = replace(base, team=kind, width=width, warps=threads // width)
        blocks = {"lanes": -(-some * width // threads), "block": some}.get(kind)
        if blocks is None:
            blocks = min(MAX_BLOCKS, -(-n // PER_BLOCK))
            more[PARTIAL] = p.xp.empty((3 * MAX_BLOCKS,), dtype=p.xp.float64, device=place.device)
        return made(variant, min(blocks, 2**31 - 1), threads, some, more)

    if how == "gathered":
        ragged = _ragged(layout, place)
        base = replace(base, index="gathered", dtypes=(*dtypes[:2], dtype_name(ragged.indptr.dtype)))
        where = {INDPTR: ragged.indptr, INDICES: ragged.indices}
        return [launch(base, n, len(chosen), where | {CHOSEN: chosen}) for n, chosen in ragged.classes]
    return [launch(replace(base, index="strided" if how == "strided" else "contiguous"), n, count, {})]


# ----------------------------------------------------------------------------------------------------
# What is the same in every step of a training is copied to the device once for each stream that uses it: on
# another stream it might be read before it is there.


_uploads: dict[tuple[Any, ...], Array] = {}
MAX_UPLOADS = 64


def _upload(values: bytes, place: Place) -> Array:
    key = (values, *place.key)
    if key not in _uploads:
        if len(_uploads) >= MAX_UPLOADS:
            _uploads.pop(next(iter(_uploads)))
        _uploads[key] = place.put(np.frombuffer(values).copy())
    return _uploads[key]


@dataclass(frozen=True)
class _Ragged:
    """Offsets and indices on a device, and the groups by who solves them: the largest size, and which."""

    indptr: Array
    indices: Array
    classes: list[tuple[int, Array]]


_on_devices: dict[tuple[Any, ...], _Ragged] = {}


def _ragged(layout: Layout, place: Place) -> _Ragged:
    indptr, indices = layout.csr()
    key = (id(indptr), *place.key)
    if key not in _on_devices:
        narrow = np.int32 if max(indptr[-1], indices.max(initial=0)) < 2**31 else np.int64
        sizes = np.diff(indptr)
        kinds = np.searchsorted([*LIMITS, GIANT - 1], sizes)
        chosen = [np.flatnonzero(kinds == k) for k in np.unique(kinds)]

        def put(a: Any) -> Array:
            return place.put(a.astype(narrow))

        classes = [(int(sizes[c].max()), put(c)) for c in chosen]
        _on_devices[key] = _Ragged(put(indptr), put(indices), classes)
        # Groups own their offsets; once they are gone, so is the copy.
        weakref.finalize(indptr, _on_devices.pop, key, None)
    return _on_devices[key]
