"""Random problems of one group, scaled so that every regime of a penalty occurs."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests import oracle
from tests.table import Row

# Elementwise relative accuracy asked of a prox in float64, times the condition of its radius.
ACCURACY = 1e-14


@dataclass(frozen=True)
class Case:
    """A group with everything that defines its prox. The truth is computed when it is asked for."""

    name: str
    parameters: dict[str, Any]
    x: np.ndarray
    d: np.ndarray
    step: float
    weight: float = 1.0

    @cached_property
    def answer(self) -> oracle.Answer:
        return oracle.solve(self.name, self.parameters, self.x, self.d, self.step, self.weight)

    @property
    def unique(self) -> bool:
        """Whether rounding cannot change which of two local minimisers is the global one."""
        return self.answer.gap > 1e-10

    def tolerance(self, which: int = 0, accuracy: float = ACCURACY) -> np.ndarray:
        """Bound of the elementwise error: relative to each element, and to x where differences of x occur.

        The radius amplifies a relative error by its condition, which is ``‖x‖/‖z‖`` near the zero threshold.
        """
        z = np.array([abs(oracle.to_float(v)) for v in self.answer.candidates[which]])
        # Of what is zero nothing is off, though the condition there may be beyond all numbers.
        condition = self.answer.conditions[which]
        # Where a piece ends whose slope falls as fast as the metric rises, any radius will do.
        condition = math.inf if math.isnan(condition) else condition
        bound = np.where(z > 0, 1 + condition, 0.0) * z
        if self.name in ("L1", "SparseGroupLasso"):
            bound = bound + np.abs(self.x)
        if self.name == "GroupLinf":
            bound = bound + np.abs(self.x).max(initial=0.0)
        if self.name in ("GroupLog", "GroupLq"):
            # Powers and quotients of slopes that are curves have a few roundings more.
            bound = 4.0 * bound
        return accuracy * bound + 5e-324

    def replace(self, **changes: Any) -> "Case":
        fields = ("name", "parameters", "x", "d", "step", "weight")
        return Case(**({f: getattr(self, f) for f in fields} | changes))


def unit(name: str, x: np.ndarray, d: np.ndarray, step: float, parameters: dict[str, Any]) -> float:
    """The scale of a parameter for one problem; 1 where the problem has none."""
    strength, length = float(np.linalg.norm(d * x)) / step, float(np.linalg.norm(x))
    scales = {
        "strength": strength,
        "length": length,
        "curvature": float(np.median(d)) / step,
        "energy": float(np.sum(d * x * x)) / (2 * step),
        "power": float(np.sum(d * x * x)) / (2 * step) / (length ** parameters.get("q", 1.0) or 1.0),
        "length/strength": length / parameters["lam"] if parameters.get("lam") else 1.0,
    }
    return scales[name] or 1.0


numbers = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0]),
    st.floats(-4, 4, allow_subnormal=False),
    st.builds(lambda e, s: s * 10.0**e, st.floats(-6, 6), st.sampled_from([-1.0, 1.0])),
)
positives = st.one_of(st.sampled_from([1.0, 2.0, 0.5]), st.builds(lambda e: 10.0**e, st.floats(-5, 5)))


def vectors(n: int, elements: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return st.lists(elements, min_size=n, max_size=n).map(np.array)


@st.composite
def cases(draw: Any, row: Row, sizes: tuple[int, int] = (1, 5)) -> Case:
    """Draw a group and parameters of the row's penalty."""
    n = draw(st.integers(*sizes))
    x = draw(vectors(n, numbers))
    d = (
        np.full(n, draw(positives))
        if draw(st.booleans()) and draw(st.booleans())
        else draw(vectors(n, positives))
    )
    step = 10.0 ** draw(st.floats(-3, 1))
    drawn = {k: v for k, v in row.parameters.items() if k == "nonnegative"}
    for parameter, (kind, low, high) in row.draw.items():
        factor = 10.0 ** draw(st.floats(low, high))
        if kind == "above 2":
            drawn[parameter] = 2.0 + factor
            continue
        if kind == "below 1":
            drawn[parameter] = 1.0 - factor
            continue
        if kind == "either":
            kind = draw(st.sampled_from(["strength", "length"]))
        drawn[parameter] = factor * unit(kind, x, d, step, drawn)
    assert all(math.isfinite(v) for v in drawn.values())
    return Case(row.name, drawn, x, d, step)
