"""The page holds every plot, caption, command, table and finding, and asks for nothing outside itself."""

import base64
import re
import sys
import types

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis import plotting, report
from analysis.report import Finding, Plot, Section, Table, Text
from analysis.results import MissingResultsError, Profile, Progress, Record, ResultsDir

FRAME = pd.DataFrame({"solver": ["a", "b"], "error": [1.25e-9, np.nan], "count": [0, 3]})


def measure(n):
    return Record({}, {"y": np.arange(float(n))})


def section(results):
    (unit,) = results.read("toy").units
    figure = plotting.new_figure(height=2.0)
    figure.subplots().plot(unit.arrays["y"], color=plotting.PALETTE[0])
    return Section(
        title="A toy & its study",
        lead="Is <i>this</i> shown?",
        findings=[Finding("42 %", "of something.", "good")],
        items=[
            Text("One.\n\nTwo.", "In words"),
            Plot("line", "The line", "It rises by < 1 a step.", figure),
            Table(
                "rows", "The rows", "Two of them.", FRAME, {"error": "{:.0e}"}, bad={"count": lambda n: n > 0}
            ),
        ],
    )


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_study", types.SimpleNamespace(section=section))
    directory = ResultsDir(tmp_path)
    with directory.study("toy", Profile(seed=3)) as study:
        study.run(measure, {"u": {"n": 5}}, Progress(Console(file=sys.stderr, quiet=True)), "toy")
    path = report.build(directory, {"toy": "toy_study", "other": "not_imported"})
    return path.read_text()


def test_everything_is_on_the_page(page):
    assert "A toy &amp; its study" in page
    assert "Is <i>this</i> shown?" in page
    assert "<b>42 %</b>of something." in page
    assert "<p>Two.</p>" in page
    assert "It rises by &lt; 1 a step." in page
    assert page.count("python -m analysis toy --profile quick --seed 3") == 3
    assert "Not run yet: other." in page
    assert Profile().name in page


def test_contents_lead_to_every_plot_and_table(page):
    anchors = set(re.findall(r'href="#([^"]+)"', page.partition("<main")[0]))
    assert anchors >= {"toy", "toy-line", "toy-rows", "toy-in-words", "record"}
    assert all(f'id="{anchor}"' in page for anchor in anchors)


def test_tables_are_shown_rounded_and_stored_unrounded(page, tmp_path):
    assert ">1e-09<" in page
    assert ">–<" in page
    assert '<td class="number bad">3</td>' in page
    stored = (tmp_path / "tables" / "toy-rows.csv").read_text()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "tables" / "toy-rows.csv"), FRAME)
    embedded = re.search(r"data:text/csv;base64,([A-Za-z0-9+/=]+)", page).group(1)
    assert base64.b64decode(embedded).decode() == stored


def test_the_page_loads_nothing_from_elsewhere(page):
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "@import" not in page
    assert "url(http" not in page


def test_figures_follow_the_theme_and_keep_their_ids_apart(page):
    svg = re.search(r"<svg.*?</svg>", page, re.DOTALL).group(0)
    assert "var(--series-0)" in svg
    assert "var(--ink)" in svg
    assert plotting.PALETTE[0] not in svg
    assert all(name.startswith("toy-line-") for name in re.findall(r'\bid="([^"]+)"', svg))
    assert not re.search(r'<svg[^>]* (width|height)="', svg)
    assert "viewBox" in svg


def test_both_palettes_have_a_colour_for_every_series():
    assert (
        len(plotting.PALETTE) == len(plotting.DARK_PALETTE) == len(plotting.MARKERS) == len(plotting.DASHES)
    )


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(MissingResultsError, match="run python -m analysis all"):
        report.build(ResultsDir(tmp_path))
    assert not (tmp_path / "index.html").exists()
