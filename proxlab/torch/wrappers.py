"""What wraps a network or computes its weights: seen through where that is exact, else refused by name."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from proxlab.torch.shards import shard_kind

__all__ = ["Weight", "canonical", "check_model", "check_parameter", "weight_of"]

#: What ``torch.compile``, checkpointing and sharding put into the paths of modules.
_PREFIXES = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})


class Weight(NamedTuple):
    """What stands behind a module's weight.

    Attributes
    ----------
    names : tuple of str
        The module's parameters from which it is computed; empty for a buffer.
    exact : bool
        Whether the only one of them has the weight's shape, and its zeros are the weight's.
    how : str
        What computes it; empty for a plain parameter or buffer.
    """

    names: tuple[str, ...]
    exact: bool
    how: str


def check_model(model: Any) -> nn.Module:
    """Return the network inside compiled, data-parallel and averaged models.

    Raises
    ------
    TypeError
        If the argument is no module.
    ValueError
        If a part is compiled by TorchScript or holds flattened shards; the message names it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: must be a torch.nn.Module, got {type(model).__name__}")
    while (inner := _inner(model)) is not None:
        model = inner
    for path, module in model.named_modules():
        where = f"{path!r} is" if path else "the model is"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"model: {where} compiled by TorchScript, which does not say what its layers are; give the "
                "torch.nn.Module that it was made from"
            )
        if _is_sharded(module):
            raise ValueError(
                f"model: {where} wrapped by FullyShardedDataParallel, whose parameters are flat shards and "
                "not the weights of layers; give the module before it is wrapped"
            )
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
        inner: nn.Module = model.module
        return inner
    if isinstance(model, torch.jit.ScriptModule):
        return None
    compiled = model._modules.get("_orig_mod")
    return compiled if set(model._modules) == {"_orig_mod"} else None


def _is_sharded(module: nn.Module) -> bool:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # nobody has wrapped anything before it is imported
    return fsdp is not None and isinstance(module, getattr(fsdp, "FullyShardedDataParallel", ()))


def check_parameter(name: str, p: Tensor) -> None:
    """Raise where a parameter is not a whole weight in this process's memory.

    Raises
    ------
    ValueError
        For lazy parameters that are not initialised, and flattened shards.
    """
    if isinstance(p, (UninitializedParameter, UninitializedBuffer)):
        raise ValueError(f"model: {name!r} is not initialised yet; run the model once first")
    if kind := shard_kind(p):
        raise ValueError(
            f"model: {name!r} is a {kind}, a shard of FullyShardedDataParallel, which does not say what its "
            "groups are; use torch.distributed.fsdp.fully_shard"
        )


def canonical(name: str) -> str:
    """Return the path of a parameter without what wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _PREFIXES)


def weight_of(module: nn.Module, name: str) -> Weight:
    """Say which parameters of a module stand behind a weight of it.

    A pruning mask and a division by the spectral norm keep zeros where they are. Other parametrizations do
    not, as far as is known here.
    """
    if name in module._parameters:
        return Weight((name,) if module._parameters[name] is not None else (), True, "")
    if parametrize.is_parametrized(module, name):
        chain: Any = module.parametrizations[name]  # type: ignore[index, union-attr]
        exact = hasattr(chain, "original") and all(type(step).__name__ == "_SpectralNorm" for step in chain)
        inside = tuple(f"parametrizations.{name}.{part}" for part, _ in chain.named_parameters())
        direct = (f"parametrizations.{name}.original",)
        return Weight(direct if exact else inside, exact, ", ".join(type(step).__name__ for step in chain))
    if module._parameters.get(f"{name}_orig") is not None:
        return Weight((f"{name}_orig",), True, "a mask or a spectral norm")
    parts = tuple(n for n in (f"{name}_g", f"{name}_v") if module._parameters.get(n) is not None)
    return Weight(parts, False, "a weight norm" if parts else "")
