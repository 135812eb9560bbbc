"""Groups that are cut: what a step sends between processes, and arrays in chunks that do not fit.

Bytes and collectives are counted on processes of this machine; from them, and from published bandwidths and
latencies, follows what is *predicted* for many GPUs, on which nothing was run.
"""

from __future__ import annotations

import math
import time

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import proxlab as pl
from analysis.results import Profile, ResultsDir, Say
from proxlab.study import Result, StoredStudy, Unit, style
from proxlab.study.page import Finding, Plot, Section, Table, Text

NAME = "ranks"

GPUS = (8, 16, 32, 64, 128, 256, 512, 1024)
NODE = 8
#: Parameters and group size of what is predicted: a language model of 7 billion, columns of its width.
MODEL, GROUP = 7_000_000_000, 4096
#: Bytes a second and seconds; where they come from says `SOURCES`.
WITHIN, BETWEEN = 370e9, 46e9
TREE, TREE_WITHIN, TREE_BETWEEN, RING, RING_WITHIN, RING_BETWEEN = (
    4.4e-6,
    0.52e-6,
    5e-6,
    8.4e-6,
    3.4e-6,
    9.6e-6,
)
SOURCES = """
<p>Bandwidth within a node of eight H100: 370 GB/s each way, what NCCL reaches over NVLink (a maintainer in
<a href="https://github.com/NVIDIA/nccl/issues/1442">NVIDIA/nccl, issue 1442</a>). Between nodes: 46 GB/s for
each adapter of 400 Gb/s (a maintainer in
<a href="https://github.com/NVIDIA/nccl-tests/issues/290">NVIDIA/nccl-tests, issue 290</a>), one for each GPU.
Latencies are those of NCCL's own model of trees and rings (<code>src/graph/tuning.cc</code>, read at commit
01afd20): for a sum over a tree 4.4 µs, twice 0.52 µs for each other GPU of a node (0.94 µs with several)
and twice 5 µs for each doubling of the nodes; for a gathering ring 8.4 µs, 3.4 µs a step within a node and
9.6 µs between two.</p>
<p>Not in it: arithmetic, what else shares the network, chunks that a long sum is cut into, and overlap with
the backward pass. It says what order of magnitude to expect.</p>
"""


def run(profile: Profile, results: ResultsDir, say: Say) -> None:
    """Count and time steps on one, two, four (full: eight) processes, and the prox of a Dask array."""
    shape, count = profile.pick([4096, 64], [4096, 1024]), 4
    units = [
        Unit(
            f"ranks-{n}", _count, {"ranks": n, "shape": shape, "count": count, "repeats": profile.pick(5, 9)}
        )
        for n in profile.pick((1, 2, 4), (1, 2, 4, 8))
    ]
    rows = profile.pick(10**4, 10**6)
    units.append(
        Unit("chunks", measure_chunks, {"rows": rows, "columns": 1000, "block": profile.pick(10**3, 10**4)})
    )
    results.run(NAME, profile, units, timed=True)
    for line in table(results.read(NAME)).to_dict("records"):
        said = f"{line['collectives']} collectives, {line['bytes/element']:.3g} B/element"
        say(f"  {line['ranks']} ranks, {line['case']}: {said}")


def _count(ranks: int, shape: list[int], count: int, repeats: int) -> Result:
    from analysis import ranks_work  # needs PyTorch, which the report does not

    return Result({"cases": ranks_work.measure(ranks, shape, count, repeats)})


