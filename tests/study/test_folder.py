"""A folder of results: written whole or not at all, found again, healed where it is damaged, locked."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxlab.study import Folder, FolderError, MissingResultsError, Result, Unit, run_units, unit_name
from proxlab.study import folder as folders
from tests.study.units import counted, square


def units(calls, *numbers):
    return [Unit(f"n{n}", counted, {"number": n, "calls": str(calls)}) for n in numbers]


def run(path, *numbers):
    """Compute units; the results, and which numbers were computed."""
    calls = path.parent / "calls"
    calls.write_text("")
    found = run_units(units(calls, *numbers), folder=path, workers=1, progress=False)
    return found, [int(line) for line in calls.read_text().split()]


def test_what_is_stored_is_not_computed_again(tmp_path):
    first, computed = run(tmp_path / "out", 3, 1)
    assert computed == [3, 1]
    again, computed = run(tmp_path / "out", 3, 2, 1)
    assert computed == [2]
    assert list(again) == ["n3", "n2", "n1"]
    assert again["n3"].values == first["n3"].values == {"square": 9}
    np.testing.assert_array_equal(again["n3"].arrays["row"], first["n3"].arrays["row"])
    stored = Folder(tmp_path / "out").read()
    assert stored.complete
    assert [unit.name for unit in stored.units] == ["n3", "n2", "n1"]
    assert stored.unit("n2").parameters["number"] == 2
    assert stored.environment["packages"]["numpy"] == np.__version__


def test_other_arguments_or_code_make_a_unit_stale(tmp_path):
    found = []
    for seed, scale in ((1, 2), (2, 2), (2, 3)):
        scope = {"Result": Result}
        exec(f"def f(seed): return Result({{'v': seed * {scale}}})", scope)
        unit = Unit("u", scope["f"], {"seed": seed})
        found.append(run_units([unit], folder=tmp_path, progress=False)["u"].values["v"])
    assert found == [2, 4, 6]


@given(damage=st.sampled_from(["cut", "empty", "flip", "gone", "not a dict"]), npz=st.booleans())
def test_a_damaged_unit_is_named_and_computed_again(tmp_path_factory, damage, npz):
    path = tmp_path_factory.mktemp("damaged") / "out"
    good, _ = run(path, 4, 5)
    file = path / "units" / ("n4.npz" if npz else "n4.json")
    data = file.read_bytes()
    match damage:
        case "cut":
            file.write_bytes(data[:50])
        case "empty":
            file.write_bytes(b"")
        case "flip":
            file.write_bytes(data[:60] + bytes([data[60] ^ 255]) + data[61:])
        case "gone":
            file.unlink()
        case "not a dict":
            file.write_bytes(b"[]")
    if damage == "gone" and not npz:  # as if it had never been computed
        healed, computed = run(path, 4, 5)
    else:
        with pytest.warns(RuntimeWarning, match=r"stored unit n4 .*computed again"):
            healed, computed = run(path, 4, 5)
    assert computed == [4]
    np.testing.assert_array_equal(healed["n4"].arrays["row"], good["n4"].arrays["row"])
    assert run(path, 4, 5)[1] == []


def test_what_is_there_can_be_read_after_an_interruption(tmp_path, monkeypatch):
    def interrupt(number):
        raise KeyboardInterrupt

    todo = [Unit("a", square, {"number": 2}), Unit("b", interrupt, {"number": 3})]
    with pytest.raises(KeyboardInterrupt):
        run_units(todo, folder=tmp_path, workers=1, progress=False)
    stored = Folder(tmp_path).read()
    assert not stored.complete
    assert [unit.name for unit in stored.units] == ["a"]
    assert stored.missing == {"b": "has not been computed"}
    with pytest.raises(MissingResultsError, match="holds no unit 'b'"):
        stored.unit("b")


def test_units_of_an_earlier_run_do_not_leak_into_a_later_one(tmp_path):
    run(tmp_path / "out", 1, 2)
    run(tmp_path / "out", 2)
    assert [unit.name for unit in Folder(tmp_path / "out").read().units] == ["n2"]


def test_an_old_folder_is_named_and_not_read(tmp_path):
    (tmp_path / "units").mkdir()
    (tmp_path / "study.json").write_text(json.dumps({"study": "bounds", "complete": True, "units": ["n2"]}))
    (tmp_path / "units" / "n2.json").write_text(json.dumps({"digest": "", "values": {}, "parameters": {}}))
    with pytest.raises(FolderError, match=r"older format: run the study again"):
        Folder(tmp_path).read()
    with pytest.warns(RuntimeWarning, match="n2 is of an older format; it is computed again"):
        found = run_units([Unit("n2", square, {"number": 2})], folder=tmp_path, progress=False)
    assert found["n2"].values == {"square": 4}
    assert Folder(tmp_path).read().complete


def test_no_folder_is_no_results(tmp_path):
    with pytest.raises(MissingResultsError, match="holds no results"):
        Folder(tmp_path / "nowhere").read()


def test_two_runs_in_one_folder_are_kept_apart(tmp_path):
    with (
        Folder(tmp_path).lock(),
        pytest.raises(FolderError, match=rf"written by another run \(process {os.getpid()} on .*\): wait"),
    ):
        run(tmp_path, 1)
    assert run(tmp_path, 1)[1] == [1]


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    code = f"""
import os
from proxlab.study import Folder
lock = Folder({str(tmp_path / "out")!r}).lock()
lock.__enter__()
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=False)
    assert (tmp_path / "out" / ".lock").exists()
    assert run(tmp_path / "out", 1)[1] == [1]
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_file_in_its_place_is_one_sentence(tmp_path):
    (tmp_path / "out").write_text("mine")
    for path in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(FolderError, match=r"out is a file, not a folder"):
            run_units([Unit("u", square, {"number": 1})], folder=path, progress=False)
    with pytest.raises(FolderError, match=r"out is a file, not a folder"):
        Folder(tmp_path / "out").read()
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_a_full_or_closed_disk_is_one_sentence_and_leaves_nothing_behind(
    tmp_path, monkeypatch, code, message
):
    run(tmp_path / "out", 1)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(folders.os, "replace", refuse)
        with pytest.raises(FolderError, match=message):
            run(tmp_path / "out", 1, 2)
    after = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert after == before
    assert run(tmp_path / "out", 1, 2)[1] == [2]


def test_arrays_of_any_name_come_back_and_objects_are_refused(tmp_path):
    arrays = {"file": np.arange(3.0), "a/b": np.array(["x", "yy"]), "none": np.zeros((0, 2), bool)}
    Folder(tmp_path, "mine", {"digits": np.int64(50)}).save({"u": Result({"x": np.float64(1.5)}, arrays)})
    stored = Folder(tmp_path).read()
    assert (stored.study, stored.settings) == ("mine", {"digits": 50})
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored.unit("u").arrays[name], array)
    with pytest.raises(ValueError, match="Object arrays"):
        Folder(tmp_path).save({"u": Result({}, {"bad": np.array([object()])})})


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4), st.lists(st.text(min_size=1), max_size=4))
def test_names_of_units_are_file_names_and_differ(one, other):
    name = unit_name(*one)
    folders.check_names([name])
    if "-".join(one) != "-".join(other) and other:
        assert unit_name(*other) != name


@pytest.mark.parametrize("name", ["", "a/b", ".hidden", "x" * 300, "ü"])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(ValueError, match="must be a file name"):
        run_units([Unit(name, square, {"number": 1})], progress=False)


def test_two_units_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two units have the name 'A'"):
        run_units([Unit("a", square, {"number": 1}), Unit("A", square, {"number": 2})], progress=False)
