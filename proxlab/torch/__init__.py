"""Adaptive proximal optimizers, groups of networks and compaction for PyTorch (extra ``torch``)."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError("proxlab.torch needs PyTorch: pip install 'proxlab[torch]'") from error

from proxlab.torch.checkpoint import load_network, save_network
from proxlab.torch.compaction import compact
from proxlab.torch.follow import ProxWrapper
from proxlab.torch.monitor import Monitor
from proxlab.torch.networks import param_groups
from proxlab.torch.optimizers import (
    RAMDA,
    RMDA,
    AdaBreg,
    LinBreg,
    ProxAdagrad,
    ProxAdam,
    ProxAdamW,
    ProxAMSGrad,
    ProxRMSprop,
    ProxSGD,
)
from proxlab.torch.path import Strengths, strengths
from proxlab.torch.pretrained import SavedModel, save_pretrained
from proxlab.torch.report import CompactReport
from proxlab.torch.sparsity import NetworkSparsity, group_sparsity
from proxlab.torch.structures import Attention

__all__ = [
    "RAMDA",
    "RMDA",
    "AdaBreg",
    "Attention",
    "CompactReport",
    "LinBreg",
    "Monitor",
    "NetworkSparsity",
    "ProxAMSGrad",
    "ProxAdagrad",
    "ProxAdam",
    "ProxAdamW",
    "ProxRMSprop",
    "ProxSGD",
    "ProxWrapper",
    "SavedModel",
    "Strengths",
    "compact",
    "group_sparsity",
    "load_network",
    "param_groups",
    "save_network",
    "save_pretrained",
    "strengths",
]
