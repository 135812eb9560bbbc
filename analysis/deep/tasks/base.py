"""A task is data, a network, and which of its weights stand and fall together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

import proxlab as pl
from analysis.deep import fetch
from analysis.deep.fetch import Package, Wheel
from analysis.deep.runs import Runs
from analysis.deep.samples import Samples
from proxlab.torch import param_groups


@dataclass(frozen=True)
class Budget:
    """How long a run is: training samples, epochs, and samples that are tested; None stands for all."""

    samples: int | None
    epochs: int
    tested: int | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """What is trained on what.

    Attributes
    ----------
    name : str
        As stored runs know it.
    title : str
        Heading.
    packages : tuple of Package or Wheel
        Where the data come from.
    read : callable
        Reads the packages' files.
    build : callable
        Makes the network for the samples.
    budgets : mapping of str to Budget
        Of the profiles that run it.
    groups : mapping
        Keywords of `proxlab.torch.param_groups`.
    pictured : tuple of str
        Matrices whose patterns are drawn.
    bucketed : bool
        Whether batches are made of texts of about the same length.
    classifier_rate : float, optional
        Learning rate of the layer ``classify``, where that alone is new.
    runs : mapping of str to Runs
        By method, for a task that the methods' own files do not know.
    """

    name: str
    title: str
    packages: tuple[Package | Wheel, ...]
    read: Callable[[list[Path]], Samples]
    build: Callable[[Samples], nn.Module]
    budgets: Mapping[str, Budget]
    groups: Mapping[str, Any] = field(default_factory=dict)
    pictured: tuple[str, ...] = ()
    bucketed: bool = False
    classifier_rate: float | None = None
    runs: Mapping[str, Runs] = field(default_factory=dict)

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

    def load(self, data: str) -> Samples:
        """The samples, read once in a process; `data` is the digest of their files."""
        key = self.name, data
        if key not in _LOADED:
            while len(_LOADED) > 1:
                _LOADED.pop(next(iter(_LOADED)))
            _LOADED[key] = self.read(self.files())
        return _LOADED[key]


class _Cache(dict[tuple[str, str], Samples]):
    """To pickle, and so to a run's digest, always empty: no run depends on what was read before."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _Cache, ()


#: The samples that were read last. Workers get tasks as copies, so that these are found by name and data.
_LOADED = _Cache()
