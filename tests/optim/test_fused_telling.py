"""What a pass tells of the next step: from which strengths on groups vanish, and what is not finite."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proxlab as pl
from proxlab.optim import fused_arrays, fused_cpu
from proxlab.optim.fused_columns import BLOCK, ROWS
from proxlab.optim.fused_cpu import Batch
from proxlab.optim.group_sums import GroupSums
from proxlab.optim.rules import RULES, check_settings
from proxlab.optim.sparsity import strengths_of_sums
from proxlab.penalties.base import Piece, RadialPenalty
from tests.optim.fused import fused_step

RULE = RULES["ProxAdagrad"]
SETTINGS = check_settings(RULE, {"lr": 0.1})
over = pl.Groups.over


@dataclass(frozen=True, eq=False)
class Steep(RadialPenalty):
    """A convex penalty whose slope at zero is not its strength."""

    lam: float = 0.0

    @property
    def pieces(self):
        return (Piece(0.0, 0.0, 2.5 * self.lam, -0.1 * self.lam),)


#: Penalties, and the slope at zero of those that are convex, in units of their strength.
PENALTIES = [
    (lambda **o: pl.GroupLasso(0.3, **o), 1.0),
    (lambda **o: Steep(lam=0.3, **o), 2.5),
    (lambda **o: pl.GroupElasticNet(0.3, 0.1, **o), 1.0),
    (lambda **o: pl.GroupMCP(0.3, gamma=2.5, **o), None),
    (lambda **o: pl.GroupL0(0.3, **o), None),
]
COLUMNS = [
    ((3 * ROWS + 5, 7), 0), ((5, 70), 0), ((1, 6), 0), ((130, 3), 0), ((4, 9, 3, 3), (0, 2, 3)),
    ((6, 9, 5), (0, 2)),
]  # fmt: skip
CONTIGUOUS = [((9, 5), 1), ((4, 3000), 1), ((3, 1024), 1), ((7, 2), 1), ((40, 9, 3, 3), (2, 3))]
#: Layouts and dtypes, two of them in every run.
LAYOUTS = [
    pytest.param(shapes, dtype, marks=[] if often else [pytest.mark.kernels])
    for shapes, dtype, often in (
        (COLUMNS, "f4", True), (CONTIGUOUS, "f8", True), (COLUMNS, "f8", False), (CONTIGUOUS, "f4", False),
    )
]  # fmt: skip


def here(_):
    return ""


def drawn(shape, dtype, seed, exponents=0):
    """Weights, gradient and state; some weights, and groups of both, are zero."""
    rng = np.random.default_rng(seed)
    w, g = (
        rng.normal(size=shape) * 10.0 ** rng.integers(-exponents, exponents + 1, size=shape) for _ in range(2)
    )
    w[rng.random(shape) < 0.2] = 0.0
    for axis in range(len(shape)):
        chosen = [slice(None)] * len(shape)
        chosen[axis] = 0
        if rng.random() < 0.3:
            w[tuple(chosen)] = g[tuple(chosen)] = 0.0
    return tuple(np.asarray(a, dtype, order="C") for a in (w, g, rng.random(shape) + 1e-3))


def batch_of(penalty, parts, joint=None):
    shapes, dtype = [part[0].shape for part in parts], parts[0][0].dtype
    batch = Batch(RULE, SETTINGS, penalty, shapes, dtype, [None] * len(parts), joint)
    batch.addresses[...] = [[a.ctypes.data for a in part] for part in parts]
    return batch


def told(batch):
    return batch.tell(batch.penalty, SETTINGS, 1, 0.0, pl.Newton(), here)


def asked(part):
    """The point and the metric of the step, in float64."""
    w, g, a = part
    found = fused_arrays.propose(RULE, SETTINGS, w, g, (a,), 1, 0.0, lambda: np.empty_like(w))
    return found.x.astype(float), found.metric.astype(float), found.step


@st.composite
def layouts(draw, contiguous):
    """A shape of two to four axes, and those that groups are over: the last ones, or the first and others."""
    n = draw(st.integers(2, 4))
    most = {2: 150, 3: 20, 4: 9}[n]
    shape = draw(st.lists(st.integers(1, most), min_size=n, max_size=n))
    if contiguous:
        return tuple(shape), tuple(range(draw(st.integers(1, n - 1)), n))
    axes = draw(st.lists(st.integers(1, n - 1), unique=True, max_size=n - 2))
    return tuple(shape), (0, *sorted(axes))


@pytest.mark.parametrize(("shapes", "dtype"), LAYOUTS)
@settings(max_examples=60)
@given(st.data(), st.sampled_from(PENALTIES), st.integers(0, 10**6))
def test_strengths_are_those_of_the_points(shapes, dtype, data, penalty, seed):
    make, slope = penalty
    shape, axes = data.draw(st.sampled_from(shapes) | layouts(shapes is CONTIGUOUS))
    part, rng = drawn(shape, dtype, seed, data.draw(st.sampled_from([0, 3]))), np.random.default_rng(seed)
    n = int(np.prod([shape[k] for k in np.atleast_1d(axes)]))
    own = rng.random(part[0].size // n) * rng.choice([0.0, 1.0], part[0].size // n)
    weights, each = data.draw(st.sampled_from([(None, 1.0), ("sqrt_size", n**0.5), (own, own)]))
    before = [a.copy() for a in part]
    found = told(batch_of(make(groups=over(axes), weights=weights), [part]))
    for new, old in zip(part, before, strict=True):
        assert np.array_equal(new, old)
    x, d, step = asked(part)
    rows, metric = (np.moveaxis(a, axes, range(-np.size(axes), 0)).reshape(-1, n) for a in (x, d))
    if slope is not None:
        b, w = np.asarray(metric, np.longdouble) * rows, np.broadcast_to(each, len(rows))
        norm = np.sqrt((b * b).sum(axis=1))
        expected = np.where(norm > 0, np.inf, 0.0)
        np.divide(norm, step * w * slope * 0.3, out=expected, where=w > 0, casting="same_kind")
    else:
        # Memory with gaps, over which no pass sums.
        unit, apart = (
            make(weights=np.broadcast_to(each, len(rows)).copy()),
            np.repeat(metric, 2, axis=1)[:, ::2],
        )
        expected = pl.optim.vanishing_strength(unit, np.ascontiguousarray(rows), step, metric=apart) / 0.3
    np.testing.assert_allclose(found, np.asarray(expected, float), rtol=2 * (n + 30) * 2.0**-53, atol=0)


def test_blocks_of_neighbours_and_several_tensors_tell_alike():
    """Wider than a block, and groups that have a part in each of several."""
    part = drawn((3, BLOCK + 50), "f4", 0)
    penalty = pl.GroupLasso(0.1, groups=over(0))
    found = told(batch_of(penalty, [part, part]))
    x, d, step = asked(part)
    np.testing.assert_allclose(found, np.tile(np.linalg.norm(x * d, axis=0) / (0.1 * step), 2), rtol=1e-14)
    shapes, joint = [(40, 30), (40,), (20, 40)], [over(1), over(()), over(0)]
    parts = [drawn(shape, "f4", k) for k, shape in enumerate(shapes)]
    found = batch_of(pl.GroupLasso(0.1), parts, joint).tell(
        pl.GroupLasso(0.1), SETTINGS, 1, 0.0, pl.Newton(), here
    )
    (a, e, step), (b, f, _), (c, g, _) = map(asked, parts)
    squares = ((a * e) ** 2).sum(axis=1) + (b * f) ** 2 + ((c * g) ** 2).sum(axis=0)
    np.testing.assert_allclose(found, np.sqrt(squares) / (0.1 * step), rtol=1e-13)


@pytest.mark.parametrize(("shapes", "dtype"), LAYOUTS)
@pytest.mark.parametrize("seed", range(4))
def test_a_step_that_was_told_of_is_the_same(shapes, dtype, seed):
    """To the bit: the look at gradients and weights is the same, and what is known is what is solved."""
    for shape, axes in shapes:
        penalty = pl.GroupLasso(0.3, groups=over(axes))
        ahead, plain = drawn(shape, dtype, seed), drawn(shape, dtype, seed)
        batch = batch_of(penalty, [ahead])
        strengths = np.sort(told(batch))
        driven = penalty.with_strength(0.3 * float(strengths[len(strengths) // 2]) * (1.0 + 1e-12))
        batch.follow(driven)
        batch.step(SETTINGS, 1, 0.0, pl.Newton(), here)
        fused_step(RULE, SETTINGS, driven, *plain[:2], plain[2:], 1, 0.0, pl.Newton())
        for a, b in zip(ahead, plain, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.parametrize("axes", [0, pytest.param(1, marks=pytest.mark.kernels)])
def test_the_group_at_the_threshold_is_known_to_be_zero(monkeypatch, axes):
    """And the one behind it, as close to single precision, is solved."""
    asked_for, solve = [], fused_cpu.prox
    monkeypatch.setattr(fused_cpu, "prox", lambda *a, **o: asked_for.append(len(a[1])) or solve(*a, **o))
    penalty = pl.GroupLasso(0.3, groups=over(axes))
    w = np.array([[3.0, 3.0000005, 1.0, 0.0], [4.0, 4.0, 1.0, 0.0]], "f4")
    w = np.ascontiguousarray(w if axes == 0 else w.T)
    part = (w, np.zeros_like(w), np.ones_like(w))
    batch = batch_of(penalty, [part])
    found = told(batch)
    assert found[0] < found[1] < found[0] * (1 + 1e-6)
    for least, lost in ((found[0], 3), (found[1], 4)):
        again = (w.copy(), *part[1:])
        batch = batch_of(penalty, [again])
        told(batch)
        batch.follow(penalty.with_strength(0.3 * float(least) * (1.0 + 1e-12)))
        batch.step(SETTINGS, 1, 0.0, pl.Newton(), here)
        assert (again[0] == 0).all(axis=axes).sum() == lost
    assert asked_for == [1]


@pytest.mark.parametrize(("shape", "axes"), [
    ((3, BLOCK + 50), 0), pytest.param((300, 2), 1, marks=pytest.mark.kernels),
    pytest.param((300, 30), 1, marks=pytest.mark.kernels),
])  # fmt: skip
def test_no_group_that_is_known_to_be_zero_is_solved(monkeypatch, shape, axes):
    """Wherever it is: in which tensor, in which block."""
    solved, solve = [], Batch._solve_left
    monkeypatch.setattr(
        Batch,
        "_solve_left",
        lambda self, k, left, *a: solved.append((k, left.tolist())) or solve(self, k, left, *a),
    )
    penalty, rng = pl.GroupLasso(0.3, groups=over(axes)), np.random.default_rng(0)
    n = shape[1 - axes]
    for group in (0, 1, n // 3, n - 1, n, n + n // 2, 2 * n - 1):
        parts = [tuple(np.asarray(a, "f4") for a in (1 + rng.random(shape), np.zeros(shape), np.ones(shape)))
                 for _ in range(2)]  # fmt: skip
        batch, solved[:] = batch_of(penalty, parts), []
        at = float(told(batch)[group])
        batch.follow(penalty.with_strength(0.3 * at * (1.0 + 1e-12)))
        batch.step(SETTINGS, 1, 0.0, pl.Newton(), here)
        k, own = divmod(group, n)
        assert (np.moveaxis(parts[k][0], axes, 1)[own] == 0).all()
        assert not any(k == j and own in left for j, left in solved)


def test_what_is_known_of_a_group_is_of_its_tensor_and_of_its_step():
    """Of two tensors the second is at its threshold, and then a step comes that nobody has told of."""
    penalty = pl.GroupLasso(0.3, groups=over(0))
    parts = [tuple(np.full((3, 4), v, "f4") for v in (w, 0.0, 1.0)) for w in (1e-3, 2.0)]
    batch = batch_of(penalty, parts)
    found = told(batch)
    batch.follow(penalty.with_strength(0.3 * float(found[-1]) * (1.0 - 1e-9)))
    batch.step(SETTINGS, 1, 0.0, pl.Newton(), here)
    assert (parts[0][0] == 0).all()
    assert (parts[1][0] != 0).all()
    # By its own strength, and not that of the others.
    parts[1][0][...] = 2.0
    parts[1][2][...] = 1.0
    found = told(batch)
    least = batch.penalty.strength * float(found[-1])
    batch.follow(penalty.with_strength(2.0 * least), {1: penalty.with_strength(least * (1.0 - 1e-9))})
    batch.step(SETTINGS, 1, 0.0, pl.Newton(), here)
    assert (parts[1][0] != 0).all()
    for w, _, _ in parts:
        w[...] = 2.0
    batch.follow(penalty.with_strength(least * (1.0 - 1e-9)))
    batch.step(SETTINGS, 1, 0.0, pl.Newton(), here)
    for w, _, _ in parts:
        assert (w != 0).all()


@pytest.mark.parametrize("axes", [0, pytest.param(1, marks=pytest.mark.kernels)])
@pytest.mark.parametrize("seed", range(6))
def test_a_strength_of_its_own_is_as_good_as_alone(axes, seed):
    """Strengths of zero, weights whose squares are not finite, and threads that share a tensor."""
    rng = np.random.default_rng(seed)
    shapes = [tuple(rng.integers(1, 40, 2).tolist()) for _ in range(9)] + [(300, 400)] * 2
    rng.shuffle(shapes)
    together, alone = ([drawn(shape, "f4", seed + k) for k, shape in enumerate(shapes)] for _ in range(2))
    far = set(rng.choice(len(shapes), 2).tolist())
    for k in far:
        for parts in (together, alone):
            parts[k][0].flat[0] = 1e25
    penalty = pl.GroupLasso(0.3, groups=over(axes))
    some = [penalty.with_strength(lam) for lam in (0.0, 0.1, 2.0, 50.0)]
    own = {k: some[rng.integers(4)] for k in range(len(shapes)) if rng.random() < 0.6}
    batch = batch_of(penalty, together)
    batch.follow(penalty, own)
    before = pl.get_num_threads()
    pl.set_num_threads(1 + seed % 3)
    try:
        batch.step(SETTINGS, 1, 0.0, pl.Newton(), here)
    finally:
        pl.set_num_threads(before)
    for k, (ours, (w, g, a)) in enumerate(zip(together, alone, strict=True)):
        fused_step(RULE, SETTINGS, own.get(k, penalty), w, g, (a,), 1, 0.0, pl.Newton())
        for x, y in zip(ours, (w, g, a), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-6 if k in far else 0)


@pytest.mark.parametrize(("shapes", "dtype"), LAYOUTS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_gradients_that_are_not_finite_are_told_of(shapes, dtype, bad):
    rng = np.random.default_rng(0)
    for shape, axes in shapes:
        penalty = pl.GroupLasso(0.3, groups=over(axes))
        part = drawn(shape, dtype, 0)
        part[1][tuple(int(rng.integers(n)) for n in shape)] = bad
        with pytest.raises(ValueError, match="must be finite"):
            told(batch_of(penalty, [drawn(shape, dtype, 1), part]))


@pytest.mark.parametrize(("shapes", "dtype"), LAYOUTS)
def test_what_sums_do_not_tell_is_not_told(shapes, dtype):
    """A state that makes no metric, an elementwise part, and squares that leave the range or vanish."""
    rng = np.random.default_rng(0)
    for shape, axes in shapes:
        penalty = pl.GroupLasso(0.3, groups=over(axes))
        w, g, a = drawn(shape, dtype, 0)
        g.flat[1], a.flat[1] = 0.0, -2.0
        assert told(batch_of(penalty, [(w, g, a)])) is None
        both = pl.SparseGroupLasso(0.1, 0.1, groups=over(axes))
        assert told(batch_of(both, [drawn(shape, dtype, 0)])) is None
        if dtype == "f8":
            for size in (1e-85, 1e-200, 1e160):
                w, g, a = np.zeros(shape), np.zeros(shape), np.ones(shape)
                w.flat[rng.integers(w.size)] = size
                assert told(batch_of(penalty, [(w, g, a)])) is None


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("axes", [0, 1])
def test_a_metric_below_zero_is_not_told_of(dtype, axes):
    """Cube roots of a state that nobody has made by steps: points and sums are finite."""
    rule = RULES["RAMDA"]
    settings, rng = check_settings(rule, {"lr": 0.1}), np.random.default_rng(0)
    penalty = pl.GroupLasso(0.3, groups=over(axes))
    for _ in range(20):
        w, g, *slots = (
            np.asarray(rng.normal(size=(9, 11)), dtype) for _ in range(2 + len(rule.select(settings).slots))
        )
        slots[-1][...] = 1.0
        batch = Batch(rule, settings, penalty, [w.shape], w.dtype, [None])
        batch.addresses[0] = [a.ctypes.data for a in (w, g, *slots)]
        assert batch.tell(penalty, settings, 2, 0.1, pl.Newton(), here) is not None
        k = rng.integers(w.size)
        g.flat[k], slots[-1].flat[k] = 0.0, -3.0
        assert batch.tell(penalty, settings, 2, 0.1, pl.Newton(), here) is None


@pytest.mark.parametrize("size", [1e-160, 1.0, 1e160])
def test_strengths_from_sums_keep_their_digits(size):
    """Where the product of step and weight would leave the range; against exact fractions."""
    rng = np.random.default_rng(0)
    bb, step, weights = rng.random(50), float(rng.random()) * size, rng.random(50) * size
    scale = min(size * size, 1e300)
    bb *= max(min(scale, 1e140), 1e-140)
    found = strengths_of_sums(pl.GroupLasso(1.0), GroupSums(bb), step, weights)
    for s, b, w in zip(found.tolist(), bb.tolist(), weights.tolist(), strict=True):
        exact = Fraction(math.sqrt(b)) / (Fraction(step) * Fraction(w))
        if exact < Fraction(10) ** 308:
            assert s == pytest.approx(float(exact), rel=1e-15)
        else:
            assert s == math.inf
