"""The page holds every plot, caption, command, table and finding, and asks for nothing outside itself."""

import base64
import itertools
import re
import sys
import types

import numpy as np
import pandas as pd
import pytest

from analysis import record, report
from analysis.results import MissingResultsError, Profile, ResultsDir
from proxlab.study import Folder, Result, Unit, style
from proxlab.study.page import (
    Finding,
    Plot,
    Section,
    Table,
    Text,
    _breakable,
    read_part,
    write_page,
)

FRAME = pd.DataFrame({"solver": ["a", "b"], "error": [1.25e-9, np.nan], "count": [0, 3]})


def measure(n):
    return Result({}, {"y": np.arange(float(n))})


def section(results):
    (unit,) = results.read("toy").units
    figure = style.new_figure(height=2.0)
    figure.subplots().plot(unit.arrays["y"], color=style.PALETTE[0])
    return Section(
        title="A toy & its study",
        lead="Is <i>this</i> shown?",
        findings=[Finding("42 %", "of something.", "good", "≥ 40 %")],
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
    directory.run("toy", Profile(seed=3), [Unit("u", measure, {"n": 5})])
    path = report.build(directory, {"toy": "toy_study", "other": "not_imported"})
    return path.read_text()


def test_everything_is_on_the_page(page):
    assert "A toy &amp; its study" in page
    assert "Is <i>this</i> shown?" in page
    assert "<b>42 % <small>target ≥ 40 %</small></b>of something." in page
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
    assert style.PALETTE[0] not in svg
    assert all(name.startswith("toy-line-") for name in re.findall(r'\bid="([^"]+)"', svg))
    assert not re.search(r'<svg[^>]* (width|height)="', svg)
    assert "viewBox" in svg


def test_both_palettes_have_a_colour_for_every_series():
    assert len(style.PALETTE) == len(style.DARK_PALETTE) == len(style.MARKERS) == len(style.DASHES)


def test_figures_and_tables_can_be_taken_from_the_page(page, tmp_path):
    svg = (tmp_path / "figures" / "toy-line.svg").read_bytes()
    pdf = (tmp_path / "figures" / "toy-line.pdf").read_bytes()
    assert style.PALETTE[0].encode() in svg
    assert pdf.startswith(b"%PDF")
    for kind, content in (("image/svg+xml", svg), ("application/pdf", pdf)):
        assert f"data:{kind};base64,{base64.b64encode(content).decode()}" in page
    assert page.count("Download <a") == 2


def small_page(tmp_path, make, units=(), missing=()):
    """A page of a study whose section `make` draws, after a run that stored some units of it."""
    folder = Folder(tmp_path / "toy")
    folder.save({name: Result() for name in units})
    folder.write_index([*units, *missing], complete=not missing)
    part = read_part("toy", folder.read(), make)
    return write_page(tmp_path, [part], title="Toy", lead="").read_text()


def test_a_table_of_zeros_is_a_sentence(tmp_path):
    def make(count):
        frame = pd.DataFrame({"solver": ["a", "b"], "count": [0, count]})
        table = Table("t", "T", "", frame, bad={"count": bool}, zeros="None of 2 failed.")
        return Section("Toy", "", [], [table])

    zero = small_page(tmp_path, lambda: make(0))
    assert "None of 2 failed." in zero
    assert "<td" not in zero
    assert len(pd.read_csv(tmp_path / "tables" / "toy-t.csv")) == 2
    other = small_page(tmp_path, lambda: make(1))
    assert "None of 2 failed." not in other
    assert '<td class="number bad">1</td>' in other


def test_a_page_is_written_after_an_interruption(tmp_path):
    def make():
        raise MissingResultsError("the study 'toy' holds no unit 'b'")

    page = small_page(tmp_path, make, ["a"], ["b"])
    assert "1 of 2 units are here" in page
    assert "has not been computed" in page
    with pytest.raises(MissingResultsError):  # of a whole study, it would be a fault
        small_page(tmp_path, make, ["a", "b"])


@pytest.mark.parametrize("count", [2, 9])
def test_labels_at_the_ends_of_lines_do_not_touch(count):
    figure = style.new_figure()
    ax = figure.subplots()
    for k in range(count):
        ax.plot([0, 1], [0, 1 + 0.001 * k], label=f"line {k}")
    ax.set_xlim(0, 1)
    figure.canvas.draw()
    style.label_ends(ax)
    figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert len(boxes) == count
    assert all(low.y1 <= high.y0 + 1.5 for low, high in itertools.pairwise(boxes))
    assert boxes[-1].y1 <= ax.get_window_extent().y1 + boxes[-1].height


def test_a_page_of_nothing_is_refused(tmp_path):
    with pytest.raises(MissingResultsError, match="run python -m analysis all"):
        report.build(ResultsDir(tmp_path))
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("metric_distance, p99", "metric_<wbr>distance, p99"),
        ("digits-mlp", "digits-<wbr>mlp"),
        ("strength λ of a group, multinomial", "strength λ of a group, multinomial"),
        ("certificates", "certificates"),
        ("<b>", "&lt;b&gt;"),
        ("x" * 30, "x" * 24 + "<wbr>" + "x" * 6),
    ],
)
def test_words_of_a_table_are_broken_only_where_they_may(text, shown):
    assert str(_breakable(text)) == shown


def test_record_holds_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.setitem(report.STUDIES, "toy", "toy_study")
    monkeypatch.setattr(record, "PLOTS", ("line",))
    directory = ResultsDir(tmp_path)
    text = record.keep("toy", directory, tmp_path / "records").read_text()
    stored = directory.read("toy")
    assert "* **42 %** of something. *(goal ≥ 40 %; reached)*" in text
    assert "Is *this* shown?" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines == [
        "| solver | error | count |",
        "| --- | ---: | ---: |",
        "| a | 1e-09 | 0 |",
        "| b | – | **3** |",
    ]
    assert stored.command in text
    assert stored.environment["commit"] in text
    assert stored.environment["finished"][:10] in text
    assert "![The line](toy-quick-line.svg)" in text
    assert (tmp_path / "records" / "toy-quick-line.svg").read_text().startswith("<?xml")


def test_record_of_an_unfinished_study_is_refused(page, tmp_path):
    directory = ResultsDir(tmp_path)
    (tmp_path / "toy" / "units" / "u.json").unlink()
    with pytest.raises(MissingResultsError, match=r"0 of 1 units of the study 'toy' \(u"):
        record.keep("toy", directory, tmp_path / "records")
    assert not (tmp_path / "records").exists()
