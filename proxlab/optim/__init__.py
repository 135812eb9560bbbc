"""Adaptive proximal methods on arrays of any namespace, with an explicit state."""

from proxlab.optim.base import Optimizer
from proxlab.optim.bregman import sparse_start
from proxlab.optim.optimizers import (
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
from proxlab.optim.sparsity import TargetSparsity, vanishing_strength
from proxlab.optim.state import State, load, save

__all__ = [
    "RAMDA",
    "RMDA",
    "AdaBreg",
    "LinBreg",
    "Optimizer",
    "ProxAMSGrad",
    "ProxAdagrad",
    "ProxAdam",
    "ProxAdamW",
    "ProxRMSprop",
    "ProxSGD",
    "State",
    "TargetSparsity",
    "load",
    "save",
    "sparse_start",
    "vanishing_strength",
]
