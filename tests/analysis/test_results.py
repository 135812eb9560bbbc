"""Units of work are stored whole, found again, and recomputed when what they depend on has changed."""

import json
import sys

import numpy as np
import pytest
from rich.console import Console

from analysis import results
from analysis.results import MissingResultsError, Profile, Progress, Record, ResultsDir

CALLS = []


def square(number, seed=0):
    CALLS.append(number)
    if number < 0:
        raise ValueError("negative")
    return Record({"square": number**2}, {"row": np.full(number, seed)})


@pytest.fixture
def progress():
    CALLS.clear()
    return Progress(Console(file=sys.stderr, quiet=True))


def compute(directory, units, progress, profile=None, workers=1):
    with directory.study("squares", profile or Profile()) as study:
        study.run(square, units, progress, "squares", workers=workers)
    return study


def test_values_and_arrays_come_back_in_order(tmp_path, progress):
    directory = ResultsDir(tmp_path)
    compute(directory, {"b": {"number": 3, "seed": 7}, "a": {"number": 2}}, progress)
    stored = directory.read("squares")
    assert [unit.name for unit in stored.units] == ["b", "a"]
    assert stored.unit("b").values == {"square": 9}
    assert stored.unit("b").parameters == {"number": 3, "seed": 7}
    np.testing.assert_array_equal(stored.unit("b").arrays["row"], [7, 7, 7])
    assert stored.complete
    assert stored.command == "python -m analysis squares --profile quick"


def test_a_rerun_computes_only_what_is_new_or_changed(tmp_path, progress):
    directory = ResultsDir(tmp_path)
    compute(directory, {"a": {"number": 2}, "b": {"number": 3}}, progress)
    study = compute(directory, {"a": {"number": 2}, "b": {"number": 4}, "c": {"number": 5}}, progress)
    assert CALLS == [2, 3, 4, 5]
    assert (study.computed, study.skipped) == (2, 1)
    assert directory.read("squares").unit("b").values == {"square": 16}


def test_other_sources_make_results_stale(tmp_path, progress, monkeypatch):
    directory = ResultsDir(tmp_path)
    compute(directory, {"a": {"number": 2}}, progress)
    monkeypatch.setattr(results, "_source_digest", lambda modules: "other")
    compute(directory, {"a": {"number": 2}}, progress)
    assert CALLS == [2, 2]


def test_an_interrupted_study_goes_on_where_it_stopped(tmp_path, progress):
    directory = ResultsDir(tmp_path)
    with pytest.raises(ValueError, match="negative"):
        compute(directory, {"a": {"number": 2}, "b": {"number": -1}, "c": {"number": 3}}, progress)
    stored = directory.read("squares")
    assert not stored.complete
    assert [unit.name for unit in stored.units] == ["a"]
    compute(directory, {"a": {"number": 2}, "c": {"number": 3}}, progress)
    assert CALLS == [2, -1, 3]
    assert directory.read("squares").complete


def test_units_of_an_earlier_run_do_not_leak_into_a_later_one(tmp_path, progress):
    directory = ResultsDir(tmp_path)
    compute(directory, {"a": {"number": 2}, "b": {"number": 3}}, progress)
    compute(directory, {"b": {"number": 3}}, progress)
    assert [unit.name for unit in directory.read("squares").units] == ["b"]


def test_the_record_names_versions_machine_and_seed(tmp_path, progress):
    directory = ResultsDir(tmp_path)
    compute(directory, {"a": {"number": 2}}, progress, Profile(seed=5, threads=1))
    record = json.loads((tmp_path / "squares" / "study.json").read_text())
    assert record["environment"]["seed"] == 5
    assert record["environment"]["packages"]["numpy"] == np.__version__
    assert {"cpu", "cores", "threads", "commit", "python", "finished"} <= record["environment"].keys()
    assert record["command"].endswith("--seed 5")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    results.write_atomically(path, "old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(results.os, "replace", full)
    with pytest.raises(OSError, match="disk full"):
        results.write_atomically(path, "new")
    with pytest.raises(OSError, match="disk full"):
        results.write_arrays(tmp_path / "file.npz", {"a": np.ones(3)})
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.json"]


def test_arrays_cut_off_from_their_head_are_not_taken_for_results(tmp_path, progress, monkeypatch):
    directory = ResultsDir(tmp_path)
    compute(directory, {"a": {"number": 2}}, progress)
    real = results.write_atomically

    def cut(path, content):
        if path.name == "a.json":
            raise OSError("cut")
        real(path, content)

    monkeypatch.setattr(results, "write_atomically", cut)
    with pytest.raises(OSError, match="cut"):
        compute(directory, {"a": {"number": 3}}, progress)
    monkeypatch.undo()
    compute(directory, {"a": {"number": 2}}, progress)
    np.testing.assert_array_equal(directory.read("squares").unit("a").arrays["row"], [0, 0])
    assert CALLS == [2, 3, 2]


def test_reading_what_was_never_run_says_what_to_run(tmp_path):
    with pytest.raises(MissingResultsError, match="run python -m analysis bounds"):
        ResultsDir(tmp_path).read("bounds")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "huge"}, "profile must be 'quick' or 'full', got 'huge'"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_a_bad_profile_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Profile(**arguments)
