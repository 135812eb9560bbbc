"""What of a distributed parameter lies in this process, and which groups its elements are of.

A :class:`torch.distributed.tensor.DTensor` has the shape of the whole parameter and, in each process, the
memory of a part of it. Update rules are elementwise, so they run on the parts; a group that lies in one part
whole is solved there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed, nn

from proxlab.groups import AxisLayout, Groups, IntArray
from proxlab.parts import Part, coordinate, part_of_box, ravel

__all__ = [
    "Part",
    "aligned",
    "counts_here",
    "division",
    "has_mesh_of",
    "is_distributed",
    "is_memory_of",
    "lies_across",
    "lies_alike",
    "like",
    "living",
    "local",
    "local_part",
    "members_of",
    "part_of",
    "places",
    "reaches",
    "shard_kind",
]


# What is asked most.
_PLAIN = (Tensor, nn.Parameter)


def _tensors() -> Any:
    # Nobody has made a distributed tensor before this is imported.
    return sys.modules.get("torch.distributed.tensor")


def is_distributed(a: Tensor) -> bool:
    """Return whether a tensor is a DTensor."""
    if type(a) in _PLAIN:
        return False
    tensors = _tensors()
    return tensors is not None and isinstance(a, tensors.DTensor)


def shard_kind(p: Tensor) -> str:
    """Say what a parameter is that holds a flat shard, whose groups nothing tells; "" for any other."""
    # FSDP1 marks its flat parameters, and the original ones that are views of a shard of them.
    flat = type(p).__name__ == "FlatParameter" or getattr(p, "_fsdp_flattened", False)
    return "flat parameter" if flat else ""


def local(a: Any) -> Tensor:
    """Return what of a tensor lies in this process: the memory of a DTensor's part, or the tensor itself."""
    found: Tensor = a
    if is_distributed(a):
        # A DTensor is detached slowly, and has no history where gradients are off.
        found = a.detach().to_local() if torch.is_grad_enabled() else a.to_local().detach()
    return found


def like(a: Tensor, p: Any) -> Tensor:
    """Return an array of the shape of a parameter's part as a tensor of the parameter's kind."""
    if not is_distributed(p):
        return a
    made: Tensor = _tensors().DTensor.from_local(
        a, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )
    return made


def is_memory_of(a: Tensor, held: Any) -> bool:
    """Return whether an array is what of a DTensor lies in this process."""
    if not is_distributed(held):
        return False
    own = local(held)
    return bool(
        a.data_ptr() == own.data_ptr()
        and a.shape == own.shape
        and a.stride() == own.stride()
        and a.dtype == own.dtype
    )


def has_mesh_of(a: Any, p: Any) -> bool:
    """Return whether an array lies on the processes of a parameter, in the same order; or both on no mesh."""
    if not (is_distributed(a) and is_distributed(p)):
        return is_distributed(a) == is_distributed(p)
    mine, theirs = p.device_mesh, a.device_mesh
    return mine is theirs or torch.equal(mine.mesh, theirs.mesh)


def lies_alike(a: Any, p: Any) -> bool:
    """Return whether an array is divided over processes as a parameter is."""
    return has_mesh_of(a, p) and (not is_distributed(p) or bool(a.placements == p.placements))


def division(a: Any) -> str:
    """Say how a tensor is divided over processes."""
    return f"{a.placements} over {a.device_mesh}" if is_distributed(a) else "not at all"


def aligned(a: Any, p: Any) -> Any:
    """Return an array as its parameter is divided; all processes of the parameter's mesh must call it."""
    return a if lies_alike(a, p) else a.redistribute(p.device_mesh, p.placements)


def local_part(a: Any, p: Any) -> Tensor:
    """Return what of an array of the whole parameter's shape, however it is divided, belongs to its part.

    All processes must call it, as the array may have to be put together first.
    """
    if lies_alike(a, p):
        return local(a)
    if is_distributed(a):
        a = a.full_tensor()
    if not is_distributed(p):
        whole: Tensor = a
        return whole
    offsets, sizes = _chunk(p)
    return a[tuple(slice(o, o + n) for o, n in zip(offsets, sizes, strict=True))]


