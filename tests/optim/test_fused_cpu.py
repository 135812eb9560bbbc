"""The fused pass: steps of every method against a few lines of NumPy, and against rule and prox."""

import dataclasses
from dataclasses import dataclass

import mpmath
import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.optim import fused_arrays
from proxlab.optim.cube_root import cube_root
from proxlab.optim.fused_cpu import Batch
from proxlab.optim.fused_layout import FEWEST, plan_of
from proxlab.optim.fused_side import SHORT, SIDE
from proxlab.optim.rules import RULES, check_settings
from proxlab.penalties.base import Piece, RadialPenalty
from tests import tables
from tests.optim.fused import fused_step
from tests.optim.methods import FEW, METHODS, prox_rows

NEWTON = pl.Newton()
ADAMW = RULES["ProxAdamW"]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = pl.get_num_threads()
    pl.set_num_threads(request.param)
    yield request.param
    pl.set_num_threads(before)


def start(slot, w, settings, lam):
    """A slot before the first step; the dual point of a group lasso over rows."""
    if slot.start == "parameter":
        return w.copy()
    if slot.start == "dual":
        length = np.linalg.norm(w, axis=1, keepdims=True)
        return w / settings["delta"] + lam * w / np.where(length > 0, length, 1.0)
    return np.full_like(w, 0.0 if slot.start == "zeros" else settings[slot.start])


@pytest.mark.parametrize(
    ("name", "across"),
    [
        pytest.param(name, across, marks=[pytest.mark.kernels] if across and name not in FEW else [])
        for name in METHODS
        for across in (False, True)
    ],
)
def test_methods_take_their_steps(name, across):
    rng = np.random.default_rng(1)
    method, lam = METHODS[name], 0.4
    rule = RULES[method.make.__name__]
    settings = check_settings(rule, method.settings)
    size = np.array([[1.0, 1.0, 1.0, 0.1, 0.1, 0.01]]).T
    # The last row starts at zero: dual methods leave it there.
    w = rng.normal(size=(6, 80)) * size * (size > 0.01)
    slots = [start(slot, w, settings, lam) for slot in rule.select(settings).slots]
    expected, state, carry = w.copy(), {}, 0.0
    flip = (lambda a: np.ascontiguousarray(a.T)) if across else (lambda a: a)
    w, slots = flip(w), tuple(flip(a) for a in slots)
    penalty = pl.GroupLasso(lam, groups=pl.Groups.over(0 if across else 1))
    zeros = 0
    for t in range(1, 26):
        g = 0.3 * size * rng.normal(size=expected.shape)
        state["t"] = t
        x, d, eta = method.reference(expected, g, state, method.settings | {"lam": lam})
        z = prox_rows(x, d, eta, lam)
        keep = method.settings.get("momentum", 0.0) if rule.averages else 0.0
        expected = keep * expected + (1 - keep) * z
        carry = fused_step(rule, settings, penalty, w, flip(g), slots, t, carry, NEWTON)
        np.testing.assert_allclose(flip(w), expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
        if not keep:
            np.testing.assert_array_equal(flip(w) == 0, expected == 0)
        zeros += (expected == 0).all(axis=1).sum()
    assert 0 < zeros < 6 * 25 or keep


def unfused(rule, settings, penalty, w, g, slots, t):
    """A step by the arrays' form of the rule and the public prox, which do not overwrite anything."""
    proposal = rule.propose(settings, w, g, slots, t, 0.0)
    z = proposal.x
    if penalty is not None and proposal.step > 0:
        z = pl.prox(penalty, z, proposal.step, metric=proposal.metric)
    return z, proposal.slots


def adamw(dtype, shape, penalty, steps=20, seed=0, lr=1e-2, scale=0.1):
    """Take the same steps fused and unfused; returns the greatest relative distance, and how much is zero."""
    rng = np.random.default_rng(seed)
    settings = check_settings(ADAMW, {"lr": lr})
    # Groups of all lengths, along whichever axes they lie.
    lengths = np.ones(shape)
    for axis, n in enumerate(shape):
        lengths *= 10.0 ** rng.uniform(-1.5 / len(shape), 0.0, n).reshape(
            [-1 if k == axis else 1 for k in range(len(shape))]
        )
    w = np.asarray(scale * lengths * rng.normal(size=shape), dtype)
    slots = np.zeros_like(w), np.zeros_like(w)
    worst, zero = 0.0, 0.0
    for t in range(1, steps + 1):
        g = np.asarray(0.05 * w + 0.02 * rng.normal(size=shape), dtype)
        expected, state = unfused(ADAMW, settings, penalty, w, g, slots, t)
        fused_step(ADAMW, settings, penalty, w, g, slots, t, 0.0, NEWTON)
        for a, b in zip((w, *slots), (expected, *state), strict=True):
            worst = max(worst, float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)))
        np.testing.assert_array_equal(w == 0, expected == 0)
        zero += float((w == 0).mean()) / steps
    return worst, zero


