"""Speed against targets: ratios of calls that are interleaved in one process, medians of at least nine.

The yardstick is ``numpy.multiply(x, d, out=z)`` on the same arrays: what a pass over the memory costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import proxlab as pl
from analysis import baselines, ensembles, speed_plots
from analysis.results import Profile, ResultsDir, Say
from analysis.roofline import Operations, memory_pass
from analysis.speed_fresh import measure_first_call, measure_import, measure_memory
from analysis.speed_targets import TARGETS
from proxlab import study
from proxlab.study import Result, StoredStudy, Unit
from proxlab.study.page import Finding, Plot, Section, Table, Text, Verdict

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
    shape: list[int], axis: int, dtype: str, others: bool, threads: list[int], repeats: int, seed: int
) -> Result:
    """Group lasso against a multiply and, if `others`, MCP, `solve` and `certify` against the group lasso."""
    x, d, lam = make(shape, axis, dtype, seed)
    z = np.empty_like(x)
    groups = pl.Groups.over(axis)
    lasso = pl.GroupLasso(lam, groups=groups)
    # shape of MCP such that the rows straddle the flat part
    radius = float(np.median(np.sqrt(np.square(x, dtype=np.float64).sum(axis=axis))))
    mcp = pl.GroupMCP(lam, radius / lam, groups=groups)
    calls: dict[str, Callable[[], object]] = {"multiply": lambda: np.multiply(x, d, out=z)}
    exact = pl.prox(lasso, x, STEP, metric=d)
    own: dict[str, Callable[[], object]] = {"prox": lambda: pl.prox(lasso, x, STEP, metric=d, out=z)}
    if others:
        own |= {
            "mcp": lambda: pl.prox(mcp, x, STEP, metric=d, out=z),
            "solve": lambda: pl.solve(lasso, x, STEP, metric=d, out=z),
            "certify": lambda: pl.certify(lasso, exact, x, STEP, metric=d),
        }
    for count in threads:
        calls |= {f"{name}-{count}": _with_threads(count, call) for name, call in own.items()}
        calls[f"pass-{count}"] = memory_pass(x, d, z, count)
    seconds = interleave(calls, repeats)
    rows = {}
    # Evaluations and the write divide, in the double precision of the registers; a zero group is not written.
    solved = pl.solve(lasso, x, STEP, metric=d)
    operations = Operations(float(np.mean(solved.evaluations + (solved.radius > 0))))
    for count in threads:
        name = "contiguous" if axis == 1 else "strided"
        least = max(
            np.median(seconds[f"pass-{count}"]), 1e-9 * x.size * operations.nanoseconds("float64", count)
        )
        rows[f"{name}-roofline|{count}"] = float(np.median(seconds[f"prox-{count}"]) / least)
        rows[f"{name}|{count}"] = ratio(seconds, f"prox-{count}", "multiply")
        for other in [name for name in own if name != "prox"]:
            rows[f"{other}|{count}"] = ratio(seconds, f"{other}-{count}", f"prox-{count}")
    nanoseconds = {name: 1e9 * float(np.median(t)) / x.size for name, t in seconds.items()}
    return Result({"rows": rows, "ns per element": nanoseconds}, {k: np.array(t) for k, t in seconds.items()})


def measure_published(layout: str, threads: list[int], repeats: int, seed: int) -> Result:
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
    return Result({"rows": rows, "ns per element": nanoseconds, "errors": errors})


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
    problem = study.Problem("sampled", points[chosen], STEP, metrics[chosen], pl.GroupLasso(lam))
    exact = study.truth(problem)
    length = np.linalg.norm(exact.radius.astype(float))
    return [float(np.linalg.norm(exact.errors(z[chosen]).distance) / length) for z in found]


#: Strengths of the profile, in units of that which makes half of the groups zero.
STRENGTHS = {"all zero": 1e3, "half zero": 1.0, "none zero": 1e-3}


def measure_passes(shape: list[int], axis: int, repeats: int, seed: int) -> Result:
    """Where the time goes: the group lasso in float32 on one thread, with more or fewer groups to solve."""
    x, d, lam = make(shape, axis, "float32", seed)
    z = np.empty_like(x)
    calls: dict[str, Callable[[], object]] = {"multiply": lambda: np.multiply(x, d, out=z)}
    evaluations = {}
    for name, factor in STRENGTHS.items():
        penalty = pl.GroupLasso(factor * lam, groups=pl.Groups.over(axis))
        calls[name] = _with_threads(1, partial(pl.prox, penalty, x, STEP, metric=d, out=z))
        evaluations[name] = float(np.mean(pl.solve(penalty, x, STEP, metric=d).evaluations))
    seconds = interleave(calls, repeats)
    nanoseconds = {name: 1e9 * float(np.median(t)) / x.size for name, t in seconds.items()}
    return Result({"rows": {}, "ns per element": nanoseconds, "evaluations": evaluations})


def measure_flatness(sizes: list[int], threads: list[int], repeats: int, seed: int) -> Result:
    """Time per element over arrays of growing size, rows of 500."""
    block_x, block_d, lam = make((200, 500), 1, "float32", seed)
    lasso = pl.GroupLasso(lam)
    nanoseconds: dict[str, list[float]] = {f"prox-{count}": [] for count in threads}
    for size in sizes:
        x, d = (np.tile(block, (size // block.size, 1)) for block in (block_x, block_d))
        z = np.empty_like(x)
        for count in threads:
            call = partial(pl.prox, lasso, x, STEP, metric=d, out=z)
            seconds = interleave({"prox": _with_threads(count, call)}, repeats)["prox"]
            nanoseconds[f"prox-{count}"].append(1e9 * float(np.median(seconds)) / x.size)
    rows = {f"flat|{c}": max(nanoseconds[f"prox-{c}"]) / min(nanoseconds[f"prox-{c}"]) for c in threads}
    return Result({"rows": rows, "ns per element": nanoseconds, "sizes": sizes})


def measure_iterations(n_groups: int, seed: int) -> Result:
    """Most Newton iterations on Adam metrics, synthetic and captured, and on every ensemble."""
    most: dict[str, int] = {}
    for name in ensembles.names():
        for dtype in ("float32", "float64"):
            e = ensembles.make(name, n_groups, dtype, seed)
            for case in ("GroupLasso", "GroupMCP"):
                penalty = ensembles.PENALTIES[case](e)
                found = pl.solve(penalty, e.x, e.step, metric=e.metric).iterations
                most[name] = max(most.get(name, 0), int(np.max(found, initial=0)))
    adam = max(count for name, count in most.items() if name == "adam" or name.startswith("captured"))
    rows = {"iterations-adam|": float(adam), "iterations-any|": float(max(most.values()))}
    return Result({"rows": rows, "most": most})


def units(
    profile: Profile, threads: Sequence[int], repeats: int, only: Iterable[str] = ()
) -> dict[str, tuple[Callable[..., Result], dict[str, Any]]]:
    """Function and parameters of every unit; `only` keeps units whose name begins with one of its words."""
    common = {"threads": list(threads), "repeats": repeats, "seed": profile.seed}
    found: dict[str, tuple[Callable[..., Result], dict[str, Any]]] = {}
    for axis, label in ((1, "contiguous"), (0, "strided")):
        for position, shape in enumerate(SHAPES):
            for dtype in ("float32", "float64") if profile.is_full or position == 0 else ("float32",):
                others = profile.is_full or shape != SHAPES[-1]
                parameters = common | {"shape": list(shape), "axis": axis, "dtype": dtype, "others": others}
                found[f"{label}-{'x'.join(map(str, shape))}-{dtype}"] = measure_prox, parameters
            profiled = {"shape": list(shape), "axis": axis, "repeats": repeats, "seed": profile.seed}
            found[f"passes-{label}-{'x'.join(map(str, shape))}"] = measure_passes, profiled
    for layout in LAYOUTS:
        found[f"published-{layout.replace(' ', '-')}"] = measure_published, common | {"layout": layout}
    if find_spec("torch") is not None:
        from analysis.speed_steps import (
            GROUPINGS,
            NETWORKS,
            measure_kinds,
            measure_proxssi_step,
            measure_step,
        )

        # The large ones take six gigabytes.
        for network in NETWORKS if profile.is_full else ["ResNet50"]:
            for grouping in GROUPINGS:
                parameters = common | {"network": network, "grouping": grouping}
                name = f"{network.lower()}-{grouping.replace(' ', '-')}"
                found[f"step-{name}"] = measure_step, parameters
                found[f"proxssi-step-{name}"] = measure_proxssi_step, parameters
        found["step-kinds"] = measure_kinds, {"repeats": repeats}
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
    say: Say,
    *,
    threads: Sequence[int] = (1, 2),
    repeats: int = 9,
    only: Iterable[str] = (),
) -> None:
    """Measure, and print the table.

    Parameters
    ----------
    profile, results, say
        As for every study.
    threads : sequence of int
        Numbers of threads of proxlab's kernels; NumPy uses one.
    repeats : int
        Rounds of interleaved calls, at least 9 for a result to count.
    only : iterable of str
        Measure only units whose name begins with one of these; none means all.

    Raises
    ------
    ValueError
        If no unit's name does.
    """
    chosen = units(profile, threads, repeats, only)
    if not chosen:
        names = ", ".join(dict.fromkeys(name.partition("-")[0] for name in units(profile, threads, repeats)))
        raise ValueError(f"nothing that is measured begins with {' or '.join(only)}: there are {names}, …")
    results.run(NAME, profile, [Unit(name, f, given) for name, (f, given) in chosen.items()], timed=True)
    _print(table(results.read(NAME)), say)


def _print(frame: pd.DataFrame, say: Say) -> None:
    """The table on the terminal, a block a target."""
    for row, part in frame.groupby("row", sort=False):
        target = TARGETS[str(row)]
        say(f"\n[bold]{target.title}[/bold]: {target}")
        for line in part.to_dict("records"):
            threads = {"": "", "1": "1 thread"}.get(line["threads"], f"{line['threads']} threads")
            mark = "[green]met[/green]" if line["met"] else "[red]not met[/red]"
            say(f"  {line['case']:<32}{threads:<12}{line['measured']:>10.3g} {target.unit:<3} {mark}")


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
                parameters.get("network", ""),
                parameters.get("grouping", ""),
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
                    "case": case or unit.values.get("cases", {}).get(key, ""),
                    "threads": threads,
                    "target": str(target),
                    "measured": float(measured),
                    "met": target.met(measured),
                }
            )
    order = {name: k for k, name in enumerate(TARGETS)}
    columns = ["row", "what", "case", "threads", "target", "measured", "met"]
    return pd.DataFrame(rows, columns=columns).sort_values(
        "row", key=lambda c: c.map(order), kind="stable", ignore_index=True
    )


def _passes(stored: StoredStudy) -> pd.DataFrame:
    """Time and evaluations of each profiled case."""
    rows = []
    for unit in stored.units:
        if unit.name.startswith("passes-"):
            row: dict[str, object] = {"case": unit.name.removeprefix("passes-").replace("-", " ")}
            for name, time_taken in unit.values["ns per element"].items():
                row[f"{name}, ns"] = time_taken
                if unit.values["evaluations"].get(name):
                    row[f"{name}, evaluations"] = unit.values["evaluations"][name]
            rows.append(row)
    return pd.DataFrame(rows)


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
        Finding(
            f"{met}/{total}" if total else "–",
            "measurements meet their target.",
            ("good" if met == total else "bad") if total else "neutral",
            "all",
        )
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
            verdict: Verdict = "good" if TARGETS[row].met(value) else "bad"
            findings.append(Finding(f"{value:.3g}×", text, verdict, str(TARGETS[row])))
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
        items.append(
            Plot("multiply", "Group lasso against a multiply", caption, speed_plots.plot_multiply(frame))
        )
    if "ramda" in present:
        caption = "float32, each in the layout of its authors and with their default settings."
        items.append(
            Plot("published", "Published solvers against prox", caption, speed_plots.plot_published(frame))
        )
    profile = _passes(stored)
    if len(profile):
        items.append(
            Table(
                "passes",
                "Where the time goes",
                "Group lasso in float32 on one thread: nanoseconds per element, and evaluations of the "
                "secular equation per group. Where all groups are zero, this is one reading pass; the rest "
                "is evaluations and writing.",
                profile,
                formats={name: "{:.3g}" for name in profile.columns if name != "case"},
            )
        )
    if "flat" in present:
        caption = "Group lasso in float32, rows of 500."
        items.append(Plot("flatness", "Time per element", caption, speed_plots.plot_flatness(stored)))
    return Section("Speed", lead, findings, items)
