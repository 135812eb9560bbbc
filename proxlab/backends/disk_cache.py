"""The disk cache of compiled kernels: Numba's, in files that are checked, or none where none can be written.

A kernel's name tells its code (:mod:`proxlab.linker`), so nothing here looks at source files. Each
file begins with a hash of the rest, and data is filed under a name made of its signature and machine:
processes that write at the same time, a full disk and a torn copy leave at worst a file that is made again.
"""

# mypy: disable-error-code="no-untyped-call,misc"

from __future__ import annotations

import hashlib
import pickle
import sys
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.misc.appdirs import AppDirs

__all__ = ["KernelCache", "folder", "without_cache"]

_HASH = 32
_said: list[str] = []


class BrokenFile(Exception):
    """A file of the cache whose content is not what was written."""


def without_cache(why: str) -> None:
    """Say once that kernels are compiled anew in each process, and what to do."""
    if not _said:
        _said.append(why)
        warnings.warn(
            f"compiled kernels are not kept, since {why}: each process compiles them anew, which takes some "
            "seconds; set NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )


def folder() -> str | None:
    """Return the folder of the cache, or None if there is none that can be written."""
    found, reason = _writable(vars(config)["CACHE_DIR"])
    if found is None:
        without_cache(reason)
    return found


@lru_cache(maxsize=8)
def _writable(wanted: str) -> tuple[str | None, str]:
    # What was asked for and nothing else, or next to the source, or the user's own.
    places = [Path(wanted, "proxlab")] if wanted else [
        Path(__file__).parent / "__pycache__", Path(AppDirs(appname="numba").user_cache_dir, "proxlab")
    ]  # fmt: skip
    reason = ""
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        except OSError as error:
            reason = reason or f"{place} cannot be written ({error.strerror})"
        else:
            return str(place), ""
    return None, reason


class _Files(IndexDataCacheFile):
    """Numba's index and data files, each after a hash of itself."""

    def __init__(self, place: str, name: str) -> None:
        super().__init__(place, name, "")
        self._name = name

    def flush(self) -> None:
        """Forget everything."""
        self._write(self._index_path, {})

    def load(self, key: Any) -> Any:
        """Return what was saved for a key, or None."""
        try:
            name = self._read(self._index_path).get(key)
            if name is None:
                return None
            path = self._data_path(name)
            saved, data = self._read(path)
        except FileNotFoundError:
            return None
        if saved != key:
            raise BrokenFile(path)
        return data

    def save(self, key: Any, data: Any) -> None:
        """Save data for a key."""
        try:
            index = self._read(self._index_path)
        except (FileNotFoundError, BrokenFile):
            index = {}
        tag = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        index[key] = f"{self._name}.{tag}.nbc"
        self._write(self._data_path(index[key]), (key, data))
        self._write(self._index_path, index)

    def _read(self, path: str) -> Any:
        content = Path(path).read_bytes()
        if hashlib.sha256(content[_HASH:]).digest() != content[:_HASH]:
            raise BrokenFile(path)
        try:
            return pickle.loads(content[_HASH:])
        except Exception as error:  # whatever another version has written
            raise BrokenFile(path) from error

    def _write(self, path: str, content: Any) -> None:
        data = self._dump(content)
        with self._open_for_write(path) as file:
            file.write(hashlib.sha256(data).digest())
            file.write(data)


class _Results(CompileResultCacheImpl):
    """How a compiled function is written and read; only its name says which function it is."""

    def __init__(self) -> None:  # Numba's looks for source files
        self._locator, self._lineno = SimpleNamespace(_py_file=__file__), 1


class KernelCache(FunctionCache):
    """The cache of one kernel.

    Parameters
    ----------
    function : callable
        The function, under a name that no other has.
    place : str
        The folder.
    """

    def __init__(self, function: Any, place: str) -> None:
        version = f"py{sys.version_info[0]}{sys.version_info[1]}{sys.abiflags}-{numba.__version__}"
        self._name, self._py_func, self._impl = repr(function), function, _Results()
        self._cache_path = place
        self._cache_file = _Files(place, f"{function.__name__}.{version}")
        self.enable()

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what is kept for a signature, or None; a broken file is named and removed."""
        try:
            # Numba's own loads all that compiles, which takes longer than all else of a process's first call.
            with self._guard_against_spurious_io_errors():
                return self._load_overload(sig, target_context)
        except BrokenFile as error:
            path = str(error)
        except OSError as error:
            without_cache(f"{error.filename} cannot be read ({error.strerror})")
            return None
        try:
            Path(path).unlink(missing_ok=True)  # another process may have done so
        except OSError as error:
            without_cache(f"{path} cannot be removed ({error.strerror})")
        # Last, for a warning may be an error.
        warnings.warn(
            f"{path} of the cache of compiled kernels is broken: it is removed and made again",
            RuntimeWarning,
            stacklevel=2,
        )
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep what was compiled for a signature, if the disk takes it."""
        try:
            if self._impl.check_cachable(data):
                self._cache_file.save(self._index_key(sig, data.codegen), self._impl.reduce(data))
        except OSError as error:
            without_cache(f"{self._cache_path} cannot be written ({error.strerror})")
