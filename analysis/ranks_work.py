"""What one of several processes does for the study of ranks: steps whose collectives are counted."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed, nn

import proxlab as pl
from proxlab import torch as pt

#: Seconds after which processes that have not ended are ended. Where one fails, the others do soon.
PATIENCE = 1800
RATE = 1e-3
#: The file of what was found.
FOUND = "found.json"
COLUMNS, ROWS = pl.Groups.over(0), pl.Groups.over(-1)


def _lasso(size: int, groups: pl.Groups) -> pl.Penalty:
    """Return a penalty as strong as a step: the prox moves a group as far as the gradient does."""
    return pl.GroupLasso(size**0.5, groups=groups)


def _mcp(size: int, groups: pl.Groups) -> pl.Penalty:
    return pl.GroupMCP(size**0.5, 3.0, groups=groups)


def _largest(size: int, groups: pl.Groups) -> pl.Penalty:
    return pl.GroupLinf(float(size), groups=groups)


class Case(NamedTuple):
    """A penalty of groups of a size, where its groups lie, and what else a step does."""

    penalty: Callable[[int, pl.Groups], pl.Penalty]
    groups: pl.Groups
    options: dict[str, Any]
    gathers: bool = False


#: Weights are divided by rows: rows lie whole, columns across all processes.
CASES: dict[str, Case] = {
    "group lasso, whole groups": Case(_lasso, ROWS, {}),
    "group lasso": Case(_lasso, COLUMNS, {}),
    "group MCP": Case(_mcp, COLUMNS, {}),
    "group ℓ∞": Case(_largest, COLUMNS, {}),
    "group lasso, certified": Case(_lasso, COLUMNS, {"certify_every": 1}),
    "group lasso, sparsity 0.5": Case(_lasso, COLUMNS, {"sparsity": pl.optim.TargetSparsity(0.5)}),
    "group lasso, gathered": Case(_lasso, COLUMNS, {}, gathers=True),
}


class Traffic:
    """Counts the collectives of a step: how many, what they hold, and what a process sends."""

    def __init__(self, ranks: int) -> None:
        self.ranks, self.calls, self.held, self.sent = ranks, 0, 0.0, 0.0

    def add(self, held: float, share: float) -> None:
        """Count a collective whose buffer holds so many bytes, of which a process sends a share."""
        self.calls, self.held, self.sent = self.calls + 1, self.held + held, self.sent + share * held

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count while a block lasts. A ring sends ``2(R - 1)/R`` of a sum, and ``(R - 1)/R`` of the rest."""
        names = ("all_reduce", "all_to_all_single", "all_gather")
        before = {name: getattr(distributed, name) for name in names}
        less = (self.ranks - 1) / self.ranks

        def watched(name: str) -> Callable[..., Any]:
            def call(output: Any, *rest: Any, **options: Any) -> Any:
                held = [rest[0]] if name == "all_to_all_single" else [output]
                held = output if name == "all_gather" else held
                size = sum(a.numel() * a.element_size() for a in held)
                self.add(size, 2 * less if name == "all_reduce" else less)
                return before[name](output, *rest, **options)

            return call

        for name in names:
            setattr(distributed, name, watched(name))
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(distributed, name, function)


def measure(ranks: int, shape: list[int], count: int, repeats: int) -> dict[str, dict[str, float]]:
    """Take steps on so many processes of this machine; returns what was counted and timed, by case."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        arguments = ranks, folder, tuple(shape), count, repeats
        workers = [context.Process(target=_work, args=(rank, *arguments)) for rank in range(ranks)]
        for worker in workers:
            worker.start()
        deadline = time.monotonic() + PATIENCE
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        late = [worker for worker in workers if worker.exitcode is None]
        for worker in late:
            worker.kill()
        # What was found is whole once it has its name; Gloo's threads may end a process badly after that.
        path = Path(folder, FOUND)
        if not path.exists():
            codes = ", ".join(str(worker.exitcode) for worker in workers)
            said = f"found nothing within {PATIENCE} s; they ended with {codes}"
            raise RuntimeError(f"{ranks} processes {said}")
        found: dict[str, dict[str, float]] = json.loads(path.read_text())
    return found


def _work(rank: int, ranks: int, folder: str, shape: tuple[int, int], count: int, repeats: int) -> None:
    torch.set_num_threads(1)
    pl.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=PATIENCE),
    )
    found = {name: _case(case, ranks, shape, count, repeats) for name, case in CASES.items()}
    if rank == 0:
        part = Path(folder, "part.json")
        part.write_text(json.dumps(found))
        part.rename(Path(folder, FOUND))
    distributed.destroy_process_group()


def _case(case: Case, ranks: int, shape: tuple[int, int], count: int, repeats: int) -> dict[str, float]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (ranks,))
    generator = torch.Generator().manual_seed(distributed.get_rank())

    def draw() -> Tensor:
        part = torch.randn((shape[0] // ranks, shape[1]), generator=generator)
        return DTensor.from_local(part, mesh, [Shard(0)], run_check=False)

    weights = [nn.Parameter(draw()) for _ in range(count)]
    size = shape[0] if case.groups == COLUMNS else shape[1]
    penalty = case.penalty(size, case.groups)
    groups = [{"params": weights, "penalty": None if case.gathers else penalty}]
    optimizer = pt.ProxAdamW(groups, lr=RATE, **case.options)

    def step() -> None:
        for w in weights:
            w.grad = draw()
        distributed.barrier()
        started = time.perf_counter()
        optimizer.step()
        if case.gathers:
            for w in weights:
                _gather(w, optimizer.state[w]["exp_avg_sq"], penalty)
        distributed.barrier()
        seconds.append(time.perf_counter() - started)

    seconds: list[float] = []
    for _ in range(3):
        step()
    traffic = Traffic(ranks)
    with traffic.counted():
        step()
    seconds.clear()
    for _ in range(repeats):
        step()
    elements = count * shape[0] * shape[1]
    return {
        "calls": traffic.calls,
        "held": traffic.held,
        "sent": traffic.sent,
        "milliseconds": 1e3 * float(np.median(seconds)),
        "elements": elements,
        "groups": elements // size,
    }


def _gather(w: Any, squares: Any, penalty: pl.Penalty) -> None:
    """Solve the prox as others do: with the whole weights and the whole metric in every process."""
    metric = squares.to_local().sqrt() + 1e-8
    whole = []
    for part in (w.detach().to_local(), metric):
        parts = [torch.empty_like(part) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, part.contiguous())
        whole.append(torch.cat(parts))
    z = pl.prox(penalty, whole[0], RATE, metric=whole[1])
    rows = len(metric)
    first = distributed.get_rank() * rows
    w.detach().to_local().copy_(z[first : first + rows])