@dataclass(frozen=True, eq=False, kw_only=True)
class Own(RadialPenalty):
    """A penalty of one's own: where its pieces begin, and their slopes ``a - c r``."""

    rows: tuple = ()
    first: float = 0.0

    @property
    def pieces(self):
        return tuple(Piece(*row) for row in tables.complete(self.first, [(s, a, c) for s, a, c in self.rows]))


# Strengths at which some groups vanish: k is the square root of a group's size, n the number of groups.
KINDS = {
    "lasso": lambda k, n, **o: pl.GroupLasso(0.015 * k, **o),
    "sqrt size": lambda k, n, **o: pl.GroupLasso(0.015, weights="sqrt_size", **o),
    "weights": lambda k, n, **o: pl.GroupLasso(0.015 * k, weights=np.linspace(0.5, 1.5, n), **o),
    "elastic": lambda k, n, **o: pl.GroupElasticNet(0.015 * k, 0.1, **o),
    "sparse": lambda k, n, **o: pl.SparseGroupLasso(0.004, 0.012 * k, **o),
    "mcp": lambda k, n, **o: pl.GroupMCP(0.015 * k, gamma=30.0, **o),
    "scad": lambda k, n, **o: pl.GroupSCAD(0.015 * k, 12.0, **o),
    # A slope that falls, goes on without a kink, jumps down, and rises.
    "own": lambda k, n, **o: Own(
        rows=(
            (0.0, 0.015 * k, 0.04),
            (0.05 * k, 0.013 * k, 0.0),
            (0.1 * k, 0.01 * k, 0.0),
            (0.2 * k, 0.008 * k, -0.01),
        ),
        **o,
    ),
    # A jump at zero, before a slope that goes on.
    "jump": lambda k, n, **o: Own(first=1e-4 * k**2, rows=((0.0, 0.01 * k, 0.0),), **o),
    "capped": lambda k, n, **o: pl.GroupCapped(0.015 * k, theta=0.05 * k, **o),
    "l0": lambda k, n, **o: pl.GroupL0(0.0006 * k**2, **o),
}
LAYOUTS = {
    "rows": ((30, 70), pl.Groups.over(1)),
    "long rows": ((3, 2500), pl.Groups.over(1)),
    "columns": ((70, 30), pl.Groups.over(0)),
    "odd columns": ((37, 21), pl.Groups.over(0)),
    "channels": ((24, 10, 3, 3), pl.Groups.conv("channel")),
    "filters": ((10, 24, 3, 3), pl.Groups.conv("filter")),
    "kernels": ((8, 9, 3, 3), pl.Groups.conv("kernel")),
    "many kernels": ((20, 19, 3, 3), pl.Groups.conv("kernel")),
    "middle": ((4, 12, 6), pl.Groups.over(1)),
    "elements": ((9, 11), pl.Groups.over(())),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        pytest.param(k, d, marks=[pytest.mark.kernels] if k == "many kernels" and d is np.float64 else [])
        for k in LAYOUTS
        for d in (np.float32, np.float64)
    ],
)
def test_fused_equals_rule_and_prox(kind, layout, dtype):
    shape, groups = LAYOUTS[layout]
    lying = groups.layout(shape)
    penalty = KINDS[kind](np.sqrt(lying.group_size), lying.n_groups, groups=groups)
    worst, zero = adamw(dtype, shape, penalty)
    # A group close to its threshold is as much smaller than its data as it is worse conditioned.
    assert worst < 64 * np.finfo(dtype).eps
    assert 0.02 < zero < 0.98


