"""How much work a study does, and where its results are."""

import numpy as np
import pytest

from analysis.results import MissingResultsError, Profile, ResultsDir
from proxlab.study import Result, Unit


def square(number):
    return Result({"square": number**2}, {"row": np.full(number, 1.0)})


@pytest.mark.parametrize("threads", [1, 2])
def test_a_study_is_run_and_read_with_its_command_and_settings(tmp_path, threads):
    directory = ResultsDir(tmp_path)
    units = [Unit(f"n{number}", square, {"number": number}) for number in (3, 2)]
    directory.run("squares", Profile(seed=5, threads=threads), units)
    stored = directory.read("squares")
    assert [unit.values["square"] for unit in stored.units] == [9, 4]
    assert stored.unit("n3").parameters == {"number": 3}
    assert stored.command == "python -m analysis squares --profile quick --seed 5"
    assert stored.settings == {"profile": "quick", "seed": 5, "threads": threads}
    assert stored.complete


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
