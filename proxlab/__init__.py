"""Certified weighted proximal operators of structured-sparsity penalties.

``prox(h, x, step, metric=d)`` is ``argmin_z h(z) + ‖z - x‖²_D / (2 step)`` with the diagonal metric ``D =
diag(d)`` of an
adaptive optimizer: exact to rounding, global where ``h`` is not convex, and with proofs (:func:`certify`).
"""

from proxlab import inexactness
from proxlab.backends.threads import get_num_threads, set_num_threads
from proxlab.certificate import Certificate, certify
from proxlab.groups import Groups
from proxlab.penalties import (
    L1,
    GroupCapped,
    GroupElasticNet,
    GroupL0,
    GroupLasso,
    GroupLinf,
    GroupMCP,
    GroupSCAD,
    Penalty,
    SparseGroupLasso,
)
from proxlab.prox import Solution, envelope, prox, solve
from proxlab.rootfinders import (
    ITP,
    Bisection,
    Brent,
    Chandrupatla,
    ClassicNewton,
    Halley,
    Newton,
    RootFinder,
    Status,
)

__version__ = "0.1.0"

__all__ = [
    "ITP",
    "L1",
    "Bisection",
    "Brent",
    "Certificate",
    "Chandrupatla",
    "ClassicNewton",
    "GroupCapped",
    "GroupElasticNet",
    "GroupL0",
    "GroupLasso",
    "GroupLinf",
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
    "envelope",
    "get_num_threads",
    "inexactness",
    "prox",
    "set_num_threads",
    "solve",
]
