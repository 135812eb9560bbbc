"""Tolerance schedules by name: ``"square-summable"``, ``"constant:0.1"``, relative to where a run starts."""

from __future__ import annotations

from collections.abc import Callable

from proxlab.inexactness import Adaptive, Constant, Exact, Schedule, SquareSummable, Summable

__all__ = ["NAMES", "make"]

#: By name: the schedule of a scale and parameters, and the names of the parameters with their defaults.
NAMES: dict[str, tuple[Callable[..., Schedule], dict[str, float]]] = {
    "exact": (lambda scale: Exact(), {}),
    "constant": (lambda scale, share: Constant(share * scale), {"share": 0.1}),
    "summable": (lambda scale, share, power: Summable(share * scale, power), {"share": 1.0, "power": 2.0}),
    "square-summable": (
        lambda scale, share, power: SquareSummable(share * scale, power),
        {"share": 1.0, "power": 1.0},
    ),
    "adaptive": (
        lambda scale, share, sigma, power: Adaptive(share * scale, sigma, power),
        {"share": 1.0, "sigma": 0.3, "power": 0.6},
    ),
}


def make(text: str) -> Callable[[float], Schedule]:
    """Return the function that makes a schedule from the scale of a run.

    Parameters
    ----------
    text : str
        A name with parameters in the order of the table, such as ``"constant:0.1"`` or
        ``"square-summable:1,0.8"``. Tolerances are shares of the scale.

    Returns
    -------
    schedule : callable
        Of the scale.

    Raises
    ------
    ValueError
        If there is no such name, or the parameters do not fit.
    """
    name, _, given = text.partition(":")
    if name not in NAMES:
        raise ValueError(f"schedules: must be one of {', '.join(NAMES)} or a Schedule, got {text!r}")
    function, parameters = NAMES[name]
    try:
        values = [float(word) for word in given.split(",")] if given else []
    except ValueError:
        raise ValueError(f"schedules: parameters of {text!r} must be numbers") from None
    if len(values) > len(parameters):
        raise ValueError(f"schedules: {name} has the parameters {list(parameters)}, got {text!r}")
    chosen = parameters | dict(zip(parameters, values, strict=False))

    def schedule(scale: float) -> Schedule:
        return function(scale, **chosen)

    schedule(1.0)  # refuses what is out of range
    return schedule
