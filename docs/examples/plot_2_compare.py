"""
Compare a root finder of your own
=================================

A root finder is one function, ``propose``, that says where to look next (:doc:`how it is written
</adding_a_root_finder>`). Written once, it is compared with those that are there: what does an evaluation
less cost in accuracy? The error axis is *absolute*: a certified distance to the exact prox, not the
distance to the best of the solvers.
"""

from dataclasses import dataclass

import numpy as np

import proxlab as pl
from proxlab import study
from proxlab.rootfinders.base import RootFinder
from proxlab.scalar import where

# %%
# The Illinois method: regula falsi that halves the value of an end that stays twice.


def propose(r, f, slope, bend, lo, f_lo, hi, f_hi, m0, m1, m2, m3, m4):
    one = f * 0.0 + 1.0
    side = where(r == lo, -one, one)  # which end is new
    m1 = where(side == m0, 0.5 * m1, one)  # the weight of the other
    left = f_lo * where(side > 0, m1, one)
    right = f_hi * where(side < 0, m1, one)
    return (lo * right - hi * left) / (right - left), side, m1, m2, m3, m4


@dataclass(frozen=True)
class Illinois(RootFinder):
    propose = staticmethod(propose)


# %%
# Problems of different sizes and penalties, in metrics that span a few orders of magnitude, as those of
# adaptive optimizers do. Your own come from a file: ``problems = study.load("captured.npz")``.

rng = np.random.default_rng(0)


def problem(name, penalty, rows, columns, spread):
    x = rng.normal(size=(rows, columns))
    metric = rng.lognormal(sigma=spread, size=(rows, columns))
    step = 2.0 / np.sqrt(columns)
    return study.Problem(name, x, step, metric, penalty)


problems = [
    problem("group lasso, 16 elements", pl.GroupLasso(1.0), 60, 16, 1.0),
    problem("group lasso, 256 elements", pl.GroupLasso(2.0), 60, 256, 2.0),
    problem("group SCAD, 64 elements", pl.GroupSCAD(1.0, a=50.0), 60, 64, 1.0),
]

# %%
# Each solver runs at a few tolerances. A solver may also be any function with the arguments of
# :func:`proxlab.prox`; one that raises, or returns NaN or a wrong shape, is counted as a failure with its
# reason.

solvers = {"Illinois": Illinois(), "Newton": pl.Newton(), "Brent": pl.Brent(), "bisection": pl.Bisection()}
tolerances = [1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-12]
comparison = study.compare(problems, solvers, tolerances)
comparison.accuracy()

# %%
# Performance profiles: on which share of the groups is a solver within a factor of the cheapest one?

finest = study.compare(problems, solvers)
finest.profile(by="evaluations")

# %%
finest.summary()

# %%
# From a terminal:
#
# .. code-block:: console
#
#    $ proxlab compare captured.npz --solver mine.py:Illinois --solver Newton --solver Brent -o out/
