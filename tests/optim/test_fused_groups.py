"""What the fused pass makes of a group: the global minimiser for any table that it takes, or no answer."""

import math
import threading

import flint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import proxlab as pl
from proxlab.backends.column_kernels import Zero
from proxlab.optim import fused_blocks, fused_cpu, fused_groups, fused_kernels
from proxlab.optim.fused_layout import Slope
from proxlab.optim.rules import RULES, check_settings
from proxlab.penalties.tables import Piece, check_pieces
from tests import tables
from tests.optim.fused import fused_step
from tests.optim.test_fused_cpu import Own

ADAMW = RULES["ProxAdamW"]


@np.errstate(all="ignore")
def solve(table, x, d, eta, guess, dtype):
    """The kernels' search in Python, with sums in double precision; None where they leave the group."""
    numbers = Slope(check_pieces(table)).numbers(1.0, 1e-15, np.dtype(dtype))
    numbers = numbers._replace(doubt=64 * np.finfo(dtype).eps)
    squares = x * x
    zero = Zero(*(float(np.sum(v)) for v in (squares * d * d, squares * d**3, squares, squares * d)))
    group = fused_groups.open_group(zero, guess, eta, numbers)
    for _ in range(fused_groups.PASSES):
        ratio = fused_groups.ratio_of(group, eta, numbers)
        if group.state != fused_groups.OPEN or ratio == 0.0:
            break
        h = d * ratio / (d * ratio + 1.0)
        sums = (float(np.sum(squares * h**k)) for k in (2, 3, 4))
        group = fused_groups.advance(group, *sums, zero, eta, numbers)
    ratio, rest, state = fused_groups.quotient(group, eta, numbers)
    return x * (d * ratio / (d * ratio + rest)) if state == fused_groups.DONE else None


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@settings(max_examples=10 * settings().max_examples)
@given(
    table=tables.tables(kinks=False), n=st.integers(1, 4), seed=st.integers(0, 9999),
    reach=st.floats(-1.5, 0.7), spread=st.floats(0.0, 3.0), log_eta=st.floats(-1.5, 1.5),
    off=st.sampled_from([None, 1e-3, 0.1, 0.3]),
)  # fmt: skip
def test_an_answer_is_the_global_minimiser(dtype, table, n, seed, reach, spread, log_eta, off):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    x *= 10.0**reach / np.linalg.norm(x)
    d = np.exp(spread * rng.normal(size=n))
    eta, given_at = 10.0**log_eta, 10.0 ** rng.uniform(-2, 1)
    with flint.ctx.workprec(400):
        g = tables.Group(table, x, d, eta)
        truth = tables.solve(g)
        norm = float(np.linalg.norm([float(v) for v in truth.z]))
        guess = given_at if off is None else norm * (1 + off)
        # The objective is over the step there.
        z = solve(table, x, d, eta, guess, dtype)
        if z is not None:
            assert float(g.objective(z) - truth.objective) <= 64 * np.finfo(dtype).eps * g.size


def by_itself(zero, squares, eta, sums, numbers):
    """What becomes of a group that is opened and gone on with, at a guess that holds and once more."""
    table = numbers.table
    r = fused_groups.first_radius(squares, table)
    guess = fused_groups.Group(fused_groups.OPEN, r, fused_groups.piece_at(table, r, 0, len(table)), 0.0, r)
    group, at = fused_groups.open_group(zero, r, eta, numbers), fused_groups.ratio_of(guess, eta, numbers)
    if (group.r, group.k) != (guess.r, guess.k):
        at = 0.0
    for _ in range(2):
        if group.state == fused_groups.OPEN and at > 0.0:
            group = fused_groups.advance(group, *sums(at), zero, eta, numbers)
        at = fused_groups.ratio_of(group, eta, numbers)
        if group.state == fused_groups.OPEN and at == 0.0:
            group = group._replace(state=fused_groups.HARD)
    return group


SOME = {
    "lasso": [(0.0, 0.0, 1.0, 0.0)], "small": [(0.0, 0.0, 1e-3, 0.0)], "elastic": [(0.0, 0.0, 1.0, -2.0)],
    "ridge": [(0.0, 0.0, 0.0, -1.0)], "concave": [(0.0, 0.0, 1.0, 0.3)], "jump": [(0.0, 0.2, 1.0, 0.0)],
    "flat": [(0.0, 0.0, 0.0, 0.0)], "drawn": None, "kink": [(0.0, 0.0, 1.0, 0.0), (0.7, 0.7, 0.4, 0.0)],
}  # fmt: skip


