"""The table that drives the tests: a new penalty or root finder is tested by adding a row."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import proxlab as pl
from tests import oracle


@dataclass(frozen=True)
class Row:
    """A penalty: its class, parameters for plain examples, and how random examples draw them.

    `draw` has, per parameter, a unit and the range of the base-10 exponent in that unit, so that every regime
    of the penalty occurs at any scale of the data. Units (see `tests.cases.unit`): "strength" makes a group
    vanish, "length" is the norm of the point, "curvature" that of the quadratic, "energy" the quadratic at
    zero, "power" that divided by the length to the power q; "above 2" is added to 2, "below 1" taken from 1.
    """

    name: str
    parameters: dict[str, Any]
    draw: dict[str, tuple[str, float, float]]

    @property
    def id(self) -> str:
        return self.name + ("-nonnegative" if self.parameters.get("nonnegative") else "")

    @property
    def convex(self) -> bool:
        return self.name in oracle.CONVEX

    def build(self, parameters: dict[str, Any] | None = None, **options: Any) -> pl.Penalty:
        """Make proxlab's penalty; `options` are groups and weights."""
        penalty: pl.Penalty = getattr(pl, self.name)(**(parameters or self.parameters), **options)
        return penalty


STRENGTH = ("strength", -4.0, 0.2)
PENALTIES = [
    Row("L1", {"lam": 0.3}, {"lam": STRENGTH}),
    Row("L1", {"lam": 0.3, "nonnegative": True}, {"lam": STRENGTH}),
    Row("GroupLasso", {"lam": 0.7}, {"lam": STRENGTH}),
    Row("GroupLasso", {"lam": 0.7, "nonnegative": True}, {"lam": STRENGTH}),
    Row("GroupElasticNet", {"lam": 0.4, "kappa": 0.8}, {"lam": STRENGTH, "kappa": ("curvature", -2.0, 2.0)}),
    Row("SparseGroupLasso", {"lam1": 0.2, "lam2": 0.5}, {"lam1": ("strength", -4.0, 0.0), "lam2": STRENGTH}),
    Row("GroupMCP", {"lam": 0.8, "gamma": 1.3}, {"lam": STRENGTH, "gamma": ("length/strength", -1.5, 1.0)}),
    Row(
        "GroupSCAD",
        {"lam": 0.7, "a": 2.4},
        {"lam": ("either", -2.0, 0.2), "a": ("above 2", -2.0, 1.0)},
    ),
    Row("GroupCapped", {"lam": 0.9, "theta": 0.7}, {"lam": STRENGTH, "theta": ("length", -2.0, 0.3)}),
    Row("GroupL0", {"lam": 0.4}, {"lam": ("energy", -3.0, 1.0)}),
    Row("GroupLinf", {"lam": 0.8}, {"lam": STRENGTH}),
    Row("GroupLog", {"lam": 0.4, "eps": 0.3}, {"eps": ("length", -2.0, 0.5), "lam": ("energy", -3.0, 1.0)}),
    Row("GroupLq", {"lam": 0.4, "q": 0.5}, {"q": ("below 1", -1.3, -0.05), "lam": ("power", -3.0, 1.0)}),
]
#: Penalties whose slope is a curve, for which there are no kernels.
CURVED = [row for row in PENALTIES if row.name in ("GroupLog", "GroupLq")]
TABLED = [row for row in PENALTIES if row not in CURVED]
CONVEX = [row for row in PENALTIES if row.convex]
GROUPED = [row for row in PENALTIES if row.name != "L1"]

ROOT_FINDERS = [
    pl.Newton(),
    pl.Halley(),
    pl.Bisection(),
    pl.Brent(),
    pl.Chandrupatla(),
    pl.ITP(),
    pl.ClassicNewton(),
]
BACKENDS = ["array_api", "numba"]
DTYPES = [np.float32, np.float64]

# Groups, each with a shape it fits. The labels leave an empty group and two free elements.
LABELS = np.array([[0, 3, -1, 1], [3, 0, 1, 1], [4, -1, 3, 0]])
GROUPS: dict[str, tuple[Callable[[], pl.Groups], tuple[int, ...]]] = {
    "rows": (lambda: pl.Groups.over(-1), (4, 6)),
    "columns": (lambda: pl.Groups.over(0), (6, 4)),
    "everything": (lambda: pl.Groups.over((0, 1)), (3, 5)),
    "elements": (lambda: pl.Groups.over(()), (2, 3)),
    "middle axis": (lambda: pl.Groups.over(1), (2, 5, 3)),
    "outer axes": (lambda: pl.Groups.over((0, 2)), (2, 3, 4)),
    "filters": (lambda: pl.Groups.conv("filter"), (3, 2, 2, 2)),
    "channels": (lambda: pl.Groups.conv("channel"), (3, 2, 2, 2)),
    "kernels": (lambda: pl.Groups.conv("kernel"), (3, 2, 2, 2)),
    "heads": (lambda: pl.Groups.over((0, 2, 3), shape=(3, 2, 2, -1)), (12, 3)),
    "ragged": (lambda: pl.Groups.csr([0, 1, 1, 5, 8]), (9,)),
    "permuted": (lambda: pl.Groups.csr([0, 3, 5, 9], [8, 0, 3, 1, 2, 7, 6, 5, 4]), (3, 3)),
    "labels": (lambda: pl.Groups.labels(LABELS), (3, 4)),
}


class Hasty(pl.RootFinder):
    """A root finder as a user writes it, that takes three steps of Newton's method at once."""

    needs_bracket = False

    def propose(r, f, slope, bend, lo, f_lo, hi, f_hi, m0, m1, m2, m3, m4):
        return r - 3.0 * f / slope, m0, m1, m2, m3, m4


def ids(rows: list[Any]) -> list[str]:
    """Names for pytest's parameters."""
    return [row.id if isinstance(row, Row) else type(row).__name__ for row in rows]
