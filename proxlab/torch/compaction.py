"""Remove what is zero from a network, prove that it computes the same, and measure what is gained."""

from __future__ import annotations

import copy
import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from proxlab.torch.heads import HeadAttention, dead_heads, remove_heads
from proxlab.torch.report import CompactReport, Kept, Removed
from proxlab.torch.structures import Attention, find_attention
from proxlab.torch.wrappers import check_model

__all__ = ["compact"]

#: Latency is the median of this many runs, or of those that fit into this many seconds.
_RUNS, _SECONDS = 30, 1.0


def compact(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    attention: Sequence[Attention] | None = None,
) -> tuple[nn.Module, CompactReport]:
    """Return a smaller network that computes the same, without the channels, neurons and heads that are zero.

    A channel goes where its removal changes no output: where all weights that read it are zero, or where it
    is a constant (its own weights are zero) that the layers after it can take into their biases. Layers that
    share the channel, through residual connections for example, must all allow it. The network is meant for
    evaluation: batch norms use their running statistics, dropout is off.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it is not changed.
    example_inputs : Tensor, sequence or mapping
        Arguments of a call: one tensor, positional or keyword arguments.
    attention : sequence of Attention, optional
        Attention made of separate linear layers, where :func:`param_groups` would not find it by itself.

    Returns
    -------
    small : torch.nn.Module
        A new model, in the same mode (training or evaluation) as the given one. Where heads were removed from
        a :class:`torch.nn.MultiheadAttention`, another module stands in its place.
    report : CompactReport
        What was removed, what could not be and why, parameters, FLOPs and latency before and after.

    Raises
    ------
    ImportError
        Without torch-pruning.
    TypeError, ValueError
        If an argument is of the wrong kind, or the model returns no floating-point tensor.
    RuntimeError
        If the outputs differ by more than rounding, on the example inputs or on random ones. Removals that
        fail this by themselves are not made, and are among what is kept, so this is not expected.

    Notes
    -----
    Zeros are exact zeros. The work is done in float64 where the model runs in it, and verified there to
    about ``1e-10``, and once more in the model's own precision against the rounding of the given model.

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
    _check_torch_pruning()
    model = check_model(model)
    call = _Call(example_inputs)
    named = find_attention(model) if attention is None else list(attention)
    for layers in named:
        if not isinstance(layers, Attention):
            raise TypeError(f"attention: must hold proxlab.torch.Attention, got {layers!r}")
        layers.layers(model)
    given = _evaluated(model)
    if not call.once(given):
        raise ValueError("model: must return floating-point tensors, alone or in sequences and mappings")
    wide = _widened(given, call)
    exact = call if wide is given else call.to(torch.float64)
    small, removed, kept = _Work(wide, exact, named).compact()
    _restore(small, model)
    pair = (given, _evaluated(small))
    difference = _check(pair, call, exact.all(wide))
    order = {name: k for k, (name, _) in enumerate(model.named_modules())}
    report = CompactReport(
        parameters=(_size(model), _size(small)),
        flops=(_flops(pair[0], call), _flops(pair[1], call)),
        latency=_latency(pair, call),
        difference=difference,
        removed=tuple(sorted(removed, key=lambda r: order[r.layer])),
        kept=tuple(sorted(kept, key=lambda k: order.get(k.layer, len(order)))),
    )
    return small, report


def _check_torch_pruning() -> None:
    if importlib.util.find_spec("torch_pruning") is None:
        raise ImportError("compact needs torch-pruning: pip install 'proxlab[compact]'")


#: What is removed or not as a whole: "heads" or "outputs", and the path of the module.
_Unit = tuple[str, str]
_Result = tuple[nn.Module, list[Removed], list[Kept]]


class _Call:
    """How to call the model: on the example inputs, and on random inputs of the same kind."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __init__(self, inputs: Any) -> None:
        if isinstance(inputs, Tensor):
            inputs = (inputs,)
        if isinstance(inputs, Mapping):
            self.args, self.kwargs = (), dict(inputs)
        elif isinstance(inputs, Sequence) and not isinstance(inputs, str) and len(inputs):
            self.args, self.kwargs = tuple(inputs), {}
        else:
            raise TypeError(
                "example_inputs: must be a tensor, or a sequence or mapping of arguments, got "
                f"{type(inputs).__name__}"
            )

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> _Call:
        new = copy.copy(self)
        new.args = tuple(change(a) if isinstance(a, Tensor) else a for a in self.args)
        new.kwargs = {k: change(a) if isinstance(a, Tensor) else a for k, a in self.kwargs.items()}
        return new

    def to(self, dtype: torch.dtype) -> _Call:
        """The same with floating-point inputs of another dtype."""
        return self._mapped(lambda a: a.to(dtype) if a.is_floating_point() else a)

    def random(self, seed: int) -> _Call:
        """Random inputs: normal with the examples' mean and deviation; integers and flags are permuted."""
        generator = torch.Generator().manual_seed(seed)

        def draw(a: Tensor) -> Tensor:
            if a.is_floating_point() and bool(a.isfinite().all()):
                spread = a.double().std(correction=0).item() if a.numel() else 0.0
                noise = torch.randn(a.shape, generator=generator, dtype=torch.float64)
                return (a.double().mean().item() + (spread or 1.0) * noise).to(a)
            order = torch.randperm(a.numel(), generator=generator)
            return a.reshape(-1)[order.to(a.device)].reshape(a.shape)

        return self._mapped(draw)

    def once(self, model: nn.Module) -> list[Tensor]:
        """Call the model on the example inputs; returns its outputs."""
        return _outputs(model(*self.args, **self.kwargs))

    def all(self, model: nn.Module) -> list[Tensor]:
        """Call the model on the example inputs and on random ones; returns all outputs."""
        return [t for call in (self, self.random(0), self.random(1)) for t in call.once(model)]


