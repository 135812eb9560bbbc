"""The linker: a compiled function is known by its code, wherever it was written and whatever it uses."""

import functools
import hashlib
import os
import subprocess
import sys
import textwrap
import types

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proxlab as pl
from proxlab import scalar
from proxlab.backends import certify_sums, column_sums, sums
from proxlab.linker import Target, functions_of, over_arrays, state

ARGUMENTS = "r, f, slope, bend, lo, f_lo, hi, f_hi, m0, m1, m2, m3, m4"
X, D = np.array([[3.0, 4.0], [1.0, 2.0]]), np.array([1.0, 16.0])


def defined(text, name="propose", **scope):
    """A function of a text, which has no file."""
    scope = {"__name__": "__main__", **scope}
    exec(compile(textwrap.dedent(text), "<cell>", "exec"), scope)
    return scope[name]


def proposing(expression, **scope):
    return defined(f"def propose({ARGUMENTS}):\n    return {expression}, m0, m1, m2, m3, m4", **scope)


def finder(propose, needs_bracket=True):
    return type("Mine", (pl.RootFinder,), {"propose": propose, "needs_bracket": needs_bracket})


def around(number):
    def mix(a, b):
        return a + number * (b - a)

    return mix


NUMBERS = [
    0.0,
    -0.0,
    1.0,
    0.5,
    1,
    0,
    2,
    True,
    False,
    np.float64(0.5),
    np.float32(0.5),
    np.int64(1),
    np.int8(1),
]
numbers = st.sampled_from(NUMBERS)


@st.composite
def programs(draw):
    """A function of two numbers that uses globals, closures, defaults, helpers, modules; and what it uses."""
    module = types.ModuleType("helpers")
    module.K = draw(numbers)
    module.mix = defined("def mix(a, b): return a * K + b", "mix", K=draw(numbers))
    scope = {
        "S": draw(numbers), "T": (draw(numbers), draw(numbers)), "mix": around(draw(numbers)),
        "helpers": module, "where": scalar.where, "fmin": scalar.fmin,
    }  # fmt: skip
    # names of the package's own source mean here what they mean to Python
    scope |= {
        "residual": defined("def residual(a, b): return b - 2.0 * a", "residual"),
        "SMOOTH": draw(numbers),
    }
    terms = [
        "S * a", "T[1] * b", "mix(a, b)", "helpers.mix(a, b)", "helpers.K - a", "where(a > b, a, S + b)",
        "fmin(a, b)", "abs(a - b)", "residual(a, b)", "SMOOTH * b", "share + a", f"{draw(numbers)!s} * a",
        "(lambda v: v * S)(b)",
    ]  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(terms), min_size=1, max_size=4))
    default = draw(st.sampled_from([0.25, 1.0, 3]))
    text = f"def f(a, b, share={default}): return {' + '.join(chosen)}"
    return text, scope


def use(scope, text):
    """What of a scope's numbers a text can see, exactly."""
    seen = {k: v for k, v in scope.items() if k in text and not callable(v)}
    if "helpers" in seen:
        module = seen.pop("helpers")
        seen |= {"K": module.K, "inner": module.mix.__globals__["K"]}
    return repr(sorted((k, repr(v), type(v).__name__) for k, v in seen.items()))


@settings(max_examples=12)
@given(programs(), st.tuples(*[st.floats(-10, 10, width=32)] * 2))
def test_linked_functions_are_what_python_makes_of_them(program, point):
    text, scope = program
    f = defined(text, "f", **scope)
    expected = f(*point)
    compiled = Target(lambda g, _: numba.njit(g)).link(f)(*point)
    (arrays,) = over_arrays(f, np)(*(np.array([v]) for v in point))
    np.testing.assert_allclose([compiled, arrays], expected, rtol=1e-6, atol=1e-5)


def test_only_what_the_package_marks_may_be_reordered():
    made = {}

    def make(function, loose):
        made[function.__name__[:-17]] = loose
        return function

    Target(make).link(sums.radial_sums)
    words = dict.fromkeys(("span", "load", "combine", "fmax"), False)
    sums_made = dict.fromkeys(("sum_secular", "sum_kept", "terms", "terms_by"), True)
    assert made == {"radial_sums": False} | sums_made | words
    made.clear()
    # Under any name, and of the package only.
    user = scalar.any_order(defined("def mine(a): return f(a)", "mine", f=sums.narrow_fraction))
    Target(make).link(user)
    assert made == {"mine": False, "narrow_fraction": True, "fmin": False}


PASSES = [column_sums.pass_start, column_sums.pass_ratio, column_sums.pass_exact, column_sums.pass_rivals]


@pytest.mark.parametrize(
    "functions",
    [functions_of(sums).values(), functions_of(certify_sums).values(), PASSES],
    ids=["groups", "certificates", "columns"],
)
def test_terms_of_sums_that_may_be_reordered_may_be_contracted(functions):
    """Else products are rounded before they are added: twice the operations."""
    made = {}

    def make(function, loose):
        made[function.__name__[:-17]] = loose
        return function

    for function in functions:
        Target(make).link(function)
    found = {name: loose for name, loose in made.items() if "terms" in name}
    assert found
    assert all(found.values()), found


