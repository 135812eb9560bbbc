"""Speed against targets: ratios of calls that are interleaved in one process, medians of at least nine.

The yardstick is ``numpy.multiply(x, d, out=z)`` on the same arrays: what a pass over the memory costs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

import proxlab as pl
from analysis import baselines, ensembles, plotting, problems, reference
from analysis.report import Finding, Plot, Section, Table, Text
from analysis.results import Profile, Progress, Record, ResultsDir, StoredStudy

Array = NDArray[Any]

NAME = "speed"

STEP = 1e-3
SHAPES = ((4096, 512), (512, 4608), (3072, 768), (64, 300_000))
SIZES = (10**5, 10**6, 10**7, 10**8)
#: Layouts of the published codes: shape, the groups, and the view that ProxSSI takes.
LAYOUTS: dict[str, tuple[tuple[int, ...], int | tuple[int, ...], Callable[[Array], Array]]] = {
    "columns": ((4096, 512), 0, lambda a: a[None]),
    "rows": ((3072, 768), 1, lambda a: a.T[None]),
    "input channels": ((512, 512, 3, 3), (0, 2, 3), lambda a: a.reshape(512, 512, 9).transpose(0, 2, 1)),
}
#: Groups of a layout whose error is compared with the reference.
SAMPLED = 24


@dataclass(frozen=True)
class Target:
    """What a row is held against.

    Attributes
    ----------
    title : str
        What is measured.
    value : float
        The target.
    at_least : bool
        Whether the target is a lower bound.
    unit : str
        Follows the number.
    """

    title: str
    value: float
    at_least: bool = False
    unit: str = "×"

    def met(self, measured: float) -> bool:
        """Whether a measurement meets the target."""
        return measured >= self.value if self.at_least else measured <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g} {self.unit}"


TARGETS = {
    "contiguous": Target("group lasso, groups contiguous / multiply", 2.5),
    "strided": Target("group lasso, groups along the other axis / multiply", 6.0),
    "mcp": Target("group MCP / group lasso", 1.5),
    "solve": Target("solve with brackets / prox", 1.5),
    "certify": Target("certify / prox", 3.0),
    "memory": Target("peak extra memory of prox(out=z), of the input", 1.0, unit="%"),
    "proxssi-columns": Target("ProxSSI / prox, groups along columns", 30.0, at_least=True),
    "proxssi-rows": Target("ProxSSI / prox, groups along rows", 80.0, at_least=True),
    "proxssi-input channels": Target("ProxSSI / prox, per input channel", 30.0, at_least=True),
    "proxssi8": Target("ProxSSI stopped at 8 iterations / prox", 6.0, at_least=True),
    "ramda": Target("RAMDA's inner solver / prox", 10.0, at_least=True),
    "ramda-error": Target("error of RAMDA's inner solver / error of prox", 1e4, at_least=True),
    "flat": Target("slowest / fastest time per element, 1e5 to 1e8 elements", 1.5),
    "iterations-adam": Target("most Newton iterations on Adam metrics", 8.0, unit=""),
    "iterations-any": Target("most Newton iterations on adversarial input", 24.0, unit=""),
    "import": Target("import proxlab after numpy", 60.0, unit="ms"),
    "first-warm": Target("first prox in a fresh process, warm cache", 0.7, unit="s"),
    "first-cold": Target("first prox in a fresh process, cold cache", 12.0, unit="s"),
    "first-log": Target("log messages that announce the compilation", 1.0, at_least=True, unit=""),
}


def make(
    shape: Sequence[int], axis: int | tuple[int, ...], dtype: str, seed: int
) -> tuple[Array, Array, float]:
    """``x ~ 0.02 N(0,1)``, ``d`` lognormal (σ = 2) × 1e-3, and the strength that makes half of the groups
    zero.
    """
    rng = np.random.default_rng(seed)
    x = (0.02 * rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
    d = (1e-3 * np.exp(2 * rng.standard_normal(shape, dtype=np.float32))).astype(dtype)
    squares = np.square(x * d, dtype=np.float64)
    return x, d, float(np.median(np.sqrt(squares.sum(axis=axis)))) / STEP


def interleave(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, run in turn ``repeats`` times; the first round does not count.

    Parameters
    ----------
    calls : mapping of str to callable
        What to time.
    repeats : int
        Rounds. A call shorter than 2 ms is repeated within its turn.
    """
    loops = {}
    for name, call in calls.items():
        call()
        started = time.perf_counter()
        call()
        loops[name] = max(1, round(2e-3 / max(time.perf_counter() - started, 1e-7)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(loops[name]):
                call()
            seconds[name].append((time.perf_counter() - started) / loops[name])
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], over: str, under: str) -> float:
    """Median over the rounds of one call's time over another's."""
    return float(np.median(np.divide(seconds[over], seconds[under])))


