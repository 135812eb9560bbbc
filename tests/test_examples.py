"""The gallery's examples run, and so do the three jobs of the README. `make docs` runs all examples."""

import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import proxlab as pl

plt = pytest.importorskip("matplotlib.pyplot")
study = pytest.importorskip("proxlab.study")

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "docs/examples").glob("plot_*.py"))
#: Those that take seconds; the others compile root finders, start processes or train.
QUICK = ["plot_1_validate", "plot_5_paper", "plot_7_memory_maps"]


@pytest.fixture(autouse=True)
def off_screen(monkeypatch):
    plt.switch_backend("Agg")
    monkeypatch.setattr(plt, "show", lambda: None)
    yield
    plt.close("all")


@pytest.mark.parametrize("name", QUICK)
def test_an_example_runs(name):
    if name == "plot_1_validate":
        pytest.importorskip("sklearn")
    names = runpy.run_path(str(ROOT / f"docs/examples/{name}.py"), run_name="__main__")
    if name == "plot_1_validate":  # what its text says
        counts = names["validation"].tightness.set_index("bound")["violations"]
        assert counts["residual / mean d"] > 0
        assert counts["residual / min d"] == counts["distance"] == 0
    if name == "plot_5_paper":
        table = names["comparison"].table.set_index(["solver", "dtype"])["error, p99"]
        assert table["unweighted", "float64"] > 1e-3 > 1e-12 > table["proxlab", "float64"]
    if name == "plot_7_memory_maps":
        assert names["found"].decided
    assert plt.get_fignums() or name == "plot_7_memory_maps"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_page(path):
    text = path.read_text("utf-8")
    docstring = re.match(r'r?"""\n(.+)\n(=+)\n\n', text)
    assert docstring
    assert len(docstring[1]) == len(docstring[2])
    compile(text, str(path), "exec")


def test_the_three_jobs_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    problem = study.Problem("p", rng.normal(size=(6, 4)), 0.5, rng.lognormal(size=(6, 4)), pl.GroupLasso(1.0))
    study.save("captured.npz", [problem])

    def my_prox(h, x, step, metric=None):
        return pl.prox(h, x, step, metric=metric) * 1.001

    def my_bound(h, z, x, step, metric=None):
        return np.full(len(x), 1.0)

    class MyLoss:
        def value_and_grad(self, w, batch=None):
            return 0.5 * float(((w - 1) ** 2).sum()), w - 1

    text = (ROOT / "README.md").read_text("utf-8").partition("## Ten lines")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    names = {"study": study, "pl": pl, "my_prox": my_prox, "my_bound": my_bound}
    names |= {"my_loss": MyLoss(), "w0": np.zeros((3, 2))}
    for block in blocks:
        assert len(block.splitlines()) <= 3
        exec(block.replace("range(5)", "range(1)"), names)
    assert names["v"].violations.empty
    assert names["c"].failures.empty
    assert names["r"].failures.empty


@pytest.mark.parametrize("name", ["validate", "compare", "converge"])
def test_a_picture_of_the_readme_is_there_and_small(name):
    path = f"docs/_static/{name}.svg"
    assert path in (ROOT / "README.md").read_text("utf-8")
    assert 1_000 < os.path.getsize(ROOT / path) < 150_000
