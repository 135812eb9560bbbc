"""Digests of values by content: the same in every process, another after any change that can matter.

Functions count by their code, constants, defaults, closure, the globals that they use and the modules that
they import; modules by their source and those that it imports; objects by their class and state. What is
installed counts by name, since its version is in the record of the environment.
"""

from __future__ import annotations

import ast
import copyreg
import dis
import functools
import hashlib
import struct
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import PathFinder
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import numpy as np

_PACKAGE = Path(__file__).parents[1]


def digest(value: object) -> str:
    """Hexadecimal digest of a value by content.

    Parameters
    ----------
    value : object
        Anything that can be pickled: numbers, strings, arrays, containers, objects, functions.

    Returns
    -------
    digest : str
        Of 64 digits.

    Raises
    ------
    TypeError
        If the value, or something in it, has no content that could be compared in another process.
    """
    return _Walk().of(value).hex()


@functools.cache
def source_digest() -> str:
    """Digest of proxlab's sources: results of other code are not taken for ours."""
    files = sorted(_PACKAGE.rglob("*.py"))
    return _join(b"sources", *(file.read_bytes() for file in files)).hex()


def _join(*parts: bytes) -> bytes:
    """Digest of byte strings that tells where one ends."""
    state = hashlib.sha256()
    for part in parts:
        state.update(hashlib.sha256(part).digest())
    return state.digest()


@functools.cache
def is_installed(module_name: str) -> bool:
    """Whether a module is the interpreter's, proxlab's, or lies where packages are installed."""
    module = sys.modules.get(module_name)
    file = getattr(module, "__file__", None)
    if module is None or module_name == "__main__":
        return False
    if file is None:
        return module_name.partition(".")[0] in sys.stdlib_module_names or hasattr(module, "__path__")
    return _lies_installed(file)