def _chunk(p: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return offsets and sizes of the part of a DTensor that lies here."""
    chunks = p.__create_chunk_list__()
    if len(chunks) > 1:
        raise ValueError(f"a part of several pieces, by the placements {p.placements}, is not supported")
    sizes = tuple(int(n) for n in p.to_local().shape)
    if not chunks or 0 in sizes:
        return (0,) * len(sizes), sizes
    return tuple(int(n) for n in chunks[0].offsets), sizes


@lru_cache(maxsize=64)
def members_of(mesh: Any) -> list[int]:
    """Return the processes of a mesh, in order."""
    return sorted(int(k) for k in mesh.mesh.flatten().tolist())


def reaches(a: Any, p: Any) -> bool:
    """Return whether all processes that have a part of a parameter can put an array together."""
    if not is_distributed(a):
        return True
    ours = members_of(p.device_mesh) if is_distributed(p) else [distributed.get_rank()]
    return set(ours) <= set(members_of(a.device_mesh))


def counts_here(p: Any, first: int) -> bool:
    """Return whether this process adds its part of a parameter to sums: of several copies, one is added.

    ``first`` is the first of all processes. A parameter that is divided over some of them has copies in the
    others: those of its mesh count.
    """
    if not is_distributed(p):
        return distributed.get_rank() == first
    if first not in members_of(p.device_mesh):
        return False
    cut = mesh_axes(p)
    return all(k == 0 for axis, k in enumerate(p.device_mesh.get_coordinate()) if axis not in cut)


def mesh_axes(p: Any) -> dict[int, int]:
    """Return the axes of a DTensor's mesh along which it is cut, and which axis of the tensor each cuts."""
    if any(placement.is_partial() for placement in p.placements):
        raise ValueError(f"must not be a sum over processes, got the placements {p.placements}")
    # Shards that are strided, as sharding what is sharded makes them, are no Shard in all versions.
    return {
        axis: int(placement.dim) % p.ndim
        for axis, placement in enumerate(p.placements)
        if hasattr(placement, "dim") and p.device_mesh.size(axis) > 1
    }


def lies_across(groups: Sequence[Groups], params: Sequence[Tensor]) -> bool:
    """Return whether groups, perhaps joint ones of several parameters, lie across processes.

    Read off the placements alone, so that every process says the same.
    """
    if not any(is_distributed(p) for p in params):
        return False
    places = set()
    for g, p in zip(groups, params, strict=True):
        axes = mesh_axes(p) if is_distributed(p) else {}
        layout = g.layout(tuple(p.shape))
        if not isinstance(layout, AxisLayout):
            continue
        if axes and (layout.shape != tuple(p.shape) or set(axes.values()) & set(layout.reduced)):
            return True
        mesh = getattr(p, "device_mesh", None) if axes else None
        places.add((mesh, tuple(axes.items()), tuple(layout.shape[a] for a in layout.kept) if axes else ()))
    return len(places) > 1


def part_of(groups: Groups, p: Any) -> Part:
    """Find the groups of what of a parameter lies here.

    Raises
    ------
    ValueError
        For groups by labels or indices of a parameter that is cut, and for placements that are not
        supported.
    """
    shape = tuple(p.shape)
    if not is_distributed(p) or not mesh_axes(p):
        whole = groups.layout(shape)
        size = whole.group_size if isinstance(whole, AxisLayout) else int(whole.sizes().max(initial=0))
        return Part(whole, None, whole.n_groups, size)
    if not isinstance(groups.layout(shape), AxisLayout):
        raise ValueError(
            "groups by labels or indices of a parameter that is cut over processes are not supported; use "
            "groups by axes"
        )
    return part_of_box(groups, shape, *_chunk(p))


def places(groups: Groups, p: Any) -> tuple[IntArray, IntArray]:
    """Return of every element that lies here the group, of groups by axes, and its place in the group.

    In the order of the elements here; groups and places are those of the whole parameter.
    """
    whole = groups.layout(tuple(p.shape))
    assert isinstance(whole, AxisLayout)
    if is_distributed(p) and mesh_axes(p):
        offsets, sizes = _chunk(p)
        flat = ravel([np.arange(o, o + n) for o, n in zip(offsets, sizes, strict=True)], list(p.shape))
    else:
        flat = np.arange(p.numel())
    return coordinate(flat, whole, whole.kept), coordinate(flat, whole, whole.reduced)


def living(pairs: Sequence[tuple[Groups, Any]]) -> list[npt.NDArray[np.bool_]]:
    """Return which groups of distributed parameters are not zero: of the whole, the same in each process.

    All processes of the parameters' meshes must call it.
    """
    found: list[Tensor] = []
    alike: dict[Any, list[int]] = {}
    for k, (groups, p) in enumerate(pairs):
        part, here = part_of(groups, p), local(p).detach()
        alive = torch.zeros(part.n_groups, dtype=torch.float32, device=here.device)
        rows = part.layout.split(here, 0.0)
        if rows and here.numel():
            ids = slice(None) if part.ids is None else torch.from_numpy(part.ids).to(here.device)
            alive[ids] = part.layout.join_groups([(row != 0).any(dim=1) for row in rows]).float()
        found.append(alive)
        if axes := mesh_axes(p):
            alike.setdefault((p.device_mesh, tuple(axes), here.device), []).append(k)
    # One reduction for all parameters that are divided alike.
    for (mesh, axes, _), some in alike.items():
        together = torch.cat([found[k] for k in some])
        for axis in axes:
            distributed.all_reduce(together, distributed.ReduceOp.MAX, group=mesh.get_group(axis))
        for k, alive in zip(some, together.split([len(found[k]) for k in some]), strict=True):
            found[k] = alive
    return [np.asarray((alive > 0).cpu()) for alive in found]
