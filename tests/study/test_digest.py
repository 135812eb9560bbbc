"""Digests by content: equal in every process, another after a change."""

import functools
import importlib
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


IMPORTING = {
    "inside a function": ("def f():\n    import digested_a\n    return digested_a.c()", "digested_a.py"),
    "a name, inside a function": ("def f():\n    from digested_a import c\n    return c()", "digested_a.py"),
    "in an inner function": (
        "def f():\n    def g():\n        import digested_a\n    return g",
        "digested_a.py",
    ),
    "a module's constant": ("import digested_b\ndef f(): return digested_b.K", "digested_c.py"),
    "inside a module": ("import digested_d\ndef f(): return digested_d.c()", "digested_c.py"),
    "of a package": ("def f():\n    from digested_p import part\n    return part.K", "digested_p/part.py"),
    "beside, in a package": (
        "import digested_p.other\ndef f(): return digested_p.other.K",
        "digested_p/part.py",
    ),
    "of a method": ("class f:\n    def g(self):\n        import digested_a", "digested_a.py"),
    "by a function that is cached": (
        "import functools\n@functools.lru_cache\ndef g():\n    import digested_a\ndef f(): return g()",
        "digested_a.py",
    ),
}
SOURCES = {
    "digested_a.py": "def c(): return 1.0",
    "digested_b.py": "from digested_c import K",
    "digested_c.py": "K = 1.0",
    "digested_d.py": "def c():\n    import digested_c\n    return digested_c.K",
    "digested_p/__init__.py": "",
    "digested_p/part.py": "K = 1.0",
    "digested_p/other.py": "from . import part\nK = part.K",
}


@pytest.mark.parametrize("case", IMPORTING)
def test_what_is_imported_counts_by_its_source(case, tmp_path, monkeypatch):
    code, edited = IMPORTING[case]
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "digested_p").mkdir()
    for name, text in SOURCES.items():
        (tmp_path / name).write_text(text)

    def found():
        importlib.invalidate_caches()
        for name in [n for n in sys.modules if n.startswith("digested_")]:
            monkeypatch.delitem(sys.modules, name)
        scope = {"__name__": "digested_script"}
        exec(code, scope)
        return digest(scope["f"])

    before = found()
    (tmp_path / "digested_unrelated.py").write_text("K = 3")
    assert found() == before
    (tmp_path / edited).write_text(SOURCES[edited].replace("1.0", "2.0"))
    assert found() != before
    (tmp_path / edited).write_text(SOURCES[edited])
    assert found() == before


def test_a_module_that_cannot_be_read_counts_by_its_bytes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    scope = {"__name__": "digested_script"}
    exec("def f():\n    import digested_broken", scope)
    found = set()
    for text in ("def (", "def ((", "\0"):
        (tmp_path / "digested_broken.py").write_text(text)
        importlib.invalidate_caches()
        found.add(digest(scope["f"]))
    assert len(found) == 3


@pytest.mark.parametrize("decorator", ["lru_cache", "cache", "singledispatch"])
def test_what_a_decorator_wraps_counts(decorator):
    code = f"import functools\n@functools.{decorator}\ndef g(x): return 1.0\ndef f(x): return g(x)"
    first, again, other = {"__name__": "m"}, {"__name__": "m"}, {"__name__": "m"}
    exec(code, first)
    exec(code, again)
    exec(code.replace("1.0", "2.0"), other)
    assert digest(first["f"]) == digest(again["f"]) != digest(other["f"])


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
