"""The linker: shared source rebuilt for a target, with the target's operations, and known by its code.

A function is told from others by its *key*: its bytecode, names, constants, defaults and closure, and the
values of the globals that it uses, those of the functions among them too; never by its file. The key is part
of the name of what is compiled, so that an edit, wherever it was made, is another function, in this process
and in the disk cache.
"""

from __future__ import annotations

import builtins
import dis
import hashlib
import math
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from proxlab import scalar

__all__ = [
    "Given",
    "Target",
    "array_target",
    "functions_of",
    "module_over_arrays",
    "names_in",
    "over_arrays",
    "state",
]

#: Functions that are looked through for shared operations before they are taken to have none.
FOLLOWED = 1000
#: Modules that every target knows.
LIBRARIES = (math, np)
ALLOWED = (
    "numbers, strings and tuples of them, functions of its own kind, what math and numpy offer, and names of "
    "modules before a dot"
)


class Given(NamedTuple):
    """What a target gives for a name and is not source, with what tells it from others."""

    value: Any
    key: str


def functions_of(*modules: Any) -> dict[str, Callable[..., Any]]:
    """Return the functions that modules define, by name, in order."""
    return {
        name: f
        for module in modules
        for name, f in vars(module).items()
        if isinstance(f, types.FunctionType) and f.__module__ == module.__name__
    }


def described(value: Any) -> str:
    """Return a text that tells a constant, or a code object, from every other.

    Raises
    ------
    TypeError
        If it is neither a number, a string nor a tuple of them.
    """
    kind = type(value)
    if kind is float:
        return value.hex() if value == value else "nan"
    if kind in (bool, int, complex, str, bytes, type(None), type(...)):
        return f"{kind.__name__} {value!r}"
    if isinstance(value, (np.bool_, np.number)):
        return f"{value.dtype.str} {value.tobytes().hex()}"
    if isinstance(value, np.dtype):
        return f"dtype {value.str}"
    if kind is tuple:
        return f"({', '.join(described(v) for v in value)})"
    if kind is frozenset:
        return f"{{{', '.join(sorted(described(v) for v in value))}}}"
    if kind is types.CodeType:
        return _described_code(value)
    raise TypeError(f"a {kind.__name__}")


@lru_cache(maxsize=1024)
def _described_code(code: types.CodeType) -> str:
    # All but file, lines and the name that it goes by.
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return described((code.co_code, code.co_exceptiontable, counts, names, code.co_consts))


@lru_cache(maxsize=1024)
def _uses(code: types.CodeType) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    """Return the globals and free variables that code reads, with the attributes that follow each."""
    found: dict[str, set[tuple[str, ...]]] = {}
    for part in _with_inner(code):
        name: str = ""
        chain: tuple[str, ...] = ()
        for i in dis.get_instructions(part):
            if i.opname == "EXTENDED_ARG":
                continue
            if name and i.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                chain += (i.argval,)
                continue
            if name:
                found.setdefault(name, set()).add(chain)
            free = i.opname == "LOAD_DEREF" and i.argval in code.co_freevars
            name, chain = i.argval if free or i.opname in ("LOAD_GLOBAL", "LOAD_NAME") else "", ()
    for name in code.co_freevars:  # super() may look into its cell without an instruction
        found.setdefault(name, set())
    return tuple((name, tuple(sorted(chains))) for name, chains in sorted(found.items()))


