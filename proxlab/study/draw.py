"""Pictures of a penalty: its value, its slope, and its prox in two metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from proxlab.penalties import Penalty
from proxlab.prox import prox

__all__ = ["draw"]

Array = npt.NDArray[Any]

_POINTS = 601
#: The metrics of the picture: the identity, and one that differs within the group.
METRICS = {"D = I": (1.0, 1.0), "D = diag(1, 4)": (1.0, 4.0)}


def draw(penalty: Penalty, axes: Any = None, *, step: float = 1.0, radius: float | None = None) -> Any:
    """Draw a penalty, its slope, and its prox in two metrics.

    Value and slope are those of a point of growing radius. The prox is that of ``x = r (0.6, 0.8)``, and
    drawn by its length: with the identity, and in a metric that differs within the group.

    Parameters
    ----------
    penalty : Penalty
        Its groups do not matter.
    axes : sequence of three matplotlib Axes, optional
        Where to draw value, slope and prox; a new figure by default.
    step : float, optional
        The step of the prox.
    radius : float, optional
        How far to draw; by default beyond the last knot and the zero threshold.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    TypeError
        If it is no penalty.
    ValueError
        If there are not three axes, or a number is not positive.
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(f"penalty: must be a proxlab penalty such as GroupLasso(0.1), got {penalty!r}")
    for name, value in (("step", step), ("radius", radius)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}: must be positive, got {value!r}")
    if axes is None:
        import matplotlib.pyplot as plt

        _, axes = plt.subplots(1, 3, figsize=(10.0, 3.0), layout="constrained")
    places = np.asarray(axes, dtype=object).reshape(-1)
    if len(places) != 3:
        raise ValueError(f"axes: must be three, got {len(places)}")
    h = penalty._on_rows()
    end = _reach(h, step) if radius is None else float(radius)
    r = np.linspace(0.0, end, _POINTS)
    rows = r[:, None] * np.array([0.6, 0.8])
    value = np.asarray(h.value(rows)).reshape(_POINTS, -1).sum(axis=1)
    ax = places[0]
    ax.plot(r[1:], value[1:], color="C0")
    ax.plot(0.0, 0.0, "o", ms=4, color="C0")
    ax.set(xlabel="‖z‖", ylabel="h(z)", title=type(penalty).__name__)
    places[1].plot(*_slope(h, r, value), color="C0")
    places[1].set(xlabel="‖z‖", ylabel="slope of h along the ray")
    ax = places[2]
    ax.plot(r, r, ":", color="0.6", label="x")
    for k, (name, metric) in enumerate(METRICS.items()):
        z = prox(h, rows, step, metric=np.array(metric), backend="array_api")
        length = np.linalg.norm(z, axis=1)
        # A jump is a gap, not a line.
        length[1:][np.abs(np.diff(length)) > 10 * end / _POINTS] = np.nan
        ax.plot(r, length, color=f"C{k}", ls=("-", "--")[k], label=name)
    ax.set(xlabel="‖x‖", ylabel="‖prox(x)‖", title=f"step {step:g}")
    ax.legend(fontsize="small")
    return places


def _reach(h: Penalty, step: float) -> float:
    """A radius beyond the last knot, and beyond where the prox leaves zero."""
    knot = max(h._knots, default=0.0)
    z = np.geomspace(1e-6, 1e6, 121)[:, None] * np.array([0.6, 0.8])
    alive = np.linalg.norm(prox(h, z, step, backend="array_api"), axis=1) > 0
    start = float(np.linalg.norm(z[int(np.argmax(alive))])) if alive.any() else 1.0
    return max(1.6 * knot, 2.5 * max(start, 1e-3 if knot else 0.4))


def _slope(h: Penalty, r: Array, value: Array) -> tuple[Array, Array]:
    """The slope of the value along a ray: of the pieces, where there are some."""
    lines = h.equation.slope_lines(float(r[-1])) if h.threshold == 0 else None
    if lines is not None:
        return lines
    return (r[1:] + r[:-1])[1:] / 2, (np.diff(value) / np.diff(r))[1:]
