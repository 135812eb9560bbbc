"""The fused step on a GPU in numba's CUDA simulator, against plain steps (docs/gpu.md)."""

import pytest

from tests.cuda.test_simulated import run

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
@pytest.mark.kernels
def test_fused_steps_agree_with_plain_ones():
    pytest.importorskip("torch")
    cases = {case["case"]: case for case in run("steps")}
    first, *rest = cases.pop("what is not finite")["said"]
    assert "its gradient must be finite" in first
    assert rest[:2] == ["", ""]
    assert "in the step before" in rest[2]
    for name in [name for name in cases if "left" in cases[name]]:
        said = cases.pop(name)["left"]
        assert said[:2] == ["", ""]
        assert "in the step before" in said[2], name
    planted = [cases.pop(name) for name in list(cases) if "found" in cases[name]]
    assert len(planted) == 2
    assert all(case["found"] for case in planted), planted
    for name, case in cases.items():
        assert case["apart"] <= case["most"], (name, case)
        assert case["other"] <= 0.02, (name, case)
    assert sum(0.0 < case["zeros"] < 1.0 for case in cases.values()) >= 8
    assert set().union(*(case["kernels"] for case in cases.values())) >= FUSED
