"""The table of optimizers that the tests run over; what every method is says :mod:`tests.optim.methods`."""

from dataclasses import dataclass, field
from typing import Any

import torch

from proxlab import torch as pt
from tests.optim.methods import (
    adabreg,
    adagrad,
    adam,
    adamw,
    amsgrad,
    linbreg,
    prox_rows,
    ramda,
    rmda,
    rmsprop,
    sgd,
)

__all__ = ["METHODS", "NAMES", "ONE_EACH", "Method", "prox_rows"]


@dataclass(frozen=True)
class Method:
    """An optimizer with settings, the optimizer of PyTorch that it is without a penalty, and a reference."""

    make: Any
    settings: dict[str, Any]
    reference: Any
    torch: Any = None
    torch_settings: dict[str, Any] = field(default_factory=dict)

    def __call__(self, params, **options):
        return self.make(params, **(self.settings | options))

    def plain(self, params, **options):
        """Make the optimizer of PyTorch."""
        return self.torch(params, **(self.settings | self.torch_settings | options))


SGD, ADAMW = torch.optim.SGD, torch.optim.AdamW
METHODS = {
    "sgd": Method(pt.ProxSGD, {"lr": 0.1}, sgd, SGD),
    "sgd momentum": Method(
        pt.ProxSGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}, sgd, SGD
    ),
    "sgd nesterov": Method(pt.ProxSGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True}, sgd, SGD),
    "adagrad": Method(
        pt.ProxAdagrad,
        {"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.01, "initial_accumulator_value": 0.1},
        adagrad,
        torch.optim.Adagrad,
    ),
    "rmsprop": Method(pt.ProxRMSprop, {"lr": 0.02, "weight_decay": 0.01}, rmsprop, torch.optim.RMSprop),
    "rmsprop momentum": Method(pt.ProxRMSprop, {"lr": 0.01, "momentum": 0.5}, rmsprop, torch.optim.RMSprop),
    "rmsprop centered": Method(
        pt.ProxRMSprop,
        {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-3},
        rmsprop,
        torch.optim.RMSprop,
    ),
    "adam": Method(pt.ProxAdam, {"lr": 0.05, "weight_decay": 0.01}, adam, torch.optim.Adam),
    "adam amsgrad": Method(pt.ProxAdam, {"lr": 0.05, "amsgrad": True}, adam, torch.optim.Adam),
    "adamw": Method(pt.ProxAdamW, {"lr": 0.05, "betas": (0.8, 0.95)}, adamw, ADAMW),
    "adamw amsgrad": Method(pt.ProxAdamW, {"lr": 0.05, "weight_decay": 0.1, "amsgrad": True}, adamw, ADAMW),
    "amsgrad": Method(pt.ProxAMSGrad, {"lr": 0.05}, amsgrad, torch.optim.Adam, {"amsgrad": True}),
    "rmda": Method(pt.RMDA, {"lr": 0.1}, rmda),
    "rmda momentum": Method(pt.RMDA, {"lr": 0.1, "momentum": 0.4}, rmda),
    "ramda": Method(pt.RAMDA, {"lr": 0.05}, ramda),
    "ramda momentum": Method(pt.RAMDA, {"lr": 0.05, "momentum": 0.4}, ramda),
    "linbreg": Method(pt.LinBreg, {"lr": 0.1, "delta": 2.0}, linbreg),
    "linbreg momentum": Method(pt.LinBreg, {"lr": 0.1, "delta": 1.0, "momentum": 0.6}, linbreg),
    "adabreg": Method(pt.AdaBreg, {"lr": 0.02, "delta": 0.5}, adabreg),
}
NAMES = sorted({method.make.__name__ for method in METHODS.values()})
ONE_EACH = {m.make.__name__: m for m in METHODS.values()}
