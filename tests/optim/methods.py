"""The table of methods that the tests run over, and what each is, in a few lines of NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from proxlab import optim

#: Those whose kernels are compiled for every layout and type in ``make test``; the others stand in
#: ``make test-kernels``.
FEW = ("sgd", "rmsprop centered", "adam", "ramda momentum")


@dataclass(frozen=True)
class Method:
    """An optimizer with settings, and a reference ``(w, g, state, settings) -> x, d, step``."""

    make: Any
    settings: dict[str, Any]
    reference: Any

    def __call__(self, **options):
        return self.make(**(self.settings | options))


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


METHODS = {
    "sgd": Method(optim.ProxSGD, {"lr": 0.1}, sgd),
    "sgd momentum": Method(
        optim.ProxSGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}, sgd
    ),
    "sgd nesterov": Method(optim.ProxSGD, {"lr": 0.05, "momentum": 0.8, "nesterov": True}, sgd),
    "adagrad": Method(
        optim.ProxAdagrad,
        {"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.01, "initial_accumulator_value": 0.1},
        adagrad,
    ),
    "rmsprop": Method(optim.ProxRMSprop, {"lr": 0.02, "weight_decay": 0.01}, rmsprop),
    "rmsprop centered": Method(
        optim.ProxRMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-3}, rmsprop
    ),
    "adam": Method(optim.ProxAdam, {"lr": 0.05, "weight_decay": 0.01}, adam),
    "adam amsgrad": Method(optim.ProxAdam, {"lr": 0.05, "amsgrad": True}, adam),
    "adamw": Method(optim.ProxAdamW, {"lr": 0.05, "betas": (0.8, 0.95)}, adamw),
    "amsgrad": Method(optim.ProxAMSGrad, {"lr": 0.05}, amsgrad),
    "rmda": Method(optim.RMDA, {"lr": 0.1}, rmda),
    "rmda momentum": Method(optim.RMDA, {"lr": 0.1, "momentum": 0.4}, rmda),
    "ramda": Method(optim.RAMDA, {"lr": 0.05}, ramda),
    "ramda momentum": Method(optim.RAMDA, {"lr": 0.05, "momentum": 0.4}, ramda),
    "linbreg": Method(optim.LinBreg, {"lr": 0.1, "delta": 2.0}, linbreg),
    "linbreg momentum": Method(optim.LinBreg, {"lr": 0.1, "delta": 1.0, "momentum": 0.6}, linbreg),
    "adabreg": Method(optim.AdaBreg, {"lr": 0.02, "delta": 0.5}, adabreg),
}
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
