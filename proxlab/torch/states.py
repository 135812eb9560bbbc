"""What an update rule keeps of each parameter: arrays that start somewhere, a count, and a sum of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proxlab.optim.rules import Rule
from proxlab.optim.updates import Slot
from proxlab.torch.problems import wide
from proxlab.torch.shards import like, local, local_part

__all__ = ["as_given", "copied", "count", "counted", "slots_of"]


def count(state: Mapping[str, Any]) -> int:
    """Return the count of the next step of a parameter."""
    if "step" in state:
        return int(state["step"]) + 1
    # torch.optim.SGD keeps no count: its first step is the one without a buffer.
    return 2 if "momentum_buffer" in state else 1


def counted(state: Mapping[str, Any]) -> tuple[int, float]:
    """Return the count of the next step of a parameter, and its sum of weights."""
    return count(state), float(state.get("weight_sum", 0.0))


def slots_of(
    rule: Rule, state: Mapping[Tensor, Mapping[str, Any]], p: Tensor, w: Tensor, settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return the arrays of state of a parameter, ``w`` in their precision; new ones where none are."""
    held = state.get(p, {})
    return {
        slot.name: local(held[slot.name]) if slot.name in held else _start(slot, w, settings)
        for slot in rule.select(settings).slots
    }


def _start(slot: Slot, w: Tensor, settings: Mapping[str, Any]) -> Tensor:
    if slot.start == "parameter":
        return w.clone()
    return torch.full_like(w, 0.0 if slot.start == "zeros" else settings[slot.start])


def copied(saved: Mapping[str, Any], p: Tensor) -> dict[str, Tensor]:
    """Copy a saved state of a parameter: arrays as its own are, numbers as exactly as they were."""
    new = {}
    for name, value in saved.items():
        if name == "step":
            new[name] = torch.tensor(float(value))
        elif name == "weight_sum":
            new[name] = torch.tensor(float(value), dtype=torch.float64)
        else:
            new[name] = like(torch.empty_like(wide(p)).copy_(local_part(value, p)), p)
    return new


def as_given(rule: Rule, group: Mapping[str, Any]) -> list[Any] | None:
    """Return the settings as they were given, or None where one may change and be the same object."""
    values = [group[name] for name in rule.settings]
    for value in values:
        parts = value if type(value) is tuple else (value,)
        if any(type(part) not in (int, float, bool) for part in parts):
            return None
    return values
