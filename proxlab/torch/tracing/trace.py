"""What runs of a network showed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from proxlab.torch.tracing.dropout import without_dropout
from proxlab.torch.tracing.families import Families
from proxlab.torch.tracing.read import Read
from proxlab.torch.tracing.tracer import LIMIT_SECONDS, Tracer

__all__ = ["Trace"]


@dataclass
class Trace:
    """What runs of a network showed.

    Attributes
    ----------
    families : Families
        The channels and how they are coupled.
    reads : dict
        Where channels are read, by parameter.
    makes : set
        Parameters and axes that make channels.
    ran : set
        Paths of the modules that ran.
    touched : set
        Names of the parameters and buffers that were used.
    widths : dict
        For each channel the sizes of the axes that it was found in.
    norms : dict
        The channels of each norm that counts them, by its path.
    dead : bool
        Whether no output depends on an input.
    end : float
        When time is up.
    """

    families: Families = field(default_factory=Families)
    reads: dict[Any, Read] = field(default_factory=dict)
    makes: set[tuple[str, int]] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    widths: dict[int, set[int]] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    dead: bool = True
    end: float = field(default_factory=lambda: time.monotonic() + LIMIT_SECONDS)

    def run(
        self,
        model: nn.Module,
        once: Callable[[nn.Module], list[Tensor]],
        inputs: Iterable[Tensor],
        record: Callable[[Tensor, str | None], Tensor] | None = None,
    ) -> list[Any]:
        """Follow one run.

        Parameters
        ----------
        model : torch.nn.Module
            The network, in the mode that it runs in.
        once : callable
            Calls it and returns its outputs.
        inputs : iterable of Tensor
            What it is called with.
        record : callable, optional
            What to call the labels of a tensor, or the places in the parameter of the given name, in the list
            of operations that is returned; negative where they are left out.

        Raises
        ------
        Untraceable
            If a bound is reached, or a tensor is written in a way that cannot be followed.
        """
        mode = Tracer(self, model, list(inputs), record)
        backend = sdpa_kernel(SDPBackend.MATH)
        with torch.no_grad(), without_dropout(model), mode.hooked(), backend, mode:
            outputs = once(model)
        for t in outputs:
            mode.finish(t)
        return mode.records
