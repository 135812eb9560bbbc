"""What every GPU kernel takes on two architectures, built without a GPU."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

import proxlab as pl
from proxlab.backends.cuda import static
from proxlab.optim import fused_cuda, updates

LACKING = static.missing()
needs_tools = pytest.mark.skipif(bool(LACKING), reason=f"needs {LACKING}: make gpu-static")

#: Reductions over a team in a kernel: of three sums, of a double-double, of a maximum; and the numbers that
#: a lane exchanges in one step of all of them (the ℓ∞ norm's slope has no third sum).
SITES = {
    "explained": (7, 1, 1),
    "float64": (6, 1, 12),
    "soft threshold": (6, 1, 12),
    "three pieces": (8, 1, 0),
}
EXCHANGED = {"elements": 0, "maximum norm": 15}


@needs_tools
@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", static.FAMILIES)
def test_kernels_are_as_designed(name, cc):
    family = static.FAMILIES[name]
    launch = family.launch()
    taken, variant = static.figures(launch, cc), launch.variant
    assert taken.entry
    # A block, and lanes of a tile, that are kept to fewer registers than they would take put a few numbers
    # aside; and the runtime's barrier of the grid keeps its return address.
    kept = variant.team == "block" or variant.kernel == "solve_tile"
    assert taken.spills <= (128 if kept else 0)
    assert taken.stack <= (16 if variant.team == "grid" else 48 if kept else 0)
    assert ".local" not in taken.ptx
    # Divisions and roots are rounded correctly, and nothing is flushed to zero.
    assert not re.search(r"\.approx|\.ftz", taken.ptx)
    assert taken.registers * launch.threads <= 65536
    # Three blocks of 128 threads fit beside each other with 168 registers; several pieces, what an explained
    # result keeps and groups in runs take a few more, and leave two.
    most = 208 if family.explain or name in ("three pieces", "strided") else 168
    assert taken.registers <= {"lanes": most, "block": 128}.get(variant.team, 255)
    # What a block has without asking for more.
    assert taken.shared <= 49152
    if family.dtype == "float32":
        # Only steps and weights are wide, what is written for an explained result, and what blocks tell each
        # other; the loop over elements is unrolled.
        steps = 5 if name == "elements" else 2
        assert taken.wide <= steps + (3 if family.explain else 0) or variant.team == "grid"
    three, double, one = SITES.get(name, (7, 1, 0))
    exchanged = EXCHANGED.get(name, 3 * three + 2 * double + one)
    # A block adds up, and the grid adds up its blocks' sums; a number of 64 bits takes two shuffles.
    rounds = 2 if variant.team == "grid" else 1
    assert taken.shuffles == 2 * rounds * math.log2(variant.width) * exchanged
    sites = three + double + one
    table = 0 if name == "elements" else 1
    assert (
        taken.barriers
        == {
            "lanes": table + (2 if variant.kernel == "solve_tile" else 0),
            "block": table + 2 * sites,
            "grid": table + 4 * sites,
        }[variant.team]
    )
    assert taken.grid_barriers == (2 * sites if variant.team == "grid" else 0)


RULE = updates.ADAM, updates.Moments
AVERAGED = updates.RAMDA, updates.Averages, True, True


@needs_tools
@pytest.mark.parametrize(
    ("dtype", "cc"), [("float32", (8, 0)), ("float32", (9, 0)), ("float64", (9, 0))], ids=str
)
@pytest.mark.parametrize("form", [*fused_cuda.ROWS, *fused_cuda.COLUMNS], ids=str)
def test_fused_steps_are_as_designed(form, dtype, cc):
    lies = "column" if form.side_by_side else "whole"
    kernel = fused_cuda.Kernel("step_groups", *RULE, dtype=dtype, form=form, lies=lies)
    taken = static.inspected(
        fused_cuda.device_source(kernel), step_arguments(kernel), cc, kernel.registers, form.threads
    )
    assert taken.entry
    assert not re.search(r"\.approx|\.ftz", taken.ptx)
    assert taken.registers * form.threads <= 65536
    assert taken.shared <= 49152
    # No loop over what a thread holds of its group is left, which would keep it in memory.
    assert ".local" not in taken.ptx or form.held > 16
    if dtype == "float32":
        # What is read of the penalty's pieces and of the numbers of a step, and no element.
        assert taken.wide < 140
    # Two for each of three sums; besides, all threads of a block ask whether to go on.
    assert taken.barriers == (0 if form.rows <= 32 and not form.side_by_side else 6)


@needs_tools
@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", ["step_elements", "finish_groups"])
def test_the_rest_of_a_fused_step(name, cc):
    kernel = fused_cuda.Kernel(name, *RULE, count=3)
    function = fused_cuda.device_source(kernel)
    taken = static.inspected(function, step_arguments(kernel), cc, None, fused_cuda.FINISHING)
    assert taken.entry
    assert taken.spills == taken.stack == 0
    assert ".local" not in taken.ptx
    assert taken.doubles == 0 or name == "finish_groups"


@needs_tools
@pytest.mark.parametrize("cc", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("name", ["step_rows", "step_columns", "step_elements", "finish_groups"])
def test_averages_of_weights(name, cc):
    """What is kept of the old weights is read where the new ones are written, and takes nothing."""
    form, lies = {
        "step_rows": (fused_cuda.ROWS[4], "whole"), "step_columns": (fused_cuda.COLUMNS[2], "column")
    }.get(name, (fused_cuda.Form(1, 1, 1), "whole"))  # fmt: skip
    found = {}
    for rule in (AVERAGED, (*AVERAGED[:3], False)):
        kernel = fused_cuda.Kernel(
            "step_groups" if form.rows > 1 else name, *rule, form=form, lies=lies, count=2
        )
        threads = form.threads if form.rows > 1 else fused_cuda.FINISHING
        function = fused_cuda.device_source(kernel)
        found[rule[3]] = static.inspected(function, step_arguments(kernel), cc, kernel.registers, threads)
    for taken in found.values():
        assert taken.entry
        # A cube root is long: over columns the loops around it stay.
        assert ".local" not in taken.ptx or name == "step_columns"
    assert found[True].barriers == found[False].barriers
    assert found[True].stack <= found[False].stack + 16


def step_arguments(kernel):
    """Arguments of a kernel's types; those of the pass are float64 and tables of int."""
    table, numbers, marks = np.zeros((2, 13), np.int64), np.zeros(18), np.zeros(3, np.int32)
    pieces = np.zeros((kernel.count, 7))
    return {
        "step_groups": (table, numbers, marks, numbers, pieces),
        "step_elements": (table, marks, numbers),
        "finish_groups": (table, numbers, marks, marks, numbers, pieces),
    }[kernel.name]