@pytest.mark.parametrize("kind", SOME)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_groups_side_by_side_are_decided_as_each_by_itself(dtype, kind):
    """The same numbers, to the bit, wherever sums, thresholds and guesses lie and whatever the room held."""
    unit = float(np.finfo(dtype).eps)
    for seed in range(60):
        rng, count = np.random.default_rng(seed), 8
        rows = SOME[kind] or [
            (0.0, 0.0, 10.0 ** rng.uniform(-4, 4), rng.normal() * 10.0 ** rng.uniform(-3, 2))
        ]
        numbers = Slope(tuple(Piece(*row) for row in rows)).numbers(1.0, 1e-7, np.dtype(dtype))
        numbers = numbers._replace(doubt=64 * unit)
        block = fused_blocks.block_in(
            rng.integers(0, 4, (fused_blocks.ROWS_OF_BLOCK, count)).astype(float), 0, count, np.zeros(count),
            np.zeros(count, bool),
        )  # fmt: skip
        weights, zeros, sums, expected = np.zeros(count), [], [], []
        for j in range(count):
            x, d = rng.normal(size=4) * 10.0 ** rng.uniform(-3, 2), np.exp(rng.normal(size=4))
            x *= rng.choice([0.0, 1e-18, 1e18, *[1.0] * 9])

            def at(ratio, x=x, d=d):
                h = d * ratio / (d * ratio + 1.0)
                return tuple(np.float64(np.sum(x * x * h**k)) for k in (2, 3, 4))

            zero = Zero(*(np.float64(np.sum(v)) for v in ((x * d) ** 2, x * x * d**3, x * x, x * x * d)))
            norm = math.sqrt(zero.bb)
            near = norm / (rows[0][2] or 1.0) * (1.0 + 512 * unit * rng.uniform(-1, 1))
            weights[j] = rng.choice([0.0, 1e-30, 1e30, near, *(norm * rng.uniform(0, 1.5, 4))])
            # A guess anywhere, or next to where the group ends up from there.
            with np.errstate(all="ignore"):
                r = by_itself(zero, 0.25 * zero.xx, weights[j], at, numbers).r
            off = rng.choice([0.0, 1e-6, 1e-4, 1e-2, -1e-3, 0.5, 1e3])
            block.squares[j] = rng.choice([0.0, 1e8, *[(r * (1.0 + off)) ** 2] * 6])
            with np.errstate(all="ignore"):
                expected.append(by_itself(zero, block.squares[j], weights[j], at, numbers))
            zeros.append(zero)
            sums.append(at)
        with np.errstate(all="ignore"):
            fused_blocks.begin_groups(block, weights, numbers)
            for j in range(count):
                block.sums[:4, j], block.sums[4:, j] = zeros[j], sums[j](block.ratio[j])
            fused_blocks.open_groups(block, numbers)
            fused_blocks.aim_groups(block, numbers)
            for j in range(count):
                block.sums[4:, j] = sums[j](block.ratio[j])
            fused_blocks.advance_groups(block, numbers)
        for j in range(count):
            group = fused_blocks.group_of(block, j)
            assert group.state == expected[j].state, (seed, j)
            if group.state == fused_groups.OPEN:
                assert group == expected[j]
            elif group.state == fused_groups.DONE:
                assert group[1:3] == expected[j][1:3]


