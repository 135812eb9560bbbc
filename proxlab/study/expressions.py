"""Penalties, root finders and optimizers as one writes them in Python, read without running any code."""

from __future__ import annotations

import ast
from typing import Any

from proxlab import optim, penalties, rootfinders
from proxlab.groups import Groups

__all__ = ["read"]

# Classes in these modules are bases.
_ABSTRACT = tuple(
    base.__module__ for base in (penalties.Penalty, penalties.CurvedPenalty, rootfinders.RootFinder)
)
_GROUPS = ("over", "csr", "labels", "conv")


def _classes(module: Any, base: type) -> dict[str, type]:
    named = {name: getattr(module, name) for name in module.__all__}
    return {
        name: cls
        for name, cls in named.items()
        if isinstance(cls, type)
        and issubclass(cls, base)
        and cls.__module__ not in _ABSTRACT
        and cls is not base
    }


#: What can be made, by kind.
KINDS: dict[str, dict[str, type]] = {
    "penalty": _classes(penalties, penalties.Penalty),
    "root finder": _classes(rootfinders, rootfinders.RootFinder),
    "optimizer": _classes(optim, optim.Optimizer),
}


def read(text: str, kind: str) -> Any:
    """Make what an expression says, such as ``GroupLasso(0.01, groups=Groups.over(0))``.

    Parameters
    ----------
    text : str
        A class of proxlab with numbers, strings, lists and `Groups` for arguments; its name alone where it
        needs none. ``pl.`` may stand before names.
    kind : {"penalty", "root finder", "optimizer"}

    Returns
    -------
    made : object

    Raises
    ------
    ValueError
        If it is not such an expression, or what it makes is refused.
    """
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            node = ast.Call(node, [], [])
        return _Reader(KINDS[kind]).call(node)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        reason = "is not an expression" if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"{text!r} is no {kind}: {reason}") from error


class _Reader:
    def __init__(self, classes: dict[str, type]) -> None:
        self.classes = classes

    def call(self, node: ast.expr) -> Any:
        if not isinstance(node, ast.Call):
            raise ValueError(f"it must be one of {', '.join(self.classes)} with its arguments")
        name = ast.unparse(node.func).removeprefix("pl.").removeprefix("proxlab.").removeprefix("optim.")
        if name in self.classes:
            function: Any = self.classes[name]
        elif name.startswith("Groups.") and name.removeprefix("Groups.") in _GROUPS:
            function = getattr(Groups, name.removeprefix("Groups."))
        else:
            known = [*self.classes, *(f"Groups.{one}" for one in _GROUPS)]
            raise ValueError(f"{name} is not among {', '.join(known)}")
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("its arguments must be written out")
        keywords = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        return function(*(self.value(argument) for argument in node.args), **keywords)

    def value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Call):
            return self.call(node)
        return ast.literal_eval(node)
