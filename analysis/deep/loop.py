"""Batches, the course of the learning rate, and accuracy: what every training run shares."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from analysis.deep.glosses import PADDING
from analysis.deep.samples import Split

BATCH = 128
#: Texts of so many batches are sorted by length before they are cut into batches.
_SORTED_TOGETHER = 50
_EVALUATED_TOGETHER = 1000
#: Share of the steps in which the learning rate rises.
_WARM_UP = 0.1


def factor(step: int, steps: int) -> float:
    """The learning rate of step 0, 1, …, as a share of its largest: a linear rise, then a linear fall."""
    done = (step + 1) / steps
    return min(done / _WARM_UP, (1.0 + 1.0 / steps - done) / (1.0 - _WARM_UP), 1.0)


def tensor(x: np.ndarray) -> Tensor:
    """Images with the channels last in memory, which is how convolutions run fastest; texts cut to size."""
    if x.ndim == 4:
        return torch.from_numpy(x).to(memory_format=torch.channels_last)
    return torch.from_numpy(np.ascontiguousarray(x[:, : int((x != PADDING).sum(axis=1).max())]))


def _lengths(split: Split) -> np.ndarray:
    return np.asarray((split.x != PADDING).sum(axis=1))


def batches(split: Split, rng: np.random.Generator, bucketed: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """The samples once, in random order; with `bucketed`, texts of about the same length together."""
    order = rng.permutation(len(split))
    if bucketed:
        lengths = _lengths(split)[order]
        chunk = np.arange(len(order)) // (_SORTED_TOGETHER * BATCH)
        order = order[np.lexsort((lengths, chunk))]
    starts = np.arange(0, len(order) - BATCH + 1, BATCH)
    for start in rng.permutation(starts) if bucketed else starts:
        rows = order[start : start + BATCH]
        yield tensor(split.x[rows]), torch.from_numpy(split.y[rows])


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Accuracy and mean cross entropy."""
    training = model.training
    model.eval()
    order = np.argsort(_lengths(split), kind="stable") if split.x.ndim == 2 else np.arange(len(split))
    hits, loss = 0, 0.0
    for start in range(0, len(order), _EVALUATED_TOGETHER):
        rows = order[start : start + _EVALUATED_TOGETHER]
        scores, y = model(tensor(split.x[rows])), torch.from_numpy(split.y[rows])
        hits += int((scores.argmax(dim=1) == y).sum())
        loss += float(functional.cross_entropy(scores, y, reduction="sum"))
    model.train(training)
    return hits / len(order), loss / len(order)