class _Work:
    """Compacts copies of a model, leaving out what turns out to change the outputs."""

    def __init__(self, model: nn.Module, call: _Call, named: list[Attention]) -> None:
        self.model, self.call = model, call
        self.expected = [t.detach() for t in call.all(model)]
        self.heads: dict[str, str | Attention] = {layers.holder: layers for layers in named}
        self.heads |= {
            path: path for path, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)
        }
        count: dict[int, int] = {}
        for _, p in model.named_parameters(remove_duplicate=False):
            count[id(p)] = count.get(id(p), 0) + 1
        self.shared = {
            path
            for path, m in model.named_modules()
            if any(count[id(p)] > 1 for p in m.parameters(recurse=False))
        }

    def compact(self) -> _Result:
        """Remove all that can be; if that fails, what can be by itself."""
        everything = self._attempt(lambda unit: True)
        if not isinstance(everything, str):
            return everything
        failed: list[Kept] = []
        for r in self._candidates():
            alone = self._attempt({(r.what, r.layer)}.__contains__)
            if isinstance(alone, str):
                failed.append(Kept(r.layer, r.what, r.before - r.after, alone))
        bad = {(k.what, k.layer) for k in failed}
        rest = self._attempt(lambda unit: unit not in bad)
        if isinstance(rest, str):
            raise RuntimeError(f"model: removing what is zero fails: {rest}")
        small, removed, kept = rest
        return small, removed, [*kept, *failed]

    def _candidates(self) -> list[Removed]:
        """What attempts at all heads, and at all channels, would remove."""
        removed, _ = self._remove_heads(copy.deepcopy(self.model), lambda unit: True)
        try:
            removed += self._remove_channels(copy.deepcopy(self.model), lambda unit: True)[0]
        except Exception as error:
            raise RuntimeError(f"model: torch-pruning cannot cut this model: {_line(error)}") from error
        return removed

    def _attempt(self, allowed: Callable[[_Unit], bool]) -> _Result | str:
        """Return the small model with what was removed and kept, or a sentence that says why it fails."""
        small = copy.deepcopy(self.model)
        try:
            removed, kept = self._remove_heads(small, allowed)
            more, others = self._remove_channels(small, allowed)
            found = self.call.all(small)
        except Exception as error:  # whatever a model raises when its layers have changed
            return f"the network cannot be called without it ({_line(error)})"
        gap = _gap(found, self.expected)
        if gap > _rounding(self.expected):
            return f"the outputs change by {gap:.1e} of their size without it"
        return small, removed + more, kept + others

    def _remove_heads(
        self, model: nn.Module, allowed: Callable[[_Unit], bool]
    ) -> tuple[list[Removed], list[Kept]]:
        removed, kept = [], []
        for path, where in self.heads.items():
            dead = dead_heads(model, where)
            count = sum(dead)
            if not count or not allowed(("heads", path)):
                continue
            obstacle = self._obstacle(model, path, where)
            if obstacle is not None:
                kept.append(Kept(path, "heads", count, obstacle))
                continue
            if all(dead):
                dead[0] = False
                kept.append(Kept(path, "heads", 1, "a layer keeps at least one head"))
            if any(dead):
                remove_heads(model, where, dead)
                removed.append(Removed(path, "heads", len(dead), len(dead) - sum(dead)))
        return removed, kept

    def _obstacle(self, model: nn.Module, path: str, where: str | Attention) -> str | None:
        paths = [where.query, where.key, where.value, where.output] if isinstance(where, Attention) else []
        for p in (path, *paths, *([f"{path}.out_proj"] if not paths else [])):
            if p in self.shared:
                return f"{p!r} shares its parameters with another layer"
        module = model.get_submodule(path)
        if isinstance(module, nn.MultiheadAttention) and (module.bias_k is not None or module.add_zero_attn):
            return "it attends to a learnt or zero key besides those it is given"
        return None

    def _remove_channels(
        self, model: nn.Module, allowed: Callable[[_Unit], bool]
    ) -> tuple[list[Removed], list[Kept]]:
        from proxlab.torch.channels import remove_channels  # where torch-pruning is imported

        blocked: dict[tuple[Any, str], str] = {}
        for path in self.shared:
            reason = f"{path!r} shares its parameters with another layer"
            for side in ("inputs", "outputs"):
                blocked[model.get_submodule(path), side] = reason
        inside: list[tuple[nn.Module, str]] = []
        for where in self.heads.values():
            if isinstance(where, Attention):
                paths = (where.query, where.key, where.value)
                inside += [(model.get_submodule(path), "outputs") for path in paths]
                inside.append((model.get_submodule(where.output), "inputs"))
        for m in model.modules():
            if isinstance(m, HeadAttention):
                inside += [(proj, "outputs") for proj in (m.q_proj, m.k_proj, m.v_proj)]
                inside.append((m.out_proj, "inputs"))
        for key in inside:
            blocked[key] = "it is in an attention head, of which only the whole is removed"
        return remove_channels(
            model, self.call.once, self.call.all, blocked, lambda path: allowed(("outputs", path))
        )


