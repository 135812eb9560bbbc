"""What two checkouts are compared by: calls of the public interface, run in a process of each.

Run as a script in the environment of a checkout: it reads a line of JSON for each measurement and answers
with one. It imports nothing of the studies, so that an older checkout can run it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np

Call = Callable[[], object]

STEP, RATE = 1e-3, 1e-3


def _data(shape: tuple[int, ...], axis: int, dtype: str) -> tuple[Any, Any, float]:
    """Point, metric and the strength that makes half of the groups zero."""
    rng = np.random.default_rng(0)
    x = (0.02 * rng.standard_normal(shape)).astype(dtype)
    d = (1e-3 * np.exp(2 * rng.standard_normal(shape))).astype(dtype)
    squares = np.square(x * d, dtype=np.float64).sum(axis=axis)
    return x, d, float(np.median(np.sqrt(squares))) / STEP


#: Penalties under which about half of the groups are zero, of the strength of the group lasso, the norm of a
#: group and its number of elements.
PENALTIES: dict[str, Callable[[Any, float, float, int], Any]] = {
    "GroupLasso": lambda pl, lam, norm, n: pl.GroupLasso(lam),
    "SparseGroupLasso": lambda pl, lam, norm, n: pl.SparseGroupLasso(0.1 * lam / n**0.5, lam),
    "GroupLinf": lambda pl, lam, norm, n: pl.GroupLinf(0.5 * lam * n**0.5),
    "GroupLog": lambda pl, lam, norm, n: pl.GroupLog(lam * norm, norm),
    "GroupLq": lambda pl, lam, norm, n: pl.GroupLq(lam * norm**0.5, 0.5),
}


def _prox(verb: str, shape: tuple[int, ...], axis: int, dtype: str, kind: str = "GroupLasso") -> Call:
    import proxlab as pl

    x, d, lam = _data(shape, axis, dtype)
    norm = float(np.median(np.sqrt(np.square(x, dtype=np.float64).sum(axis=axis))))
    penalty, z = PENALTIES[kind](pl, lam, norm, shape[axis]), np.empty_like(x)
    penalty = replace(penalty, groups=pl.Groups.over(axis))
    if verb == "certify":
        exact = pl.prox(penalty, x, STEP, metric=d)
        return lambda: pl.certify(penalty, exact, x, STEP, metric=d)
    return lambda: getattr(pl, verb)(penalty, x, STEP, metric=d, out=z)


def parameters(shapes: list[tuple[int, ...]], kept: int) -> list[Any]:
    """Parameters with gradients; half of the groups along an axis are zero and stay so."""
    import torch

    rng, found = np.random.default_rng(0), []
    for shape in shapes:
        w, g = (scale * rng.standard_normal(shape) for scale in (0.02, 1e-3))
        axis = kept if kept < len(shape) else 0
        chosen = rng.permutation(shape[axis])[: shape[axis] // 2]
        np.moveaxis(w, axis, 0)[chosen] = 0.0
        np.moveaxis(g, axis, 0)[chosen] *= 0.01
        p = torch.nn.Parameter(torch.from_numpy(w.astype(np.float32)))
        p.grad = torch.from_numpy(g.astype(np.float32))
        found.append(p)
    return found


def _step(
    shapes: list[tuple[int, ...]], kept: int, groups: Callable[[Any], Any], lay: Any = None,
    method: str = "ProxAdamW", **options: Any,
) -> Call:  # fmt: skip
    import torch

    import proxlab as pl
    import proxlab.torch

    torch.set_num_threads(1)
    params = parameters(shapes, kept)
    if lay == "channels_last":
        for p in params:
            grad, p.grad = p.grad, None
            p.data = p.data.contiguous(memory_format=torch.channels_last)
            p.grad = grad.contiguous(memory_format=torch.channels_last)
    optimizer = getattr(proxlab.torch, method)([{"params": params, **groups(pl)}], lr=RATE, **options)
    return lambda: optimizer.step()


def _lasso(groups: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda pl: {"penalty": pl.GroupLasso(3e-5, groups=groups(pl), weights="sqrt_size")}


def _of_columns(kind: str, lam: float, norm: float, n: int) -> Callable[[Any], Any]:
    return lambda pl: {"penalty": replace(PENALTIES[kind](pl, lam, norm, n), groups=pl.Groups.over(0))}


def _scad(pl: Any) -> dict[str, Any]:
    return {"penalty": pl.GroupSCAD(6e-4, 3.7, groups=pl.Groups.over(0))}


def _joint(pl: Any) -> dict[str, Any]:
    over = pl.Groups.over
    penalty = pl.GroupLasso(3e-5, weights="sqrt_size")
    return {"penalty": penalty, "joint": [over(1), over(()), over(0)]}


def _target(shapes: list[tuple[int, ...]], **how: Any) -> Call:
    import proxlab as pl

    target = pl.optim.TargetSparsity(0.5, **how)
    return _step(shapes, 1, _lasso(lambda pl: pl.Groups.over(0)), sparsity=target)


_MATRICES: list[tuple[int, ...]] = [(512, 512)] * 4
_SMALL: list[tuple[int, ...]] = [(64, 64)] * 200
_CONVOLUTIONS: list[tuple[int, ...]] = [(128, 128, 3, 3)] * 4
_NEURONS: list[tuple[int, ...]] = [(1024, 512), (1024,), (512, 1024)]

CASES: dict[str, Callable[[], Call]] = {
    "prox small": lambda: _prox("prox", (16, 64), 1, "float32"),
    "prox rows": lambda: _prox("prox", (2048, 512), 1, "float32"),
    "prox columns": lambda: _prox("prox", (2048, 512), 0, "float32"),
    "prox rows float64": lambda: _prox("prox", (2048, 512), 1, "float64"),
    "prox SparseGroupLasso columns": lambda: _prox("prox", (2048, 512), 0, "float32", "SparseGroupLasso"),
    "prox GroupLinf columns": lambda: _prox("prox", (2048, 512), 0, "float32", "GroupLinf"),
    "prox GroupLog rows": lambda: _prox("prox", (2048, 512), 1, "float32", "GroupLog"),
    "prox GroupLog columns": lambda: _prox("prox", (2048, 512), 0, "float32", "GroupLog"),
    "prox GroupLq rows": lambda: _prox("prox", (2048, 512), 1, "float32", "GroupLq"),
    "solve rows": lambda: _prox("solve", (2048, 512), 1, "float32"),
    "certify rows": lambda: _prox("certify", (2048, 512), 1, "float32"),
    "certify columns": lambda: _prox("certify", (2048, 512), 0, "float32"),
}
#: Those that take PyTorch.
STEPS: dict[str, Callable[[], Call]] = {
    "step rows": lambda: _step(_MATRICES, 0, _lasso(lambda pl: pl.Groups.over(1))),
    "step columns": lambda: _step(_MATRICES, 1, _lasso(lambda pl: pl.Groups.over(0))),
    "step channels": lambda: _step(_CONVOLUTIONS, 1, _lasso(lambda pl: pl.Groups.conv("channel"))),
    "step kernels": lambda: _step(_CONVOLUTIONS, 1, _lasso(lambda pl: pl.Groups.conv("kernel"))),
    "step channels last": lambda: _step(
        _CONVOLUTIONS, 1, _lasso(lambda pl: pl.Groups.conv("channel")), "channels_last"
    ),
    "step 200 of 64x64": lambda: _step(_SMALL, 1, _lasso(lambda pl: pl.Groups.over(0))),
    "step joint neurons": lambda: _step(_NEURONS, 1, _joint),
    "step SCAD columns": lambda: _step(_MATRICES, 1, _scad),
    "step GroupLinf columns": lambda: _step(_MATRICES, 1, _of_columns("GroupLinf", 6e-4, 0.5, 512)),
    "step GroupLog columns": lambda: _step(_MATRICES, 1, _of_columns("GroupLog", 6e-4, 0.5, 512)),
    "step GroupLq columns": lambda: _step(_MATRICES, 1, _of_columns("GroupLq", 6e-4, 0.5, 512)),
    "step RAMDA rows": lambda: _step(_MATRICES, 0, _lasso(lambda pl: pl.Groups.over(1)), method="RAMDA"),
    "step RAMDA columns": lambda: _step(_MATRICES, 1, _lasso(lambda pl: pl.Groups.over(0)), method="RAMDA"),
    "step to a target": lambda: _target(_MATRICES),
    "step 200 to a target": lambda: _target(_SMALL),
    "step 200 to a target each": lambda: _target(_SMALL, per="layer"),
    "step 200 to a target by factors": lambda: _target(_SMALL, method="multiplicative"),
}


#: Elements of those that are compared by them: of many small tensors under a target, deciding costs more.
SIZES = {
    "step rows": 4 * 512 * 512,
    "step columns": 4 * 512 * 512,
    "step channels": 4 * 128 * 128 * 9,
    "step kernels": 4 * 128 * 128 * 9,
    "step channels last": 4 * 128 * 128 * 9,
    "step 200 of 64x64": 200 * 64 * 64,
    "step joint neurons": 2 * 1024 * 512 + 1024,
    "step SCAD columns": 4 * 512 * 512,
    "step GroupLinf columns": 4 * 512 * 512,
    "step GroupLog columns": 4 * 512 * 512,
    "step GroupLq columns": 4 * 512 * 512,
    "step RAMDA rows": 4 * 512 * 512,
    "step RAMDA columns": 4 * 512 * 512,
    "step to a target": 4 * 512 * 512,
}


def available() -> dict[str, Callable[[], Call]]:
    """The cases that this environment can run."""
    return CASES | (STEPS if find_spec("torch") is not None else {})


def main() -> None:
    """Answer requests: ``{"open": case}``, ``{"run": loops}``."""
    import proxlab as pl

    pl.set_num_threads(1)
    call: Call = int
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "open" in request:
                call = available()[request["open"]]()
                for _ in range(3):
                    call()
                answer: dict[str, Any] = {"package": pl.__file__}
            else:
                started = time.perf_counter()
                for _ in range(request["run"]):
                    call()
                answer = {"seconds": (time.perf_counter() - started) / request["run"]}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