# Slopes that go on and rise, and a guess beyond: a step that is exact, but for the piece on which the
# minimiser is; and one that is not, as tau begins at zero there.
RISING = {
    "exact": ([(0.0, 1.0, 0.0), (2.0, 0.0, -0.5)], [2.1], [1.0], 0.2, 2.1),
    "near": (
        [(0.0, 0.0, 0.0), (0.376, -0.376e5, -1e5)],
        [0.385, 0.016, 0.002, 0.001, 0.03], [1.48, 0.106, 0.177, 0.0437, 0.193], 1e-3, 0.381,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RISING)
def test_a_step_is_taken_for_a_crossing_on_its_own_piece_only(name):
    rows, x, d, eta, guess = RISING[name]
    table, x, d = tables.complete(0.0, rows), np.array(x), np.array(d)
    with flint.ctx.workprec(400):
        g = tables.Group(table, x, d, eta)
        z = [float(v) for v in tables.solve(g).z]
    np.testing.assert_allclose(solve(table, x, d, eta, guess, np.float32), z, rtol=2e-6)


# Where f stays below zero on the first run from the guess on, and x is not the best: zero is, or a crossing
# on another run.
RIVALS = {
    "zero": (
        1.0057606058214645, [(0.0, 0.2707981118781684, 0.0), (0.9319506851673834, 0.0, 0.0)],
        [-1.0821248391900544, 0.6932409130836356], [1.0738495788531044, 2.478256185773143], 0.475213805401651,
    ),
    "crossing": (
        0.0,
        [(0.0, 2.9141199787996817, 0.0), (0.4878045901174697, 0.21066608436735584, 0.0),
         (1.0847625020154803, 0.0, 0.0)],
        [0.37630453128242436, 1.2299679881329149, -0.5897940705867314, -0.8410820677121221],
        [14.061520978032613, 0.343597084683695, 0.5548175493143004, 0.9218944433801464], 0.5856042913932472,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIVALS)
def test_the_point_itself_has_rivals(name):
    first, rows, x, d, guess = RIVALS[name]
    table, x, d = tables.complete(first, rows), np.array(x), np.array(d)
    with flint.ctx.workprec(400):
        g = tables.Group(table, x, d, 1.0)
        assert g.objective(x) > tables.solve(g).objective
        z = solve(table, x, d, 1.0, guess, np.float64)
        assert z is None or float(g.objective(z) - tables.solve(g).objective) <= 1e-14 * g.size


@pytest.mark.parametrize("kind", ["scad", "own"])
@pytest.mark.parametrize("axis", [0, 1])
def test_few_groups_are_left_while_training(kind, axis, monkeypatch):
    """Of weights that follow noisy gradients of a quadratic, at a strength at which some groups vanish."""
    left: list[int] = []
    finish = fused_cpu.Batch._solve_left

    def counted(self, k, some, *rest):
        left.append(len(some))
        return finish(self, k, some, *rest)

    monkeypatch.setattr(fused_cpu.Batch, "_solve_left", counted)
    rng, groups = np.random.default_rng(0), pl.Groups.over(axis)
    shape = (96, 64) if axis == 0 else (64, 96)
    penalty = {
        "scad": pl.GroupSCAD(0.15, 3.7, groups=groups),
        "own": Own(rows=((0.0, 0.15, 0.1), (0.5, 0.1, 0.0)), groups=groups),
    }[kind]
    lengths = np.expand_dims(10.0 ** rng.uniform(-2, 0.5, 64), axis)
    goal = (lengths * rng.normal(size=shape) / 10).astype(np.float32)
    w, slots = goal.copy(), (np.zeros(shape, np.float32), np.zeros(shape, np.float32))
    numbers = check_settings(ADAMW, {"lr": 3e-3})
    for t in range(1, 101):
        g = (w - goal + 0.05 * lengths * rng.normal(size=shape)).astype(np.float32)
        fused_step(ADAMW, numbers, penalty, w, g, slots, t, 0.0, pl.Newton())
    assert 0 < np.mean((w == 0).all(axis=axis)) < 1
    # Of a block's, the last one of 32 is left though it could be solved.
    assert sum(left) <= (0.02 if axis == 0 else 0.01) * 100 * 64


@pytest.mark.parametrize("scratch", [512, 1 << 16])
def test_short_groups_are_updated_together_and_solved_apart(scratch, monkeypatch):
    """Groups at their threshold, which are left to the general solver, among others, and few in a scratch."""
    monkeypatch.setattr(fused_kernels, "SCRATCH", scratch)
    monkeypatch.setattr(fused_kernels, "_local", threading.local())
    rng = np.random.default_rng(5)
    sgd, adamw = RULES["ProxSGD"], RULES["ProxAdamW"]
    for rule, lr, lam in ((sgd, 1.0, 5.0), (adamw, 1e-2, 0.5)):
        numbers = check_settings(rule, {"lr": lr})
        for n in (1, 2, 9, *rng.integers(3, 400, 5).tolist()):
            w = rng.normal(size=(int(rng.integers(1, 150)), n)) * np.exp(rng.uniform(-2, 2, n))
            there = rng.random(len(w)) < 0.4
            # Of length 5, whose threshold is 5.
            w[there] = 0.0
            w[there, : min(n, 2)] = (5.0,) if n == 1 else (3.0, 4.0)
            g = np.zeros_like(w) if rule is sgd else rng.normal(size=w.shape)
            slots = tuple(np.zeros_like(w) for _ in rule.select(numbers).slots)
            penalty = pl.GroupLasso(lam)
            asked = rule.propose(numbers, w, g, slots, 1, 0.0)
            expected = pl.prox(penalty, asked.x, asked.step, metric=asked.metric)
            fused_step(rule, numbers, penalty, w, g, slots, 1, 0.0, pl.Newton())
            np.testing.assert_allclose(w, expected, rtol=1e-9, atol=1e-12)
            np.testing.assert_array_equal(w == 0, expected == 0)
            for a, b in zip(slots, asked.slots, strict=True):
                np.testing.assert_array_equal(a, b)
