"""The prox problems of a step: which parameters share a prox, and what their update rules ask of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from proxlab.groups import AxisLayout, Groups
from proxlab.optim.problem import ProxProblem
from proxlab.optim.rules import Proposal, rests
from proxlab.penalties import Penalty
from proxlab.torch.shards import is_distributed, lies_across, local, part_of, shard_kind
from proxlab.types import Array
from proxlab.values import shown

__all__ = [
    "HALF",
    "Block",
    "BlockProblem",
    "CutProblem",
    "Key",
    "Proposals",
    "as_array",
    "as_tensor",
    "check_group",
    "check_range",
    "given_groups",
    "name_parameter",
    "not_finite",
    "on_host",
    "read_all",
    "rounding_to",
    "uses_of",
    "wide",
]

HALF = (torch.float16, torch.bfloat16)
#: From here on numbers are infinite in float16.
TOO_GREAT = 65520.0
_DTYPES = (*HALF, torch.float32, torch.float64)

#: Tells a block from others: its param group, and its parameter's place in it, None for joint groups.
Key = tuple[int, int | None]
#: What the update rule asks for, for each parameter of a block, by the keys of blocks.
Proposals = Mapping[Key, list[Proposal]]


@dataclass(frozen=True, eq=False)
class Block:
    """The parameters that share a prox: one, or those of a joint group.

    Attributes
    ----------
    number : int
        Which param group it is of.
    group : dict
        The param group.
    settings : mapping
        Its settings, validated.
    index : int or None
        Which parameter it is; None for all of a joint group.
    active : bool
        Whether it is penalised yet.
    follows : bool
        Whether the weights follow a strength that this step decides on, whatever the learning rate is.
    own : Penalty, optional
        What stands for the penalty of the param group in this step: it has a strength of its own.
    """

    number: int
    group: dict[str, Any]
    settings: Mapping[str, Any]
    index: int | None
    active: bool = True
    follows: bool = False
    own: Penalty | None = None

    @property
    def params(self) -> list[Tensor]:
        """The parameters."""
        params: list[Tensor] = self.group["params"]
        return params if self.index is None else [params[self.index]]

    @property
    def penalty(self) -> Penalty | None:
        """The penalty as it is now: its strength may be driven."""
        penalty: Penalty | None = self.group["penalty"] if self.own is None else self.own
        if penalty is None or not self.active:
            return None
        return penalty if self.is_cut else _here(penalty, self.groups, self.params)

    @property
    def parts(self) -> list[Tensor]:
        """What of the parameters lies in this process, without gradients."""
        return [local(p).detach() for p in self.params]

    @property
    def groups(self) -> list[Groups]:
        """The groups of each parameter."""
        if self.index is None:
            return list(self.group["joint"])
        return [self.group["penalty"].groups]

    @cached_property
    def is_cut(self) -> bool:
        """Whether its groups lie across processes."""
        penalised = self.active and self.group["penalty"] is not None
        return penalised and lies_across(self.groups, self.params)

    @property
    def rests(self) -> bool:
        """Whether a step leaves the weights as they are."""
        return rests(self.settings) and not self.follows

    @property
    def key(self) -> Key:
        """What tells it from the other blocks of an optimizer."""
        return self.number, self.index

    @property
    def where(self) -> str:
        """How an error names the place."""
        if self.index is None:
            return f"param group {self.number} (joint)"
        return f"param group {self.number}, {name_parameter(self.group, self.index)}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Let an error of whatever kind say where, in a note if it does not by itself."""
        try:
            yield
        except Exception as error:
            if self.where not in f"{error}":
                error.add_note(self.where)
            raise

    @property
    def name(self) -> str:
        """The names of its parameters, or their places where they have none."""
        names = self.group.get("names") or self.group.get("param_names")
        if names:
            return " + ".join(names) if self.index is None else str(names[self.index])
        whole = f"group {self.number}"
        return whole if self.index is None else f"{whole}, parameter {self.index}"

    def join(self, arrays: list[Any]) -> Tensor:
        """Make one array of an array for each parameter: joint groups side by side, with a group per row."""
        if self.index is not None:
            return arrays[0]
        layouts = _layouts(self.group["joint"], self.parts)
        rows = [layout.split(a, 0.0)[0] for layout, a in zip(layouts, arrays, strict=True)]
        # Transposing by blocks and copying rows is faster than copying columns.
        return torch.cat([a.contiguous() for a in rows], dim=1)

    def split(self, joined: Tensor) -> list[Tensor]:
        """Undo :meth:`join`."""
        if self.index is not None:
            return [joined]
        layouts = _layouts(self.group["joint"], self.parts)
        columns = joined.split([layout.group_size for layout in layouts], dim=1)
        return [layout.join([rows], p) for layout, rows, p in zip(layouts, columns, self.parts, strict=True)]


