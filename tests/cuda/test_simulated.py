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
    "memory": {"solve_groups lanes gathered 2", "solve_tile lanes contiguous 2"},
}


#: Families that take longer, and whose kernels others reach too.
LONGER = {"penalties", "finders", "extremes", "giants", "memory"}


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[pytest.mark.kernels] if f in LONGER else []) for f in REACHES]
)
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


@pytest.mark.kernels
@pytest.mark.torch
def test_torch_tensors_take_the_same_kernels():
    pytest.importorskip("torch")
    for case in run("tensors"):
        assert case["good"], case


def test_planted_faults_are_found():
    expected = {
        "index beyond the group": "out of bounds",
        "negative index": "out of bounds",
        "lanes of another team": "not in the mask",
    }
    for case in run("planted"):
        assert expected.get(case["case"], "") in case["found"], case
        assert case["found"], case