@needs_tools
def test_float64_is_not_accidental():
    """Where all is float64 anyway, nothing is converted; the elementwise kernel divides once an element."""
    assert "cvt.f64.f32" not in static.figures(static.FAMILIES["float64"].launch(), (9, 0)).ptx
    elements = static.figures(static.FAMILIES["elements"].launch(), (9, 0))
    assert elements.ptx.count("div.rn.f64") == elements.ptx.count("st.global.f32") > 0


def test_every_kernel_is_built():
    built = {(v.kernel, v.team, v.index) for v in (f.launch().variant for f in static.FAMILIES.values())}
    assert built >= {
        ("shrink_elements", "lanes", "contiguous"),
        ("solve_groups", "lanes", "contiguous"),
        ("solve_groups", "block", "contiguous"),
        ("solve_groups", "grid", "contiguous"),
        ("solve_groups", "lanes", "strided"),
        ("solve_groups", "lanes", "gathered"),
        ("solve_tile", "lanes", "contiguous"),
    }
    assert {f.launch().variant.width for f in static.FAMILIES.values()} == {1, 2, 16, 32}


def test_operations_are_counted():
    """One pass for zero groups, one more for the write, and one for each evaluation in between."""
    family = static.FAMILIES["warp"]
    counts = static.operations(family)
    rng = np.random.default_rng(0)
    x, d = rng.normal(size=(1, 512)), np.exp(rng.normal(size=(1, 512)))
    step = 0.5 * float(np.linalg.norm(d * x))
    finder = pl.Newton(rtol=2.0**-30)
    solution = pl.solve(pl.GroupLasso(1.0), x, step, metric=d, root_finder=finder, backend="array_api")
    assert counts["passes"] == 2 + int(solution.evaluations[0])
    # Double precision divides in the one pass that it makes, and single precision in the others.
    assert 1.0 <= counts["quotients"] < 1.2
    assert static.operations(static.FAMILIES["float64"])["quotients"] > 3.0


def test_the_tables_are_of_these_kernels():
    text = (Path(__file__).parents[2] / "docs" / "gpu.md").read_text()
    for table in ("figures", "prediction"):
        part = text[text.index(f"<!-- {table}: begin -->") : text.index(f"<!-- {table}: end -->")]
        rows = re.findall(r"^\| ([^|]+) \|", part, flags=re.MULTILINE)
        assert rows[2:] == list(static.FAMILIES), "python -m analysis gpu-static"
