"""Remove what is zero from a network, prove that it computes the same, and measure what is gained."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils.flop_counter import FlopCounterMode

from proxlab.torch.calls import Call, copied, evaluated
from proxlab.torch.channels import Channels
from proxlab.torch.heads import stand_in
from proxlab.torch.removal import Cut, cut
from proxlab.torch.report import CompactReport, Kept, Removed
from proxlab.torch.sameness import is_same
from proxlab.torch.shards import is_distributed
from proxlab.torch.structures import Attention
from proxlab.torch.tracing import Trace, without_dropout
from proxlab.torch.transfer import Carried, Origin
from proxlab.torch.weights import computed_zeros, zeros
from proxlab.torch.wrappers import check_model

__all__ = ["compact"]

#: Latency is the median of this many runs, or of those that fit into this many seconds.
_RUNS, _SECONDS = 30, 1.0
#: Bounds of the search for what cannot be removed.
LIMIT_ATTEMPTS, LIMIT_SECONDS = 200, 120.0

_COMPUTED = (
    "its weight is computed before each call; torch.nn.utils.prune.remove, remove_spectral_norm or "
    "remove_weight_norm make it a parameter"
)
#: What rounding may change in the model's own precision, whatever it does to the given model.
_UNSTABLE = 1e-3


def compact(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    attention: Sequence[Attention] | None = None,
) -> tuple[nn.Module, CompactReport]:
    """Return a smaller network that computes the same, without the channels, neurons and heads that are zero.

    A channel goes where its removal changes no output: where all weights that read it are zero, or where it
    is a constant (its own weights are zero) that the layers after it can take into their biases. Layers that
    share the channel, through residual connections for example, must all allow it. The small network computes
    the same in evaluation and in training mode, dropout apart.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it is not changed. Of one from :func:`torch.compile` the module that it wraps is taken.
    example_inputs : Tensor, sequence or mapping
        Arguments of a call: one tensor, positional or keyword arguments.
    attention : sequence of Attention, optional
        Attention made of separate linear layers, as for :func:`param_groups`. Heads are found in the trace,
        so that this only checks the names.

    Returns
    -------
    small : torch.nn.Module
        A new model, in the same mode (training or evaluation) as the given one. Where heads were removed from
        a :class:`torch.nn.MultiheadAttention`, another module stands in its place.
    report : CompactReport
        What was removed, what could not be and why, parameters, FLOPs and latency before and after.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, the model is compiled by TorchScript, or it cannot be called with
        the example inputs or returns no floating-point tensor.

    Notes
    -----
    Zeros are exact zeros. The network is traced in both modes, operation by operation, and again after the
    cut: a removal is made if each operation is left with the same numbers in the same order. The outputs are
    compared besides, on the example inputs and on random ones, in float64 where the model runs in it, to
    about ``1e-10``, and once more in the model's own precision against the rounding of the given model.
    Tracing and searching for what cannot be removed are bounded in steps and seconds; what is not decided
    then stays.

    Examples
    --------
    >>> import torch
    >>> from proxlab.torch import compact
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     model[2].weight[:, :6] = 0
    >>> small, report = compact(model, torch.randn(3, 4))
    >>> small[0], report.parameters
    (Linear(in_features=4, out_features=2, bias=True), (58, 16))
    """
    model = check_model(model)
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        if isinstance(t, (UninitializedBuffer, UninitializedParameter)):
            raise ValueError(f"model: {name!r} is not initialised yet; run the model once first")
        if is_distributed(t):
            raise ValueError(
                f"model: {name!r} is distributed over processes; gather the network first, by "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True on "
                "every process, and load_state_dict of the network as one process has it"
            )
    call = Call(example_inputs)
    named = [] if attention is None else list(attention)
    for layers in named:
        if not isinstance(layers, Attention):
            raise TypeError(f"attention: must hold proxlab.torch.Attention, got {layers!r}")
        layers.layers(model)
    device = _device(model)
    given = evaluated(model)
    if not call.first(given):
        raise ValueError("model: must return floating-point tensors, alone or in sequences and mappings")
    # Labels are computed on the host.
    host, near = (given, call) if device is None else (copied(given).cpu(), call.cpu())
    wide = _widened(host, near)
    exact = near if wide is host else near.to(torch.float64)
    own = _Own(model, device, given, call, [t.to(device or "cpu") for t in exact.all(wide)])
    result = _Work(wide, exact, own).compact()
    small = result.small
    own.restore(small)
    pair = (given, evaluated(small))
    difference = own.gap(pair[1])
    computed = [Kept(path, what, count, _COMPUTED) for path, what, count in computed_zeros(model)]
    order = {name: k for k, (name, _) in enumerate(model.named_modules())}
    # Where nothing was removed, there is nothing to compare.
    latency = _latency(pair if result.removed else pair[:1], call)
    report = CompactReport(
        parameters=(_size(model), _size(small)),
        flops=(_flops(pair[0], call), _flops(pair[1], call)),
        latency=(latency[0], latency[-1]),
        difference=difference,
        removed=tuple(sorted(result.removed, key=lambda r: order.get(r.layer, len(order)))),
        kept=tuple(sorted([*result.kept, *computed], key=lambda k: order.get(k.layer, len(order)))),
        idle=result.idle,
        notes=result.notes,
        dead=result.dead,
        _carried=Carried({name: weakref.ref(p) for name, p in model.named_parameters()}, result.origins),
    )
    return small, report


class _Own:
    """The given model in its own precision and on its own device, which small ones are compared with."""

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | None,
        given: nn.Module,
        call: Call,
        exact: list[Tensor],
    ) -> None:
        self.model, self.device, self.call = model, device, call
        self.expected = [t.detach() for t in call.all(given)]
        # How far the given model is from its exact outputs says what rounding does to it. Where rounding
        # decides them, as with a jump, that allows anything, so it is bounded.
        rounding = _rounding(self.expected)
        self.allowed = rounding + min(10 * _gap(self.expected, exact), max(_UNSTABLE, 4 * rounding))

    def restore(self, small: nn.Module) -> None:
        """Give a small model the device, the dtype, the mode and the flags of the given one."""
        if self.device is not None:
            small.to(self.device)
        _restore(small, self.model)

    def gap(self, small: nn.Module) -> float:
        """The relative difference of the outputs of a restored model in evaluation mode."""
        return _gap(self.call.all(small), self.expected)

    def differs(self, small: nn.Module) -> str | None:
        """Return how the outputs of a model differ by more than rounding, if they do."""
        small = copied(small)
        self.restore(small)
        gap = self.gap(small.eval())
        if gap <= self.allowed:
            return None
        return f"the outputs change by {gap:.1e} of their size without it, in the model's own precision"


@dataclass
class _Result:
    """The small network, and what a report says of it."""

    small: nn.Module
    removed: list[Removed]
    kept: list[Kept]
    idle: tuple[str, ...]
    notes: tuple[str, ...]
    dead: bool
    origins: dict[str, Origin | None]


class _Work:
    """Compacts copies of a model, leaving out what turns out to change it."""

    def __init__(self, model: nn.Module, call: Call, own: _Own) -> None:
        self.model, self.call, self.own = model, call, own
        self.notes: list[str] = []
        self.modes = [False, True]
        self.expected = {False: [t.detach() for t in call.all(model)]}
        try:
            self.expected[True] = _trained(model, call)
        except Exception as error:  # whatever a model raises
            self.modes = [False]
            self.notes.append(f"training mode was not compared, since the model fails in it ({_line(error)})")
        self.attempts = 0
        self.end = time.monotonic() + LIMIT_SECONDS

    def compact(self) -> _Result:
        """Remove all that can be; if that fails, what can be without the rest."""
        try:
            plain = self._channels(self.model)
        except Exception as error:  # whatever an operation raises that the trace does not know
            return self._whole(f"the network cannot be traced ({_line(error)})")
        given, wanted = self.model, self._attention(plain)
        while True:
            replaced = self._replace(given, wanted)
            channels = self._channels(self.model) if replaced else plain
            found = self._search(channels)
            if isinstance(found, str):
                self.model = given
                return self._whole(f"clearing what nobody reads changes the network: {found}")
            small, gone, made, refused = found
            used = [h.path for h in channels.heads if gone & set(h.roots) and h.path in replaced]
            if len(used) == len(replaced):
                break
            # A stand-in that lost no head is not needed.
            wanted = used
        channels.look(self._settled(channels, set(refused)))
        kept = channels.explain(self.model, gone, refused)
        idle = (
            *(path or "the model itself" for path in channels.idle(self.model)),
            *channels.unused(self.model),
        )
        removed, notes = channels.removed(self.model, gone), tuple(self.notes)
        origins = _origins(given, replaced, small, made)
        return _Result(small, removed, kept, idle, notes, channels.trace.dead, origins)

    def _replace(self, given: nn.Module, wanted: list[str]) -> list[str]:
        """Put stand-ins for PyTorch's own attention; returns where that leaves the outputs as they are."""
        self.model = given
        replaced = []
        for path in wanted:
            model = copied(self.model)
            stand_in(model, path)
            if self._differs(model) is None:
                self.model = model
                replaced.append(path)
        return replaced

    def _channels(self, model: nn.Module) -> Channels:
        """Trace the network in both modes, on the example and on random inputs."""
        trace = Trace()
        for training in self.modes:
            for call in (self.call, self.call.random(0), self.call.random(1)):
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    trace.run(copied(model).train(training), call.once, call.tensors())
        return Channels.of(trace, model)

    def _settled(self, channels: Channels, closed: set[int]) -> nn.Module:
        model = copied(self.model)
        channels.settle(model, lambda root: root not in closed)
        return model

    def _attention(self, channels: Channels) -> list[str]:
        """Paths of PyTorch's own attention that has heads which can be removed."""
        gone = channels.settle(copied(self.model), lambda root: True)
        found = []
        for head in channels.heads:
            module = self.model.get_submodule(head.path)
            if not isinstance(module, nn.MultiheadAttention) or not gone & set(head.roots):
                continue
            if module.bias_k is None and not module.add_zero_attn and not _is_shared(self.model, module):
                found.append(head.path)
        return found

    def _search(self, channels: Channels) -> tuple[nn.Module, set[int], Cut, dict[int, str]] | str:
        """Remove what can be, and find what cannot and why: by halves, within bounds.

        Returns a sentence where not even a network that loses nothing computes the same.
        """
        refused: dict[int, str] = {}
        while True:
            made = self._attempt(channels, set(refused))
            if not isinstance(made, str):
                return *made, refused
            # What stays of a layer so that it keeps a channel is another when others are refused.
            gone = channels.settle(copied(self.model), lambda root: root not in refused)
            if not gone:
                return made
            self._refuse(channels, gone, made, refused)

    def _refuse(self, channels: Channels, gone: set[int], why: str, refused: dict[int, str]) -> None:
        """Find which of the channels cannot be removed."""
        listed = sorted(gone)
        half = (len(listed) + 1) // 2
        todo = [part for part in (listed[half:], listed[:half]) if part]
        if len(todo) == 1:
            refused |= dict.fromkeys(listed, why)
            return
        while todo:
            part = todo.pop()
            if self.attempts >= LIMIT_ATTEMPTS or time.monotonic() > self.end:
                bound = f"the limit of {LIMIT_ATTEMPTS} attempts or {LIMIT_SECONDS:g} seconds was reached"
                refused |= dict.fromkeys(part, bound)
                continue
            made = self._attempt(channels, {*refused, *(r for later in todo for r in later)}, gone)
            if isinstance(made, str) and len(part) < 2:
                refused |= dict.fromkeys(part, made)
            elif isinstance(made, str):
                half = len(part) // 2
                todo += [part[half:], part[:half]]

    def _attempt(
        self, channels: Channels, closed: set[int], among: set[int] | None = None
    ) -> tuple[nn.Module, set[int], Cut] | str:
        """Return the small model and what was removed and how, or a sentence that says why it fails.

        Channels in ``closed`` stay as they are; of the others those ``among`` some are cut.
        """
        self.attempts += 1
        big = copied(self.model)
        gone = channels.settle(big, lambda root: root not in closed)
        gone = gone if among is None else gone & among
        small = copied(big)
        try:
            made = cut(small, channels, gone)
            for training in self.modes:
                found = is_same(
                    copied(big).train(training), copied(small).train(training),
                    self.call.once, self.call.tensors(), channels, gone, made,
                )  # fmt: skip
                if found is not None:
                    return f"its removal cannot be proved to change nothing: {found}"
        except Exception as error:  # whatever a model raises when its layers have changed
            return f"the network cannot be called without it ({_line(error)})"
        return self._differs(small) or (small, gone, made)

    def _differs(self, small: nn.Module) -> str | None:
        """Compare outputs, in evaluation and in training mode; returns how they differ, if they do."""
        for training in self.modes:
            try:
                found = _trained(small, self.call) if training else self.call.all(small)
            except Exception as error:  # whatever a model raises when its layers have changed
                return f"the network cannot be called without it ({_line(error)})"
            gap = _gap(found, self.expected[training])
            if gap > _rounding(self.expected[training]):
                mode = " in training" if training else ""
                return f"the outputs change by {gap:.1e} of their size without it{mode}"
        return self.own.differs(small)

    def _whole(self, why: str) -> _Result:
        """The network as it is, with what is zero in it."""
        small = copied(self.model)
        whole: dict[str, Origin | None] = {name: Origin(name, {}) for name, _ in small.named_parameters()}
        kept = [Kept(path, what, count, why) for path, what, count in zeros(small)]
        notes = (*self.notes, f"nothing was removed, since {why}")
        return _Result(small, [], kept, (), notes, False, whole)


