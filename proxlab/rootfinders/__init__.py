"""Root finders of a scalar equation, one a file; the contract is in :mod:`proxlab.rootfinders.base`."""

from proxlab.rootfinders.base import RootFinder, Status
from proxlab.rootfinders.bisection import Bisection
from proxlab.rootfinders.brent import Brent
from proxlab.rootfinders.chandrupatla import Chandrupatla
from proxlab.rootfinders.classic_newton import ClassicNewton
from proxlab.rootfinders.halley import Halley
from proxlab.rootfinders.itp import ITP
from proxlab.rootfinders.newton import Newton

__all__ = [
    "ITP",
    "Bisection",
    "Brent",
    "Chandrupatla",
    "ClassicNewton",
    "Halley",
    "Newton",
    "RootFinder",
    "Status",
]
