"""A run of a network beside which labels and taints are computed, operation by operation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from proxlab.torch.tracing import operations as op
from proxlab.torch.tracing.families import FIXED, UNIFORM
from proxlab.torch.tracing.knowledge import Untraceable
from proxlab.torch.tracing.moves import Moves
from proxlab.torch.tracing.recurrent import Recurrent
from proxlab.torch.tracing.sums import Sums
from proxlab.torch.tracing.values import fixed, uniform

__all__ = ["LIMIT_OPERATIONS", "LIMIT_SECONDS", "Tracer"]

#: Bounds of a trace: operations of one run, seconds of all.
LIMIT_OPERATIONS, LIMIT_SECONDS = 200_000, 120.0


class Tracer(Moves, Sums, Recurrent, TorchDispatchMode):
    """Computes labels and taints beside a run."""

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Follow which module runs, and take recurrent layers as one operation."""
        names = {m: name for name, m in self.model.named_modules()}
        with ExitStack() as stack:
            for m, name in names.items():
                if isinstance(m, torch.jit.ScriptModule):
                    continue
                stack.callback(m.register_forward_pre_hook(self._enter(name)).remove)
                stack.callback(m.register_forward_hook(self._leave, always_call=True).remove)
            yield

    def _enter(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            self.path.append(name)
            self.trace.ran.add(name)
            self.paused += isinstance(module, nn.RNNBase)
            if isinstance(module, _NormBase) and args and isinstance(args[0], Tensor) and args[0].dim() > 1:
                with _disable_current_modes():
                    label = self._value(args[0]).label
                    if label.numel():
                        self.trace.norms[name] = label.movedim(1, 0).flatten(1)[:, 0].clone()

        return hook

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self.path.pop()
        if isinstance(module, nn.RNNBase):
            self.paused -= 1
            if not self.paused and output is not None:
                with _disable_current_modes():
                    self._recurrent(name, module, args, output)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        self.count += 1
        if self.count > LIMIT_OPERATIONS:
            raise Untraceable(f"the network takes more than {LIMIT_OPERATIONS:,} operations")
        if time.monotonic() > self.trace.end:
            raise Untraceable(f"following the network takes more than {LIMIT_SECONDS:g} seconds")
        name = func._schema.name.rpartition("::")[2]
        if torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        ) and not func.name().startswith("aten::_to_copy"):
            with self:
                found = func.decompose(*args, **kwargs)
                if found is not NotImplemented:
                    return found
        if name == "bernoulli_":
            # What is kept is then scaled by its share: dropout that keeps all.
            share = args[1] if len(args) > 1 else kwargs.get("p", 0.5)
            if not isinstance(share, Tensor):
                args[0].fill_(share)
                self.known[args[0]] = uniform(args[0], UNIFORM, False)
                return args[0]
        before = None
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        if func._schema.is_mutable and name not in op.BATCH_NORMS:
            before = {id(t): t.detach().clone() for t in inputs}
        out = func(*args, **kwargs)
        values = before or {}
        self._follow(func, name, args, kwargs, inputs, out, lambda t: values.get(id(t), t))
        if self.record is not None and name not in op.MOVES and name not in op.JOINS:
            self._note(name, args, inputs, out)
        return out

    def _follow(
        self,
        func: Any,
        name: str,
        args: Any,
        kwargs: Any,
        inputs: list[Tensor],
        out: Any,
        old: Callable[[Tensor], Tensor],
    ) -> None:
        plain = name.rstrip("_") if not name.startswith("_") else name
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        fresh = [t for t in outputs if all(t is not s for s in inputs)]
        if name in op.IGNORED:
            for t in inputs:
                self._keep(self._value(t).label, f"{name!r} reads it as a number")
            return
        if name in op.FACTORIES or name in op.UNIFORM:
            same = name in op.UNIFORM
            for t in outputs:
                self.known[t] = uniform(t, UNIFORM if same else FIXED, not same)
        elif name in ("zero_", "fill_"):
            self.known[args[0]] = self.known.get(args[0]) or uniform(args[0], UNIFORM, False)
        elif name == "copy_":
            self._copy(args[0], args[1])
        elif plain in op.MOVES:
            self._move(func, args, kwargs, inputs, outputs)
        elif plain in op.JOINS:
            self._cat(func, args, kwargs, outputs)
        elif plain in ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot"):
            self._product(plain, args, kwargs, outputs[0])
        elif plain == "convolution":
            self._convolution(args, outputs[0])
        elif plain in ("embedding", "_embedding_bag", "_embedding_bag_forward_only"):
            self._embedding(args, outputs)
        elif plain in op.BATCH_NORMS:
            self._batch_norm(name, args, outputs)
        elif plain in ("native_layer_norm", "native_group_norm", "_fused_rms_norm", "rms_norm"):
            self._norm(plain, args, outputs)
        elif plain in op.PLACES:
            self._places(args[0], outputs, op.PLACES[plain])
        elif plain in op.REDUCTIONS or plain in op.ALONG or plain == "topk":
            if plain in ("max", "min") and len(inputs) == 2:
                self._pointwise(name, inputs, outputs, old)
            else:
                self._along(func, plain, args, kwargs, outputs)
        elif "scaled_dot_product" in plain:
            self._attention(args, outputs)
        elif plain == "native_dropout":
            known = self._value(args[0])
            self.known[outputs[0]] = known
            self.known[outputs[1]] = uniform(outputs[1], UNIFORM, False)
        elif torch.Tag.pointwise in func.tags or plain in op.POINTWISE or name in op.POINTWISE:
            self._pointwise(plain, inputs, outputs, old)
        else:
            self._unknown(name, inputs, outputs)
        for t in fresh:
            if self.known.get(t) is None:
                self.known[t] = fixed(t, True)

    def finish(self, output: Tensor) -> None:
        """Keep what an output shows."""
        known = self._value(output)
        self._keep(known.label, "it is an output of the model")
        self.trace.dead &= not bool(known.taint.any())
