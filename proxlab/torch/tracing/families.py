"""Channels: numbered slices of parameters, and which of them are coupled."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["FIXED", "UNIFORM", "Families"]

# Labels that are no channel: a value that is the same everywhere; data that no layer makes, as the input.
UNIFORM, FIXED = 0, 1


class Families:
    """Channels: numbered slices of parameters, and which of them are coupled."""

    def __init__(self) -> None:
        self.parent: list[int] = [UNIFORM, FIXED]
        self.base: dict[tuple[str, int], tuple[int, int]] = {}
        self.reasons: dict[int, list[str]] = {}
        # Reasons that do not hold for whole heads of attention; why channels were mixed; what is in heads.
        self.soft: dict[int, str] = {}
        self.mixed: dict[int, str] = {}
        self.products: set[int] = set()
        self._roots: Tensor | None = None

    def of(self, name: str, axis: int, size: int) -> Tensor:
        """The channels that are slices of a parameter across an axis."""
        if (name, axis) not in self.base:
            self.base[name, axis] = (len(self.parent), size)
            self.parent += range(len(self.parent), len(self.parent) + size)
            self._roots = None
        start, size = self.base[name, axis]
        return torch.arange(start, start + size)

    def find(self, a: int) -> int:
        """Return the representative of a channel."""
        parent = self.parent
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        return a

    def join(self, a: int, b: int) -> None:
        """Couple two channels; one with what is fixed cannot be removed."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        a, b = min(a, b), max(a, b)
        self.parent[b] = a
        self._roots = None

    def roots(self) -> Tensor:
        """One representative for each channel, those coupled the same."""
        if self._roots is None:
            p = torch.tensor(self.parent)
            while True:
                q = p[p]
                if torch.equal(p, q):
                    break
                p = q
            self._roots = p
            self.parent = p.tolist()
        return self._roots

    def keep(self, labels: Iterable[int], reason: str) -> None:
        """Say why channels cannot be removed."""
        for a in labels:
            if a > FIXED:
                reasons = self.reasons.setdefault(a, [])
                if reason not in reasons and len(reasons) < 4:
                    reasons.append(reason)

    def obstacles(self, heads: set[int]) -> dict[int, str]:
        """The first reason of each representative; some do not hold for whole heads."""
        roots = self.roots()
        found: dict[int, str] = {}
        for a, reasons in self.reasons.items():
            found.setdefault(int(roots[a]), reasons[0])
        for a, reason in self.soft.items():
            if int(roots[a]) not in heads:
                found.setdefault(int(roots[a]), reason)
        return found

    def mixed_roots(self) -> dict[int, str]:
        """Why the channels of each representative were coupled by an operation that computes with all."""
        roots = self.roots()
        return {int(roots[a]): reason for a, reason in self.mixed.items()}
