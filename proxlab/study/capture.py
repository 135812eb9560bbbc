"""Capture the proxes that an optimizer solves in training, as problems in a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from proxlab.optim import Optimizer
from proxlab.optim.problem import ProxProblem
from proxlab.study.problems import Collector, Problem
from proxlab.values import check_count

__all__ = ["Capture", "capture"]


class Capture:
    """What :func:`capture` returns; enter it with ``with``.

    Attributes
    ----------
    path : Path
        The file, which appears when the block ends.
    problems : int
        How many problems have been captured.
    steps : int
        How many steps have been seen.
    """

    def __init__(self, optimizer: Any, path: str | os.PathLike[str], every: int) -> None:
        self.path = Path(path)
        self.problems = 0
        self.steps = 0
        self._optimizer = optimizer
        inner = getattr(optimizer, "optimizer", optimizer)
        self._name = type(inner).__name__
        self._every = every
        self._collector: Collector | None = None

    def due(self, step: int) -> bool:
        """Whether this step is captured: the first one, and every so many after it."""
        del step
        self.steps += 1
        return (self.steps - 1) % self._every == 0

    def see(self, step: int, problems: Mapping[str, ProxProblem]) -> None:
        """Write down the proxes of a step."""
        assert self._collector is not None
        for parameter, p in problems.items():
            about = {
                "parameter": parameter,
                "step_count": step,
                "optimizer": self._name,
            }
            name = f"{parameter}, step {step}"
            try:
                self._collector.add(Problem(name, p.x, p.step, p.metric, p.penalty, about))
            except Exception as error:
                if name not in f"{error}":
                    error.add_note(f"capture: {name}")
                raise
            self.problems += 1

    def __enter__(self) -> Self:
        if self._collector is not None or self._optimizer._watch is not None:
            raise RuntimeError("optimizer: is being captured already")
        self._collector = Collector(self.path)
        # Optimizers on arrays are frozen: nothing that computes is changed.
        object.__setattr__(self._optimizer, "_watch", self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        object.__delattr__(self._optimizer, "_watch")
        assert self._collector is not None
        self._collector.close()


def capture(optimizer: Any, path: str | os.PathLike[str], *, every: int = 1) -> Capture:
    """Capture the proxes of an optimizer's steps, while a ``with`` block lasts.

    What is stored is the problem that the step solved, for each parameter or joint group: point, step, metric
    and penalty, its strength as it was driven. Where the step is one compiled pass the point and the metric
    are formed beside it, in the same precision, and may differ from what the pass computes by rounding.

    Problems are written to a temporary file as they come, so that memory stays as it is; the file appears
    when the block ends, also by an exception.

    Parameters
    ----------
    optimizer : Optimizer
        One of :mod:`proxlab.torch` (a wrapper too) or of :mod:`proxlab.optim`.
    path : str or path
        A file .npz or .safetensors, for :func:`load`.
    every : int, optional
        Capture every so many steps, from the first one in the block on.

    Returns
    -------
    Capture
        A context manager.

    Raises
    ------
    TypeError
        If the optimizer is of another kind; for those, make each :class:`Problem` by hand. Or if ``path`` is.
    ValueError
        If ``every`` is not admissible, or files of this kind are not known.
    RuntimeError
        If the optimizer is being captured already.

    Examples
    --------
    >>> import os, tempfile, numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> optimizer = pl.optim.ProxAdamW(lr=0.1)
    >>> w = np.ones((4, 3))
    >>> state = optimizer.init(w, pl.GroupLasso(0.2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "captured.npz")
    ...     with study.capture(optimizer, path, every=2):
    ...         for _ in range(4):
    ...             w, state = optimizer.step(w, w - 0.5, state)
    ...     problems = study.load(path)
    >>> [p.name for p in problems]
    ['params, step 1', 'params, step 3']
    """
    if not isinstance(optimizer, Optimizer) and not _is_torchs(optimizer):
        raise TypeError(
            "optimizer: must be one of proxlab.torch or proxlab.optim, got "
            f"{type(optimizer).__name__}; for others make each proxlab.study.Problem by hand"
        )
    every = check_count("every", every)
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path: must be a file, got {path!r}")
    return Capture(optimizer, path, every)


def _is_torchs(optimizer: object) -> bool:
    """Whether it is an optimizer of proxlab.torch, which is not imported for that."""
    homes = ("proxlab.torch.base", "proxlab.torch.follow")
    return any(c.__module__ in homes for c in type(optimizer).__mro__)