def measure_chunks(rows: int, columns: int, block: int) -> Result:
    """Solve a Dask array whose chunks cut every group, on two worker processes; returns time and memory."""
    import dask.array as da
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(_import)
        before = client.run(_peak)
        x = da.random.default_rng(0).standard_normal(
            (rows, columns), chunks=(block, columns // 2), dtype=np.float32
        )
        started = time.perf_counter()
        z = pl.prox(pl.GroupLasso(math.sqrt(rows), groups=pl.Groups.over(0)), x)
        zero = int((~(z != 0).any(axis=0)).sum().compute())
        seconds = time.perf_counter() - started
        after = client.run(_peak)
    grown = [after[worker] - before[worker] for worker in after]
    return Result(
        {
            "elements": rows * columns,
            "bytes": 4 * rows * columns,
            "chunk": 2 * block * columns,
            "grown": max(grown),
            "seconds": seconds,
            "zero": zero,
        }
    )


def _import() -> None:
    import proxlab.optim  # noqa: F401 (what a worker loads is not the array's memory)


def _peak() -> int:
    import resource
    import sys
    from pathlib import Path

    status = Path("/proc/self/status")
    if status.exists():
        # Not what whoever started the process had.
        found = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return 1024 * int(found["VmHWM"].split()[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def table(stored: StoredStudy) -> pd.DataFrame:
    """What was counted and timed, a row for each case and number of processes."""
    rows = []
    for unit in stored.units:
        for case, found in unit.values.get("cases", {}).items():
            rows.append(
                {
                    "case": case,
                    "ranks": int(unit.parameters["ranks"]),
                    "collectives": int(found["calls"]),
                    "bytes/element": found["sent"] / found["elements"],
                    "sent, bytes": found["sent"],
                    "held, bytes": found["held"],
                    "milliseconds": found["milliseconds"],
                    "groups": int(found["groups"]),
                }
            )
    columns = [
        "case",
        "ranks",
        "collectives",
        "bytes/element",
        "sent, bytes",
        "held, bytes",
        "milliseconds",
        "groups",
    ]
    return pd.DataFrame(rows, columns=columns).sort_values(["ranks", "bytes/element"], ignore_index=True)


def sum_seconds(held: float, gpus: int) -> float:
    """Predicted time of a sum over a tree."""
    nodes = max(1, gpus // NODE)
    within = TREE_WITHIN * (1.8 if nodes > 1 else 1.0)
    latency = TREE + 2.0 * ((min(gpus, NODE) - 1) * within + math.log2(nodes) * TREE_BETWEEN)
    return latency + 2.0 * (gpus - 1) / gpus * held / _bandwidth(gpus)


def gather_seconds(held: float, gpus: int) -> float:
    """Predicted time of gathering in a ring."""
    nodes = max(1, gpus // NODE)
    between = nodes - 1
    latency = RING + (gpus - 1 - between) * RING_WITHIN + between * RING_BETWEEN
    return latency + (gpus - 1) / gpus * held / _bandwidth(gpus)


def _bandwidth(gpus: int) -> float:
    return WITHIN if gpus <= NODE else min(WITHIN, NODE * BETWEEN)


def predicted(frame: pd.DataFrame) -> pd.DataFrame:
    """Time of what a step sends, for many GPUs, from what was counted on the most processes."""
    most = frame[frame["ranks"] == frame["ranks"].max()].set_index("case")
    rows = []
    for case in ("group lasso", "group MCP"):
        calls = int(most.loc[case, "collectives"])
        held = float(most.loc[case, "held, bytes"]) / float(most.loc[case, "groups"]) * (MODEL / GROUP)
        for gpus in GPUS:
            sums = calls * sum_seconds(held / calls, gpus)
            whole = 2 * gather_seconds(4.0 * MODEL, gpus)
            rows.append({"GPUs": gpus, "case": case, "sums, ms": 1e3 * sums, "gathering, ms": 1e3 * whole})
    return pd.DataFrame(rows)


def _plot(frame: pd.DataFrame) -> Figure:
    figure = style.new_figure(3.0)
    ax = figure.subplots()
    for k, (case, part) in enumerate(frame.groupby("case", sort=False)):
        ax.plot(
            part["GPUs"],
            part["sums, ms"],
            marker=style.MARKERS[k],
            color=style.PALETTE[k],
            label=f"sums, {case}",
        )
    one = frame.drop_duplicates("GPUs")
    ax.plot(
        one["GPUs"], one["gathering, ms"], marker=style.MARKERS[3], color=style.PALETTE[3], label="gathering"
    )
    ax.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="ms a step, predicted")
    ax.set_xticks(GPUS, [str(n) for n in GPUS])
    ax.minorticks_off()
    ax.legend()
    return figure


def section(results: ResultsDir) -> Section:
    """What was counted, timed and predicted."""
    stored = results.read(NAME)
    frame = table(stored)
    findings: list[Finding] = []
    items: list[Plot | Table | Text] = []
    many = frame[frame["ranks"] > 1]
    if len(many):
        most = many[many["ranks"] == many["ranks"].max()].set_index("case")
        own, others = most.loc["group lasso"], most.loc["group lasso, gathered"]
        saved = float(others["sent, bytes"]) / float(own["sent, bytes"])
        calls = int(own["collectives"])
        findings += [
            Finding(
                f"{saved:,.0f}×",
                "fewer bytes than gathering weights and metric, of a group lasso of columns of 4096.",
                "good" if saved > 1 else "bad",
            ),
            Finding(
                f"{calls}",
                "collectives in a step of ProxAdamW with a group lasso, however many weights.",
                "good" if calls <= 6 else "bad",
                "≤ 6",
            ),
        ]
        shown = frame.drop(columns=["sent, bytes", "held, bytes", "groups"])
        items.append(
            Table(
                "counted",
                "What a step sends",
                "Four weights of 4096 rows, divided by rows; groups are columns, but for one case. Bytes "
                "that a process sends for each element of all, and the median time of a step over loopback, "
                "where processes share the cores of one machine.",
                shown,
                formats={"bytes/element": "{:.3g}", "milliseconds": "{:,.1f}"},
                max_rows=60,
            )
        )  # fmt: skip
        guess = predicted(frame)
        last = guess[(guess["GPUs"] == GPUS[-1]) & (guess["case"] == "group lasso")].iloc[0]
        findings.append(
            Finding(
                f"{last['sums, ms']:.2g} ms",
                "a step for 7 billion weights on 1,024 GPUs, predicted; gathering: "
                f"{last['gathering, ms']:.3g} ms.",
            )
        )
        caption = (
            "Predicted, not measured: time of the communication of a step for 7 billion weights in groups of "
            "4096 that are cut over all GPUs, from the counted bytes and collectives."
        )
        items += [
            Plot("predicted", "On many GPUs (predicted)", caption, _plot(guess)),
            Text(SOURCES, "Where the numbers of the prediction come from"),
        ]
    for unit in stored.units:
        if unit.name == "chunks":
            v = unit.values
            findings.append(
                Finding(
                    f"{v['grown'] / 1e6:.0f} MB",
                    "is what a worker grows by in the prox of a Dask array of "
                    f"{v['elements']:,} elements ({v['bytes'] / 1e6:,.0f} MB) whose chunks of "
                    f"{v['chunk'] / 1e6:.0f} MB cut every group; {v['seconds']:.0f} s on two workers.",
                )
            )
    lead = (
        "Groups may lie across processes or chunks: sums over a group's elements are all that is sent. "
        "Collectives and bytes are counted in steps on processes of one machine, beside gathering weights "
        "and metric."
    )
    return Section("Groups across processes", lead, findings, items)