def _with_inner(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _with_inner(constant)


def names_in(function: Callable[..., Any]) -> set[str]:
    """Return the names that a function uses, of globals and of attributes."""
    code: types.CodeType = function.__code__
    return {name for part in _with_inner(code) for name in part.co_names}


@lru_cache(maxsize=256)
def _is_shared(function: types.FunctionType) -> bool:
    """Return whether a function, or one that it calls, is written in the operations of proxlab.scalar."""
    seen: set[Any] = set()
    left: list[Any] = [function]
    while left and len(seen) < FOLLOWED:
        f = left.pop()
        if not isinstance(f, types.FunctionType) or f in seen:
            continue
        if f.__module__ == scalar.__name__:
            return True
        seen.add(f)
        for name, chains in _uses(f.__code__):
            left.extend(_meant(f, name, chain) for chain in chains)
    return False


def _meant(function: types.FunctionType, name: str, chain: tuple[str, ...]) -> Any:
    """Return what a function means by a name and the attributes that follow it of modules; or None."""
    free, value = function.__code__.co_freevars, function.__globals__.get(name)
    if name in free:
        cell = (function.__closure__ or ())[free.index(name)]
        try:
            value = cell.cell_contents
        except ValueError:  # it is not set yet
            return None
    for attribute in chain:
        if isinstance(value, types.ModuleType):
            value = getattr(value, attribute, None)
    return value


def _is_ours(function: Any) -> bool:
    """Return whether a function is the package's own source, which does not change while it runs."""
    name: str = function.__module__ or ""
    return name.startswith("proxlab.") and function.__globals__ is vars(sys.modules.get(name, types))


def _is_record(value: Any) -> bool:
    """Return whether a value is one of the package's named tuples, which every target knows as they are."""
    own = isinstance(value, type) and issubclass(value, tuple) and value.__module__.startswith("proxlab.")
    return own and hasattr(value, "_fields")


@dataclass(eq=False)
class Target:
    """What source is linked for.

    Attributes
    ----------
    make : callable
        ``make(function, loose)`` makes of a linked function what others call; ``loose`` tells whether it is
        marked by :func:`proxlab.scalar.any_order`.
    options : str
        What else ``make`` depends on.
    operations : mapping
        Functions that stand for others wherever those are used.
    native : callable
        ``native(value)`` returns what stands for a value of :mod:`math` or NumPy.
    whole : bool
        Whether it knows the modules themselves too.
    strict : bool
        Whether nothing else may be used: else what is neither source nor a number, and functions of other
        modules that are not written in shared operations, are left as they are.
    argument : str
        What an error says is wrong.
    """

    make: Callable[[types.FunctionType, bool], Any]
    options: str = ""
    operations: Mapping[Any, Any] = field(default_factory=dict)
    native: Callable[[Any], Any] = staticmethod(lambda value: value)  # noqa: RUF009 (stateless)
    whole: bool = True
    strict: bool = True
    argument: str = "root_finder"
    _made: dict[str, Any] = field(default_factory=dict)

    def link(self, function: Callable[..., Any], names: Mapping[str, Any] | None = None) -> Any:
        """Return a function made of ``function`` and all that it uses, callees first.

        Parameters
        ----------
        function : callable
        names : mapping, optional
            What the package's own source, and nobody else's, means by a global name: a function, a constant
            or a :class:`Given`.

        Raises
        ------
        TypeError
            If a user's function uses what is not compiled; the message says what.
        """
        return _Linking(self, names or {}).function(function)[0]

    def linked(self, function: Callable[..., Any], names: Mapping[str, Any], name: str) -> types.FunctionType:
        """Return a function as ``make`` would take it, under a name that ends in its key."""
        linking = _Linking(self, names)
        copy, _ = linking.copy(function, name, (name,))
        return copy


class _Linking:
    """One link: what has been made already, and which functions are open."""

    def __init__(self, target: Target, names: Mapping[str, Any]) -> None:
        self.target, self.names = target, names
        self.done: dict[int, tuple[Any, str]] = {}
        self.open: list[Any] = []

    def function(self, function: Any) -> tuple[Any, str]:
        """Return what is made of a function, and its key."""
        function = getattr(function, "py_func", function)  # of one that is compiled already, its source
        if id(function) not in self.done:
            marks = vars(function) if _is_ours(function) else {}
            loose = "any_order" in marks
            copy, key = self.copy(function, function.__name__, (loose, "inlined" in marks))
            vars(copy).update(marks)
            if key not in self.target._made:
                self.target._made[key] = self.target.make(copy, loose)
            self.done[id(function)] = self.target._made[key], key
        return self.done[id(function)]

    def copy(self, function: Any, name: str, options: tuple[Any, ...]) -> tuple[types.FunctionType, str]:
        """Return a function whose globals, cells and defaults are linked, and its key."""
        if any(function is f for f in self.open):
            raise self.refused(function, "calls itself; write a loop")
        if self.target.strict and (function.__kwdefaults__ or function.__code__.co_kwonlyargcount):
            raise self.refused(function, "takes arguments by keyword only; let it take them by position")
        self.open.append(function)
        code, own = function.__code__, _is_ours(function)
        cells: dict[str, types.CellType] = dict(
            zip(code.co_freevars, function.__closure__ or (), strict=True)
        )
        # What is read from disk has to find a module of this name; that of the user may be none, or gone.
        scope: dict[str, Any] = {"__builtins__": builtins, "__name__": __name__}
        closure, keys = {}, [__name__, described(code), described((*options, self.target.options))]
        for used, chains in _uses(code):
            if own and used in self.names:
                value, key = self.value(function, used, self.names[used], chains)
            elif used in cells:
                try:
                    value, key = self.value(function, used, cells[used].cell_contents, chains)
                except ValueError:
                    raise self.refused(function, f"uses {used} before it is set") from None
            elif used in function.__globals__:
                value, key = self.value(function, used, function.__globals__[used], chains)
            elif hasattr(builtins, used):
                value, key = self.value(function, used, getattr(builtins, used), chains)
            else:
                raise self.refused(function, f"uses {used}, which is not defined")
            keys.append(f"{used} {key}")
            if used in cells:
                closure[used] = types.CellType(value)
            else:
                scope[used] = value
        keys.append(self.defaults(function))
        self.open.pop()
        key = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]
        full = f"{re.sub(r'[^0-9a-zA-Z]', '_', name)}_{key}"
        copy = types.FunctionType(
            code.replace(co_name=full, co_qualname=full),
            scope,
            full,
            function.__defaults__,
            tuple(closure.get(k, cells[k]) for k in code.co_freevars),
        )
        copy.__module__, copy.__kwdefaults__ = __name__, function.__kwdefaults__
        return copy, key

    def defaults(self, function: Any) -> str:
        """Return what tells the defaults of a function from those of another with the same code."""
        keys = []
        given = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
        for name, value in given.items():
            try:
                keys.append(f"{name} {described(value)}")
            except TypeError as error:
                if self.target.strict:
                    raise self.refused(function, f"has {error} for a default; it may be a number") from None
                keys.append(f"{name} object {id(value)}")
        return "; ".join(keys)

    def value(self, user: Any, name: str, value: Any, chains: Any) -> tuple[Any, str]:
        """Return what a name stands for in the target, and its key."""
        if isinstance(value, Given):
            return value
        for plain, operation in self.target.operations.items():
            if value is plain:
                return operation, f"operation {plain.__name__}"
        if isinstance(value, types.ModuleType):
            return self.namespace(user, name, value, chains)
        if _is_record(value):
            return value, f"record {value.__module__}.{value.__qualname__} {value._fields}"
        library = _of_library(value)
        if library:
            try:
                return self.target.native(value), library
            except AttributeError as error:
                raise self.refused(user, f"uses {library}, which these arrays do not have") from error
        source = getattr(value, "py_func", value)
        if isinstance(source, types.FunctionType) and self.follows(user, source):
            attributes = sorted(chain[0] for chain in chains if chain)
            if attributes:
                # What is made of a function has none of its attributes.
                said = f"uses {name}.{attributes[0]}, an attribute of a function; it may use {ALLOWED}"
                raise self.refused(user, said)
            return self.function(value)
        if not self.target.strict and isinstance(value, type) and chains and () not in chains:
            return self.namespace(user, name, value, chains)
        try:
            return value, described(value)
        except TypeError as error:
            if not self.target.strict:
                return value, f"object {id(value)}"
            raise self.refused(user, f"uses {name}, {error}; it may use {ALLOWED}") from None

    def follows(self, user: Any, function: types.FunctionType) -> bool:
        """Return whether a function that another one uses is source too."""
        return self.target.strict or function.__module__ == user.__module__ or _is_shared(function)

    def namespace(self, user: Any, name: str, value: Any, chains: Any) -> tuple[Any, str]:
        """Return a module of the attributes that are used of a module or a class.

        Modules that the target knows are returned as they are.
        """
        if value in LIBRARIES and self.target.whole:
            return value, f"module {value.__name__}"
        if () in chains:
            if not self.target.strict:
                return value, f"object {id(value)}"
            raise self.refused(user, f"uses the module {name} as a value; it may use {ALLOWED}")
        parts: dict[str, tuple[Any, str]] = {}
        for first in sorted({chain[0] for chain in chains}):
            rest = tuple(sorted({chain[1:] for chain in chains if chain[0] == first}))
            if not hasattr(value, first):
                raise self.refused(user, f"uses {name}.{first}, which is not defined")
            parts[first] = self.value(user, f"{name}.{first}", getattr(value, first), rest)
        key = "; ".join(f"{first} {part[1]}" for first, part in parts.items())
        copy = types.ModuleType(f"{value.__name__}_{hashlib.sha256(key.encode()).hexdigest()[:16]}")
        vars(copy).update({first: part[0] for first, part in parts.items()})
        return copy, f"module ({key})"

    def refused(self, function: Any, what: str) -> TypeError:
        """Return the error that says what a function may not do."""
        code = function.__code__
        where = f"{code.co_filename}, line {code.co_firstlineno}"
        return TypeError(f"{self.target.argument}: the function {function.__name__} ({where}) {what}")


