"""The command line: help that tells, errors in one line, studies in order."""

import subprocess
import sys
import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis import __main__, cli, report
from analysis.deep.fetch import MissingDataError

ROOT = Path(__file__).parents[2]


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"}).invoke(cli.app, list(arguments))


def test_help_lists_every_study():
    shown = invoke("--help")
    assert shown.exit_code == 0
    for name in (*report.STUDIES, *report.DEEP_STUDIES, "all", "report"):
        assert f" {name} " in shown.output


@pytest.mark.parametrize("command", [*report.STUDIES, *report.DEEP_STUDIES, "all"])
def test_every_study_takes_the_same_options(command):
    shown = invoke(command, "--help").output
    assert all(option in shown for option in ("--profile", "--results", "--threads", "--seed"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bounds", "--profile", "huge"), "'huge' is not one of 'quick', 'full'"),
        (("solvers", "--threads", "-1"), "Invalid value for '--threads'"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    shown = invoke(*arguments)
    assert shown.exit_code == 2
    assert message in " ".join(shown.output.split())


def test_a_report_of_nothing_says_what_to_run(tmp_path):
    shown = invoke("report", "--results", str(tmp_path))
    assert shown.exit_code == 1
    assert "run python -m analysis all" in " ".join(shown.output.split())


def test_all_runs_every_study_once_then_builds_the_page(tmp_path, monkeypatch):
    ran = []
    for name in report.STUDIES:
        module = types.SimpleNamespace(
            run=lambda profile, results, progress, name=name: ran.append((name, profile))
        )
        monkeypatch.setitem(sys.modules, f"study_{name}", module)
    monkeypatch.setattr(cli, "STUDIES", {name: f"study_{name}" for name in report.STUDIES})
    monkeypatch.setattr(cli, "build", lambda directory: ran.append(directory.path) or directory.path)
    shown = invoke("all", "--results", str(tmp_path), "--threads", "1", "--seed", "4")
    assert shown.exit_code == 0
    *studies, page = ran
    assert [name for name, _ in studies] == list(report.STUDIES)
    assert {(profile.name, profile.seed, profile.threads) for _, profile in studies} == {("quick", 4, 1)}
    assert page == tmp_path


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModuleNotFoundError("no", name="torch"), "vision needs the package 'torch': pip install"),
        (MissingDataError("words.txt: not found"), "words.txt: not found"),
    ],
)
def test_what_a_deep_study_lacks_is_one_sentence(tmp_path, monkeypatch, error, message):
    def run(profile, results, progress):
        raise error

    monkeypatch.setitem(sys.modules, "study_vision", types.SimpleNamespace(run=run))
    monkeypatch.setattr(cli, "DEEP_STUDIES", {"vision": "study_vision"})
    shown = invoke("vision", "--results", str(tmp_path))
    assert shown.exit_code == 1
    assert message in " ".join(shown.output.split())


def test_a_missing_extra_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich", None)
    for name in [name for name in sys.modules if name.startswith(("analysis.cli", "rich.", "typer"))]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit, match=r"need the package 'rich.*': pip install 'proxlab\[analysis\]'"):
        __main__.main()


def test_the_module_runs_from_a_checkout():
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "report", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "computes nothing" in " ".join(done.stdout.split())
