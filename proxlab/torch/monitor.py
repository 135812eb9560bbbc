"""What a training does to a network's groups, step by step: a table, a picture, a file, scalars."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from proxlab.torch.sparsity import group_sparsity
from proxlab.torch.text import format_table
from proxlab.values import check_count

__all__ = ["Monitor"]

#: What an optimizer proves of its steps, as its history calls it.
BOUNDS = ("distance", "stationarity", "gap", "tolerance")
#: Rows that a table shows of a long training, and seconds between two pictures of it in a notebook.
ROWS, SECONDS = 12, 0.5


class Writer(Protocol):
    """What takes scalars, as ``torch.utils.tensorboard.SummaryWriter`` does."""

    def add_scalar(self, tag: str, value: float, step: int) -> Any:
        """Take a number."""


class Monitor:
    """Collects sparsity by layer, strength and proved bounds while an optimizer makes its steps.

    One line before the loop is enough: it looks after the optimizer's steps by itself. In a notebook its
    table stays up to date below the cell.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        One of :mod:`proxlab.torch`, with at least one penalty.
    every : int, optional
        Look after every so many steps. Counting zeros reads the weights once, which in every tenth step is
        small beside the steps.
    writer : object or path, optional
        What takes the numbers too: anything with ``add_scalar(tag, value, step)``, or a folder for
        TensorBoard.

    Attributes
    ----------
    records : list of dict
        For each look the numbers ``step``, ``strength`` (of the first penalty), ``sparsity`` and ``weighted``
        (:func:`group_sparsity`), what was proved last of the steps since (``distance``, ``stationarity``,
        ``gap``, ``tolerance``), and ``layers``, the sparsity of each by its name.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind, or the optimizer has no penalty.
    ImportError
        If TensorBoard is asked for and not installed.

    Examples
    --------
    >>> import torch, proxlab as pl
    >>> from proxlab.torch import Monitor, ProxSGD, param_groups
    >>> generator = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizer = ProxSGD(param_groups(model, pl.GroupLasso(1.0)), lr=0.1)
    >>> monitor = Monitor(optimizer, every=10)
    >>> for _ in range(40):
    ...     optimizer.zero_grad()
    ...     model(torch.ones(3, 4)).square().sum().backward()
    ...     optimizer.step()
    >>> print(monitor)
    step  strength  sparsity  weighted  0.weight  2.weight
      10         1    100.0%    100.0%    100.0%    100.0%
      20         1    100.0%    100.0%    100.0%    100.0%
      30         1    100.0%    100.0%    100.0%    100.0%
      40         1    100.0%    100.0%    100.0%    100.0%
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        every: int = 10,
        writer: Writer | str | Path | None = None,
    ) -> None:
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer: must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        self.every = check_count("every", every)
        self.optimizer = optimizer
        self.records: list[dict[str, Any]] = []
        self._writer = _open(writer)
        self._count = 0
        self._read = len(getattr(optimizer, "history", ()))
        self._shown: Any = None
        self._when = 0.0
        group_sparsity(optimizer)  # an error where there is nothing to look at
        self._handle = optimizer.register_step_post_hook(self._after)

    def close(self) -> None:
        """Stop looking. What was collected stays."""
        self._handle.remove()
        if self._shown is not None:
            self._shown.update(self)

    def look(self) -> dict[str, Any]:
        """Collect now, whatever step it is; returns the record."""
        counted = group_sparsity(self.optimizer)
        record: dict[str, Any] = {"step": self._step, "strength": self._strength}
        record |= {"sparsity": counted.total.sparsity, "weighted": counted.total.weighted}
        for entry in getattr(self.optimizer, "history", [])[self._read :]:
            record |= {name: entry[name] for name in BOUNDS if name in entry}
        self._read = len(getattr(self.optimizer, "history", ()))
        record["layers"] = {layer.name: layer.sparsity for layer in counted.layers}
        self.records.append(record)
        if self._writer is not None:
            for name, value in _flat(record).items():
                if name != "step":
                    self._writer.add_scalar(f"proxlab/{name}", value, self._step)
        self._refresh()
        return record

    def to_csv(self, path: str | Path) -> None:
        """Write the records, a row each: ``step``, the numbers, and a column for each layer."""
        names = self._columns()
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, names)
            rows.writeheader()
            rows.writerows(_flat(record) for record in self.records)

    def plot(self, ax: Any = None) -> Any:
        """Draw sparsity, in all and by layer, and below it the strength and what was proved.

        Parameters
        ----------
        ax : sequence of two matplotlib Axes, optional
            Where; by default in a new figure.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If Matplotlib is not installed.
        """
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ModuleNotFoundError as error:
                raise ImportError("plot needs Matplotlib: pip install matplotlib") from error
            _, ax = plt.subplots(2, sharex=True, figsize=(7.0, 5.0), layout="constrained")
        above, below = ax
        steps = [record["step"] for record in self.records]
        for name in self.records[-1]["layers"] if self.records else ():
            layer = [record["layers"].get(name) for record in self.records]
            above.plot(
                steps, [float("nan") if v is None else v for v in layer], lw=0.8, alpha=0.7, label=name
            )
        above.plot(steps, [r["sparsity"] for r in self.records], color="black", lw=2.0, label="all groups")
        above.set(ylabel="share of groups that are zero", ylim=(-0.02, 1.02))
        if len(above.lines) <= ROWS:
            above.legend(fontsize="small")
        for name in ("strength", *BOUNDS):
            seen = [(r["step"], r[name]) for r in self.records if 0.0 < r.get(name, 0.0) < float("inf")]
            if seen:
                below.plot(*zip(*seen, strict=True), label=name)
        below.set(xlabel="step", yscale="log" if below.lines else "linear")
        if below.lines:
            below.legend(fontsize="small")
        return above.figure

    def __str__(self) -> str:
        names = self._columns()
        rows = self.records
        if len(rows) > ROWS:
            # The first, the last, and what lies evenly between.
            rows = [rows[k * (len(rows) - 1) // (ROWS - 1)] for k in range(ROWS)]
        return format_table(tuple(names), [_cells(_flat(r), names) for r in rows], left=0)

    def _repr_html_(self) -> str:
        return f"<pre>{self}</pre>"

    @property
    def _step(self) -> int:
        return int(self.optimizer.param_groups[0].get("steps", self._count))

    @property
    def _strength(self) -> float:
        groups = getattr(self.optimizer, "penalised", self.optimizer.param_groups)
        found = (group["penalty"].strength for group in groups if group.get("penalty") is not None)
        return float(next(found))

    def _after(self, *_: Any) -> None:
        self._count += 1
        if self._step % self.every == 0:
            self.look()

    def _columns(self) -> list[str]:
        """The names of all numbers, those of the layers last."""
        names = ["step", "strength", "sparsity", "weighted"]
        names += [name for name in BOUNDS if any(name in record for record in self.records)]
        return names + list(dict.fromkeys(name for record in self.records for name in record["layers"]))

    def _refresh(self) -> None:
        """Show the table in a notebook, or what it is now."""
        module = sys.modules.get("IPython")
        shell = module.get_ipython() if module is not None else None
        if shell is None or not hasattr(shell, "kernel") or time.monotonic() - self._when < SECONDS:
            return
        from IPython.display import display

        self._when = time.monotonic()
        if self._shown is None:
            self._shown = display(self, display_id=True)
        else:
            self._shown.update(self)


def _open(writer: Any) -> Writer | None:
    """Return what takes scalars, or raise an error."""
    if writer is None:
        return None
    if isinstance(writer, (str, Path)):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ImportError("writer: a folder needs TensorBoard: pip install tensorboard") from error
        found: Writer = SummaryWriter(str(writer))
        return found
    if not callable(getattr(writer, "add_scalar", None)):
        raise TypeError(f"writer: must have add_scalar(tag, value, step), or be a folder, got {writer!r}")
    taker: Writer = writer
    return taker


def _flat(record: dict[str, Any]) -> dict[str, float]:
    """All numbers of a record by their names."""
    return {k: v for k, v in record.items() if k != "layers"} | record["layers"]


def _cells(numbers: dict[str, float], names: Sequence[str]) -> tuple[str, ...]:
    cells = []
    for name in names:
        value = numbers.get(name)
        if value is None:
            cells.append("")
        elif name == "step":
            cells.append(f"{value:.0f}")
        else:
            cells.append(f"{value:.3g}" if name in ("strength", *BOUNDS) else f"{value:.1%}")
    return tuple(cells)
