"""What the functions of a curve may call, and what they may not."""

import functools
import math
import types
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proxlab as pl
from proxlab import scalar
from proxlab.scalar import exp, where
from tests.curved_penalties import Laplace

HELPERS, DEEPER = types.ModuleType("helpers"), types.ModuleType("deeper")
exec("from proxlab.scalar import exp\ndef decay(r, theta):\n    return exp(-r / theta)", vars(DEEPER))
exec(
    "from proxlab.scalar import exp\ndef around(r, theta):\n    return deeper.decay(r, theta)", vars(HELPERS)
)
vars(HELPERS)["deeper"] = DEEPER
LEAVES = [
    "exp(-r / self.theta)", "scalar.exp(-r / self.theta)", "np.exp(-r / self.theta)",
    "math.exp(-r / self.theta)", "helpers.exp(-r / self.theta)", "helpers.around(r, self.theta)",
    "helpers.deeper.decay(r, self.theta)", "around(r, self.theta)", "decay(r, self.theta)",
    "made(r, self.theta)", "self.fixed(r, self.theta)", "Base.fixed(r, theta=self.theta)",
]  # fmt: skip
LAPLACE = """
def decay(r, theta, one=1.0, *, two=2.0):
    return one * exp(-two * r / (two * theta))

def make(function):
    def inner(r, theta):
        return (lambda q: function(-q / theta))(r)
    return inner

made = make(exp)

class Mixin:
    pass
{Mixin}
@dataclass(frozen=True, eq=False)
class Base(pl.CurvedPenalty):
    lam: float
    theta: float

    @staticmethod
    def fixed(r, theta):
        return exp(-r / theta)
{Base}
class Mine(Mixin, Base):
    def value_at(self, r):
        return self.lam * (1.0 - {value})

    def slope_at(self, r):
        return self.lam / self.theta * {slope}

    def curvature_at(self, r):
        return -self.lam / self.theta**2 * {curvature}
{Mine}
"""


@st.composite
def laplace_penalties(draw):
    """Laplace's penalty, whose functions reach the exponential by all ways that Python has."""
    methods = {"Mixin": "", "Base": "", "Mine": ""}

    def define(kind, text):
        name = f"part{sum(map(len, methods.values()))}"
        methods[kind] += f"\n    def {name}(self, r):\n        return {text}\n"
        return name

    def text(kind, depth, bare=False):
        if depth == 0:
            return draw(st.sampled_from(LEAVES))
        ways = ["where", "lambda", "method", "class"] + ["super"] * (kind == "Mine")
        way = draw(st.sampled_from(ways))
        if way == "where":
            return f"where(r < 0.0, 1.0, {text(kind, depth - 1, bare)})"
        if way == "lambda":
            return f"(lambda r: {text(kind, depth - 1, bare=True)})(r)"
        owner = draw(st.sampled_from(list(methods))) if way == "method" else "Base"
        name = define(owner, text(owner, depth - 1))
        if way == "method":
            return f"self.{name}(r)"
        # Of the class behind, and not the one that stands before it.
        methods["Mine"] += f"\n    def {name}(self, r):\n        return 0.0 * r\n"
        if way == "class":
            return f"Base.{name}(self, r)"
        return f"super({'Mine, self' if bare or draw(st.booleans()) else ''}).{name}(r)"

    three = {name: text("Mine", draw(st.integers(0, 3))) for name in ("value", "slope", "curvature")}
    source = LAPLACE.format(**three, **methods).replace("    pass\n\n    def", "    def")
    scope = {
        "__name__": "mine", "dataclass": dataclass, "pl": pl, "np": np, "math": math, "exp": exp,
        "where": where, "scalar": scalar, "helpers": HELPERS, "around": HELPERS.around,
    }  # fmt: skip
    exec(compile(source, "<mine>", "exec"), scope)
    return scope["Mine"]


@settings(max_examples=30)
@given(kind=laplace_penalties())
@pytest.mark.parametrize("xp", ["numpy", "torch", "array_api_strict"])
def test_what_the_functions_of_a_slope_call_runs_over_arrays(xp, kind):
    xp = np if xp == "numpy" else pytest.importorskip(xp)
    r = np.geomspace(1e-3, 10.0, 7)
    mine, plain = kind(0.7, 0.4).curve(xp), Laplace(0.7, 0.4).curve(np)
    plain = plain._replace(value=lambda r: 0.7 * (1.0 - np.exp(-r / 0.4)))  # as these write it
    for f, g in zip(mine, plain, strict=True):
        # A namespace may have another exponential.
        np.testing.assert_allclose(np.asarray(f(xp.asarray(r))), g(r), rtol=0.0 if xp is np else 1e-15)