def _of_library(value: Any) -> str:
    """Return the name of a builtin function, or of a function or type of math or NumPy, or nothing."""
    name = getattr(value, "__name__", None)
    for module in (builtins, *LIBRARIES):
        if isinstance(name, str) and getattr(module, name, None) is value:
            return f"{module.__name__}.{name}"
    return ""


_PLAIN = Target(lambda function, _: function)


def state(function: Callable[..., Any]) -> str:
    """Return the key of a user's function as it is now: its module's constants may have changed since.

    Of the package's own functions, which do not, an empty string.
    """
    function = getattr(function, "py_func", function)
    return "" if _is_ours(function) else _Linking(_PLAIN, {}).copy(function, "", ())[1]


def over_arrays(
    function: Callable[..., Any], xp: Any, names: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Return ``function`` with the operations of an array namespace, and what it means by global names."""
    given = tuple(sorted((names or {}).items()))
    users = tuple(state(value) for _, value in given if callable(value))
    return _over_arrays(function, xp, given, (state(function), *users))


@lru_cache(maxsize=64)
def module_over_arrays(module: types.ModuleType, xp: Any) -> Any:
    """Return the functions of a module of the package with the operations of an array namespace."""
    functions = functions_of(module)
    return types.SimpleNamespace(**{name: over_arrays(f, xp) for name, f in functions.items()})


#: What an array namespace calls differently than math, NumPy or Python do.
_RENAMED = {"fabs": "abs", "absolute": "abs", "power": "pow", "fmin": "minimum", "fmax": "maximum"}
_RENAMED |= {"min": "minimum", "max": "maximum"}


@lru_cache(maxsize=256)
def _over_arrays(
    function: Callable[..., Any], xp: Any, names: tuple[tuple[str, Any], ...], _: tuple[str, ...]
) -> Callable[..., Any]:
    linked: Callable[..., Any] = array_target(xp).link(function, dict(names))
    return linked


def array_target(
    xp: Any,
    operations: Mapping[Any, Any] | None = None,
    *,
    strict: bool = True,
    argument: str = "root_finder",
) -> Target:
    """Return the target of an array namespace; the other parameters are its attributes of those names."""
    known = {
        scalar.where: xp.where, scalar.sqrt: xp.sqrt, scalar.fabs: xp.abs, scalar.fmin: xp.minimum,
        scalar.fmax: xp.maximum, scalar.filled: xp.full_like, scalar.no: xp.logical_not,
    }  # fmt: skip

    def native(value: Any) -> Any:
        name = value.__name__
        if name in _RENAMED or getattr(builtins, name, None) is not value:
            return getattr(xp, _RENAMED.get(name, name))
        return value

    return Target(
        lambda f, _: f, operations=known | dict(operations or {}), native=native, whole=False, strict=strict,
        argument=argument,
    )  # fmt: skip