def _with_threads(count: int, call: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        pl.set_num_threads(count)
        call()

    return run


def measure_prox(
    shape: list[int], axis: int, dtype: str, threads: list[int], repeats: int, seed: int
) -> Record:
    """Group lasso against a multiply, and MCP, `solve` and `certify` against the group lasso."""
    x, d, lam = make(shape, axis, dtype, seed)
    z = np.empty_like(x)
    groups = pl.Groups.over(axis)
    lasso = pl.GroupLasso(lam, groups=groups)
    # shape of MCP such that the rows straddle the flat part
    radius = float(np.median(np.sqrt(np.square(x, dtype=np.float64).sum(axis=axis))))
    mcp = pl.GroupMCP(lam, radius / lam, groups=groups)
    calls: dict[str, Callable[[], object]] = {"multiply": lambda: np.multiply(x, d, out=z)}
    exact = pl.prox(lasso, x, STEP, metric=d)
    for count in threads:
        own: dict[str, Callable[[], object]] = {
            "prox": lambda: pl.prox(lasso, x, STEP, metric=d, out=z),
            "mcp": lambda: pl.prox(mcp, x, STEP, metric=d, out=z),
            "solve": lambda: pl.solve(lasso, x, STEP, metric=d, out=z),
            "certify": lambda: pl.certify(lasso, exact, x, STEP, metric=d),
        }
        calls |= {f"{name}-{count}": _with_threads(count, call) for name, call in own.items()}
    seconds = interleave(calls, repeats)
    rows = {}
    for count in threads:
        name = "contiguous" if axis == 1 else "strided"
        rows[f"{name}|{count}"] = ratio(seconds, f"prox-{count}", "multiply")
        for other in ("mcp", "solve", "certify"):
            rows[f"{other}|{count}"] = ratio(seconds, f"{other}-{count}", f"prox-{count}")
    nanoseconds = {name: 1e9 * float(np.median(t)) / x.size for name, t in seconds.items()}
    return Record({"rows": rows, "ns per element": nanoseconds}, {k: np.array(t) for k, t in seconds.items()})


def measure_published(layout: str, threads: list[int], repeats: int, seed: int) -> Record:
    """ProxSSI and RAMDA in float32 against prox, in their layout and with their default settings."""
    shape, axis, view = LAYOUTS[layout]
    x, d, lam = make(shape, axis, "float32", seed)
    z = np.empty_like(x)
    lasso = pl.GroupLasso(lam, groups=pl.Groups.over(axis))
    calls: dict[str, Callable[[], object]] = {
        f"prox-{count}": _with_threads(count, lambda: pl.prox(lasso, x, STEP, metric=d, out=z))
        for count in threads
    }
    calls |= {
        "proxssi": lambda: baselines.proxssi_group_lasso(view(x), view(d), STEP, lam),
        "proxssi8": lambda: baselines.proxssi_group_lasso(view(x), view(d), STEP, lam, max_iterations=8),
        "ramda": lambda: baselines.ramda_group_lasso(x, d, STEP, lam, axis=axis),
    }
    seconds = interleave(calls, repeats)
    rows = {}
    for count in threads:
        for name in ("proxssi", "proxssi8", "ramda"):
            label = f"proxssi-{layout}" if name == "proxssi" else name
            rows[f"{label}|{count}"] = ratio(seconds, name, f"prox-{count}")
    ours = pl.prox(lasso, x, STEP, metric=d)
    theirs = baselines.ramda_group_lasso(x, d, STEP, lam, axis=axis).z
    errors = _errors((ours, theirs), x, d, lam, axis)
    rows["ramda-error|"] = errors[1] / errors[0]
    nanoseconds = {name: 1e9 * float(np.median(t)) / x.size for name, t in seconds.items()}
    return Record({"rows": rows, "ns per element": nanoseconds, "errors": errors})


def _as_rows(a: Array, axis: int | tuple[int, ...]) -> Array:
    """The groups of an array as rows."""
    axes = (axis,) if isinstance(axis, int) else axis
    last = tuple(range(-len(axes), 0))
    return np.moveaxis(a, axes, last).reshape(-1, int(np.prod([a.shape[k] for k in axes])))


def _errors(
    results: Sequence[Array], x: Array, d: Array, lam: float, axis: int | tuple[int, ...]
) -> list[float]:
    """``‖Z − Z*‖/‖Z*‖`` of each result, over some groups with a nonzero prox."""
    points, metrics, *found = (_as_rows(a, axis) for a in (x, d, *results))
    nonzero = np.flatnonzero((found[0] != 0).any(axis=1))
    chosen = nonzero[np.linspace(0, len(nonzero) - 1, SAMPLED).astype(int)]
    exact = [reference.Reference(points[g], metrics[g], STEP, reference.group_lasso(lam)) for g in chosen]
    length = np.linalg.norm([float(one.radius) for one in exact])
    return [
        float(
            np.linalg.norm([one.errors(z[g]).distance for one, g in zip(exact, chosen, strict=True)]) / length
        )
        for z in found
    ]


def measure_flatness(sizes: list[int], threads: list[int], repeats: int, seed: int) -> Record:
    """Time per element over arrays of growing size, rows of 500."""
    block_x, block_d, lam = make((200, 500), 1, "float32", seed)
    lasso = pl.GroupLasso(lam)
    nanoseconds: dict[str, list[float]] = {f"prox-{count}": [] for count in threads}
    for size in sizes:
        x, d = (np.tile(block, (size // block.size, 1)) for block in (block_x, block_d))
        z = np.empty_like(x)
        for count in threads:
            run = _with_threads(count, lambda x=x, d=d, z=z: pl.prox(lasso, x, STEP, metric=d, out=z))  # type: ignore[misc]
            seconds = interleave({"prox": run}, repeats)["prox"]
            nanoseconds[f"prox-{count}"].append(1e9 * float(np.median(seconds)) / x.size)
    rows = {f"flat|{c}": max(nanoseconds[f"prox-{c}"]) / min(nanoseconds[f"prox-{c}"]) for c in threads}
    return Record({"rows": rows, "ns per element": nanoseconds, "sizes": sizes})


def measure_iterations(n_groups: int, seed: int) -> Record:
    """Most Newton iterations on Adam metrics, synthetic and captured, and on every ensemble."""
    most: dict[str, int] = {}
    for name in ensembles.names():
        for dtype in ("float32", "float64"):
            e = ensembles.make(name, n_groups, dtype, seed)
            for case in ("GroupLasso", "GroupMCP"):
                penalty = ensembles.PENALTIES[case](e).penalty
                found = pl.solve(penalty, e.x, e.step, metric=e.metric).iterations
                most[name] = max(most.get(name, 0), int(np.max(found, initial=0)))
    adam = max(count for name, count in most.items() if name == "adam" or name.startswith("captured"))
    rows = {"iterations-adam|": float(adam), "iterations-any|": float(max(most.values()))}
    return Record({"rows": rows, "most": most})


_MEMORY = """
import json, resource, sys
import numpy as np, proxlab as pl
rows = int(sys.argv[1])
h = pl.GroupLasso(1e-2)
for n in (64, rows):  # compile before the arrays that make the peak
    x = np.full((n, 512), 0.02, dtype=np.float32)
    d = np.full_like(x, 1e-3)
    z = np.ones_like(x)
    if n == 64:
        pl.prox(h, x, 1e-3, metric=d, out=z)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pl.prox(h, x, 1e-3, metric=d, out=z)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print(json.dumps({"extra": (after - before) * unit, "input": x.nbytes + d.nbytes}))
"""

_IMPORT = """
import time
import numpy
started = time.perf_counter()
import proxlab
print(time.perf_counter() - started)
"""

_FIRST = """
import json, logging, time
messages = []
handler = logging.Handler()
handler.emit = lambda record: messages.append(record.getMessage())
logging.getLogger("proxlab").addHandler(handler)
logging.getLogger("proxlab").setLevel(logging.INFO)
import numpy as np, proxlab as pl
x = np.linspace(-1, 1, 4096, dtype=np.float32).reshape(8, 512)
d = np.full_like(x, 1e-3)
started = time.perf_counter()
pl.prox(pl.GroupLasso(1e-2), x, 1e-3, metric=d)
print(json.dumps({"seconds": time.perf_counter() - started, "messages": len(messages)}))
"""


def _in_fresh_process(script: str, *arguments: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | variables
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout


def measure_memory(rows: int) -> Record:
    """Growth of the peak memory of a process over a call with `out`."""
    found = json.loads(_in_fresh_process(_MEMORY, str(rows)))
    return Record({"rows": {"memory|": 100 * found["extra"] / found["input"]}, **found})


def measure_import(repeats: int) -> Record:
    """Time of the import in fresh processes."""
    seconds = [float(_in_fresh_process(_IMPORT)) for _ in range(repeats + 1)][1:]
    return Record({"rows": {"import|": 1e3 * float(np.median(seconds))}, "seconds": seconds})


def measure_first_call(repeats: int) -> Record:
    """The first call of a process, with an empty and with a filled disk cache."""
    with tempfile.TemporaryDirectory() as cache:
        cold = json.loads(_in_fresh_process(_FIRST, NUMBA_CACHE_DIR=cache))
        warm = [json.loads(_in_fresh_process(_FIRST, NUMBA_CACHE_DIR=cache)) for _ in range(repeats)]
    seconds = [found["seconds"] for found in warm]
    rows = {
        "first-cold|": cold["seconds"],
        "first-warm|": float(np.median(seconds)),
        "first-log|": float(cold["messages"]),
    }
    return Record({"rows": rows, "warm": seconds, "messages when warm": warm[0]["messages"]})


def units(
    profile: Profile, threads: Sequence[int], repeats: int, only: Iterable[str] = ()
) -> dict[str, tuple[Callable[..., Record], dict[str, Any]]]:
    """Function and parameters of every unit; `only` keeps units whose name begins with one of its words."""
    common = {"threads": list(threads), "repeats": repeats, "seed": profile.seed}
    found: dict[str, tuple[Callable[..., Record], dict[str, Any]]] = {}
    for axis, label in ((1, "contiguous"), (0, "strided")):
        for position, shape in enumerate(SHAPES):
            for dtype in ("float32", "float64") if profile.is_full or position < 2 else ("float32",):
                parameters = common | {"shape": list(shape), "axis": axis, "dtype": dtype}
                found[f"{label}-{'x'.join(map(str, shape))}-{dtype}"] = measure_prox, parameters
    for layout in LAYOUTS:
        found[f"published-{layout.replace(' ', '-')}"] = measure_published, common | {"layout": layout}
    found["flatness"] = measure_flatness, common | {"sizes": list(SIZES[: profile.pick(3, 4)])}
    found["iterations"] = measure_iterations, {"n_groups": profile.pick(200, 10_000), "seed": profile.seed}
    found["memory"] = measure_memory, {"rows": 100_000}
    found["import"] = measure_import, {"repeats": repeats}
    found["first-call"] = measure_first_call, {"repeats": repeats}
    words = tuple(only)
    return {name: unit for name, unit in found.items() if not words or name.startswith(words)}


def run(
    profile: Profile,
    results: ResultsDir,
    progress: Progress,
    *,
    threads: Sequence[int] = (1, 2),
    repeats: int = 9,
    only: Iterable[str] = (),
) -> None:
    """Measure, and print the table.

    Parameters
    ----------
    profile, results, progress
        As for every study.
    threads : sequence of int
        Numbers of threads of proxlab's kernels; NumPy uses one.
    repeats : int
        Rounds of interleaved calls, at least 9 for a result to count.
    only : iterable of str
        Measure only units whose name begins with one of these; none means all.
    """
    chosen = units(profile, threads, repeats, only)
    modules = (sys.modules[__name__], baselines, ensembles, problems, reference)
    with results.study(NAME, profile, *modules) as study:
        for function in dict.fromkeys(f for f, _ in chosen.values()):
            mine = {name: parameters for name, (f, parameters) in chosen.items() if f is function}
            label = function.__name__.replace("measure_", "").replace("_", " ")
            study.run(function, mine, progress, f"speed: {label}")
    _print(table(results.read(NAME)), progress)


def _print(frame: pd.DataFrame, progress: Progress) -> None:
    """The table on the terminal, a block a target."""
    for row, part in frame.groupby("row", sort=False):
        target = TARGETS[str(row)]
        progress.say(f"\n[bold]{target.title}[/bold]: {target}")
        for line in part.to_dict("records"):
            threads = {"": "", "1": "1 thread"}.get(line["threads"], f"{line['threads']} threads")
            mark = "[green]met[/green]" if line["met"] else "[red]not met[/red]"
            progress.say(
                f"  {line['case']:<32}{threads:<12}{line['measured']:>10.3g} {target.unit:<3} {mark}"
            )


def table(stored: StoredStudy) -> pd.DataFrame:
    """Every measured row with its target."""
    rows = []
    for unit in stored.units:
        parameters = unit.parameters
        case = " ".join(
            str(part)
            for part in (
                "×".join(map(str, parameters["shape"])) if "shape" in parameters else "",
                {0: "strided", 1: "contiguous"}.get(parameters.get("axis", -1), ""),
                parameters.get("dtype", ""),
                parameters.get("layout", ""),
            )
            if part
        )
        for key, measured in unit.values["rows"].items():
            name, threads = key.split("|")
            target = TARGETS[name]
            rows.append(
                {
                    "row": name,
                    "what": target.title,
                    "case": case,
                    "threads": threads,
                    "target": str(target),
                    "measured": float(measured),
                    "met": target.met(measured),
                }
            )
    order = {name: k for k, name in enumerate(TARGETS)}
    return pd.DataFrame(rows).sort_values("row", key=lambda c: c.map(order), kind="stable", ignore_index=True)


def _names(frame: pd.DataFrame) -> list[str]:
    """Cases of a row, shape and dtype, in the order measured."""
    return list(dict.fromkeys(frame["case"]))


def _plot_multiply(frame: pd.DataFrame) -> Figure:
    """Time of the group lasso over that of a multiply."""
    figure = plotting.new_figure(3.9)
    axes = figure.subplots(1, 2)
    for ax, row in zip(axes, ("contiguous", "strided"), strict=True):
        part = frame[frame["row"] == row]
        names = _names(part)
        counts = list(dict.fromkeys(part["threads"]))
        for k, count in enumerate(counts):
            chosen = part[part["threads"] == count]
            places = [names.index(case) + 0.16 * (2 * k - len(counts) + 1) for case in chosen["case"]]
            label = f"{count} thread{'s' if count != '1' else ''}"
            ax.plot(chosen["measured"], places, plotting.MARKERS[k], color=plotting.PALETTE[k], label=label)
        limit = TARGETS[row].value
        ax.axvline(limit, color=plotting.INK, linewidth=0.9, linestyle=(0, (2, 2)), label="target")
        ax.set(yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
        ax.set_xlim(0, 1.1 * max(limit, part["measured"].max()))
        ax.set_yticklabels([name.replace(f" {row}", "") for name in names])
        ax.grid(axis="y", visible=False)
        ax.set(
            xlabel="time / time of a multiply",
            title=f"groups {'contiguous' if row == 'contiguous' else 'along the other axis'}",
        )
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    return figure


def _plot_published(frame: pd.DataFrame) -> Figure:
    """Time of the published solvers over that of prox, on a logarithmic scale."""
    part = frame[frame["row"].str.match("proxssi|ramda$")]
    lines = list(dict.fromkeys(zip(part["row"], part["case"], strict=True)))
    figure = plotting.new_figure(0.9 + 0.3 * len(lines))
    ax = figure.subplots()
    for k, count in enumerate(dict.fromkeys(part["threads"])):
        chosen = part[part["threads"] == count]
        places = [lines.index(pair) for pair in zip(chosen["row"], chosen["case"], strict=True)]
        label = f"prox on {count} thread{'s' if count != '1' else ''}"
        ax.plot(chosen["measured"], places, plotting.MARKERS[k], color=plotting.PALETTE[k], label=label)
    for place, (row, _) in enumerate(lines):
        ax.plot([TARGETS[row].value], [place], "|", color=plotting.INK, markersize=13, markeredgewidth=1.4)
    ax.plot([], [], "|", color=plotting.INK, markersize=11, markeredgewidth=1.4, label="target")
    titles = {"ramda": "RAMDA's inner solver", "proxssi8": "ProxSSI, 8 iterations"}
    ax.set(
        xscale="log", xlabel="time / time of prox", yticks=range(len(lines)), ylim=(len(lines) - 0.5, -0.5)
    )
    ax.set_xlim(left=1)
    ax.set_yticklabels(
        [f"{titles.get(row, 'ProxSSI')}, {case.removeprefix('float32 ')}" for row, case in lines]
    )
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncol=3)
    return figure


def _plot_flatness(stored: StoredStudy) -> Figure:
    """Time per element against the size of the array."""
    values = stored.unit("flatness").values
    figure = plotting.new_figure(3.0)
    ax = figure.subplots()
    for k, (name, times) in enumerate(values["ns per element"].items()):
        count = name.removeprefix("prox-")
        label = f"{count} thread{'s' if count != '1' else ''}"
        ax.plot(values["sizes"], times, marker=plotting.MARKERS[k], color=plotting.PALETTE[k], label=label)
    ax.set(xscale="log", xlabel="elements", ylabel="ns per element")
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower left")
    return figure


def section(results: ResultsDir) -> Section:
    """What was measured, against the targets."""
    stored = results.read(NAME)
    frame = table(stored)
    met, total = int(frame["met"].sum()), len(frame)
    missed = list(dict.fromkeys(frame["what"][~frame["met"]]))

    def median(row: str) -> float:
        return float(frame["measured"][(frame["row"] == row) & (frame["threads"].isin(("1", "")))].median())

    lead = (
        f"{met} of {total} measurements meet their target. Times are ratios of calls that were interleaved "
        "in one process, medians of the rounds; NumPy's multiply and the published solvers run on one "
        "thread. " + (f"Not met everywhere: {'; '.join(missed)}." if missed else "")
    )
    findings = [
        Finding(f"{met}/{total}", "measurements meet their target.", "good" if met == total else "bad")
    ]
    for row, text in (
        (
            "contiguous",
            "the time of a multiply is what the group lasso takes on contiguous groups (one thread, median).",
        ),
        ("strided", "the time of a multiply on groups along the other axis."),
        ("proxssi-columns", "faster than ProxSSI's solver, groups along columns."),
    ):
        value = median(row)
        if np.isfinite(value):
            findings.append(Finding(f"{value:.3g}×", text, "good" if TARGETS[row].met(value) else "bad"))
    shown = frame.drop(columns="row").assign(met=np.where(frame["met"], "met", "not met"))
    items: list[Plot | Table | Text] = [
        Table(
            "targets",
            "Targets",
            "Measured against the target; the CSV has full precision.",
            shown,
            formats={"measured": "{:.3g}"},
            bad={"met": lambda v: v == "not met"},
            max_rows=140,
        )
    ]
    present = set(frame["row"])
    if {"contiguous", "strided"} <= present:
        caption = "x ~ 0.02 N(0,1), d lognormal (σ = 2) × 1e−3, half of the groups zero."
        items.append(Plot("multiply", "Group lasso against a multiply", caption, _plot_multiply(frame)))
    if "ramda" in present:
        caption = "float32, each in the layout of its authors and with their default settings."
        items.append(Plot("published", "Published solvers against prox", caption, _plot_published(frame)))
    if "flat" in present:
        caption = "Group lasso in float32, rows of 500."
        items.append(Plot("flatness", "Time per element", caption, _plot_flatness(stored)))
    return Section("Speed", lead, findings, items)
