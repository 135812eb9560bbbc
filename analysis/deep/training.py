"""One training run: a method, a strength and a seed on a task, with what the report shows of it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import proxlab as pl
from analysis.deep.blocks import Block, sparsity
from analysis.deep.course import start
from analysis.deep.loop import BATCH, batches, evaluate, tensor
from analysis.deep.methods.base import Method
from analysis.deep.samples import Samples
from analysis.deep.tasks.base import Task
from proxlab.study import Result
from proxlab.torch import compact

#: So often in an epoch the sparsity is looked at.
_LOOKS = 16
#: Samples in the call that is timed before and after `compact`.
CALL = 64
#: So often in a run its subproblems are looked at.
_EXAMINED = 12
#: What a method raises that gives up, or whose weights have gone astray.
FAILURES = (ArithmeticError, ValueError, RuntimeError)


class Trace:
    """Sparsity in the course of training, and how many groups become zero and come back."""

    def __init__(self, of: list[Block]) -> None:
        self._blocks = of
        self._alive = [b.alive() for b in of]
        self._ever_zero = [~a for a in self._alive]
        self.rows: list[tuple[float, ...]] = []

    def look(self, epoch: float) -> None:
        """Record the present state."""
        alive = [b.alive() for b in self._blocks]
        now = sparsity(self._blocks, alive)
        groups = sum(len(a) for a in alive)
        died = sum(int((old & ~new).sum()) for old, new in zip(self._alive, alive, strict=True))
        back = sum(int((~old & new).sum()) for old, new in zip(self._alive, alive, strict=True))
        self._alive = alive
        self.rows.append((epoch, now.plain, now.weighted, died / groups, back / groups))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Columns by name."""
        names = ("epoch", "plain", "weighted", "died", "back")
        return dict(zip(names, np.array(self.rows).T, strict=True))


def trainer(task: Task, method: Method) -> Callable[..., Result]:
    """The function of a training run's unit, which depends on this task and this method and on no other."""

    def train(**given: Any) -> Result:
        return _trained(task, method, **{k: v for k, v in given.items() if k not in ("task", "method")})

    return train


def _trained(
    task: Task,
    method: Method,
    *,
    strength: float,
    seed: int,
    samples: int | None,
    epochs: int,
    data: str,
    probe: bool = False,
    tested: int | None = None,
    compacted: bool = True,
) -> Result:
    """Train a network and look at what came of it.

    A run that diverges, or that a method gives up, is a record too: its only value is ``failed``.

    Parameters
    ----------
    task : Task
    method : Method
    strength : float
        λ, or the share of weights that is to be zero.
    seed : int
        Of the initial weights and the order of the samples.
    samples : int or None
        How many training samples are used; None for all.
    epochs : int
        How often each sample is used.
    data : str
        Digest of the data, so that a run on other data is another unit.
    probe : bool
        Whether to look at the subproblems of some steps.
    tested : int, optional
        How many samples are tested; by default all.
    compacted : bool
        Whether zeros are removed at the end, which takes as long as many steps.
    """
    torch.set_flush_denormal(not method.keeps_denormals)
    try:
        loaded = task.load(data)
        loaded = dataclasses.replace(loaded, train=loaded.train.head(samples), test=loaded.test.head(tested))
        return _run(task, method, strength, seed, epochs, probe, compacted, loaded)
    except FAILURES as error:
        return Result({"failed": f"{type(error).__name__}: {error}"})
    finally:
        torch.set_flush_denormal(False)


def _run(
    task: Task,
    method: Method,
    strength: float,
    seed: int,
    epochs: int,
    probe: bool,
    compacted: bool,
    loaded: Samples,
) -> Result:
    torch.set_num_threads(pl.get_num_threads())
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 1])
    model = task.build(loaded)
    per_epoch = len(loaded.train) // BATCH
    run = start(task, method, strength, model, epochs * per_epoch)
    probed = method.probe(run.blocks, run.optimizer) if probe and method.probe is not None else None
    trace = Trace(run.blocks)
    look, examine = max(per_epoch // _LOOKS, 1), max(run.steps // _EXAMINED, 1)
    seconds, losses = [], []
    for epoch in range(epochs):
        spent, total = 0.0, 0.0
        for x, y in batches(loaded.train, rng, task.bucketed):
            due = probed if (run.count + 1) % examine == 0 else None
            if due is not None:
                due.before()
            started = time.perf_counter()
            run.optimizer.zero_grad()
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            run.step()
            spent += time.perf_counter() - started
            total += float(loss.detach())
            if not math.isfinite(total):
                raise FloatingPointError(f"the loss is not finite in step {run.count}, epoch {epoch + 1}")
            if due is not None:
                due.after(run.count)
            if run.count % look == 0:
                trace.look(run.count / per_epoch)
        seconds.append(spent)
        losses.append(total / per_epoch)
    final = sparsity(run.blocks, [b.alive() for b in run.blocks])
    accuracy, loss_of_test = evaluate(model, loaded.test)
    values = {
        "accuracy": accuracy,
        "loss": loss_of_test,
        "plain": final.plain,
        "weighted": final.weighted,
        "steps": run.count,
        "samples": len(loaded.train),
        "parameters": sum(p.numel() for p in model.parameters()),
        "penalised": sum(b.size * b.n_groups for b in run.blocks),
        "layers": _layers(run.blocks),
        **(_compacted(model, loaded) if compacted else {}),
    }
    patterns = {f"pattern-{name}": a for name, a in _patterns(run.blocks).items()}
    found = {} if probed is None else probed.arrays()
    columns = {"seconds": np.array(seconds), "losses": np.array(losses)}
    return Result(values, {**columns, **trace.arrays(), **patterns, **run.arrays(), **found})


def _layers(of: list[Block]) -> list[dict[str, Any]]:
    alive = [b.alive() for b in of]
    return [
        {"name": b.name, "groups": len(a), "zero": int((~a).sum()), "size": b.size}
        for b, a in zip(of, alive, strict=True)
    ]


def _patterns(of: list[Block]) -> dict[str, NDArray[Any]]:
    """The norm of each kernel or weight of the penalised matrices, outputs by inputs."""
    found = {}
    for b in of:
        for name, p in zip(b.names, b.params, strict=True):
            if p.ndim > 1:
                norms = p.detach().flatten(2).norm(dim=2) if p.ndim > 2 else p.detach().abs()
                found[name] = norms.numpy().astype(np.float16)
    return found


def _compacted(model: nn.Module, loaded: Samples) -> dict[str, Any]:
    """What is left without the zeros, and what that gains."""
    small, report = compact(model.eval(), tensor(loaded.test.x[:CALL]))
    accuracy, _ = evaluate(small, loaded.test)
    return {
        "compact": {
            "parameters": report.parameters,
            "flops": report.flops,
            "latency": report.latency,
            "difference": report.difference,
            "accuracy": accuracy,
            "kept": [dataclasses.asdict(k) for k in report.kept],
        }
    }
