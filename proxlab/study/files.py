"""Files of named arrays and one header of text, .npz or .safetensors, without pickle.

They are written array by array, so that a file may be larger than memory, and appear whole or not at all.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["SUFFIXES", "Writer", "check_suffix", "read"]

Array = npt.NDArray[Any]

SUFFIXES = (".npz", ".safetensors")
_HEADER = "proxlab"
#: Types as safetensors names them.
_TYPES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64", "bool": "BOOL"}


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """Return a path, or raise an error if files of its kind are not known."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path: must end in .npz or .safetensors, got {os.fspath(path)!r}")
    return path


class Writer:
    """A file in the making, of the kind that its name says.

    Until :meth:`close`, everything is in a temporary file beside it; :meth:`discard` removes that.

    Parameters
    ----------
    path : str or path
        The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = check_suffix(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        self._temporary = Path(name)
        self._file: IO[bytes] = os.fdopen(handle, "w+b")
        self._zip = zipfile.ZipFile(self._file, "w") if self.path.suffix == ".npz" else None
        self._entries: dict[str, dict[str, Any]] = {}
        self.names: set[str] = set()

    def add(self, name: str, array: Array) -> None:
        """Write an array."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        self.names.add(name)
        if self._zip is not None:
            with self._zip.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
            return
        begin = self._file.tell()
        self._file.write(array.tobytes())
        self._entries[name] = {
            "dtype": _TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, self._file.tell()],
        }

    def close(self, header: Mapping[str, Any]) -> None:
        """Write the header, and put the file in its place."""
        text = json.dumps(header)
        try:
            if self._zip is not None:
                content = io.BytesIO()
                np.lib.format.write_array(content, np.frombuffer(text.encode(), dtype=np.uint8))
                self._zip.writestr(f"{_HEADER}.npy", content.getvalue())
                self._zip.close()
            else:
                self._prepend(text)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)
        except BaseException:
            self.discard()
            raise

    def _prepend(self, text: str) -> None:
        """Copy the data behind the header of safetensors, which is known at the end only."""
        head = json.dumps({"__metadata__": {_HEADER: text}, **self._entries}).encode()
        head += b" " * (-len(head) % 8)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        whole: IO[bytes] = os.fdopen(handle, "w+b")
        whole.write(struct.pack("<Q", len(head)) + head)
        self._file.seek(0)
        shutil.copyfileobj(self._file, whole, 1 << 20)
        self._file.close()
        os.replace(name, self._temporary)
        self._file = whole

    def discard(self) -> None:
        """Remove what has been written."""
        if self._zip is not None and not self._file.closed:
            self._zip.close()
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a header and the arrays.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not such a file, or damaged.
    """
    path = check_suffix(path)
    try:
        if path.suffix == ".npz":
            with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as stored:
                if _HEADER not in stored.files:
                    raise ValueError(f"path: {os.fspath(path)!r} holds no problems of proxlab.study")
                arrays = {name: stored[name] for name in stored.files}
            text = arrays.pop(_HEADER).tobytes().decode()
        else:
            from safetensors import safe_open

            with safe_open(path, framework="numpy") as opened:
                text = (opened.metadata() or {}).get(_HEADER, "")
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            if not text:
                raise ValueError(f"path: {os.fspath(path)!r} holds no problems of proxlab.study")
        header = json.loads(text)
    except (FileNotFoundError, ModuleNotFoundError):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith("path:"):
            raise
        raise ValueError(f"path: {os.fspath(path)!r} cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"path: {os.fspath(path)!r} holds no problems of proxlab.study")
    return header, arrays
