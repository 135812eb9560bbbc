"""Fashion-MNIST (Xiao, Rasul & Vollgraf 2017): 70,000 grey images of ten kinds of clothing."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.deep.samples import Samples, Split

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes, packed by gzip or not.

    Raises
    ------
    ValueError
        If it is no such file, or is cut short.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: must be an idx file of unsigned bytes")
    rank = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, offset=4))
    data = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    if data.size != math.prod(shape):
        raise ValueError(f"{path}: must hold {math.prod(shape)} bytes of data, got {data.size}")
    return data.reshape(shape)


def fashion_mnist(paths: list[Path]) -> Samples:
    """Images of shape (n, 1, 28, 28), float32, with the training images' mean 0 and deviation 1.

    Parameters
    ----------
    paths : list of Path
        Images and labels for training, images and labels for testing.
    """
    train_x, train_y, test_x, test_y = (read_idx(path) for path in paths)
    mean, deviation = float(train_x.mean()), float(train_x.std())

    def split(x: NDArray[Any], y: NDArray[Any]) -> Split:
        return Split(((x[:, None] - np.float32(mean)) / np.float32(deviation)), y.astype(np.int64))

    return Samples(split(train_x, train_y), split(test_x, test_y), CLASSES)
