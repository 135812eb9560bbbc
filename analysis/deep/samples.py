"""Labelled samples in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """Inputs, one a row, and their labels."""

    x: NDArray[Any]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def head(self, count: int | None) -> Split:
        """The first `count` samples, or all."""
        return Split(self.x[:count], self.y[:count])


@dataclass(frozen=True)
class Samples:
    """Samples to train and to test with.

    Attributes
    ----------
    train, test : Split
        No sample is in both. Those for training are in random order.
    classes : tuple of str
        What the labels mean.
    vocabulary : tuple of str
        What the integers of a text mean; empty for images.
    """

    train: Split
    test: Split
    classes: tuple[str, ...]
    vocabulary: tuple[str, ...] = ()