@dataclass(frozen=True, eq=False)
class BlockProblem:
    """The prox of a block in this step.

    Attributes
    ----------
    block : Block
    proposals : list of Proposal
        What the update rule asks for, for each parameter of the block.
    x, metric : Tensor
        The prox's point and metric, of the whole block.
    step : float
    """

    block: Block
    proposals: list[Proposal]
    x: Tensor
    metric: Tensor | None
    step: float

    @property
    def is_asked(self) -> bool:
        """Whether there is a prox to solve, perhaps of elements that are in other processes."""
        block = self.block
        some = any(p.numel() for p in block.params)
        return some and block.penalty is not None and self.step > 0 and not block.rests

    @property
    def is_open(self) -> bool:
        """Whether there is a prox to solve here; otherwise the answer is the point."""
        return self.is_asked and self.x.numel() > 0

    def asked(self, previous: bool = False, rounds: bool = False) -> ProxProblem:
        """Return the problem in arrays that compiled kernels take, where the tensors are on the host.

        ``previous`` says whether with the weights before the step, ``rounds`` whether the solution becomes
        the weights, in their precision.
        """
        block = self.block
        assert block.penalty is not None
        last = as_array(block.join([wide(p) for p in block.params])) if previous else None
        metric = None if self.metric is None else as_array(self.metric)
        uses = uses_of(block.group, block.index)
        rounded = rounding_to(block.params[0].dtype) if rounds else None
        return ProxProblem(
            block.penalty, as_array(self.x), metric, self.step, block.where, last, uses, rounded
        )

    @classmethod
    def of(cls, block: Block, proposals: list[Proposal]) -> BlockProblem:
        """Put together what the parameters of a block ask for."""
        first = proposals[0]
        metric = None if first.metric is None else block.join([p.metric for p in proposals])
        return cls(block, proposals, block.join([p.x for p in proposals]), metric, first.step)


@dataclass(frozen=True, eq=False)
class CutProblem:
    """The part that this process has of the prox of a block whose groups lie across processes.

    Attributes
    ----------
    block : Block
    proposals : list of Proposal
        What the update rule asks for, for what of each parameter lies here.
    """

    block: Block
    proposals: list[Proposal]

    @property
    def step(self) -> float:
        """The step of the prox."""
        return float(self.proposals[0].step)

    @property
    def is_asked(self) -> bool:
        """As that of :class:`BlockProblem`."""
        return self.is_open

    @property
    def is_open(self) -> bool:
        """Whether there is a prox to solve; otherwise the answer is the point."""
        return self.block.penalty is not None and self.step > 0 and not self.block.rests


def uses_of(group: Mapping[str, Any], index: int | None) -> float | None:
    """Return how often a call of the network uses an element of a parameter; of joint groups the mean.

    None where the param group does not say.
    """
    uses, params = group.get("uses"), group["params"]
    # Optimizers that shard others copy what a param group notes, but not all of its parameters.
    if uses is None or len(uses) != len(params):
        return None
    if index is not None:
        return float(uses[index])
    layouts = _layouts(group["joint"], params)
    sizes = [layout.group_size for layout in layouts]
    return sum(n * use for n, use in zip(sizes, uses, strict=True)) / max(1, sum(sizes))


def on_host(a: Tensor) -> bool:
    """Return whether NumPy can view a tensor: compiled kernels are for these."""
    return bool(a.device.type == "cpu")


