"""Digests by content: equal in every process, another after a change."""

import functools
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

import proxlab as pl
from proxlab.study.digest import digest

CODE = """
import numpy as np, proxlab as pl, functools
from proxlab.study.digest import digest
scale = 3
def helper(x): return x * scale
def function(x, y=2.0): return helper(x) + y
class Mine(pl.Brent):
    def twice(self): return 2 * self.rtol if self.rtol else 1
VALUES = [
    function, lambda x: {"a", "b", "c"}, functools.partial(function, y=1), Mine(rtol=1e-3), Mine, np.sum, len,
    {"b": [1, 2.5, None, "x", b"y", {3, 4}], "a": np.arange(6.0).reshape(2, 3)}, np.float32(1.5),
    pl.GroupMCP(0.1, gamma=3.0, groups=pl.Groups.csr([0, 2, 5])), np.random.default_rng(3),
]
DIGESTS = [digest(value) for value in VALUES]
"""


def digests(code):
    scope = {"__name__": "digests"}
    exec(code, scope)
    return scope["DIGESTS"]


def test_digests_agree_between_processes():
    code = CODE + "print(*DIGESTS)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert not other.returncode, other.stderr
    assert other.stdout.split() == digests(CODE)


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("scale = 3", "scale = 4", {0, 2}),
        ("helper(x) + y", "helper(x) - y", {0, 2}),
        ("y=2.0", "y=2.5", {0, 2}),
        ("2 * self.rtol", "3 * self.rtol", {3, 4}),
        ("rtol=1e-3", "rtol=1e-4", {3}),
        ("[0, 2, 5]", "[0, 3, 5]", {9}),
        ("scale = 3", "\n\nscale = 3", set()),
    ],
)
def test_a_change_that_matters_changes_the_digest(old, new, changed):
    before, after = digests(CODE), digests(CODE.replace(old, new))
    assert {k for k, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]} == changed


def test_values_that_differ_have_other_digests():
    @dataclass(frozen=True)
    class Point:
        x: float

    values = [
        *(None, True, 1, 1.0, "1", b"1", (1,), [1], {1}, {1: 1}, [[1], [1]], [1, [1]], 0.0, -0.0, 1j),
        *(np.ones(2), np.ones(2, np.float32), np.ones((1, 2)), np.array([1, 2]), np.float64(1.0), float, int),
        *(Point(1.0), Point(2.0), pl.Newton(), pl.Newton(rtol=1e-3), pl.Brent()),
        *(functools.partial(max, 1), functools.partial(min, 1), max, min),
    ]
    assert len({digest(value) for value in values}) == len(values)
    shared = [1.5]
    assert digest([shared, shared]) == digest([shared, shared])


def test_cycles_end():
    loop = [1]
    loop.append(loop)
    assert digest(loop) == digest(loop)


PATTERN = "import re\nfrom proxlab.study.digest import digest\nword = re.compile('[a-z]+')\n"
PATTERN += "def function(text): return word.findall(text)\nDIGESTS = [digest(function), digest(word)]\n"


def test_what_pickle_knows_by_a_table_has_a_digest():
    """A compiled pattern, a global of many functions, has no state of its own that could be taken."""
    first, again, other = (digests(text) for text in (PATTERN, PATTERN, PATTERN.replace("[a-z]", "[a-y]")))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