def _origins(given: nn.Module, replaced: list[str], small: nn.Module, made: Cut) -> dict[str, Origin | None]:
    """Where each parameter of the small network comes from."""
    known = dict(given.named_parameters())
    found: dict[str, Origin | None] = {}
    for name, p in small.named_parameters():
        places = {axis: made.left[name, axis] for axis in range(p.dim()) if (name, axis) in made.left}
        path, _, last = name.rpartition(".")
        holder = path.rpartition(".")[0]
        kind, before = path.rpartition(".")[2], name
        if holder in replaced and kind in ("q_proj", "k_proj", "v_proj"):
            prefix = f"{holder}." if holder else ""
            stacked = f"{prefix}in_proj_{last}"
            if stacked in known:
                rows = len(known[stacked]) // 3
                first = rows * ("q_proj", "k_proj", "v_proj").index(kind)
                places[0] = first + places.get(0, torch.arange(rows))
                before = stacked
            else:
                before = f"{prefix}{kind}_{last}"
        found[name] = Origin(before, places) if before in known else None
    return found


def _trained(model: nn.Module, call: Call) -> list[Tensor]:
    """Outputs in training mode, without dropout, on copies."""
    model = copied(model).train()
    with torch.random.fork_rng(devices=[]), without_dropout(model), torch.no_grad():
        torch.manual_seed(0)
        return call.all(model)


