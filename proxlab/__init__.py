"""Certified weighted proximal operators of structured-sparsity penalties.

``prox(h, x, step, metric=d)`` is ``argmin_z h(z) + ‖z - x‖²_D / (2 step)`` with the diagonal metric
``D = diag(d)`` of an adaptive optimizer: exact to rounding, global where ``h`` is not convex, and with proofs
(:func:`certify`).
"""

import importlib
import typing

from proxlab.backends.threads import get_num_threads, set_num_threads
from proxlab.envelope import envelope
from proxlab.groups import Groups
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
    Penalty,
    SparseGroupLasso,
)
from proxlab.prox import Solution, prox, prox_vjp, solve
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

if typing.TYPE_CHECKING:
    from proxlab import inexactness, optim
    from proxlab.certificate import Certificate, certify
    from proxlab.check import check_penalty

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

# Loaded when asked for: a prox alone should not wait for the certificates.
_LATE = {
    "Certificate": "certificate",
    "certify": "certificate",
    "check_penalty": "check",
    "inexactness": "inexactness",
    "optim": "optim",
}


def __getattr__(name: str) -> typing.Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LATE[name]}")
    value = globals()[name] = module if name == _LATE[name] else getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
