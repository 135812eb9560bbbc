"""Certified weighted proximal operators of structured-sparsity penalties.

``prox(h, x, step, metric=d)`` is ``argmin_z h(z) + ‖z - x‖²_D / (2 step)`` with the diagonal metric
``D = diag(d)`` of an adaptive optimizer: exact to rounding, global where ``h`` is not convex, and with proofs
(:func:`certify`).
"""

import typing

from proxlab import late
from proxlab.backends.threads import get_num_threads, set_num_threads
from proxlab.envelope import envelope
from proxlab.groups import Groups
from proxlab.penalties import Penalty
from proxlab.prox import Solution, prox, prox_vjp, solve
from proxlab.rootfinders import Newton, RootFinder, Status

if typing.TYPE_CHECKING:
    from proxlab import inexactness, optim
    from proxlab.certificate import Certificate, certify
    from proxlab.check import check_penalty
    from proxlab.penalties import (
        L1,
        CurvedPenalty,
        GroupCapped,
        GroupElasticNet,
        GroupL0,
        GroupLasso,
        GroupLinf,
        GroupLog,
        GroupLq,
        GroupMCP,
        GroupSCAD,
        SparseGroupLasso,
    )
    from proxlab.rootfinders import ITP, Bisection, Brent, Chandrupatla, ClassicNewton, Halley

__version__ = "0.1.0"

__all__ = [
    "ITP",
    "L1",
    "Bisection",
    "Brent",
    "Certificate",
    "Chandrupatla",
    "ClassicNewton",
    "CurvedPenalty",
    "GroupCapped",
    "GroupElasticNet",
    "GroupL0",
    "GroupLasso",
    "GroupLinf",
    "GroupLog",
    "GroupLq",
    "GroupMCP",
    "GroupSCAD",
    "Groups",
    "Halley",
    "Newton",
    "Penalty",
    "RootFinder",
    "Solution",
    "SparseGroupLasso",
    "Status",
    "certify",
    "check_penalty",
    "envelope",
    "get_num_threads",
    "inexactness",
    "optim",
    "prox",
    "prox_vjp",
    "set_num_threads",
    "solve",
]

__getattr__, __dir__ = late.names(
    __name__,
    {
        "ITP": "rootfinders",
        "L1": "penalties",
        "Bisection": "rootfinders",
        "Brent": "rootfinders",
        "Certificate": "certificate",
        "Chandrupatla": "rootfinders",
        "ClassicNewton": "rootfinders",
        "CurvedPenalty": "penalties",
        "GroupCapped": "penalties",
        "GroupElasticNet": "penalties",
        "GroupL0": "penalties",
        "GroupLasso": "penalties",
        "GroupLinf": "penalties",
        "GroupLog": "penalties",
        "GroupLq": "penalties",
        "GroupMCP": "penalties",
        "GroupSCAD": "penalties",
        "Halley": "rootfinders",
        "SparseGroupLasso": "penalties",
        "certify": "certificate",
        "check_penalty": "check",
        "inexactness": "inexactness",
        "optim": "optim",
    },
)
