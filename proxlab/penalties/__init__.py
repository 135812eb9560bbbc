"""Penalties: one a file, all with the interface of :mod:`proxlab.penalties.base`."""

import typing

from proxlab import late
from proxlab.penalties.base import Penalty, RadialPenalty

if typing.TYPE_CHECKING:
    from proxlab.penalties.curved import CurvedPenalty
    from proxlab.penalties.group_capped import GroupCapped
    from proxlab.penalties.group_elastic_net import GroupElasticNet
    from proxlab.penalties.group_l0 import GroupL0
    from proxlab.penalties.group_lasso import GroupLasso
    from proxlab.penalties.group_linf import GroupLinf
    from proxlab.penalties.group_log import GroupLog
    from proxlab.penalties.group_lq import GroupLq
    from proxlab.penalties.group_mcp import GroupMCP
    from proxlab.penalties.group_scad import GroupSCAD
    from proxlab.penalties.l1 import L1
    from proxlab.penalties.sparse_group_lasso import SparseGroupLasso

__all__ = [
    "L1",
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
    "Penalty",
    "RadialPenalty",
    "SparseGroupLasso",
]

__getattr__, __dir__ = late.names(
    __name__,
    {
        "CurvedPenalty": "curved",
        "GroupCapped": "group_capped",
        "GroupElasticNet": "group_elastic_net",
        "GroupL0": "group_l0",
        "GroupLasso": "group_lasso",
        "GroupLinf": "group_linf",
        "GroupLog": "group_log",
        "GroupLq": "group_lq",
        "GroupMCP": "group_mcp",
        "GroupSCAD": "group_scad",
        "L1": "l1",
        "SparseGroupLasso": "sparse_group_lasso",
    },
)
