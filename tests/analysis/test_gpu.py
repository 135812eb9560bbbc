"""The estimates for GPU kernels, and what the commands say where something is missing."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from analysis import gpu_static
from analysis.cli import app
from proxlab.backends.cuda import static

A100, H100 = gpu_static.DEVICES
TAKEN = static.Figures(
    entry=True, registers=134, stack=0, spills=0, shared=32, barriers=1, shuffles=230, grid_barriers=0,
    doubles=968, wide=0, threads=128, ptx="",
)  # fmt: skip


def test_occupancy():
    # 136 registers × 128 threads go three times into 65536; four warps each, of 64.
    assert gpu_static.occupancy(TAKEN, A100) == 12 / 64
    assert gpu_static.occupancy(replace(TAKEN, registers=40, threads=256), A100) == 48 / 64
    assert gpu_static.occupancy(replace(TAKEN, registers=32), A100) == 1.0
    # 41 KiB of shared memory with what is reserved: three in 164 KiB, five in 228 KiB.
    tile = replace(TAKEN, registers=64, shared=40992)
    assert gpu_static.occupancy(tile, A100) == 12 / 64
    assert gpu_static.occupancy(tile, H100) == 20 / 64


def test_the_slowest_of_three_decides():
    family = static.FAMILIES["warp"]
    counts = {"sums": 11.0, "products": 17.0, "quotients": 1.0, "passes": 5.0}
    p = gpu_static.predict(family, counts, TAKEN, H100)
    assert p.memory == pytest.approx(12 / 3.35)
    assert p.arithmetic == pytest.approx(27 / 16.75)
    assert p.latency == pytest.approx((480 + 4 * 265) / 1.98e-3 / (12 * 32 * 4 * 132))
    assert p.share == p.memory / p.latency < 1
    assert gpu_static.Prediction(3.0, 2.0, 1.0).share == 1.0


def test_tables_go_between_their_marks(tmp_path, monkeypatch):
    document = tmp_path / "gpu.md"
    document.write_text("before\n<!-- figures: begin -->\nold\n<!-- figures: end -->\nafter\n")
    monkeypatch.setattr(gpu_static, "tables", lambda _: {"figures": "| new |\n"})
    for _ in range(2):
        gpu_static.write(print, document)
        text = "before\n<!-- figures: begin -->\n\n| new |\n\n<!-- figures: end -->\nafter\n"
        assert document.read_text() == text


@pytest.mark.skipif(not static.missing(), reason="what a build needs is installed")
def test_gpu_static_says_what_is_missing():
    done = CliRunner().invoke(app, ["gpu-static"])
    assert done.exit_code == 1
    assert "numba-cuda[cu13]" in done.output


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_speed_on_a_gpu_says_what_is_missing():
    done = CliRunner().invoke(app, ["speed", "--backend", "cuda"])
    assert done.exit_code == 1
    assert "CuPy is not installed" in done.output
    assert "pip install 'proxlab[cuda13]'" in done.output
