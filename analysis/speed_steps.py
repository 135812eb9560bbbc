"""Speed of the optimizers' step against PyTorch's own, over the parameters of networks.

Imported where PyTorch is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch

import proxlab as pl
from analysis import speed_cases
from analysis.deep.methods.proxssi import ProxSSI
from analysis.roofline import Operations, memory_pass
from proxlab.study import Result
from proxlab.torch import ProxAdamW

Shape = tuple[int, ...]

#: Scale of weights and of gradients, and what groups that are to stay zero have of the latter.
WEIGHT, GRADIENT, FAINT = 0.02, 1e-3, 0.01
LEARNING_RATE = 1e-3
#: Above the root mean square of a zero group's gradient; ProxSSI, whose metric starts a thousand times too
#: small, leaves the others alive too.
STRENGTH = 0.03 * GRADIENT
#: Largest tensor on which ProxSSI's step is timed: it takes about a hundred times as long.
PROXSSI_SIZE = 3_000_000


def vgg16() -> list[Shape]:
    """Parameters of VGG16 for 1000 classes (Simonyan & Zisserman 2015)."""
    widths = (3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    layers: list[Shape] = [(b, a, 3, 3) for a, b in pairwise(widths)]
    layers += [(4096, 25088), (4096, 4096), (1000, 4096)]
    return [shape for layer in layers for shape in (layer, layer[:1])]


def resnet50() -> list[Shape]:
    """Parameters of ResNet50 for 1000 classes (He, Zhang, Ren & Sun 2016)."""
    convolutions: list[Shape] = [(64, 3, 7, 7)]
    before = 64
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(depth):
            convolutions += [(width, before, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            if block == 0:
                convolutions.append((4 * width, before, 1, 1))
            before = 4 * width
    # a batch norm follows each convolution
    shapes = [shape for c in convolutions for shape in (c, c[:1], c[:1])]
    return [*shapes, (1000, 2048), (1000,)]


def bert_base() -> list[Shape]:
    """Parameters of BERT-base, uncased (Devlin, Chang, Lee & Toutanova 2019)."""
    width, inner = 768, 3072
    norm: list[Shape] = [(width,), (width,)]
    dense: list[Shape] = [(width, width), (width,)]
    layer = [*4 * dense, *norm, (inner, width), (inner,), (width, inner), (width,), *norm]
    return [(30522, width), (512, width), (2, width), *norm, *12 * layer, *dense]


NETWORKS: dict[str, Callable[[], list[Shape]]] = {
    "VGG16": vgg16,
    "ResNet50": resnet50,
    "BERT-base": bert_base,
}
#: Groups of convolutions and of matrices, and the axis that they keep: the paper's, and the contiguous ones.
GROUPINGS: dict[str, tuple[pl.Groups, pl.Groups, int]] = {
    "channels and columns": (pl.Groups.conv("channel"), pl.Groups.over(0), 1),
    "filters and rows": (pl.Groups.conv("filter"), pl.Groups.over(1), 0),
}


class Tensors:
    """Weights with gradients, in half of whose groups both are such that they stay zero.

    Parameters
    ----------
    shapes : sequence of tuple of int
    grouping : str
        Of `GROUPINGS`.
    seed : int
    """

    def __init__(self, shapes: Sequence[Shape], grouping: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        convolution, matrix, kept = GROUPINGS[grouping]
        # vectors are free
        self._groups = [{4: convolution, 2: matrix}.get(len(shape)) for shape in shapes]
        self._weights, self._gradients = [], []
        for shape, groups in zip(shapes, self._groups, strict=True):
            w, g = (scale * rng.standard_normal(shape, dtype=np.float32) for scale in (WEIGHT, GRADIENT))
            if groups is not None:
                zero = np.moveaxis(w, kept, 0), np.moveaxis(g, kept, 0)
                chosen = rng.permutation(shape[kept])[: shape[kept] // 2]
                zero[0][chosen] = 0.0
                zero[1][chosen] *= FAINT
            self._weights.append(torch.from_numpy(w))
            self._gradients.append(torch.from_numpy(g))

    def copies(self) -> list[torch.Tensor]:
        """Parameters with gradients, which are shared."""
        params = [torch.nn.Parameter(w.clone()) for w in self._weights]
        for p, g in zip(params, self._gradients, strict=True):
            p.grad = g
        return list(params)

    def penalised(self) -> tuple[list[torch.Tensor], list[dict[str, object]]]:
        """Parameters, and the same in param groups with a group lasso."""
        params = self.copies()
        members: dict[pl.Groups | None, list[int]] = {}
        for k, groups in enumerate(self._groups):
            members.setdefault(groups, []).append(k)
        made: list[dict[str, object]] = []
        for groups, chosen in members.items():
            made.append({"params": [params[k] for k in chosen], "names": [str(k) for k in chosen]})
            if groups is not None:
                made[-1]["penalty"] = pl.GroupLasso(STRENGTH, groups=groups, weights="sqrt_size")
        return params, made

    def zero_share(self, params: Sequence[torch.Tensor]) -> float:
        """Share of penalised elements that are zero."""
        penalised = [p for p, groups in zip(params, self._groups, strict=True) if groups is not None]
        zeros = sum(int((p == 0).sum()) for p in penalised)
        return float(zeros / sum(p.numel() for p in penalised))


def timed(
    steps: Mapping[str, Callable[[], object]], threads: Sequence[int], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each step with each number of threads, in turn; the first round does not count."""
    before = torch.get_num_threads(), pl.get_num_threads()
    seconds: dict[str, list[float]] = {f"{name}-{count}": [] for count in threads for name in steps}
    try:
        for turn in range(repeats + 1):
            for count in threads:
                torch.set_num_threads(count)
                pl.set_num_threads(count)
                for name, step in steps.items():
                    started = time.perf_counter()
                    step()
                    if turn:
                        seconds[f"{name}-{count}"].append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before[0])
        pl.set_num_threads(before[1])
    return seconds


