"""The methods of the studies, one a file: to add one, write its file and add it to the list."""

from analysis.deep.methods.adabreg import ADABREG
from analysis.deep.methods.base import Method, Setup
from analysis.deep.methods.dense import DENSE
from analysis.deep.methods.dgating import D_GATING
from analysis.deep.methods.inexact import INEXACT
from analysis.deep.methods.lasso import LASSO
from analysis.deep.methods.linbreg import LINBREG
from analysis.deep.methods.magnitude import MAGNITUDE
from analysis.deep.methods.mcp import MCP
from analysis.deep.methods.pat import PRUNING_AWARE
from analysis.deep.methods.proxssi import PROXSSI
from analysis.deep.methods.ramda import RAMDA
from analysis.deep.methods.rmda import RMDA
from analysis.deep.methods.sgd import SGD
from analysis.deep.methods.target import TARGET
from analysis.deep.methods.unweighted import UNWEIGHTED

#: In the order of the report.
METHODS: tuple[Method, ...] = (
    DENSE,
    MAGNITUDE,
    UNWEIGHTED,
    PRUNING_AWARE,
    D_GATING,
    SGD,
    PROXSSI,
    RMDA,
    RAMDA,
    LINBREG,
    ADABREG,
    LASSO,
    MCP,
    TARGET,
    INEXACT,
)

__all__ = ["METHODS", "Method", "Setup"]