@pytest.mark.parametrize("penalty", [None, pl.L1(0.01), pl.L1(0.01, nonnegative=True), pl.GroupLasso(0.0)])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (40, 30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_without_groups(penalty, shape, dtype):
    if shape == () and isinstance(penalty, pl.GroupLasso):
        pytest.skip("an array without axes has no rows")
    worst, _ = adamw(dtype, shape, penalty)
    assert worst < 8 * np.finfo(dtype).eps


def test_threads_share_large_arrays(threads):
    for shape, groups in (((600, 500), pl.Groups.over(1)), ((600, 500), pl.Groups.over(0))):
        worst, zero = adamw(np.float32, shape, pl.GroupLasso(0.25, groups=groups), steps=8, lr=1e-3)
        assert worst < 16 * np.finfo(np.float32).eps
        assert zero < 1


@pytest.mark.parametrize("kind", ["lasso", "sqrt size", "sparse", "mcp", "own", "l0"])
def test_columns_do_not_depend_on_threads_nor_on_their_neighbours(kind):
    """Nor does what becomes of the last few that are open, whose number is that of a block."""
    settings, before = check_settings(ADAMW, {"lr": 1e-2}), pl.get_num_threads()
    for seed in range(6):
        draw = np.random.default_rng(seed)
        shape = int(draw.integers(20, 300)), 32 * int(draw.integers(20, 80))
        some = slice(0, shape[1] // 32 * 16)
        scale = np.sqrt(shape[0]) * 10.0 ** draw.uniform(-1.5, 0.5)
        penalty, found = KINDS[kind](scale, shape[1], groups=pl.Groups.over(0)), []
        for threads, chosen in ((1, slice(None)), (2, slice(None)), (1, some)):
            rng = np.random.default_rng(0)
            w = 0.1 * rng.normal(size=shape) * np.exp(rng.normal(size=shape[1]))
            w = np.ascontiguousarray(w[:, chosen], np.float32)
            slots = np.zeros_like(w), np.zeros_like(w)
            pl.set_num_threads(threads)
            try:
                for t in range(1, 5):
                    g = np.ascontiguousarray(0.1 * rng.normal(size=shape)[:, chosen], np.float32)
                    fused_step(ADAMW, settings, penalty, w, g, slots, t, 0.0, NEWTON)
            finally:
                pl.set_num_threads(before)
            found.append(w)
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0][:, some], found[2])


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.kernels)])
@pytest.mark.parametrize("kind", KINDS)
def test_short_groups_of_any_size_and_number(kind, dtype):
    """They are laid side by side, so many at once; what becomes of one does not depend on those beside it."""
    settings, before, laid = check_settings(ADAMW, {"lr": 1e-2}), pl.get_num_threads(), 0
    for seed in range(8):
        draw = np.random.default_rng(seed)
        n = int(draw.integers(1, SHORT + 3))
        count = int(draw.choice([1, FEWEST, FEWEST + SIDE + 1, 40_000 // n, *draw.integers(1, 1200, 4)]))
        groups = pl.Groups.over(1)
        worst, _ = adamw(dtype, (count, n), KINDS[kind](np.sqrt(n), count, groups=groups), steps=6, seed=seed)
        assert worst < 64 * np.finfo(dtype).eps, (n, count)
        laid += plan_of(KINDS[kind](np.sqrt(n), count, groups=groups), (count, n)).name == "side"
        # So few take the kernel of long rows, whose sums are in another order.
        some, found = slice(count // 3 if count - count // 3 >= FEWEST else 0, None), []
        for threads, chosen in ((1, slice(None)), (2, slice(None)), (1, some)):
            rng = np.random.default_rng(seed)
            w = 0.1 * rng.normal(size=(count, n)) * np.exp(rng.normal(size=(count, 1)))
            w = w.astype(dtype)[chosen]
            penalty = KINDS[kind](np.sqrt(n), count, groups=groups)
            if len(np.shape(penalty.weights)) == 1:
                penalty = dataclasses.replace(penalty, weights=penalty.weights[chosen])
            slots = np.zeros_like(w), np.zeros_like(w)
            pl.set_num_threads(threads)
            try:
                for t in range(1, 5):
                    g = (0.1 * rng.normal(size=(count, n))).astype(dtype)[chosen]
                    fused_step(ADAMW, settings, penalty, w, g, slots, t, 0.0, NEWTON)
            finally:
                pl.set_num_threads(before)
            found.append(w)
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0][some], found[2])
    assert laid > 3


def test_more_columns_than_a_block():
    worst, _ = adamw(np.float32, (3, 9001), pl.GroupLasso(0.01, groups=pl.Groups.over(0)), steps=4)
    assert worst < 16 * np.finfo(np.float32).eps


@pytest.mark.parametrize("kind", ["lasso", "own"])
def test_a_batch_that_goes_on_takes_the_bits_of_a_new_one(kind):
    """Nothing of a step before decides, whatever has happened to the weights since."""
    rng, settings = np.random.default_rng(7), check_settings(ADAMW, {"lr": 1e-2})
    for groups, shapes in [
        (pl.Groups.over(0), [(2, 8500)]),
        *((pl.Groups.over(0), [tuple(rng.integers(1, 70, 2))]) for _ in range(4)),
        *((pl.Groups.conv(name), [(*rng.integers(1, 40, 2), 3, 3)] * 2) for name in ("channel", "kernel")),
    ]:
        lying = groups.layout(shapes[0])
        penalty = KINDS[kind](np.sqrt(lying.group_size), lying.n_groups, groups=groups)
        fresh = [Batch(ADAMW, settings, penalty, shapes, np.float32, [None] * len(shapes)) for _ in range(13)]
        kept = [[np.zeros(shape, np.float32) for shape in shapes] for _ in range(4)]
        for w in kept[0]:
            w[...] = 0.1 * rng.normal(size=w.shape)
        new = [[a.copy() for a in arrays] for arrays in kept]
        new[1] = kept[1]
        for t in range(1, 13):
            if t == 6:
                # Other weights, in another place.
                kept[0], new[0] = ([np.roll(a, 1) for a in arrays[0]] for arrays in (kept, new))
            if t == 9:
                for a in (*kept[0], *new[0]):
                    a *= 0.5
            for w, g in zip(*kept[:2], strict=True):
                g[...] = 0.05 * w + 0.02 * rng.normal(size=w.shape)
            for arrays, batch in ((kept, fresh[0]), (new, fresh[t])):
                batch.addresses[...] = np.transpose([[a.ctypes.data for a in some] for some in arrays])
                batch.step(settings, t, 0.0, NEWTON, str)
            for a, b in zip(kept[0], new[0], strict=True):
                np.testing.assert_array_equal(a, b)


SGD = RULES["ProxSGD"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
def test_groups_at_their_threshold(axis, dtype):
    # The lengths are 5·2^k without rounding, and the threshold is 10.
    w = np.zeros((6, 64), dtype)
    w[:, :2] = np.array([3.0, 4.0]) * 2.0 ** np.arange(6)[:, None]
    w = w if axis else np.ascontiguousarray(w.T)
    settings = check_settings(SGD, {"lr": 1.0})
    fused_step(
        SGD, settings, pl.GroupLasso(10.0, groups=pl.Groups.over(axis)), w, np.zeros_like(w), (), 1, 0, NEWTON
    )
    lengths = np.linalg.norm(w, axis=axis)
    np.testing.assert_allclose(lengths, [0, 0, 10, 30, 70, 150], rtol=4 * np.finfo(dtype).eps)
    assert (lengths[:2] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e17])
@pytest.mark.parametrize("axis", [0, 1])
def test_scales_at_the_ends_of_single_precision(scale, axis):
    rng = np.random.default_rng(0)
    shape = (8, 66) if axis else (66, 8)
    w = (scale * rng.normal(size=shape)).astype(np.float32)
    lam = float(np.median(np.linalg.norm(w.astype(np.float64), axis=axis)))
    penalty = pl.GroupLasso(lam, groups=pl.Groups.over(axis))
    expected = pl.prox(penalty, w, 1.0)
    settings = check_settings(SGD, {"lr": 1.0})
    fused_step(SGD, settings, penalty, w, np.zeros_like(w), (), 1, 0.0, NEWTON)
    np.testing.assert_array_equal(w == 0, expected == 0)
    # Close to the threshold the result moves much more than the data: as the prox of data within rounding.
    np.testing.assert_allclose(w, expected, rtol=1e-6, atol=1e-6 * scale)


def test_dead_groups_stay_dead_and_a_gradient_revives_one():
    settings = check_settings(ADAMW, {"lr": 1e-2})
    w, g = np.zeros((3, 70), np.float32), np.zeros((3, 70), np.float32)
    slots = np.zeros_like(w), np.zeros_like(w)
    penalty = pl.GroupLasso(1.0)
    for t in range(1, 4):
        fused_step(ADAMW, settings, penalty, w, g, slots, t, 0.0, NEWTON)
        assert not w.any()
    g[1] = 1.0
    fused_step(ADAMW, settings, penalty, w, g, slots, 4, 0.0, NEWTON)
    assert not w[[0, 2]].any()
    assert w[1].all()


@pytest.mark.parametrize("n", [5, 70, 3000])
@pytest.mark.parametrize("tiny", [0.0, 1e-30, 1e-44])
def test_a_row_that_becomes_zero_is_written_however_small_it_was(n, tiny):
    """Its squares have vanished, which does not make it zero."""
    w = np.full((4, n), tiny, np.float32)
    w[1, :-1] = 0.0
    settings = check_settings(SGD, {"lr": 1.0})
    fused_step(SGD, settings, pl.GroupLasso(1e3), w, np.full_like(w, 0.1), (), 1, 0.0, NEWTON)
    assert not w.any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25])