@functools.cache
def _lies_installed(file: str) -> bool:
    """Whether a file is the interpreter's, proxlab's, or lies where packages are installed."""
    path = Path(file).resolve()
    if {"site-packages", "dist-packages"} & {*Path(file).parts, *path.parts}:
        return True
    places = (_PACKAGE, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return any(path.is_relative_to(Path(place).resolve()) for place in places)


class _Walk:
    """One walk over a value; a place that is met again counts by the order in which it was met."""

    def __init__(self) -> None:
        self._met: dict[int, bytes] = {}
        self._alive: list[object] = []
        self._sources: set[str] = set()

    def of(self, value: object) -> bytes:
        plain = self._plain(value)
        if plain is not None:
            return plain
        if id(value) in self._met:
            return self._met[id(value)]
        # Kept alive, since an identity is not another's as long as its owner lives.
        self._alive.append(value)
        self._met[id(value)] = _join(b"again", str(len(self._met)).encode())
        found = self._content(value)
        self._met[id(value)] = found
        return found

    def _plain(self, value: object) -> bytes | None:
        match value:
            case None | bool() | int() | str() | complex() | types.EllipsisType() if type(value) in (
                type(None),
                bool,
                int,
                str,
                complex,
                types.EllipsisType,
            ):
                return _join(type(value).__name__.encode(), repr(value).encode())
            case float() if type(value) is float:
                return _join(b"float", struct.pack(">d", value))
            case bytes():
                return _join(b"bytes", value)
        return None

    def _content(self, value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            if value.dtype.hasobject:
                return _join(b"objects", repr(value.shape).encode(), *(self.of(v) for v in value.ravel()))
            data = np.ascontiguousarray(value).tobytes()
            return _join(b"array", value.dtype.str.encode(), repr(value.shape).encode(), data)
        if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
            return _join(type(value).__name__.encode(), *(self.of(part) for part in value))
        if isinstance(value, (set, frozenset)):
            return _join(b"set", *sorted(self.of(part) for part in value))
        if isinstance(value, Mapping) and type(value) in (dict, types.MappingProxyType):
            return _join(b"dict", *sorted(_join(self.of(k), self.of(v)) for k, v in value.items()))
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, types.CodeType):
            return self._code(value)
        function = getattr(value, "py_func", value)  # of a function that Numba compiles
        if isinstance(function, types.FunctionType):
            return self._function(function)
        if isinstance(value, type):
            return self._class(value)
        return self._object(value)

    def _module(self, module: types.ModuleType) -> bytes:
        """A module of the user counts by its source, and by those that it imports."""
        file = getattr(module, "__file__", None)
        if file is None or is_installed(module.__name__):
            return _join(b"module", module.__name__.encode())
        # Also what is made elsewhere and has come by other ways than a statement.
        named = {getattr(value, "__module__", None) for value in vars(module).values()}
        used = {v.__name__ for v in vars(module).values() if isinstance(v, types.ModuleType)}
        others = {n for n in named | used if isinstance(n, str) and n in sys.modules and not is_installed(n)}
        return self._source(module.__name__, file, module.__package__ or "", others)

    def _source(self, name: str, file: str, package: str, others: set[str]) -> bytes:
        if name in self._sources:
            return _join(b"module again", name.encode())
        self._sources.add(name)
        source = Path(file).read_bytes()
        # In the order of names: what is met first is digested first.
        found = sorted((others | set(_imported(source, package))) - {name})
        return _join(b"module", name.encode(), source, *map(self._named, found))

    def _named(self, name: str) -> bytes:
        """A module of a name, imported or not; what is installed counts by that."""
        module = sys.modules.get(name)
        if getattr(module, "__file__", None) is not None and not is_installed(name):
            return self.of(module)
        found = None if module is not None else _found(name)
        if found is None or _lies_installed(found[0]):
            return _join(b"module", name.encode())
        return self._source(name, *found, set())

    def _label(self, thing: Any) -> bytes:
        return f"{thing.__module__}.{thing.__qualname__}".encode()

    def _code(self, code: types.CodeType) -> bytes:
        # Neither lines nor file: moving a function changes nothing.
        return _join(
            b"code",
            code.co_code,
            *(self.of(part) for part in (code.co_consts, code.co_names, code.co_varnames)),
        )

    def _function(self, function: types.FunctionType) -> bytes:
        if is_installed(function.__module__ or ""):
            return _join(b"function", self._label(function))
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(self.of(cell.cell_contents))
            except ValueError:  # not filled yet
                cells.append(b"empty")
        used = [
            self.of(function.__globals__[name])
            for name in sorted(_names(function.__code__))
            if name in function.__globals__
        ]
        return _join(
            b"function",
            function.__qualname__.encode(),
            self._code(function.__code__),
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            *cells,
            b"globals",
            *used,
            b"imports",
            *(self._named(name) for name in sorted(set(_imports_of(function)))),
            # What a decorator has wrapped may be out of reach of its code.
            *(self.of(vars(function).get(name)) for name in ("__wrapped__", "registry")),
        )

    def _class(self, cls: type) -> bytes:
        if is_installed(cls.__module__):
            return _join(b"class", self._label(cls))
        skipped = ("__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__annotations__")
        members = [
            _join(name.encode(), self.of(_member(member)))
            for name, member in sorted(vars(cls).items())
            if name not in skipped
            and not name.startswith(("__abstract", "_abc_", "__static_attr", "__annotat"))
        ]
        return _join(
            b"class", cls.__qualname__.encode(), *(self.of(base) for base in cls.__bases__), *members
        )

    def _object(self, value: Any) -> bytes:
        # as pickle does: some types, such as compiled patterns, are pickled by a function of a table
        reducer = copyreg.dispatch_table.get(type(value))
        reduced: Any = value.__reduce_ex__(4) if reducer is None else reducer(value)
        if isinstance(reduced, str):
            wrapped = getattr(value, "__wrapped__", None)  # of a function that is cached
            return _join(b"name", self._label(type(value)), reduced.encode(), self.of(wrapped))
        parts: Iterable[Any] = (
            tuple(part) if isinstance(part, types.GeneratorType) or hasattr(part, "__next__") else part
            for part in reduced
        )
        return _join(b"object", *(self.of(part) for part in parts))


def _member(member: object) -> object:
    """What a class member is made of, where the member itself cannot be pickled."""
    match member:
        case staticmethod() | classmethod():
            return ("method", type(member).__name__, member.__func__)
        case property():
            return ("property", member.fget, member.fset)
        case functools.cached_property():
            return ("property", member.func)
        case types.MemberDescriptorType() | types.GetSetDescriptorType() | types.ClassMethodDescriptorType():
            return ("slot", member.__name__)
    return member


def _names(code: types.CodeType) -> set[str]:
    """Names of globals that a function's code, and the functions within it, may read."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found


def _imports_of(function: types.FunctionType) -> Iterator[str]:
    """Modules that a function, and the functions within it, import when they are called."""
    package = function.__globals__.get("__package__") or ""
    codes = [function.__code__]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        given: list[Any] = []
        for instruction in dis.get_instructions(code):
            if instruction.opname == "IMPORT_NAME":
                level, names = given[-2:]
                yield from _modules_of(instruction.argval, level, names or (), package)
            elif instruction.opcode in _GIVES:
                given.append(instruction.argval)


#: What puts a constant where an import finds it.
_GIVES = [code for name, code in dis.opmap.items() if name in ("LOAD_CONST", "LOAD_SMALL_INT")]


@functools.lru_cache(maxsize=256)
def _imported(source: bytes, package: str) -> tuple[str, ...]:
    """Names of the modules that a source imports, anywhere in it."""
    found: set[str] = set()
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled, or in the middle of an edit
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            found |= set(_modules_of(node.module or "", node.level, names, package))
    return tuple(sorted(found))


def _modules_of(name: str, level: int, names: Iterable[str], package: str) -> Iterator[str]:
    """Modules that ``from name import names`` may mean; each of the names may be one."""
    if level:
        try:
            name = resolve_name("." * level + name, package)
        except ImportError:  # beyond the top, or in no package
            return
    yield name
    for one in names:
        if _found(f"{name}.{one}") is not None:
            yield f"{name}.{one}"


def _found(name: str) -> tuple[str, str] | None:
    """Return the source file and the package of a module, which is not imported, or None."""
    place: Any = None
    for k in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(".".join(name.split(".")[:k]), place)
        if spec is None:
            return None
        place = spec.submodule_search_locations or []
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return spec.origin, name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
