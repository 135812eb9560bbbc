"""The processes that share the parameters of an optimizer: what they decide together."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from proxlab.penalties import Penalty
from proxlab.torch.problems import Block, Proposals, name_parameter
from proxlab.torch.shards import is_distributed, members_of

__all__ = ["Agreement", "Ranks", "agreed", "failure_of", "tried", "words_of"]

T = TypeVar("T")

#: Bytes of an error that other processes are told, and parameters that are compared one by one.
TOLD, COMPARED = 400, 4096


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
    first : int
        The first of them, among all processes of the run.
    """

    def __init__(self, p: Any) -> None:
        self.mesh = mesh = p.device_mesh
        self._device = p.device
        self.count: int = mesh.size()
        self._members = members_of(mesh)
        self.first = self._members[0]
        self.rank = self._members.index(distributed.get_rank())
        # The default group has all processes; those of a part of them are reached axis by axis.
        everyone = self.count == distributed.get_world_size()
        axes = [axis for axis in range(mesh.ndim) if mesh.size(axis) > 1]
        self._groups: list[Any] = [None] if everyone else [mesh.get_group(axis) for axis in axes]
        self._together: Any = self._groups[0] if len(self._groups) == 1 else None
        self._brings = False
        self._failure: Exception | None = None

    @classmethod
    def of(cls, params: Iterable[Any]) -> Ranks | None:
        """Return the processes of all parameters that are distributed; None where there are none.

        Where a layer is not tensor parallel, some of its parameters lie on a part of the others' processes.

        Raises
        ------
        ValueError
            If the processes of a parameter are not among those of the one that has most.
        """
        divided = [p for p in params if is_distributed(p)]
        if not divided:
            return None
        found = cls(max(divided, key=lambda p: p.device_mesh.size()))
        for p in divided:
            mesh = p.device_mesh
            if mesh is not found.mesh and not set(members := members_of(mesh)) <= set(found._members):
                raise ValueError(
                    "params: the processes of a parameter must be among those of the one that has most, got "
                    f"meshes of {found._members} and {members}"
                )
        return found

    def add(self, numbers: Tensor) -> Tensor:
        """Add up an array of every process, in place; what is brought along is told with it."""
        if not self._brings:
            return self._sum(numbers)
        failure, self._brings, self._failure = self._failure, False, None
        fares = torch.zeros(self.count, dtype=numbers.dtype, device=numbers.device)
        fares[self.rank] = float(failure is not None)
        *parts, fares = self._sum(torch.cat([numbers.reshape(-1), fares])).split(
            [numbers.numel(), self.count]
        )
        failed = fares.nonzero().flatten().tolist()
        if failed:
            self.fail(failed[0], failure)
        return numbers.copy_(parts[0].reshape(numbers.shape))

    def _sum(self, numbers: Tensor) -> Tensor:
        for group in self._groups:
            distributed.all_reduce(numbers, group=group)
        return numbers

    def bring(self, failure: Exception | None) -> None:
        """Take along with the next sum what has failed here, if anything; all processes must call it."""
        self._brings, self._failure = True, self._failure or failure

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

    def tell(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return what every process tells the others: as many numbers each."""
        told = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        found: list[list[float]] = self.gather(told).tolist()
        return found

    def swap(self, rows: Tensor, counts: list[int]) -> tuple[Tensor, list[int]]:
        """Send so many rows to each process; returns what they have sent, and how many rows each."""
        group = self._one_group()
        own = torch.tensor(counts, device=rows.device)
        theirs = torch.empty_like(own)
        distributed.all_to_all_single(theirs, own, group=group)
        received: list[int] = theirs.tolist()
        found = rows.new_empty((sum(received), *rows.shape[1:]))
        distributed.all_to_all_single(found, rows.contiguous(), received, counts, group=group)
        return found, received

    def _one_group(self) -> Any:
        """Return the group of all these processes; None for the default one."""
        if len(self._groups) > 1 and self._together is None:
            self._together = _group_of(tuple(self._members), distributed.group.WORLD)
        return self._together

    def attempt(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns; if it raises an error in one process, all raise one."""
        found: list[T] = []
        self.settle(failure_of(lambda: found.append(make())))
        return found[0]

    def tried(self, make: Callable[[], T], otherwise: T) -> T:
        """Return what ``make`` returns; an error is told with the next sum, and this process goes on to it.

        All processes must call it. Where there is an error, ``otherwise`` is returned.
        """
        found: list[T] = []
        failure = failure_of(lambda: found.append(make()))
        self.bring(failure)
        return otherwise if failure is not None else found[0]

    def settle(self, failure: Exception | None) -> None:
        """Raise what has failed here, or say what has failed elsewhere."""
        self.bring(failure)
        self.add(torch.zeros(0, dtype=torch.float64, device=self._device))

    def conclude(self) -> None:
        """Tell what has been brought along, where no sum has told it yet."""
        if self._brings:
            self.settle(None)

    def fail(self, rank: int, failure: Exception | None) -> NoReturn:
        """Raise what has failed here, or what has failed in the process ``rank``; all must call it."""
        text = ""
        if failure is not None:
            text = "; ".join([f"{failure}" or type(failure).__name__, *getattr(failure, "__notes__", ())])
        said = torch.zeros(TOLD, dtype=torch.float64, device=self._device)
        if self.rank == rank:
            code = text.encode()[:TOLD]
            said[: len(code)] = torch.tensor(list(code), dtype=torch.float64, device=self._device)
        told = bytes(int(code) for code in self._sum(said).tolist() if code)
        if failure is not None:
            raise failure
        raise RuntimeError(f"rank {rank}: it failed: {told.decode(errors='replace')}")

    def compare(self, fares: int, does: str, watched: bool = False) -> _Compared:
        """Tell the others how this process fares and what it is about to do.

        Parameters
        ----------
        fares : int
            0 if well.
        does : str
            What every process has to say alike.
        watched : bool, optional
            What any process may say.
        """
        own = torch.tensor([fares, zlib.crc32(does.encode()), watched], dtype=torch.float64)
        said = torch.zeros((3, self.count), dtype=torch.float64, device=self._device)
        said[:, self.rank] = own.to(self._device)
        states, words, watching = self.add(said).tolist()
        failed = {k: int(state) for k, state in enumerate(states) if state}
        well = [k for k in range(self.count) if k not in failed]
        return _Compared(failed, [k for k in well if words[k] != words[well[0]]], any(watching))

    def first_of_others(self, words: Sequence[str]) -> int | None:
        """Return the first place at which not all processes say the same, if it is among the first."""
        own = torch.zeros(COMPARED, dtype=torch.float64)
        own[: len(words)] = torch.tensor([zlib.crc32(w.encode()) for w in words[:COMPARED]]).double()
        total = self.add(own.to(self._device, copy=True)).cpu()
        differs = (total != self.count * own).nonzero().flatten().tolist()
        return differs[0] if differs and differs[0] < len(words) else None


class _Compared(NamedTuple):
    """What processes have told each other.

    Attributes
    ----------
    failed : dict
        How processes fare that do not fare well.
    others : list of int
        The processes that say other things than the first that fares well.
    watched : bool
        Whether one of them is watched.
    """

    failed: dict[int, int]
    others: list[int]
    watched: bool


class Agreement(NamedTuple):
    """What all processes are about to do.

    Attributes
    ----------
    blocks : list of Block
        The blocks that they step.
    proposals : dict or None
        What is asked for the blocks whose groups are cut over processes; None where that is not known yet.
    watched : bool
        Whether the step is watched in any process.
    """

    blocks: list[Block]
    proposals: Proposals | None
    watched: bool


def failure_of(work: Callable[[], object]) -> Exception | None:
    """Do some work; returns the error that it raises, if any."""
    try:
        work()
    except Exception as error:
        return error
    return None


def tried(ranks: Ranks | None, make: Callable[[], T], otherwise: T) -> T:
    """Return what ``make`` returns; of several processes, as :meth:`Ranks.tried`."""
    return make() if ranks is None else ranks.tried(make, otherwise)


def agreed(
    ranks: Ranks,
    groups: Sequence[dict[str, Any]],
    make: Callable[[], tuple[list[Block], Proposals | None]],
    is_spoilt: Callable[[Tensor], bool],
    told: str,
    does: str,
    holds: Callable[[Block], str],
    watched: bool,
) -> Agreement:
    """Return the blocks that all processes are about to step; an error in one is an error in all.

    Parameters
    ----------
    ranks : Ranks
    groups : sequence of dict
        The param groups.
    make : callable
        Returns this process's blocks and what is asked for them, or raises an error.
    is_spoilt : callable
        Says whether numbers of a parameter are not finite here.
    told : str
        What an error says of such a parameter.
    does : str
        What all processes have to be about to do alike.
    holds : callable
        Says what all processes have to hold alike of a block, besides its penalty and settings.
    watched : bool
        Whether the problems of the step are captured; those of groups that are cut by all or none.
    """
    params = [(number, k, p) for number, group in enumerate(groups) for k, p in enumerate(group["params"])]
    blocks: list[Block] = []
    proposals: Proposals | None = None
    failure: Exception | None = None
    fares, says, each = 0, "", list[str]()
    try:
        blocks, proposals = make()
        each = [f"{words_of(block)}, {holds(block)}" for block in blocks]
        says = "; ".join([does, *each])
        if watched and any(block.is_cut for block in blocks):
            says += "; captured"
        spoilt = next((p for block in blocks for p in block.params if is_spoilt(p)), None)
        fares = next((place for place, (*_, p) in enumerate(params, 1) if p is spoilt), 0)
    except Exception as error:
        failure, fares = error, -1
    failed, others, watched = ranks.compare(fares, says, watched)
    thrown = [rank for rank, state in failed.items() if state < 0]
    if thrown:
        ranks.fail(thrown[0], failure)
    for rank, state in failed.items():
        number, k, _ = params[state - 1]
        where = f"param group {number}, {name_parameter(groups[number], k)}"
        raise ValueError(f"rank {rank}: {where}: {told}")
    if others:
        words = {p: said for block, said in zip(blocks, each, strict=True) for p in block.params}
        place = ranks.first_of_others([words.get(p, "") for *_, p in params])
        if place is None:
            raise ValueError(
                f"ranks {others}: the optimizer, its settings, its parameters and whether steps are captured "
                "must be the same on all"
            )
        number, k, _ = params[place]
        where = f"param group {number}, {name_parameter(groups[number], k)}"
        raise ValueError(
            f"ranks {others}: {where}: whether it has a gradient, how that is divided, its penalty and "
            "settings and, where its groups are cut, its state must be the same on all"
        )
    return Agreement(blocks, proposals, watched)


def words_of(block: Block) -> str:
    """Return what of a block has to be the same in all processes, in words."""
    penalty = block.group["penalty"]
    cuts = [getattr(p.grad, "placements", None) for p in block.params]
    joint = "" if block.index is not None else block.groups
    return f"{block.where}: {penalty!r}, {_weights(penalty)}, {joint}, {_numbers(block.settings)}, {cuts}"


def _weights(penalty: Penalty | None) -> int:
    """Return a sum that tells weights of groups apart: NumPy prints long arrays with a gap."""
    weights = None if penalty is None else penalty.weights
    return zlib.crc32(weights.tobytes()) if isinstance(weights, np.ndarray) else 0


def _numbers(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in settings.items() if isinstance(v, (int, float, tuple))}


@lru_cache(maxsize=64)
def _group_of(members: tuple[int, ...], world: Any) -> Any:
    del world  # another one needs other groups
    # Only its members have to call this, and each does so once.
    return distributed.new_group(list(members), use_local_synchronization=True)
