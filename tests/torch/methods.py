"""The table of optimizers that the tests run over, and what every method is, in a few lines of NumPy."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from proxlab import torch as pt


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


def sgd(w, g, state, s):
    g = g + s.get("weight_decay", 0) * w
    if s.get("momentum"):
        first = "m" not in state
        state["m"] = g if first else s["momentum"] * state["m"] + (1 - s.get("dampening", 0)) * g
        g = g + s["momentum"] * state["m"] if s.get("nesterov") else state["m"]
    return w - s["lr"] * g, np.ones_like(w), s["lr"]


def adagrad(w, g, state, s):
    lr = s["lr"] / (1 + (state["t"] - 1) * s.get("lr_decay", 0))
    g = g + s.get("weight_decay", 0) * w
    state["sum"] = state.get("sum", s.get("initial_accumulator_value", 0.0)) + g**2
    d = np.sqrt(state["sum"]) + s.get("eps", 1e-10)
    return w - lr * g / d, d, lr


def rmsprop(w, g, state, s):
    a = s.get("alpha", 0.99)
    g = g + s.get("weight_decay", 0) * w
    state["v"] = a * state.get("v", 0.0) + (1 - a) * g**2
    v = state["v"]
    if s.get("centered"):
        state["mean"] = a * state.get("mean", 0.0) + (1 - a) * g
        v = v - state["mean"] ** 2
    d = np.sqrt(v) + s.get("eps", 1e-8)
    state["m"] = s.get("momentum", 0.0) * state.get("m", 0.0) + g / d
    return w - s["lr"] * state["m"], d, s["lr"]


def moments(g, state, s, largest=False):
    beta1, beta2 = s.get("betas", (0.9, 0.999))
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * g**2
    state["max"] = np.maximum(state.get("max", 0.0), state["v"])
    v = (state["max"] if largest else state["v"]) / (1 - beta2 ** state["t"])
    return state["m"] / (1 - beta1 ** state["t"]), np.sqrt(v) + s.get("eps", 1e-8)


def adam(w, g, state, s):
    m, d = moments(g + s.get("weight_decay", 0) * w, state, s, s.get("amsgrad", False))
    return w - s["lr"] * m / d, d, s["lr"]


def adamw(w, g, state, s):
    m, d = moments(g, state, s, s.get("amsgrad", False))
    return (1 - s["lr"] * s.get("weight_decay", 1e-2)) * w - s["lr"] * m / d, d, s["lr"]


def amsgrad(w, g, state, s):
    return adam(w, g, state, s | {"amsgrad": True})


def dual_averages(w, g, state, s):
    weight = s["lr"] * np.sqrt(state["t"])
    state.setdefault("w0", w.copy())
    state["alpha"] = state.get("alpha", 0.0) + weight
    state["V"] = state.get("V", 0.0) + weight * g
    return weight


def rmda(w, g, state, s):
    dual_averages(w, g, state, s)
    root = np.sqrt(state["t"])
    return state["w0"] - state["V"] / root, np.ones_like(w), state["alpha"] / root


def ramda(w, g, state, s):
    weight = dual_averages(w, g, state, s)
    state["U"] = state.get("U", 0.0) + weight * g**2
    d = np.cbrt(state["U"]) + s.get("eps", 1e-8)
    return state["w0"] - state["V"] / d, d, state["alpha"]


def start_dual(w, state, s):
    # 0 at zero groups, and else the gradient of the penalty: rows of a group lasso of strength lam
    r = np.linalg.norm(w, axis=-1, keepdims=True)
    state.setdefault("dual", w / s["delta"] + s["lam"] * w / np.where(r > 0, r, 1.0))


def linbreg(w, g, state, s):
    start_dual(w, state, s)
    state["m"] = s.get("momentum", 0.0) * state.get("m", 0.0) + (1 - s.get("momentum", 0.0)) * g
    state["dual"] = state["dual"] - s["lr"] * state["m"]
    return s["delta"] * state["dual"], np.ones_like(w), s["delta"]


def adabreg(w, g, state, s):
    start_dual(w, state, s)
    m, d = moments(g, state, s)
    state["dual"] = state["dual"] - s["lr"] * m / d
    return s["delta"] * state["dual"], np.ones_like(w), s["delta"]


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


def prox_rows(x, d, eta, lam):
    """The weighted prox of the group lasso over rows, by bisection of the secular equation."""
    z = np.zeros_like(x)
    for k, (a, e) in enumerate(zip(x, d, strict=True)):
        b, tau = e * a, eta * lam
        if np.linalg.norm(b) <= tau:
            continue
        low, high = 0.0, np.linalg.norm(a)
        for _ in range(200):
            r = (low + high) / 2
            low, high = (r, high) if np.linalg.norm(b / (e * r + tau)) > 1 else (low, r)
        z[k] = b * high / (e * high + tau)
    return z
