r"""
A penalty of your own: check it, draw it, use it
================================================

A radial penalty is its slope, in pieces (:doc:`how it is written </adding_a_penalty>`). Values, zero test,
global prox in any metric and certificates follow from them. Whether what was written is what was meant is a
matter of seconds: :func:`proxlab.check_penalty` compares all of it with brute force, and ``study.draw``
shows it.
"""

from dataclasses import dataclass

import numpy as np

import proxlab as pl
from proxlab import study
from proxlab.penalties.base import Piece, RadialPenalty
from proxlab.values import check_number

# %%
# The group form of the BerHu penalty (Owen 2007): a norm up to :math:`\delta`, quadratic beyond. Its slope
# is :math:`\lambda`, then :math:`\lambda r/\delta`.


@dataclass(frozen=True, eq=False)
class GroupBerHu(RadialPenalty):
    lam: float
    delta: float

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "lam", check_number("lam", self.lam, 0.0))
        object.__setattr__(self, "delta", check_number("delta", self.delta, 0.0, strict=True))

    @property
    def pieces(self):
        kink = Piece(start=self.delta, value=self.lam * self.delta, a=0.0, c=-self.lam / self.delta)
        return (Piece(start=0.0, value=0.0, a=self.lam, c=0.0), kink)


h = GroupBerHu(1.0, delta=2.0)
print(pl.check_penalty(h))

# %%
# Its value, its slope, and the length of its prox in the Euclidean metric and in one that is not constant:

study.draw(h)

# %%
# For comparison, MCP: it leaves large groups as they are, and its prox jumps where the
# objective has two minimisers.

study.draw(pl.GroupMCP(1.0, gamma=0.7))

# %%
# What would have gone wrong? Here the class overrides the value, and forgets the weights of the groups and
# the half of the square. Everything disagrees with it, and each finding is a sentence. The first of them:


class Forgotten(GroupBerHu):
    def value(self, z):
        r = np.linalg.norm(z, axis=-1)
        beyond = self.lam * (r**2 + self.delta**2) / self.delta
        return np.where(r <= self.delta, self.lam * r, beyond)


for finding in pl.check_penalty(Forgotten(1.0, delta=2.0))[:4]:
    print("*", finding)

# %%
# It takes part in every study, as any penalty of the library does:

rng = np.random.default_rng(0)
metric = rng.lognormal(size=(100, 20))
problem = study.Problem("BerHu", rng.normal(size=(100, 20)), 0.5, metric, h)
validation = study.validate(problem, {"prox": pl.prox}, digits=40)
print(len(validation.violations), "violations of", len(validation.frame), "bounds")
