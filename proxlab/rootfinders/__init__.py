"""Root finders of a scalar equation, one a file; the contract is in :mod:`proxlab.rootfinders.base`."""

import typing

from proxlab import late
from proxlab.rootfinders.base import RootFinder, Status
from proxlab.rootfinders.newton import Newton

if typing.TYPE_CHECKING:
    from proxlab.rootfinders.bisection import Bisection
    from proxlab.rootfinders.brent import Brent
    from proxlab.rootfinders.chandrupatla import Chandrupatla
    from proxlab.rootfinders.classic_newton import ClassicNewton
    from proxlab.rootfinders.halley import Halley
    from proxlab.rootfinders.itp import ITP

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

__getattr__, __dir__ = late.names(
    __name__,
    {
        "Bisection": "bisection",
        "Brent": "brent",
        "Chandrupatla": "chandrupatla",
        "ClassicNewton": "classic_newton",
        "Halley": "halley",
        "ITP": "itp",
    },
)