@settings(max_examples=200)
@given(programs(), st.data())
def test_the_key_is_the_code_and_the_values(program, data):
    """The same text and values in another place have the same key; one value changed, another."""
    text, scope = program
    key = state(defined(text, "f", **scope))
    assert key == state(defined(f"# moved\n\n\n{text}", "f", **scope))
    assert key == state(defined(text.replace("def f", "def g"), "g", **scope))
    old, new = scope["S"], data.draw(numbers)
    changed = state(defined(text, "f", **scope | {"S": new}))
    same = type(old) is type(new) and repr(old) == repr(new)
    assert (key == changed) is (same or "S" not in use({"S": old}, text.replace("SMOOTH", "")))


def by_file(function):
    """The mutant: what proxlab told compiled functions apart by, a file and a module."""
    with open(function.__code__.co_filename, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest() + function.__module__


def by_bytecode(function):
    """A mutant: the bytecode alone."""
    return hashlib.sha256(function.__code__.co_code).hexdigest()


def half(lo, hi):
    return lo + 0.5 * (hi - lo)


def most(lo, hi):
    return lo + 0.9 * (hi - lo)


def calls_half(lo, hi):
    return half(lo, hi)


def check_key(key):
    assert key(half) != key(most)
    assert key(around(0.5)) != key(around(0.25))
    before = key(calls_half)
    globals()["half"], kept = most, half
    try:
        assert key(calls_half) != before
    finally:
        globals()["half"] = kept
    assert key(calls_half) == before
    assert key(proposing("S * hi", S=1.0)) not in (
        key(proposing("S * hi", S=1)), key(proposing("S * hi", S=True)), key(proposing("S * hi", S=-1.0))
    )  # fmt: skip
    assert key(proposing("hi * 1.0")) != key(proposing("hi * 1"))
    assert key(proposing("S * hi", S=0.0)) != key(proposing("S * hi", S=-0.0))


def test_keys_by_file_or_by_bytecode_are_rejected():
    check_key(state)
    for mutant in (by_file, by_bytecode):
        with pytest.raises((AssertionError, OSError)):
            check_key(mutant)


def test_the_key_does_not_depend_on_the_process():
    """Sets of strings have another order in each process."""
    code = """
        from proxlab.linker import state
        def f(a): return a in {"one", "two", "three", "four"}
        print(state(f))
    """
    keys = {run(code, PYTHONHASHSEED=seed) for seed in "123"}
    assert len(keys) == 1


def run(code, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-", *arguments],
        input=textwrap.dedent(code),
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


METHOD_OF_FOURTEEN = defined(f"def propose(self, {ARGUMENTS}): return lo, m0, m1, m2, m3, m4")


class Owner:
    def propose(self, *numbers):
        return numbers


@pytest.mark.parametrize(
    ("propose", "said"),
    [
        (METHOD_OF_FOURTEEN, "staticmethod"),
        (Owner().propose, "got method"),
        (functools.partial(half), "got partial"),
        (Owner, "got type"),
        (staticmethod(lambda lo, hi: lo), "thirteen numbers, by position, got <lambda>"),
        (defined(f"def propose({ARGUMENTS}, *, share=0.5): return lo"), "by position"),
        (defined(f"def propose({ARGUMENTS}): yield lo"), "yields"),
        (proposing("lo + S[0]", S=[0.5]), "uses S, a list"),
        (proposing("lo + S['a']", S={"a": 0.5}), "uses S, a dict"),
        (proposing("lo + S[0]", S=np.ones(2)), "uses S, a ndarray"),
        (proposing("lo + S.a", S=Owner), "uses S, a type"),
        (proposing("S(lo)", S=functools.partial(half, 0.5)), "uses S, a partial"),
        (proposing("lo + S"), "uses S, which is not defined"),
        (proposing("lo + S.no", S=types), "uses S.no, which is not defined"),
        (proposing("abs(S) + lo", S=types), "uses the module S as a value"),
        (proposing("S(lo)", S=defined("def S(a): return S(a)", "S")), "calls itself"),
        (proposing("S(lo)", S=defined("def S(a, *, b=1): return a + b", "S")), "by keyword"),
        (proposing("S(lo)", S=defined("def S(a, b=[1]): return a + b[0]", "S")), "a list for a default"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("backend", ["numba", "array_api"])
def test_what_cannot_be_compiled_is_named(propose, said, backend):
    with pytest.raises(TypeError, match=r"^root_finder: ") as error:
        pl.solve(pl.GroupLasso(1.0), X, metric=D, root_finder=finder(propose)(), backend=backend)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_root_finders_that_are_not_of_their_class():
    mine = finder(half)()
    object.__setattr__(mine, "propose", most)
    with pytest.raises(TypeError, match="function of the class"):
        pl.prox(pl.GroupLasso(1.0), X, root_finder=mine)
    with pytest.raises(TypeError, match="needs_bracket must be True or False"):
        pl.prox(pl.GroupLasso(1.0), X, root_finder=finder(half, "no")())


@pytest.mark.parametrize(
    ("body", "compiled", "vectorised"),
    [
        ("return lo, m0", "it returns 2 numbers", "got 2"),
        ("return None", "it returns None", "NoneType"),
        ("import math; return lo, m0, m1, m2, m3, m4", "it has an import", ""),
        ("raise RuntimeError('mine')", "it raises RuntimeError: mine", "RuntimeError: mine"),
        ("return (1 + 1j) * lo, m0, m1, m2, m3, m4", "the point that it returns is", "are of complex128"),
        ("return 'a', m0, m1, m2, m3, m4", "the point that it returns is 'a'", "str"),
        ("return lo / 0, 'a', m1, m2, m3, m4", "ZeroDivisionError", ""),
        ("return lo, 1 / 0, m1, m2, m3, m4", "", "ZeroDivisionError"),
        ("return (lo if f < 0 else hi), m0, m1, m2, m3, m4", "", "truth value"),
    ],
)
def test_proposals_that_do_not_run_say_why(body, compiled, vectorised):
    propose = defined(f"def propose({ARGUMENTS}): {body}")
    for reason, backend in ((compiled, "numba"), (vectorised, "array_api")):
        if reason:
            with pytest.raises(TypeError, match=rf"^root_finder: Mine.propose .*{reason}.* six numbers"):
                pl.solve(pl.GroupLasso(1.0), X, metric=D, root_finder=finder(propose)(), backend=backend)


HELPERS = "SHARE = {share}\ndef mix(lo, hi):\n    return lo + SHARE * (hi - lo)\n"
MINE = f"""
import helpers
import proxlab as pl
from helpers import mix

def first({ARGUMENTS}):
    return mix(lo, hi), m0, m1, m2, m3, m4

def second({ARGUMENTS}):
    return lo + 0.8 * (hi - lo), m0, m1, m2, m3, m4

class First(pl.RootFinder):
    propose = first

class Second(pl.RootFinder):
    propose = second
"""
EDITS = (
    """
import importlib, pathlib, sys
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True  # an edit within a second has the old time
import numpy as np, proxlab as pl
import helpers, mine

def spent(kind):
    x, d = np.array([[3.0, 4.0], [1.0, 2.0]]), np.array([1.0, 16.0])
    counts = []
    for backend in ("numba", "array_api"):
        s = pl.solve(pl.GroupLasso(1.0), x, metric=d, root_finder=kind(max_iterations=400), backend=backend)
        assert s.ok
        counts.append(int(s.iterations.max()))
    assert abs(counts[0] - counts[1]) <= 2, counts  # rounding
    print(counts[0])

spent(mine.First)
spent(mine.Second)
scope = {"__name__": "gone"}  # a module that no later process finds
exec(compile("def third("""
    + ARGUMENTS
    + """): return lo + 0.7 * (hi - lo), m0, m1, m2, m3, m4", "", "exec"), scope)
spent(type("Third", (pl.RootFinder,), {"propose": scope["third"]}))
if len(sys.argv) > 2:
    path = pathlib.Path(sys.argv[1], "helpers.py")
    path.write_text(path.read_text().replace("SHARE = 0.5", "SHARE = 0.7"))
    importlib.reload(helpers)
    importlib.reload(mine)
    spent(mine.First)
"""
)


@pytest.mark.kernels
def test_edits_and_neighbours_from_a_cold_and_a_warm_cache(tmp_path):
    """Two in a file, a callee in another one that is edited; then a process that finds all in the cache."""
    (tmp_path / "helpers.py").write_text(HELPERS.format(share=0.5))
    (tmp_path / "mine.py").write_text(MINE)
    cache = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    first, second, third, edited = run(EDITS, str(tmp_path), "edit", **cache).split()
    assert len({first, second, edited}) == 3
    built = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nb?")}
    assert built
    assert run(EDITS, str(tmp_path), **cache).split() == [edited, second, third]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nb?")} == built


def test_values_that_change_while_it_runs():
    """As in Python, a function sees the constants of its module as they are now."""
    propose = proposing("lo + S * (hi - lo)", S=0.5)
    kind = finder(staticmethod(propose))
    problem = {"metric": D, "root_finder": kind(max_iterations=400), "backend": "array_api"}
    before = pl.solve(pl.GroupLasso(1.0), X, **problem).iterations
    propose.__globals__["S"] = 0.9
    after = pl.solve(pl.GroupLasso(1.0), X, **problem).iterations
    assert (after > before).all()
    known = state(propose)
    kind.propose = staticmethod(proposing("lo + S * (hi - lo)", S=0.9))
    assert state(kind.propose) == known
