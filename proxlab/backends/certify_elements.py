"""Compiled certificates of elements under the ℓ1 norm, whose prox is a soft threshold.

Plain Python, compiled by :mod:`proxlab.backends.numba_certify`; elements that leave a question open are left
to the array form.
"""

# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from proxlab.backends.certify_kernels import Out
from proxlab.backends.certify_sums import is_sound
from proxlab.bounds import rounding
from proxlab.scalar import fabs, fmax, sqrt

__all__ = ["ElementBatch", "certify_elements"]


class ElementBatch(NamedTuple):
    """Points, candidates and metrics of elements, and steps, of which there may be one for all."""

    x: Any
    z: Any
    d: Any
    steps: Any


def certify_elements(
    batch: ElementBatch, lam: float, nonnegative: bool, begin: int, finish: int, out: Out
) -> int:
    """Certify elements ``begin … finish - 1`` for the ℓ1 norm; as :func:`certify_rows`."""
    x, z, d, steps = batch
    unit = rounding(8.0)
    for i in range(begin, finish):
        xi, zi, di = np.float64(x[i]), np.float64(z[i]), np.float64(d[i])
        step = steps[i if len(steps) > 1 else 0]
        if not di > 0.0:
            return i
        out.hard[i] = True
        cut = step * lam / di
        size = fabs(xi)
        safe = is_sound(di) and is_sound(step) and is_sound(cut) and is_sound(lam)
        if not (safe and (xi == 0.0 or is_sound(size)) and (zi == 0.0 or is_sound(fabs(zi)))):
            continue
        if nonnegative and zi < 0.0:
            continue
        blocked = nonnegative and xi < 0.0
        left = size - cut
        noise = unit * (cut + fabs(left))
        if blocked:
            if zi != 0.0:
                continue
            left = -cut
        elif fabs(left) <= noise:
            continue
        if left < 0.0:
            left, noise = 0.0, 0.0
        z_signed = zi if xi > 0.0 else -zi
        if left > 0.0 and z_signed < 0.0:
            continue
        distance = (fabs((fabs(zi) if left == 0.0 else z_signed) - left) + noise) * (1.0 + unit)
        pulled = di * (zi - xi) / step
        if zi == 0.0:
            excess = -pulled if nonnegative else fabs(pulled)
            stationarity = fmax(excess - lam + unit * (fabs(pulled) + lam), 0.0)
            if left == 0.0:
                stationarity = 0.0
        else:
            residual = pulled + (lam if zi > 0.0 else -lam)
            stationarity = fabs(residual) + unit * (fabs(pulled) + lam)
        gap = 0.5 * di * (distance * distance) / step
        if left == 0.0 and zi != 0.0:
            linear = di * xi * zi / step
            gap = fmax(lam * fabs(zi) - linear + gap, 0.0) + unit * (lam * fabs(zi) + fabs(linear) + gap)
        out.bounds[0, i], out.bounds[1, i] = distance, sqrt(di) * distance * (1.0 + unit)
        out.bounds[2, i], out.bounds[3, i] = stationarity * (1.0 + unit), gap * (1.0 + unit)
        out.bounds[4, i], out.bounds[5, i] = fmax(left - noise, 0.0), (left + noise) * (1.0 + unit)
        out.decided[i], out.hard[i] = True, False
    return -1
