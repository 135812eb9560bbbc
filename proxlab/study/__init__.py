"""Studies of what the user brings: certified bounds validated, solvers compared, convergence drawn.

Its names are found on first use; nothing here is imported by ``import proxlab``. Needs the extra
``study``: ``pip install 'proxlab[study]'``.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # What type checkers see: the functions, not the modules of their names.
    from proxlab.study.blocks import Certified as Certified
    from proxlab.study.blocks import certify_blocks as certify_blocks
    from proxlab.study.capture import Capture as Capture
    from proxlab.study.capture import capture as capture
    from proxlab.study.cluster import ClusterError as ClusterError
    from proxlab.study.compare import Comparison as Comparison
    from proxlab.study.compare import compare as compare
    from proxlab.study.converge import converge as converge
    from proxlab.study.convergence import Convergence as Convergence
    from proxlab.study.draw import draw as draw
    from proxlab.study.folder import Folder as Folder
    from proxlab.study.folder import FolderError as FolderError
    from proxlab.study.folder import MissingResultsError as MissingResultsError
    from proxlab.study.folder import Result as Result
    from proxlab.study.folder import StoredStudy as StoredStudy
    from proxlab.study.folder import StoredUnit as StoredUnit
    from proxlab.study.folder import unit_name as unit_name
    from proxlab.study.problems import Problem as Problem
    from proxlab.study.problems import load as load
    from proxlab.study.problems import save as save
    from proxlab.study.report import report as report
    from proxlab.study.run import Unit as Unit
    from proxlab.study.run import UnitsFailedError as UnitsFailedError
    from proxlab.study.run import run_units as run_units
    from proxlab.study.truth import Errors as Errors
    from proxlab.study.truth import Truth as Truth
    from proxlab.study.truth import truth as truth
    from proxlab.study.validate import Validation as Validation
    from proxlab.study.validate import validate as validate

#: Public names, and the module of each.
_PUBLIC = {
    "Capture": "capture",
    "Certified": "blocks",
    "ClusterError": "cluster",
    "Comparison": "compare",
    "Convergence": "convergence",
    "Errors": "truth",
    "Folder": "folder",
    "FolderError": "folder",
    "MissingResultsError": "folder",
    "Problem": "problems",
    "Result": "folder",
    "StoredStudy": "folder",
    "StoredUnit": "folder",
    "Truth": "truth",
    "Unit": "run",
    "UnitsFailedError": "run",
    "Validation": "validate",
    "capture": "capture",
    "certify_blocks": "blocks",
    "compare": "compare",
    "converge": "converge",
    "draw": "draw",
    "load": "problems",
    "report": "report",
    "run_units": "run",
    "save": "problems",
    "truth": "truth",
    "unit_name": "folder",
    "validate": "validate",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'proxlab.study' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"proxlab.study.{_PUBLIC[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "proxlab":
            raise
        raise ModuleNotFoundError(
            f"proxlab.study.{name} needs the package {error.name!r}: pip install 'proxlab[study]'",
            name=error.name,
        ) from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(types.ModuleType):
    """``study.validate`` is the function, also after its module of the same name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType) and _PUBLIC.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
