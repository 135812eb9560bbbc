"""What a user names on the command line: ``file.py:name`` or ``module:name``, and how workers get it.

A file is imported under a name of its own, made of its content. Workers need not see the file: its source
travels with every unit.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

#: Sources of the files that this process has imported, by the module's name.
_sources: dict[str, str] = {}


def load(spec: str) -> object:
    """The object that a specification names.

    Parameters
    ----------
    spec : str
        ``"file.py:name"`` or ``"module:name"``; the name may have dots.

    Returns
    -------
    found : object

    Raises
    ------
    ValueError
        If there is no such file, module or name, or importing it fails; the message says which.
    """
    place, colon, name = spec.rpartition(":")
    if not colon or not place or not name:
        raise ValueError(f"{spec!r} must be file.py:name or module:name")
    try:
        found: object = load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{place} has no {name!r}")
        found = getattr(found, part)
    return found


def load_file(path: Path) -> ModuleType:
    """Import a file under a name made of its content; its folder is searched for what it imports.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    try:
        source = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    name = f"{path.stem}_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    module = _import(name, path)
    _sources[name] = source
    return module


def sources() -> dict[str, str]:
    """Sources of all files that were imported, for `install` in another process."""
    return dict(_sources)


def install(shipped: dict[str, str]) -> None:
    """Import sources of another process's files, so that what was pickled there can be read here.

    Parameters
    ----------
    shipped : dict of str to str
        What `sources` gave there.
    """
    for name, source in shipped.items():
        if name not in sys.modules:
            # Kept as long as the process lives: compilers read the source again.
            path = Path(tempfile.mkdtemp(prefix="proxlab-")) / f"{name}.py"
            path.write_text(source)
            _import(name, path)
            _sources[name] = source


def _import(name: str, path: Path) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