def _ratios(
    seconds: Mapping[str, Sequence[float]], threads: Sequence[int], pairs: Mapping[str, tuple[str, str]]
) -> dict[str, float]:
    return {
        f"{row}|{count}": float(np.median(np.divide(seconds[f"{over}-{count}"], seconds[f"{under}-{count}"])))
        for row, (over, under) in pairs.items()
        for count in threads
    }


def _per_element(seconds: Mapping[str, Sequence[float]], size: int) -> dict[str, float]:
    return {name: 1e9 * float(np.median(values)) / size for name, values in seconds.items()}


def measure_step(network: str, grouping: str, threads: list[int], repeats: int, seed: int) -> Result:
    """Time ``ProxAdamW.step()`` against PyTorch's AdamW, fused and as it comes."""
    shapes = NETWORKS[network]()
    tensors = Tensors(shapes, grouping, seed)
    params, groups = tensors.penalised()
    steps: dict[str, Callable[[], object]] = {
        "prox": ProxAdamW(groups, lr=LEARNING_RATE).step,
        "fused": torch.optim.AdamW(tensors.copies(), lr=LEARNING_RATE, fused=True).step,
        "default": torch.optim.AdamW(tensors.copies(), lr=LEARNING_RATE).step,
    }
    seconds = timed(steps, threads, repeats)
    across = grouping != "filters and rows"
    fused = "step-fused-columns" if across else "step-fused-rows"
    rows = _ratios(seconds, threads, {fused: ("prox", "fused"), "step-default": ("prox", "default")})
    size = sum(math.prod(shape) for shape in shapes)
    for count in threads:
        least = size * 1e-9 * _roofline(across, count)
        rows[f"step-roofline|{count}"] = float(np.median(seconds[f"prox-{count}"]) / least)
    values = {"rows": rows, "ns per element": _per_element(seconds, size), "elements": size}
    return Result(values | {"zero": tensors.zero_share(params)})


#: Elements of the arrays over which a pass is measured: more than caches hold.
PASS_SIZE = 8_000_000
#: Bytes that a step moves for an element, with groups in rows and across them (docs: performance), and
#: those of the pass that it is held against.
BYTES = {False: 32.0, True: 48.0}
PASS_BYTES = 12.0
#: An update divides once, an evaluation, of which there is one about, and the write; the second pass across
#: rows takes the root of the second moment again.
OPERATIONS = {False: Operations(3.0, 1.0), True: Operations(3.0, 2.0)}


def _roofline(across: bool, threads: int) -> float:
    """Nanoseconds that an element takes at least."""
    x, d, z = (np.ones(PASS_SIZE, np.float32) for _ in range(3))
    call, times = memory_pass(x, d, z, threads), []
    for _ in range(6):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    one = 1e9 * min(times) / PASS_SIZE
    return max(one * BYTES[across] / PASS_BYTES, OPERATIONS[across].nanoseconds("float32", threads))


def measure_kinds(repeats: int) -> Result:
    """Time steps of other layouts, groups and penalties against that of columns, per element; one thread."""
    torch.set_num_threads(1)
    small: list[Shape] = [(64, 64)] * 200
    plain = [torch.nn.Parameter(p.detach().clone()) for p in speed_cases.parameters(small, 1)]
    for p in plain:
        p.grad = torch.full_like(p, GRADIENT)
    steps = {name: speed_cases.STEPS[name] for name in speed_cases.SIZES}
    calls: dict[str, Callable[[], object]] = {name: make() for name, make in steps.items()}
    calls["fused"] = torch.optim.AdamW(plain, lr=LEARNING_RATE, fused=True).step
    seconds = timed(calls, [1], repeats)
    many = np.divide(seconds["step 200 of 64x64-1"], seconds["fused-1"])
    rows, cases = {"step-many|1": float(np.median(many))}, {"step-many|1": "columns"}
    each = {name: 1e9 * float(np.median(seconds[f"{name}-1"])) / n for name, n in speed_cases.SIZES.items()}
    worst = max((each[name] / each["step columns"], name) for name in each)
    rows["step-kinds|1"], cases["step-kinds|1"] = worst[0], f"the slowest, {worst[1].removeprefix('step ')}"
    return Result({"rows": rows, "cases": cases, "ns per element": each})


def measure_proxssi_step(network: str, grouping: str, threads: list[int], repeats: int, seed: int) -> Result:
    """Time ProxSSI's step against ``ProxAdamW.step()``, both on the largest parameter up to a size."""
    candidates = [s for s in NETWORKS[network]() if math.prod(s) <= PROXSSI_SIZE]
    shape = max(candidates, key=math.prod)
    tensors = Tensors([shape], grouping, seed)
    ours, theirs = tensors.penalised(), tensors.penalised()
    steps: dict[str, Callable[[], object]] = {
        "prox": ProxAdamW(ours[1], lr=LEARNING_RATE).step,
        "proxssi": ProxSSI(theirs[1], lr=LEARNING_RATE).step,
    }
    seconds = timed(steps, threads, repeats)
    rows = _ratios(seconds, threads, {"step-proxssi": ("proxssi", "prox")})
    values = {"rows": rows, "ns per element": _per_element(seconds, math.prod(shape))}
    zero = [tensors.zero_share(params) for params, _ in (ours, theirs)]
    return Result(values | {"parameter": list(shape), "zero": zero})
