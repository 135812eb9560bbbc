"""The processes that share the parameters of an optimizer: what they decide together."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, distributed

from proxlab.torch.problems import Block, name_parameter
from proxlab.torch.shards import is_distributed

__all__ = ["Ranks", "agreed"]


class Ranks:
    """The processes over which distributed parameters are cut, or copied.

    Parameters
    ----------
    p : DTensor
        One of the parameters.

    Attributes
    ----------
    mesh : DeviceMesh
        The mesh of that parameter.
    count, rank : int
        How many there are, and which of them this one is.
    """

    def __init__(self, p: Any) -> None:
        self.mesh = mesh = p.device_mesh
        self._device = p.device
        self.count: int = mesh.size()
        self._members = _members(mesh)
        self.rank = self._members.index(distributed.get_rank())
        # The default group has all processes; those of a part of them are reached axis by axis.
        everyone = self.count == distributed.get_world_size()
        axes = [axis for axis in range(mesh.ndim) if mesh.size(axis) > 1]
        self._groups: list[Any] = [None] if everyone else [mesh.get_group(axis) for axis in axes]

    @classmethod
    def of(cls, params: Iterable[Any]) -> Ranks | None:
        """Return the processes of all parameters that are distributed; None where there are none.

        Raises
        ------
        ValueError
            If two parameters lie on different processes.
        """
        found: Ranks | None = None
        for p in params:
            if not is_distributed(p):
                continue
            if found is None:
                found = cls(p)
            elif p.device_mesh is not found.mesh and (members := _members(p.device_mesh)) != found._members:
                raise ValueError(
                    "params: distributed parameters must lie on the same processes, got meshes of "
                    f"{found._members} and {members}"
                )
        return found

    def add(self, numbers: Tensor) -> Tensor:
        """Add up an array of every process, in place."""
        for group in self._groups:
            distributed.all_reduce(numbers, group=group)
        return numbers

    def largest(self, numbers: Tensor) -> Tensor:
        """Take the largest of an array of every process, element by element, in place."""
        for group in self._groups:
            distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=group)
        return numbers

    def gather(self, numbers: Tensor) -> Tensor:
        """Return an array of every process, along a new first axis."""
        found = torch.zeros((self.count, *numbers.shape), dtype=numbers.dtype, device=numbers.device)
        found[self.rank] = numbers
        return self.add(found)

    def compare(self, fares: int, does: str) -> tuple[dict[int, int], list[int]]:
        """Tell the others how this process fares and what it is about to do.

        Parameters
        ----------
        fares : int
            0 if well.
        does : str
            What every process has to say alike.

        Returns
        -------
        dict
            How processes fare that do not fare well.
        list of int
            The processes that say other things than the first that fares well.
        """
        said = torch.zeros((2, self.count), dtype=torch.float64, device=self._device)
        said[0, self.rank], said[1, self.rank] = fares, zlib.crc32(does.encode())
        states, words = (column.tolist() for column in self.add(said).cpu())
        failed = {k: int(state) for k, state in enumerate(states) if state}
        well = [k for k in range(self.count) if k not in failed]
        return failed, [k for k in well if words[k] != words[well[0]]]


def agreed(
    ranks: Ranks,
    groups: Sequence[dict[str, Any]],
    make: Callable[[], list[Block]],
    is_spoilt: Callable[[Tensor], bool],
    told: str,
) -> list[Block]:
    """Return the blocks that all processes are about to step; an error in one is an error in all.

    Parameters
    ----------
    ranks : Ranks
    groups : sequence of dict
        The param groups.
    make : callable
        Returns this process's blocks, or raises an error.
    is_spoilt : callable
        Says whether numbers of a parameter are not finite here.
    told : str
        What an error says of such a parameter.
    """
    params = [(number, k, p) for number, group in enumerate(groups) for k, p in enumerate(group["params"])]
    blocks: list[Block] = []
    failure: Exception | None = None
    fares = 0
    try:
        blocks = make()
        spoilt = next((p for block in blocks for p in block.params if is_spoilt(p)), None)
        fares = next((place for place, (*_, p) in enumerate(params, 1) if p is spoilt), 0)
    except (TypeError, ValueError, RuntimeError) as error:
        failure, fares = error, -1
    failed, others = ranks.compare(
        fares, "; ".join(f"{block.where}: {block.group['penalty']!r}" for block in blocks)
    )
    if failure is not None:
        raise failure
    for rank, state in failed.items():
        if state < 0:
            raise RuntimeError(f"rank {rank}: its step failed, so that no rank takes it; see its error")
        number, k, _ = params[state - 1]
        where = f"param group {number}, {name_parameter(groups[number], k)}"
        raise ValueError(f"rank {rank}: {where}: {told}")
    if others:
        raise ValueError(
            f"ranks {others}: the parameters with gradients and their penalties must be the same on all"
        )
    return blocks


def _members(mesh: Any) -> list[int]:
    return sorted(int(k) for k in mesh.mesh.flatten().tolist())