def _alike(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Return the places of tensors that are of one type on one device."""
    alike: dict[Any, list[int]] = {}
    for k, a in enumerate(tensors):
        alike.setdefault((a.device, a.dtype), []).append(k)
    return list(alike.values())


def norms(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the norms of tensors, in a pass for all of a type: of a mixture it would be one for each.

    One is finite only where all of its tensor is, and may overflow.
    """
    found: dict[int, Tensor] = {}
    for chosen in _alike(tensors):
        found |= zip(chosen, torch._foreach_norm([tensors[k] for k in chosen]), strict=True)
    return [found[k] for k in range(len(tensors))]


def read_all(numbers: Sequence[Tensor]) -> list[float]:
    """Return the values of tensors without axes, waiting once for those of a type on a GPU."""
    found = [0.0] * len(numbers)
    for chosen in _alike(numbers):
        some = [numbers[k] for k in chosen]
        values = map(float, some) if on_host(some[0]) else torch.stack(some).tolist()
        for k, value in zip(chosen, values, strict=True):
            found[k] = value
    return found


def not_finite(tensors: Sequence[Tensor]) -> list[int]:
    """Return which of tensors that lie here have elements that are not finite, with one wait on a GPU.

    Norms say it in a pass for all of a type; one that only overflowed is looked at once more.
    """
    some = [k for k, a in enumerate(tensors) if a.numel()]
    sizes = read_all(norms([tensors[k].detach() for k in some]))
    doubted = [k for k, size in zip(some, sizes, strict=True) if not math.isfinite(size)]
    return [k for k in doubted if not bool(torch.isfinite(tensors[k]).all())]


def check_range(weights: Sequence[Tensor], dtype: torch.dtype, where: Callable[[int], str]) -> None:
    """Raise an error if weights in single precision leave the range of float16, to which they are rounded.

    ``where(k)`` is what it says of the place of one before its message. On a GPU nobody waits to look.
    """
    some = [k for k, a in enumerate(weights) if a.numel() and on_host(a)]
    if dtype is not torch.float16 or not some:
        return
    sizes = torch._foreach_norm([weights[k] for k in some], math.inf)
    for k, size in zip(some, sizes, strict=True):
        if bool(size >= TOO_GREAT):
            raise ValueError(
                f"{where(k)}its weights must stay in the range of float16, and would be up to {size:.6g}"
            )


def wide(a: Tensor) -> Tensor:
    """Return what of a tensor lies in this process, in the precision of state and arithmetic."""
    a = local(a).detach()
    return a.float() if a.dtype in HALF else a


def rounding_to(dtype: torch.dtype) -> Callable[[Array], Array] | None:
    """Return what rounds an array as half precision does, and leaves it in the precision of arithmetic."""
    if dtype not in HALF:
        return None
    return lambda z: as_array(as_tensor(z).to(dtype).float())


def as_array(a: Tensor) -> Array:
    """Return a tensor as compiled kernels take it: a view of NumPy, where it is on the host."""
    return a.numpy() if on_host(a) else a


def as_tensor(a: Array) -> Tensor:
    """Undo :func:`as_array`."""
    return a if isinstance(a, Tensor) else torch.from_numpy(a)


def given_groups(groups: Any, argument: str) -> list[dict[str, Any]]:
    """Return param groups that were given to a function: dicts with a list ``params`` and a ``penalty``.

    Raises
    ------
    TypeError
        If they are of another kind, or hold anything but tensors; the message names argument and place.
    """
    if isinstance(groups, (str, Mapping, Tensor)) or not isinstance(groups, Iterable):
        raise TypeError(
            f"{argument}: must hold param groups, dicts with the key 'params', got {shown(groups)}"
        )
    found = []
    for number, given in enumerate(groups):
        where = f"{argument}[{number}]"
        if not isinstance(given, Mapping) or "params" not in given:
            raise TypeError(f"{where}: must be a param group, a dict with the key 'params', got {given!r}")
        params = given["params"]
        listed = [params] if isinstance(params, Tensor) or not isinstance(params, Iterable) else list(params)
        for k, p in enumerate(listed):
            if not isinstance(p, Tensor):
                raise TypeError(f"{where}: params[{k}]: must be a tensor, got {shown(p)}")
        found.append({"penalty": None, **given, "params": listed})
    return found


def check_group(group: Mapping[str, Any], where: str, convex_only: bool) -> None:
    """Raise an error if the parameters, the penalty and the joint groups of a param group do not fit.

    Parameters
    ----------
    group : mapping
        The param group.
    where : str
        How an error names it.
    convex_only : bool
        Whether the method is defined for convex penalties only.
    """
    penalty, joint, params = group["penalty"], group.get("joint"), group["params"]
    if penalty is not None and not isinstance(penalty, Penalty):
        raise TypeError(
            f"{where}: penalty: must be a proxlab penalty such as GroupLasso(0.1) or None, got {penalty!r}"
        )
    for k, p in enumerate(params):
        if kind := shard_kind(p):
            raise ValueError(
                f"{where}: {name_parameter(group, k)} is a {kind}, a shard of FullyShardedDataParallel, "
                "which does not say what its groups are; use torch.distributed.fsdp.fully_shard"
            )
        if p.layout is not torch.strided:
            raise ValueError(f"{where}: {name_parameter(group, k)} must be dense, got layout {p.layout}")
        if p.dtype not in _DTYPES:
            raise TypeError(
                f"{where}: {name_parameter(group, k)} must have a real floating-point dtype, got {p.dtype}"
            )
    if convex_only and penalty is not None and not penalty.is_convex:
        raise ValueError(
            f"{where}: penalty: must be convex, since the state of this method is a subgradient, got "
            f"{type(penalty).__name__}"
        )
    uses = group.get("uses")
    if uses is not None and not (
        isinstance(uses, (list, tuple))
        and all(isinstance(n, (int, float)) and 0.0 <= n < math.inf for n in uses)
    ):
        raise ValueError(f"{where}: uses: must be a number >= 0 for each parameter, got {uses!r}")
    if joint is not None:
        if not isinstance(joint, (list, tuple)):
            raise TypeError(f"{where}: joint: must be a list of proxlab.Groups, got {shown(joint)}")
        _check_joint(penalty, list(joint), params, where)
    elif penalty is not None:
        for k, p in enumerate(params):
            at = f"{where}: {name_parameter(group, k)}"
            _check_fit(penalty, tuple(p.shape), at)
            _check_parts([penalty.groups], [p], at)


def name_parameter(group: Mapping[str, Any], k: int) -> str:
    """Name a parameter of a param group: by its name too, where the group has one."""
    names = group.get("names") or group.get("param_names")
    # Optimizers that shard others copy what a param group notes, but not all of its parameters.
    names = names if names and len(names) == len(group["params"]) else None
    shape = tuple(group["params"][k].shape)
    return f"parameter {k} ({names[k]!r}, shape {shape})" if names else f"parameter {k} (shape {shape})"


def _check_fit(penalty: Penalty, shape: tuple[int, ...], where: str) -> None:
    try:
        penalty.group_weights(penalty.groups.layout(shape))
    except ValueError as error:
        raise ValueError(f"{where}: {error}; give it a param group with another penalty or None") from error


def _check_joint(penalty: Penalty | None, joint: list[Groups], params: list[Tensor], where: str) -> None:
    if penalty is None:
        raise ValueError(f"{where}: joint: needs a penalty, got None")
    if penalty.groups != Groups.over(-1):
        raise ValueError(
            f"{where}: penalty: must have the default groups where joint says what they are, got "
            f"{penalty.groups!r}"
        )
    if len(joint) != len(params) or not params:
        raise ValueError(f"{where}: joint: must hold groups for each of the {len(params)} parameters")
    if any(not isinstance(groups, Groups) for groups in joint):
        raise TypeError(f"{where}: joint: must hold proxlab.Groups, got {joint!r}")
    for k, (groups, p) in enumerate(zip(joint, params, strict=True)):
        try:
            layout = groups.layout(tuple(p.shape))
        except ValueError as error:
            raise ValueError(f"{where}: joint[{k}]: {error}") from error
        if not isinstance(layout, AxisLayout):
            raise ValueError(f"{where}: joint[{k}]: must be groups by axes, got {groups!r}")
    layouts = _layouts(joint, params)
    counts = [layout.n_groups for layout in layouts]
    if len(set(counts)) > 1:
        raise ValueError(f"{where}: joint: every parameter must have as many groups, got {counts}")
    if len({p.device for p in params}) > 1 or len({p.dtype for p in params}) > 1:
        raise ValueError(f"{where}: joint: the parameters must be on one device and of one dtype")
    _check_fit(penalty, (counts[0], sum(layout.group_size for layout in layouts)), f"{where}: joint")
    _check_parts(joint, params, f"{where}: joint")


def _check_parts(groups: Sequence[Groups], params: Sequence[Tensor], where: str) -> None:
    """Raise an error if groups of distributed parameters cannot be solved in parts."""
    try:
        for g, p in zip(groups, params, strict=True):
            part_of(g, p)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _here(penalty: Penalty, groups: Sequence[Groups], params: Sequence[Tensor]) -> Penalty:
    """Return the penalty of the groups that lie in this process, as a step solves them."""
    if not is_distributed(params[0]) or penalty.weights is None or isinstance(penalty.weights, str):
        return penalty
    ids = part_of(groups[0], params[0]).ids
    return penalty if ids is None else replace(penalty, weights=penalty.weights[ids])


def _layouts(joint: list[Groups], params: list[Tensor]) -> list[AxisLayout]:
    layouts = []
    for groups, p in zip(joint, params, strict=True):
        layout = groups.layout(tuple(p.shape))
        assert isinstance(layout, AxisLayout)
        layouts.append(layout)
    return layouts
