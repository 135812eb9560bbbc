"""Scalar equations, one a file; the contract is in :mod:`proxlab.equations.base`."""

from proxlab.equations.base import Equation, Sums, Task
from proxlab.equations.clipped import CLIPPED
from proxlab.equations.radial import RADIAL

__all__ = ["CLIPPED", "EQUATIONS", "RADIAL", "Equation", "Sums", "Task"]

#: By the name that a penalty gives.
EQUATIONS = {"radial": RADIAL, "clipped": CLIPPED}
