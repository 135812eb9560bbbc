"""Names of a package that are imported when they are asked for: who solves one prox loads one penalty."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

__all__ = ["names"]


def names(package: str, places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    package : str
        Its name.
    places : mapping
        In which module of it each name is found; a module's own name stands for the module.
    """

    def find(name: str) -> Any:
        if name not in places:
            # Of a package that asks for more libraries, which it is imported for by name.
            hint = f"; import {package}.{name}" if find_spec(f"{package}.{name}") else ""
            raise AttributeError(f"module {package!r} has no attribute {name!r}{hint}")
        module = importlib.import_module(f"{package}.{places[name]}")
        value = module if name == places[name] else getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *places})

    return find, listed
