"""How long a training step takes with each method: interleaved, in one process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from analysis.deep import methods, tasks
from analysis.deep.blocks import sparsity
from analysis.deep.catalogue import middle, strengths
from analysis.deep.loop import batches
from analysis.deep.training import FAILURES
from proxlab.study import Result

#: Steps before the clock runs; some groups are zero by then.
_BEFORE = 40


def measure(task: str, full: bool, rounds: int, threads: int, seed: int, data: str) -> Result:
    """Time steps of all methods of a task in turn, each at the strength in the middle of its list.

    Parameters
    ----------
    task : str
        One of `analysis.deep.tasks.TASKS`.
    full : bool
        Whether the methods are those of the full profile.
    rounds : int
        Steps of each method that are timed.
    threads : int
        Of PyTorch.
    seed : int
        Of the initial weights and the order of the samples.
    data : str
        Digest of the data.
    """
    del data
    torch.set_num_threads(threads)
    loaded = tasks.samples(task)
    runs = []
    for method, listed in strengths(task, full=full).items():
        torch.manual_seed(seed)
        model = tasks.TASKS[task].build(loaded)
        steps = 2 * (_BEFORE + rounds)
        runs.append((method, model, methods.start(task, method, middle(listed), model, steps)))
    # not a number for a method that fails on the way
    found = np.full((rounds, len(runs), 2), np.nan)
    failed: set[str] = set()
    given = _endless(task, seed)
    for number in range(-_BEFORE, rounds):
        x, y = next(given)
        for k, (method, model, run) in enumerate(runs):
            if method in failed:
                continue
            started = time.perf_counter()
            run.optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()
            half = time.perf_counter()
            try:
                run.step()
            except FAILURES:
                failed.add(method)
                continue
            if number >= 0:
                found[number, k] = half - started, time.perf_counter() - half
    zero = [sparsity(run.blocks, [b.alive() for b in run.blocks]).weighted for _, _, run in runs]
    values = {
        "methods": [method for method, _, _ in runs],
        "weighted": zero,
        "per_epoch": len(loaded.train) // len(y),
    }
    return Result(values, {"seconds": found})


def _endless(task: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    rng = np.random.default_rng([seed, 2])
    split = tasks.samples(task).train
    return itertools.chain.from_iterable(
        batches(split, rng, tasks.TASKS[task].bucketed) for _ in itertools.count()
    )
