"""What the GPU kernels take, read off builds for two architectures, and what that predicts of their speed.

Needs no GPU. Nothing here is measured on one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxlab.backends.cuda.static import FAMILIES, Family, Figures, figures, missing, operations

DOCUMENT = Path("docs/gpu.md")
#: Cycles until main memory and the L2 cache answer: about what Luo et al. (2024), arXiv:2402.13499, measure
#: on both devices.
MEMORY_CYCLES, CACHE_CYCLES = 480, 265
#: Elements that a thread has under way: NVVM unrolls the loops over a group by four.
UNROLLED = 4
#: Instructions that a division in float64 is counted as.
DIVISION = 10


class MissingToolError(Exception):
    """Something that a build needs is not installed."""


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes
    ----------
    name : str
    cc : tuple of two int
        Compute capability.
    bandwidth : float
        Bytes a second.
    doubles : float
        Operations in float64 a second, a fused multiply-add being two.
    clock : float
        Cycles a second.
    processors, shared : int
        Multiprocessors; bytes of shared memory of each.
    """

    name: str
    cc: tuple[int, int]
    bandwidth: float
    doubles: float
    clock: float
    processors: int
    shared: int


#: From NVIDIA's data sheets of the A100 (40 GB) and the H100, both SXM; shared memory from its CUDA
#: programming guide.
DEVICES = (
    Device("A100", (8, 0), 1.555e12, 9.7e12, 1.41e9, 108, 164 << 10),
    Device("H100", (9, 0), 3.35e12, 33.5e12, 1.98e9, 132, 228 << 10),
)


def occupancy(taken: Figures, device: Device) -> float:
    """Return the share of a multiprocessor's 64 warps that registers and shared memory allow."""
    warps = taken.threads // 32
    per_warp = -(-taken.registers * 32 // 256) * 256
    blocks = min(32, 64 // warps, (65536 // per_warp) // warps)
    # A block takes 1 KiB more than it asks for.
    return min(blocks, device.shared // (taken.shared + 1024)) * warps / 64


def traffic(family: Family) -> int:
    """Return the bytes of an element that have to pass: ``x`` and the metric once, ``z`` once."""
    return (3 if family.dense else 2) * int(family.dtype.removeprefix("float")) // 8


@dataclass(frozen=True)
class Prediction:
    """Picoseconds for an element, if one thing alone decided; the slowest decides."""

    memory: float
    arithmetic: float
    latency: float

    @property
    def share(self) -> float:
        """Share of the bandwidth limit."""
        return self.memory / max(self.memory, self.arithmetic, self.latency)


def predict(family: Family, counts: Mapping[str, float], taken: Figures, device: Device) -> Prediction:
    """Predict the time of an element of large groups, all multiprocessors busy."""
    memory = traffic(family) / device.bandwidth
    # A product and a sum are one instruction where they can be fused: as good as always, as sums are fewer.
    instructions = max(counts["sums"], counts["products"]) + DIVISION * counts["quotients"]
    arithmetic = instructions / (device.doubles / 2)
    cycles = MEMORY_CYCLES + (counts["passes"] - 1) * CACHE_CYCLES
    under_way = occupancy(taken, device) * 64 * 32 * UNROLLED * device.processors
    return Prediction(1e12 * memory, 1e12 * arithmetic, 1e12 * cycles / device.clock / under_way)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def tables(say: Callable[[str], None]) -> dict[str, str]:
    """Build everything; return the tables in Markdown, by the name of their place in the document."""
    lacking = missing()
    if lacking:
        raise MissingToolError(
            f"gpu-static needs {lacking}: make gpu-static, or pip install 'numba-cuda[cu13]' "
            "'cuda-toolkit==13.0.*' 'nvidia-cuda-nvcc==13.0.*'"
        )
    built: list[list[object]] = []
    predicted: list[list[object]] = []
    for name, family in FAMILIES.items():
        launch = family.launch()
        taken = [figures(launch, device.cc) for device in DEVICES]
        variant = launch.variant
        first = taken[0]
        lanes = {1: "a lane", 32: "a warp"}.get(variant.width, f"{variant.width} lanes")
        team = lanes if variant.team == "lanes" else f"{variant.team}, {launch.threads} threads"
        built.append(
            [
                name, family.groups, team, " / ".join(str(t.registers) for t in taken),
                max(t.spills for t in taken), max(t.stack for t in taken), max(t.shared for t in taken),
                first.barriers, first.grid_barriers, first.shuffles, first.doubles,
            ]
        )  # fmt: skip
        counts = operations(family)
        row: list[object] = [
            name, traffic(family), f"{counts['passes']:.0f}",
            f"{counts['sums'] + counts['products']:.0f} + {counts['quotients']:.0f}",
        ]  # fmt: skip
        for device, figure in zip(DEVICES, taken, strict=True):
            p = predict(family, counts, figure, device)
            row += [f"{occupancy(figure, device):.0%}", f"{p.memory:.1f}", f"{p.arithmetic:.1f}"]
            row += [f"{p.latency:.1f}", f"{p.share:.0%}"]
        predicted.append(row)
        say(f"{name}: {first.registers} and {taken[1].registers} registers")
    head = ["kernel", "groups", "team", "registers", "spilled", "stack", "shared", "barriers", "of the grid"]
    columns = ["bytes", "passes", "operations"]
    for device in DEVICES:
        columns += [f"{device.name}: occupancy", "memory", "arithmetic", "latency", "of the limit"]
    return {
        "figures": _table([*head, "shuffles", "float64"], built),
        "prediction": _table(["kernel", *columns], predicted),
    }


def write(say: Callable[[str], None], document: Path = DOCUMENT) -> None:
    """Put the tables into the document, between their marks."""
    text = document.read_text()
    for name, table in tables(say).items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        if begin not in text or end not in text:
            raise MissingToolError(f"{document}: has no marks for the table {name!r}")
        text = text[: text.index(begin) + len(begin)] + "\n" + table + "\n" + text[text.index(end) :]
    document.write_text(text)
