"""Checks of a prox, for any callable: the tests run them on proxlab, the mutant tests on wrong ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import proxlab as pl
from tests import oracle
from tests.cases import Case
from tests.table import Row


@dataclass(frozen=True)
class Subject:
    """A prox of one group and the value of the function that it claims to be the prox of."""

    prox: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    value: Callable[[np.ndarray], float]

    def at(self, case: Case) -> np.ndarray:
        return self.prox(case.x, case.d, case.step)


def proxlab(row: Row, case: Case, backend: str | None = None, **options: Any) -> Subject:
    """The library's prox of a case's penalty."""
    weights = None if case.weight == 1.0 or row.name == "L1" else np.array([case.weight])
    penalty = row.build(case.parameters, **({} if row.name == "L1" else {"weights": weights}))
    return Subject(
        lambda x, d, step: pl.prox(penalty, x[None], step, metric=d[None], backend=backend, **options)[0],
        lambda z: penalty(z[None]),
    )


def quadratic(z: np.ndarray, x: np.ndarray, d: np.ndarray, step: float) -> float:
    """``‖z - x‖²_D / (2 step)``."""
    return float(np.sum(d * (z - x) ** 2)) / (2 * step)


def check_close(z: np.ndarray, case: Case, accuracy: float = 1e-14) -> None:
    """`z` is the true prox; where two minimisers of a nonconvex objective tie within rounding, either."""
    errors = []
    for k in range(len(case.answer.candidates)):
        least = case.answer.objectives[0]
        if k and (case.name in oracle.CONVEX or case.answer.objectives[k] - least > 1e-14 * least):
            break
        truth = np.array([oracle.to_float(v) for v in case.answer.candidates[k]])
        with np.errstate(over="ignore"):
            errors.append(float(np.max(np.abs(z - truth) / case.tolerance(k, accuracy))))
    assert min(errors) <= 1, (
        f"error {min(errors):.3g} times the tolerance, z = {z}, truth = {case.answer.z}, {case}"
    )


def check_truth(subject: Subject, case: Case) -> None:
    """The prox is what the oracle says, and the value belongs to the same function."""
    z = subject.at(case)
    check_close(z, case)
    truth = oracle.to_float(oracle.value(case.name, case.parameters, z, case.weight))
    assert abs(subject.value(z) - truth) <= 1e-13 * truth


def check_minimises_own_value(subject: Subject, case: Case, rivals: Sequence[np.ndarray]) -> None:
    """No rival has a smaller objective, measured with the value that belongs to the prox."""
    check_minimises(subject.value, subject.at(case), case, [*rivals, case.answer.z])


def check_minimises(
    value: Callable[[np.ndarray], float], z: np.ndarray, case: Case, rivals: Sequence[np.ndarray]
) -> None:
    """`z` minimises ``value + ‖· - x‖²_D/(2 step)`` among zero, x, points between, and `rivals`."""

    def q(v: np.ndarray) -> float:
        return value(v) + quadratic(v, case.x, case.d, case.step)

    here = q(z)
    # What q is added up of: a value may be small since larger ones cancel.
    parts = quadratic(0 * z, case.x, case.d, case.step) + quadratic(z, case.x, case.d, case.step)
    on_the_way = [z + t * (end - z) for end in (0 * z, case.x) for t in (1e-4, 1e-2, 0.3, 1.0)]
    for v in [*on_the_way, *rivals]:
        scale = abs(value(z)) + abs(value(v)) + parts
        if np.isfinite(scale):
            assert here <= q(v) + 1e-12 * scale, f"{v} is better than {z} for {case}"


def check_firmly_nonexpansive(subject: Subject, case: Case, y: np.ndarray) -> None:
    """``⟨p - q, x - y⟩_D ≥ ‖p - q‖²_D`` for convex penalties."""
    p, q = subject.at(case), subject.prox(y, case.d, case.step)
    inner = float(np.sum(case.d * (p - q) * (case.x - y)))
    square = float(np.sum(case.d * (p - q) ** 2))
    noise = float(np.sum(case.d * (np.abs(case.x) + np.abs(y)) ** 2))
    assert inner >= square - 1e-13 * noise, f"{inner} < {square} for {case} and {y}"


def check_moreau(subject: Subject, case: Case) -> None:
    """``x = prox_h(x) + step D⁻¹ prox_{h*}(D x/step)``; the second term comes from the dual problem."""
    u = oracle.dual(
        case.name, case.parameters, case.d * case.x / case.step, 1 / case.d, 1 / case.step, case.weight
    )
    z = subject.at(case)
    gap = np.sqrt(case.d) * (z + case.step * u / case.d - case.x)
    assert np.linalg.norm(gap) <= 1e-12 * np.linalg.norm(np.sqrt(case.d) * case.x), case


def check_resolvent(subject: Subject, case: Case, share: float) -> None:
    """The prox of ``z + share (x - z)`` with the step ``share · step`` is the same ``z``."""
    z = subject.at(case)
    between = z + share * (case.x - z)
    nearer = case.replace(x=between, step=share * case.step)
    if case.unique and nearer.unique:
        again = subject.at(nearer)
        # between is rounded: its error counts like one of x
        slack = 1e-13 * (np.abs(case.x).max() + np.abs(nearer.x).max()) * (1 + nearer.answer.conditions[0])
        np.testing.assert_allclose(again, z, rtol=0, atol=slack, err_msg=str(case))


def check_joint_scaling(subject: Subject, case: Case, factor: float) -> None:
    """The metric ``cD`` with the step ``c · step`` is the same problem: to the bit, for a power of two."""
    scaled = subject.prox(case.x, factor * case.d, factor * case.step)
    np.testing.assert_array_equal(scaled, subject.at(case), err_msg=str(case))


def check_tilt(subject: Subject, case: Case, slope: np.ndarray) -> None:
    """Adding ``⟨a, z⟩`` to the penalty shifts the point: ``prox(x - step D⁻¹ a)``."""
    z = subject.prox(case.x - case.step * slope / case.d, case.d, case.step)
    shift = float(np.sum(np.abs(slope) * np.maximum(np.abs(case.x), np.abs(z))))
    tilted = Subject(subject.prox, lambda v: subject.value(v) + float(slope @ v) + shift)
    check_minimises(tilted.value, z, case, [subject.at(case), case.x - case.step * slope / case.d])


def check_ridge(subject: Subject, case: Case, ridge: np.ndarray) -> None:
    """Adding ``½‖z‖²_E`` to the penalty changes the metric to ``D + step E`` and the point accordingly."""
    d = case.d + case.step * ridge
    z = subject.prox(case.d * case.x / d, d, case.step)
    check_minimises(lambda v: subject.value(v) + float(ridge @ v**2) / 2, z, case, [subject.at(case)])


def check_monotone_in_step(subject: Subject, case: Case, factor: float) -> None:
    """A longer step never makes the penalty larger, nor the distance smaller."""
    near, far = subject.at(case), subject.prox(case.x, case.d, factor * case.step)
    assert subject.value(far) <= subject.value(near) * (1 + 1e-12)
    assert quadratic(far, case.x, case.d, 1.0) >= quadratic(near, case.x, case.d, 1.0) * (1 - 1e-12)


def check_signs(subject: Subject, case: Case, signs: np.ndarray) -> None:
    """Changing signs of x changes those of the prox, to the bit."""
    np.testing.assert_array_equal(subject.prox(signs * case.x, case.d, case.step), signs * subject.at(case))


def check_permutation(subject: Subject, case: Case, order: Sequence[int]) -> None:
    """The order of the elements does not matter."""
    if case.unique:
        permuted = case.replace(x=case.x[order], d=case.d[order])
        check_close(subject.at(permuted), permuted)


def check_quadratic_growth(subject: Subject, case: Case, v: np.ndarray) -> None:
    """``Q(v) ≥ Q(z) + ‖v - z‖²_D/(2 step)`` for convex penalties."""
    z = subject.at(case)
    above = subject.value(v) + quadratic(v, case.x, case.d, case.step)
    below = subject.value(z) + quadratic(z, case.x, case.d, case.step) + quadratic(v, z, case.d, case.step)
    assert above >= below * (1 - 1e-12)


def check_zero_test(subject: Subject, x: np.ndarray, d: np.ndarray, step: float, is_zero: bool) -> None:
    """The prox is zero exactly where it ought to be."""
    z = subject.prox(x, d, step)
    assert bool((z == 0).all()) == is_zero, f"z = {z} for x = {x}, d = {d}, step = {step}"