@pytest.mark.parametrize(
    "penalty", [pl.L1(0.1), pl.GroupLasso(0.1), pl.GroupLasso(0.1, groups=pl.Groups.over(0))]
)
def test_a_bad_gradient_changes_nothing(bad, penalty):
    rng = np.random.default_rng(0)
    settings = check_settings(ADAMW, {})
    w, m, v = (rng.uniform(1, 2, size=(70, 90)).astype(np.float32) for _ in range(3))
    before = [a.copy() for a in (w, m, v)]
    g = np.ones_like(w)
    g[69, 89] = bad
    with pytest.raises(ValueError, match=r"(x|metric): must be finite.*\(69, 89\)"):
        fused_step(ADAMW, settings, penalty, w, g, (m, v), 1, 0.0, NEWTON)
    for a, b in zip((w, m, v), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_large_gradient_is_no_error_where_nothing_squares_it():
    w, g = np.zeros((4, 70), np.float32), np.full((4, 70), 1e25, np.float32)
    settings = check_settings(SGD, {"lr": 1e-25})
    fused_step(SGD, settings, pl.GroupLasso(1.0), w, g, (), 1, 0.0, NEWTON)
    np.testing.assert_allclose(w, -1.0, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_weight_that_is_not_finite_is_an_error_that_names_the_group(axis):
    settings = check_settings(ADAMW, {})
    w = np.ones((80, 80))
    w[3, 3] = np.nan
    slots = np.zeros_like(w), np.zeros_like(w)
    with pytest.raises(ValueError, match=r"group 3: .* must be finite|\(3, 3\) is nan"):
        fused_step(
            ADAMW, settings, pl.GroupLasso(0.1, groups=pl.Groups.over(axis)), w, np.ones_like(w), slots, 1,
            0.0, NEWTON,
        )  # fmt: skip
    w[...] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        fused_step(ADAMW, settings, pl.L1(0.1), w, np.ones_like(w), slots, 1, 0.0, NEWTON)


def test_no_prox_where_the_learning_rate_is_zero():
    settings = check_settings(ADAMW, {"lr": 0.0})
    w = np.ones((4, 70))
    fused_step(
        ADAMW, settings, pl.GroupLasso(5.0), w, w.copy(), (np.zeros_like(w), np.zeros_like(w)), 1, 0.0, NEWTON
    )
    np.testing.assert_array_equal(w, 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_do_not_depend_on_where_arrays_lie(dtype):
    """Neighbours in memory, which vectors of several elements would reach, are computed as others are."""
    rng = np.random.default_rng(3)
    for options in ({}, {"weight_decay": 0.01}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}):
        rule = RULES["ProxSGD"]
        settings = check_settings(rule, {"lr": 0.1} | options)
        for n in rng.integers(1, 70, 60):
            values = rng.normal(size=(2 + len(rule.select(settings).slots), n)).astype(dtype)
            found = []
            for place in range(4):
                pages, room = np.zeros(6 * (n + 200), dtype), -(-n // 16) * 16
                gaps = 16 * rng.integers(0, 8, 5) if place else np.zeros(5, int)
                starts = np.cumsum(gaps) + room * np.arange(5)
                w, g, *rest = (pages[start : start + n] for start in rng.permutation(starts))
                slots, free = rest[: len(values) - 2], rest[len(values) - 2 :]
                for a, v in zip((w, g, *slots), values, strict=True):
                    a[...] = v
                made = fused_arrays.propose(rule, settings, w, g, tuple(slots), 2, 0.0, free.pop)
                found.append((made.x.copy(), *(slot.copy() for slot in made.slots)))
            for others in found[1:]:
                for a, b in zip(found[0], others, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_empty_arrays():
    for shape in ((0, 5), (5, 0), (0,)):
        w = np.zeros(shape)
        settings = check_settings(ADAMW, {})
        slots = np.zeros(shape), np.zeros(shape)
        found = fused_arrays.propose(ADAMW, settings, w, w.copy(), slots, 1, 0.0, lambda: np.empty_like(w))  # noqa: B023
        assert all(a.shape == shape for a in (found.x, found.metric, *found.slots))


def test_another_root_finder_is_heeded():
    rng = np.random.default_rng(0)
    settings = check_settings(ADAMW, {"lr": 1.0})
    w, g = rng.normal(size=(2, 10, 70))
    slots = np.zeros_like(w), np.zeros_like(w)
    rough = pl.Bisection(max_iterations=2)
    p = ADAMW.propose(settings, w, g, slots, 1, 0.0)
    rough_z, z = (
        pl.prox(pl.GroupLasso(2.0), p.x, 1.0, metric=p.metric, root_finder=f) for f in (rough, NEWTON)
    )
    assert not np.allclose(rough_z, z, rtol=1e-6)
    fused_step(ADAMW, settings, pl.GroupLasso(2.0), w, g, slots, 1, 0.0, rough)
    np.testing.assert_array_equal(w, rough_z)


def test_where_it_applies():
    # Minimisers gather where the slope jumps up.
    up, csr = Own(rows=((0.0, 0.1, 0.0), (1.0, 0.2, 0.0))), pl.Groups.csr([0, 3, 5], [0, 1, 2, 3, 4])
    for penalty in (None, pl.L1(0.1), pl.GroupSCAD(0.1, a=3.0), pl.GroupLinf(0.1)):
        assert plan_of(penalty, (6, 8)) is not None
    for penalty in (up, pl.GroupLasso(0.1, groups=csr)):
        assert plan_of(penalty, (6, 8)) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(data=st.data())
def test_the_cube_root_of_a_compiled_pass_is_one(dtype, data):
    """Of numbers at the ends of the range, and below the normal ones, too."""
    info = np.finfo(dtype)
    a = data.draw(
        st.one_of(
            st.floats(0.0, float(info.max), width=info.bits),
            st.integers(0, 2**24).map(lambda k: float(dtype(k) * info.smallest_subnormal)),
            st.sampled_from([0.0, 1.0, 8.0, 27.0, float(info.tiny), float(info.max)]),
        )
    )
    found = float(cube_roots(np.full(20, a, dtype))[7])
    with mpmath.workdps(60):
        truth = mpmath.cbrt(mpmath.mpf(float(dtype(a))))
        assert abs(mpmath.mpf(found) - truth) <= 4 * float(np.spacing(dtype(float(truth)))) * (a > 0)


def cube_roots(a):
    out = np.empty_like(a)
    _cube_roots(a, out)
    return out


@numba.njit
def _cube_roots(a, out):
    for i in range(a.size):
        out[i] = cube_root(a[i], a[i])
