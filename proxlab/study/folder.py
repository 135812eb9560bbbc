"""A folder of results: units written whole or not at all, found again, and locked while they are written.

Layout of a study's folder::

    study.json                   which study, its settings, units, command, seconds and environment
    units/<unit>.json, .npz      values and arrays of one unit

A unit is found again while its digest, that of its function, arguments and proxlab's sources, is unchanged.
What cannot be read counts as not stored: it is named, and computed again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import re
import shlex
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from proxlab.study.environment import environment

#: Folders written by another version of this layout are named, not read.
FORMAT = 2

_INDEX, _LOCK, _UNITS = "study.json", ".lock", "units"
#: Characters that a unit's name may have; every file system takes them.
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,+=@()-]*")
#: Bytes of a file's name that are left free for suffixes.
_LONGEST = 180


class FolderError(OSError):
    """A results folder cannot be used; the message says why, in one sentence."""


class MissingResultsError(FolderError):
    """There are no results in this folder."""


@dataclass(frozen=True)
class Result:
    """What one unit of work found.

    Attributes
    ----------
    values : dict
        JSON values by name; NumPy scalars and arrays are written as such.
    arrays : dict of str to ndarray
        Arrays by name, of numbers, truth values or strings.
    """

    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredUnit:
    """One unit, read back.

    Attributes
    ----------
    name : str
    values : dict
    arrays : dict of str to ndarray
    parameters : dict
        What the unit's function was called with, as far as JSON can say it.
    seconds : float
        How long it took.
    """

    name: str
    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    parameters: dict[str, Any]
    seconds: float

    @property
    def result(self) -> Result:
        """What the unit's function returned."""
        return Result(self.values, self.arrays)


@dataclass(frozen=True)
class StoredStudy:
    """A study read back from its folder: what tables and figures are made of.

    Attributes
    ----------
    study : str
        Which study: ``"validate"``, ``"compare"``, …
    settings : dict
        What the study was asked for, JSON values.
    command : str
        The command that ran it.
    complete : bool
        Whether every unit of the last run is here.
    environment : dict
        Versions, machine, commit and time of the run.
    seconds : float
        Time of all units, whenever they were computed.
    units : tuple of StoredUnit
        Those that are here, in the order of the study.
    missing : dict of str to str
        Units that are not, and why.
    """

    study: str
    settings: dict[str, Any]
    command: str
    complete: bool
    environment: dict[str, Any]
    seconds: float
    units: tuple[StoredUnit, ...]
    missing: dict[str, str]

    def unit(self, name: str) -> StoredUnit:
        """The unit of that name.

        Raises
        ------
        MissingResultsError
            If it is not there.
        """
        for unit in self.units:
            if unit.name == name:
                return unit
        raise MissingResultsError(f"the study {self.study!r} holds no unit {name!r}")


class _UnreadableError(Exception):
    """A unit that is there cannot be used; the message says why."""


