"""The GPU kernels in numba's CUDA simulator: every family against the array form, and faults that are found.

The simulator has to be chosen before numba is imported, so each family runs in a process of its own; what the
simulator cannot say is listed in docs/gpu.md.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba.cuda.simulator")
ROOT = Path(__file__).parents[2]


def run(family):
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.cuda.simulate", family]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert cases
    return cases


#: Which kernels a family has to reach, in the words of the simulation.
REACHES = {
    "penalties": {
        "shrink_elements lanes contiguous 1",
        "solve_groups lanes contiguous 1",
        "solve_groups lanes contiguous 2",
        "solve_groups lanes contiguous 4",
        "solve_groups block contiguous 4",
    },
    "finders": {"solve_groups lanes contiguous 4"},
    "layouts": {
        "solve_groups lanes strided 4",
        "solve_groups block strided 4",
        "solve_groups lanes gathered 1",
        "solve_groups lanes gathered 4",
        "solve_groups block gathered 4",
        "solve_groups grid gathered 4",
        "solve_tile lanes contiguous 2",
        "solve_tile lanes contiguous 4",
    },
    "giants": {"solve_groups grid contiguous 4"},
    "extremes": {"solve_groups block contiguous 4", "solve_groups grid contiguous 4"},
    "memory": {"solve_groups lanes gathered 2", "solve_tile lanes contiguous 4"},
}


@pytest.mark.parametrize("family", REACHES)
def test_kernels_agree_with_the_array_form(family):
    cases = run(family)
    for case in cases:
        assert case["error"] <= case["bound"], case
        for what in ("status", "brackets", "plain", "kept"):
            assert case[what], f"{what}: {case}"
    assert set().union(*(case["kernels"] for case in cases)) >= REACHES[family]


def test_invalid_values_are_named_and_contained():
    for case in run("invalid"):
        assert case["message"].startswith(case["what"] + ": "), case
        assert case["contained"], case


@pytest.mark.torch
def test_torch_tensors_take_the_same_kernels():
    pytest.importorskip("torch")
    for case in run("tensors"):
        assert case["good"], case


#: Kernels of the fused step, how groups lie, whether side by side, and threads of a group, that cases reach.
FUSED = {
    "step_elements whole False 256",
    "finish_groups whole False 256",
    *(f"step_groups whole False {rows}" for rows in (1, 4, 32, 64)),
    *(f"step_groups column True {rows}" for rows in (2, 8, 32)),
    "step_groups runs False 32",
    "step_groups runs True 8",
}


@pytest.mark.torch
def test_fused_steps_agree_with_plain_ones():
    pytest.importorskip("torch")
    cases = {case["case"]: case for case in run("steps")}
    first, *rest = cases.pop("what is not finite")["said"]
    assert "its gradient must be finite" in first
    assert rest[:2] == ["", ""]
    assert "in the step before" in rest[2]
    planted = [cases.pop(name) for name in list(cases) if "found" in cases[name]]
    assert len(planted) == 2
    assert all(case["found"] for case in planted), planted
    for name, case in cases.items():
        assert case["apart"] <= (1e-14 if name == "float64" else 1e-6), case
        assert 0.0 <= case["zeros"] < 1.0, case
    assert sum(case["zeros"] > 0.0 for case in cases.values()) >= 8
    assert set().union(*(case["kernels"] for case in cases.values())) == FUSED


def test_planted_faults_are_found():
    expected = {
        "index beyond the group": "out of bounds",
        "negative index": "out of bounds",
        "lanes of another team": "not in the mask",
    }
    for case in run("planted"):
        assert expected.get(case["case"], "") in case["found"], case
        assert case["found"], case