def _is_shared(model: nn.Module, module: nn.Module) -> bool:
    count = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return any(count[id(p)] > 1 for p in module.parameters())


def _device(model: nn.Module) -> torch.device | None:
    """The device of a model, if that is another than the host."""
    devices = {t.device for t in (*model.parameters(), *model.buffers())}
    return None if len(devices) != 1 or devices == {torch.device("cpu")} else devices.pop()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _dtype(model: nn.Module) -> torch.dtype | None:
    """The floating-point dtype of a model, or None if it has several."""
    types = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    return types.pop() if len(types) == 1 else None


def _widened(model: nn.Module, call: Call) -> nn.Module:
    """A copy in float64, or the model itself where it has several dtypes or does not run in float64."""
    if _dtype(model) is None:
        return model
    wide = copied(model).double()
    try:
        call.to(torch.float64).once(wide)
    except RuntimeError:
        return model
    return wide


def _restore(small: nn.Module, model: nn.Module) -> None:
    """Give the small model dtype, mode and gradient flags of the given one."""
    dtype = _dtype(model)
    if dtype is not None:
        small.to(dtype)
    modes = {name: m.training for name, m in model.named_modules()}
    for name, m in small.named_modules():
        m.training = modes.get(name, model.training)
    flags = {name: p.requires_grad for name, p in model.named_parameters(remove_duplicate=False)}
    for name, p in small.named_parameters():
        p.requires_grad_(flags.get(name, True))
    given = dict(model.named_modules())
    for name, m in small.named_modules():
        # What is computed before each call, as a masked weight.
        held = vars(given[name]) if name in given else {}
        for key, t in vars(m).items():
            before = held.get(key)
            if isinstance(t, Tensor) and isinstance(before, Tensor) and not before.is_leaf:
                vars(m)[key] = t.detach().to(before)