@dataclass(frozen=True)
class Folder:
    """The folder of one study.

    Parameters
    ----------
    path : str or pathlib.Path
        Made when something is written.
    study : str, default ""
        Which study; the name of the folder by default.
    settings : mapping, optional
        What the study was asked for (JSON values), for those who read it.
    command : str, optional
        The command that runs it; that of this process by default.
    """

    path: Path
    study: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        object.__setattr__(self, "study", self.study or Path(self.path).name)
        object.__setattr__(self, "command", self.command or _command())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of this folder; the lock ends with the process, however that ends.

        Raises
        ------
        FolderError
            If another run holds it, or the folder cannot be written.
        """
        with _one_sentence(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = _open_locked(self.path / _LOCK)
        try:
            yield
        finally:
            (self.path / _LOCK).unlink(missing_ok=True)
            os.close(handle)

    def stored(self, name: str, digest: str) -> StoredUnit | None:
        """A stored unit, if it is there and has this digest; one that cannot be read is named in a warning.

        Parameters
        ----------
        name : str
        digest : str
            Of what the unit was computed from.

        Returns
        -------
        unit : StoredUnit or None
        """
        try:
            head, unit = self._read(name)
        except FileNotFoundError:
            return None
        except _UnreadableError as error:
            text = f"{self.path}: the stored unit {name} {error}; it is computed again"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
            return None
        return unit if head["digest"] == digest else None

    def store(
        self, name: str, result: Result, *, digest: str = "", parameters: Any = None, seconds: float = 0.0
    ) -> None:
        """Write a unit, whole or not at all.

        Parameters
        ----------
        name : str
            A file name; see `unit_name`.
        result : Result
        digest : str
            Of what it was computed from.
        parameters : mapping, optional
            For readers; what JSON cannot say stands by its type.
        seconds : float
            How long it took.

        Raises
        ------
        FolderError
            If it cannot be written.
        """
        # The JSON file goes first and comes last: where it exists, its arrays are there and are its own.
        head, arrays = self._paths(name)
        with _one_sentence(head):
            head.unlink(missing_ok=True)
            data = _pack(result.arrays) if result.arrays else b""
            if data:
                write_atomically(arrays, data)
            else:
                arrays.unlink(missing_ok=True)
            content = {
                "format": FORMAT,
                "digest": digest,
                "seconds": seconds,
                "parameters": _readable(dict(parameters or {})),
                "values": result.values,
                "arrays": hashlib.sha256(data).hexdigest() if data else None,
            }
            write_atomically(head, _dump(content))

    def write_index(
        self, units: Sequence[str], *, complete: bool, digests: Mapping[str, str] | None = None
    ) -> None:
        """Write ``study.json``: the study, its settings and its units, whether they are there or not.

        Parameters
        ----------
        units : sequence of str
            Names in the order of the study.
        complete : bool
            Whether all are stored.
        digests : mapping of str to str, optional
            Of what each unit is computed from: one that is there from another run is none of the study.
        """
        index = {
            "format": FORMAT,
            "study": self.study,
            "settings": dict(self.settings),
            "command": self.command,
            "complete": complete,
            "units": list(units),
            "digests": dict(digests or {}),
            "environment": environment(),
        }
        write_atomically(self.path / _INDEX, _dump(index))

    def save(self, results: Mapping[str, Result]) -> None:
        """Write all units of a study that is in memory.

        Parameters
        ----------
        results : mapping of str to Result
            By name, in the order of the study.
        """
        with self.lock():
            for name, result in results.items():
                self.store(name, result)
            self.write_index(list(results), complete=True)

    def read(self) -> StoredStudy:
        """Read the study back, as far as it is there.

        Returns
        -------
        stored : StoredStudy

        Raises
        ------
        MissingResultsError
            If there is none.
        FolderError
            If it is of another format, or its ``study.json`` cannot be read.
        """
        index = self._index()
        units, missing = [], {}
        digests = index.get("digests", {})
        for name in index["units"]:
            try:
                head, unit = self._read(name)
                if head["digest"] != digests.get(name, head["digest"]):
                    missing[name] = "is there from another run, of other parameters or another version"
                    continue
                units.append(unit)
            except FileNotFoundError:
                missing[name] = "has not been computed"
            except _UnreadableError as error:
                missing[name] = str(error)
        return StoredStudy(
            index["study"],
            index["settings"],
            index["command"],
            index["complete"] and not missing,
            index["environment"],
            math.fsum(unit.seconds for unit in units),
            tuple(units),
            missing,
        )

    def _index(self) -> dict[str, Any]:
        path = self.path / _INDEX
        if self.path.exists() and not self.path.is_dir():
            raise FolderError(f"{self.path} is a file, not a folder of results")
        try:
            index = json.loads(path.read_text())
            found = index.get("format")
        except FileNotFoundError:
            raise MissingResultsError(f"{self.path} holds no results of a study") from None
        except (OSError, ValueError, AttributeError) as error:
            raise FolderError(f"{path} cannot be read ({error}): run the study again") from error
        if found != FORMAT:
            raise FolderError(
                f"{self.path} holds results of {_other_format(found)}: "
                "run the study again, or name another folder"
            )
        return dict(index)

    def _paths(self, name: str) -> tuple[Path, Path]:
        stem = self.path / _UNITS / name
        return Path(f"{stem}.json"), Path(f"{stem}.npz")

    def _read(self, name: str) -> tuple[dict[str, Any], StoredUnit]:
        path, arrays = self._paths(name)
        try:
            head = json.loads(path.read_text())
            found = head.get("format")
        except FileNotFoundError:
            raise
        except (OSError, ValueError, AttributeError) as error:
            raise _UnreadableError(f"cannot be read ({path.name}: {error})") from error
        if found != FORMAT:
            raise _UnreadableError(f"is of {_other_format(found)}")
        try:
            data = arrays.read_bytes() if head["arrays"] else b""
            if head["arrays"] and hashlib.sha256(data).hexdigest() != head["arrays"]:
                raise _UnreadableError(f"cannot be read ({arrays.name} is not what was written)")
            unit = StoredUnit(name, head["values"], _unpack(data), head["parameters"], head["seconds"])
            head["digest"]
        except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            reason = f"{type(error).__name__}: {error}"
            raise _UnreadableError(f"cannot be read ({reason})") from error
        return head, unit


def unit_name(*parts: object, **parameters: object) -> str:
    """A unit's name, which is a file name: its parts and parameters, readable as far as possible.

    Parameters
    ----------
    *parts : object
        Words, joined by hyphens.
    **parameters : object
        Written as ``name=value``; seeds, dtypes and the like belong here.

    Returns
    -------
    name : str
        Another one for other arguments: where characters had to be replaced or the name is long, it ends in a
        digest of what it stands for.
    """
    words = [str(part) for part in parts] + [f"{name}={value}" for name, value in parameters.items()]
    full = "-".join(words)
    safe = re.sub(r"[^A-Za-z0-9_.,+=@()-]+", "_", full)
    if safe == full and _SAFE.fullmatch(safe) and len(safe) <= _LONGEST:
        return safe
    mark = hashlib.sha256("\0".join(words).encode()).hexdigest()[:10]
    return f"{safe.lstrip('.,+=@()-')[: _LONGEST - 11] or 'unit'}-{mark}"


def check_path(folder: str | Path) -> Path:
    """Return the path of a folder, or raise an error: no path at all would be the current one."""
    if folder == "":
        raise ValueError("folder: must be a path, got ''")
    return Path(folder)


def check_names(names: Sequence[str]) -> None:
    """Refuse names of units that are no file names, or that two units have.

    Raises
    ------
    ValueError
        Naming the name.
    """
    seen: set[str] = set()
    for name in names:
        if not _SAFE.fullmatch(name) or len(name) > _LONGEST:
            raise ValueError(
                f"a unit's name must be a file name (letters, digits and _.,+=@()-, at most {_LONGEST} "
                f"characters), got {name!r}: make it by unit_name"
            )
        if name.casefold() in seen:
            raise ValueError(f"two units have the name {name!r}")
        seen.add(name.casefold())


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all: into a temporary neighbour first, then a rename.

    Raises
    ------
    FolderError
        If it cannot be written; the old file is as it was.
    """
    with _one_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Errors of the file system as `FolderError`."""
    try:
        yield
    except FolderError:
        raise
    except OSError as error:
        where = next((place for place in (path, *path.parents) if place.exists()), path)
        if error.errno in (errno.EEXIST, errno.ENOTDIR) and not where.is_dir():
            reason = f"{where} is a file, not a folder"
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = (
                "the disk is full; what was stored before is kept, and the same command goes on from there"
            )
        else:
            reason = (error.strerror or str(error)).lower()
        raise FolderError(f"{path} cannot be written: {reason}") from error


def _open_locked(path: Path) -> int:
    """Open and lock a lock file; the system drops the lock when the process ends."""
    for _ in range(100):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _flock(handle, path)
            # Whoever held it before may have removed the file meanwhile: then another may lock a new one.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                os.ftruncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {os.uname().nodename}".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    raise FolderError(f"{path} cannot be locked: other runs keep taking it")


def _flock(handle: int, path: Path) -> None:
    import fcntl  # not everywhere

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(handle, 200).decode(errors="replace") or "another process"
        raise FolderError(
            f"{path.parent} is being written by another run ({holder}): wait for it, or name another folder"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        text = f"the file system of {path.parent} has no locks: keep other runs out of it"
        warnings.warn(text, RuntimeWarning, stacklevel=4)


def _other_format(found: object) -> str:
    return "an older format" if found is None else f"another format ({found}, this proxlab writes {FORMAT})"


def _command() -> str:
    """The command of this process, as one would type it."""
    program = Path(sys.argv[0] or "python")
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    return shlex.join([*name.split(), *sys.argv[1:]])


def _dump(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=_jsonable)


def _jsonable(value: object) -> object:
    """NumPy scalars and arrays as plain values."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a unit's values must be JSON or NumPy values, got {type(value).__name__}")


def _readable(value: object) -> object:
    """A value for readers: as JSON, and what JSON cannot say by the name of its type."""
    if isinstance(value, Mapping):
        return {str(key): _readable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_readable(part) for part in value]
    if isinstance(value, np.generic):
        return value.item()
    return (
        value if value is None or isinstance(value, bool | int | float | str) else f"<{type(value).__name__}>"
    )


def _pack(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as a compressed npz file without pickle, whatever their names."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def _unpack(data: bytes) -> dict[str, NDArray[Any]]:
    if not data:
        return {}
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