def _outputs(result: Any) -> list[Tensor]:
    """All floating-point tensors in what a model returns."""
    if isinstance(result, Tensor):
        return [result] if result.is_floating_point() else []
    if isinstance(result, Mapping):
        return [t for value in result.values() for t in _outputs(value)]
    if isinstance(result, Sequence) and not isinstance(result, str):
        return [t for value in result for t in _outputs(value)]
    return []


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _evaluated(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode, whose parameters all require gradients.

    By gradients torch-pruning traces, and with them PyTorch's transformer layers run as they are written.
    """
    return copy.deepcopy(model).eval().requires_grad_(True)


def _dtype(model: nn.Module) -> torch.dtype | None:
    """The floating-point dtype of a model, or None if it has several."""
    types = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
    return types.pop() if len(types) == 1 else None


def _widened(model: nn.Module, call: _Call) -> nn.Module:
    """A copy in float64, or the model itself where it has several dtypes or does not run in float64."""
    if _dtype(model) is None:
        return model
    wide = copy.deepcopy(model).double()
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


def _check(models: tuple[nn.Module, nn.Module], call: _Call, exact: list[Tensor]) -> float:
    """Compare the models in their own precision; returns the relative difference of their outputs.

    How far the given model is from its ``exact`` outputs says what rounding does to it.
    """
    expected, found = (call.all(model) for model in models)
    gap = _gap(found, expected)
    allowed = _rounding(expected) + 10 * _gap(expected, exact)
    if gap > allowed:
        raise RuntimeError(
            f"model: without what is zero its outputs change by {gap:.1e} of their size, more than by "
            f"rounding ({allowed:.1e})"
        )
    return gap


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _flops(model: nn.Module, call: _Call) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call.once(model)
    return int(counter.get_total_flops())


def _latency(models: tuple[nn.Module, nn.Module], call: _Call) -> tuple[float, float]:
    """Median times, the models in turn."""
    times: tuple[list[float], list[float]] = ([], [])
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
    return statistics.median(times[0]), statistics.median(times[1])


def _synchronise(model: nn.Module) -> Callable[[], None]:
    if any(p.is_cuda for p in model.parameters()):
        return torch.cuda.synchronize
    return lambda: None