def _gap(found: list[Tensor], expected: list[Tensor]) -> float:
    """Greatest difference, relative to the greatest expected value; infinite where something does not fit."""
    worst = 0.0
    if len(found) != len(expected):
        return math.inf
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()):
            return math.inf
        finite = b.isfinite()
        a, b = a.detach()[finite].double(), b.detach()[finite].double()
        if b.numel():
            size = float(b.abs().max()) or 1.0
            worst = max(worst, float((a - b).abs().max()) / size)
    return worst


def _rounding(outputs: list[Tensor]) -> float:
    """How far outputs may differ by rounding, relative to the greatest."""
    return float(max(torch.finfo(t.dtype).eps for t in outputs) ** (2 / 3))


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _flops(model: nn.Module, call: Call) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call.once(model)
    return int(counter.get_total_flops())


def _latency(models: Sequence[nn.Module], call: Call) -> tuple[float, ...]:
    """Median times, the models in turn."""
    times: list[list[float]] = [[] for _ in models]
    wait = _synchronise(models[0])
    with torch.no_grad():
        end = math.inf
        for k in range(_RUNS + 2):
            for model, taken in zip(models, times, strict=True):
                wait()
                start = time.perf_counter()
                call.once(model)
                wait()
                taken.append(time.perf_counter() - start)
            if k == 1:
                # The first runs warm up.
                for taken in times:
                    taken.clear()
                end = time.perf_counter() + _SECONDS
            elif time.perf_counter() > end:
                break
    return tuple(statistics.median(taken) for taken in times)


def _synchronise(model: nn.Module) -> Callable[[], None]:
    if any(p.is_cuda for p in model.parameters()):
        return torch.cuda.synchronize
    return lambda: None
