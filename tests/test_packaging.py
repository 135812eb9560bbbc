"""What is declared about the package holds together: ranges, the oldest versions, the lock, the citation."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

import proxlab as pl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
#: Extras that `make test-oldest` installs; torch itself comes by the Makefile's TORCH_OLDEST.
TRIED = ("study", "analysis", "test", "pretrained")
#: What the oldest typer and matplotlib warn of in later versions.
OF_THEIR_TIME = {"click": "8.1.8", "pyparsing": "3.2.0"}
REQUIREMENT = re.compile(r"([A-Za-z0-9_.-]+)(\[[\w,]+\])?(.*)")


def split(requirement):
    """Name and range of a requirement."""
    name, _, wanted = REQUIREMENT.fullmatch(requirement).groups()
    return name.lower(), wanted.strip()


def pins(file):
    lines = [line for line in (ROOT / ".ci" / file).read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines)
    return dict(line.split("==") for line in lines)


def numbers(version):
    return [int(n) for n in re.findall(r"\d+", version.split("+")[0])]


def test_ranges_have_a_floor_and_no_pin():
    everything = [r for listed in (PROJECT["dependencies"], *EXTRAS.values()) for r in listed]
    for name, wanted in map(split, everything):
        if name != "proxlab":
            assert re.fullmatch(r">=\d[\d.]*", wanted), (
                f"{name}{wanted}: a floor, found by trying, and no cap"
            )


def test_the_oldest_versions_are_the_floors():
    tried = [r for listed in (PROJECT["dependencies"], *(EXTRAS[e] for e in TRIED)) for r in listed]
    floors = {name: wanted.removeprefix(">=") for name, wanted in map(split, tried)}
    floors.pop("proxlab", None)
    assert pins("oldest.txt") == floors | OF_THEIR_TIME
    oldest = re.findall(r"TORCH_OLDEST \?= torch==([\d.]+)", (ROOT / "Makefile").read_text())
    assert {version.removesuffix(".0") for version in oldest} == {
        split(EXTRAS["torch"][0])[1].removeprefix(">=")
    }


def test_the_lock_is_within_the_ranges():
    lock = pins("lock.txt")
    for extra in (*TRIED, "torch", "docs", "dev"):
        for name, wanted in map(split, EXTRAS[extra]):
            if name != "proxlab":
                assert numbers(lock[name.replace("_", "-")]) >= numbers(wanted), name


def test_the_citation_is_of_this_version():
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == pl.__version__


def test_nothing_is_tracked_that_does_not_belong():
    """A slip of the shell leaves files with names that nobody would choose; the top level is the design's."""
    git = shutil.which("git")
    listed = git and subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if not listed or listed.returncode != 0:
        pytest.skip("not a checkout that git reads")
    tracked = listed.stdout.rstrip("\0").split("\0")
    assert [name for name in tracked if not re.fullmatch(r"[\w./-]+", name, re.ASCII)] == []
    assert {name.partition("/")[0] for name in tracked if not name.startswith(".")} == {
        "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "analysis",
        "docs", "proxlab", "pyproject.toml", "tests",
    }  # fmt: skip