@settings(max_examples=12)
@given(laplace_penalties())
def test_slopes_that_call_others_are_solved(kind):
    rng = np.random.default_rng(3)
    x, d = rng.normal(size=(9, 4)), rng.uniform(0.5, 2.0, (9, 4))
    found, expected = (
        pl.prox(h, x, metric=d, backend="array_api") for h in (kind(0.7, 0.4), Laplace(0.7, 0.4))
    )
    np.testing.assert_array_equal(found, expected)
    assert (found == 0).any()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "np.polyval([1.0], r)",
            "the function slope_at .* uses numpy.polyval, which these arrays do not have",
        ),
        ("absent(r)", "the function slope_at .* uses absent, which is not defined"),
        ("deeper.absent(r)", "the function slope_at .* uses deeper.absent, which is not defined"),
        ("again(r)", "the function again .* calls itself"),
        ("again.factor * r", "the function slope_at .* uses again.factor, an attribute of a function"),
    ],
)
def test_what_a_slope_may_not_call_is_named(text, said):
    scope = {"Laplace": Laplace, "np": np, "deeper": DEEPER, "__name__": "mine"}
    source = f"def again(r): return again(r)\nclass Mine(Laplace):\n  def slope_at(self, r): return {text}"
    exec(compile(source, "<mine>", "exec"), scope)
    with pytest.raises(TypeError, match=f"penalty: {said}"):
        pl.prox(scope["Mine"](1.0, 0.5), pytest.importorskip("array_api_strict").ones((1, 2)))


def decay(by, r):
    return by * pl.scalar.exp(-r)


class Decay:
    def __call__(self, r):
        return decay(1.0, r)


KEPT = {
    "classmethod": classmethod(lambda _, r: decay(1.0, r)),
    "partial": functools.partial(decay, 1.0),
    "partialmethod": functools.partialmethod(lambda _, by, r: decay(by, r), 1.0),
    "property": property(lambda _: lambda r: decay(1.0, r)),
    "_lru_cache_wrapper": functools.lru_cache(lambda _, r: decay(1.0, r)),
    "Decay": Decay(),
    "dict": {"by": Decay()},
}


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("kind", KEPT)
def test_what_keeps_the_operations_of_numbers_is_named(kind, deep):
    class Mine(Laplace):
        helper = KEPT[kind]

        def other(self, r):
            return self.helper(r) if kind != "dict" else self.helper["by"](r)

        def slope_at(self, r):
            return self.lam * self.other(r)

    if not deep:
        Mine.slope_at = Mine.other
    told = rf"^slope_at: Mine must give a float64 .*; helper, a {kind}, stays as it is: let it be a method"
    with pytest.raises(TypeError, match=told):
        Mine(1.0, 1.0)

    class Through(Laplace):
        def slope_at(self, r):
            return type(self).value_at(self, r) + kept(r)

    kept = functools.partial(decay, 0.0)
    with pytest.raises(TypeError, match="; kept, a partial, what type of self has, stays as it is"):
        Through(1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Falling(pl.CurvedPenalty):
    """Its functions are parameters, which an instance has and are not bound to it."""

    lam: float
    fall: types.FunctionType = lambda r: decay(1.0, r)

    def value_at(self, r):
        return self.lam * (1.0 - self.fall(r))

    def slope_at(self, r):
        return self.lam * self.fall(r)

    def curvature_at(self, r):
        return -self.lam * self.fall(r)


@pytest.mark.parametrize("functions", [(), (lambda r: decay(1.0, r),)], ids=["default", "given"])
@pytest.mark.parametrize("xp", ["numpy", "torch", "array_api_strict"])
def test_functions_may_be_parameters(xp, functions):
    xp = np if xp == "numpy" else pytest.importorskip(xp)
    x = np.random.default_rng(0).normal(size=(9, 4))
    found = np.asarray(pl.prox(Falling(0.7, *functions), xp.asarray(x)))
    np.testing.assert_allclose(found, pl.prox(Laplace(0.7, 1.0), x, backend="array_api"), rtol=1e-14)


def scaled(by, where):
    """Return functions of one code that differ in a default: a number or an array, by place or by name."""
    by = np.array(by) if where == "array" else by
    return (lambda r, *, by=by: by * r) if where == "name" else lambda r, by=by: by * r


@pytest.mark.parametrize("where", ["place", "name", "array"])
def test_functions_that_differ_in_a_default_are_told_apart(where):
    double, third = scaled(2.0, where), scaled(1.0 / 3.0, where)

    class Mine(Laplace):
        def slope_at(self, r):
            return 1.5 * double(third(pl.scalar.exp(-r)))

        def value_at(self, r):
            return 1.5 * third(double(1.0 - pl.scalar.exp(-r)))

    r, curve = np.array([0.5, 2.0]), Mine(1.0, 1.0).curve(np)
    np.testing.assert_allclose(curve.slope(r), np.exp(-r), rtol=1e-15)
    np.testing.assert_allclose(curve.value(r), 1.0 - np.exp(-r), rtol=1e-15)
