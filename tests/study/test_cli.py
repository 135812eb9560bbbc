"""The command ``proxlab``: exit status and files, help that tells, errors in one sentence."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import proxlab as pl
from proxlab import study
from proxlab.study import commands, expressions

MINE = """
import numpy as np
import proxlab as pl

def prox(penalty, x, step, metric=None):
    return pl.prox(penalty, x, step, metric=metric) * (1 + 1e-4)

def raises(penalty, x, step, metric=None):
    raise RuntimeError("not today")

def bound(penalty, z, x, step, metric=None):
    return 1.01 * np.asarray(pl.certify(penalty, z, x, step, metric=metric).distance)

def false_bound(penalty, z, x, step, metric=None):
    found = 1.01 * np.asarray(pl.certify(penalty, z, x, step, metric=metric).distance)
    found[3] = 0.98 * found[3]
    return 0.99 * found

class loss:
    w0 = np.ones((3, 2))
    def value_and_grad(self, w, batch=None):
        return 0.5 * float(((w - 2) ** 2).sum()), w - 2

class Halving(pl.RootFinder):
    @staticmethod
    def propose(r, f, slope, bend, lo, f_lo, hi, f_hi, m0, m1, m2, m3, m4):
        return 0.5 * (lo + hi), m0, m1, m2, m3, m4

halving = Halving()
strong = pl.GroupLasso(10.0)
number = 3
"""

BERHU = """
from dataclasses import dataclass
import numpy as np
from proxlab import study
from proxlab.penalties.base import Piece, RadialPenalty

@dataclass(frozen=True, eq=False)
class GroupBerHu(RadialPenalty):
    lam: float
    delta: float

    @property
    def pieces(self):
        kink = Piece(start=self.delta, value=self.lam * self.delta, a=0.0, c=-self.lam / self.delta)
        return (Piece(start=0.0, value=0.0, a=self.lam, c=0.0), kink)

h = GroupBerHu(1.0, 2.0)

def write():
    study.save("own.npz", [study.Problem("own", np.arange(6.0).reshape(2, 3), 1.0, None, h)])
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((8, 3)), np.exp(rng.standard_normal((8, 3)))
    study.save("captured.npz", [study.Problem("layer", x, 0.5, d, pl.GroupLasso(0.4))])
    return tmp_path


def invoke(*arguments):
    shown = CliRunner(env={"COLUMNS": "140", "NO_COLOR": "1"}).invoke(commands.app, list(arguments))
    assert shown.exception is None or isinstance(shown.exception, SystemExit), shown.exc_info
    return shown.exit_code, " ".join(shown.output.split())


def test_help_and_version():
    status, text = invoke("--help")
    assert status == 0
    assert all(f" {name} " in text for name in ("validate", "compare", "converge", "report"))
    status, text = invoke("--version")
    assert (status, text) == (0, f"proxlab {pl.__version__}")
    done = subprocess.run(
        [sys.executable, "-m", "proxlab", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"proxlab {pl.__version__}\n"


def test_true_bounds_pass_and_false_ones_are_found(here):
    true = (
        "validate",
        "captured.npz",
        "--solver",
        "mine.py:prox",
        "--bound",
        "mine.py:bound",
        "-b",
        "distance",
    )
    status, text = invoke(*true)
    assert status == 0, text
    assert "0 bounds of 16 below the truth" in text
    false = (*true[:4], "--bound", "mine.py:false_bound", "-o", "out")
    status, text = invoke(*false)
    assert status == 1
    assert (here / "out" / "index.html").exists()
    found = pd.read_csv(here / "out" / "tables" / "validate-where.csv")
    assert 3 in found["group"].tolist()
    assert invoke(*false, "--exit-zero")[0] == 0


def test_solvers_are_compared_and_failures_counted(here):
    solvers = ("--solver", "mine.py:prox", "--solver", "Newton", "--solver", "Bisection(max_iterations=5)")
    common = ("compare", "captured.npz", *solvers, "--dtype", "float32,float64", "--seed", "0,1", "-o", "out")
    assert invoke(*common)[0] == 0
    table = pd.read_csv(here / "out" / "tables" / "compare-solvers.csv")
    assert len(table) == 6
    assert (table["groups"] == 16).all()
    status, text = invoke(*common, "--solver", "mine.py:raises")
    assert status == 1
    assert "RuntimeError: not today 1 32" in text  # one problem; 8 groups, two dtypes and seeds
    assert "not today" in (here / "out" / "index.html").read_text()


def test_root_finders_of_ones_own_are_compared(here):
    status, text = invoke(
        "compare", "captured.npz", "--solver", "mine.py:Halving", "--solver", "mine.py:halving"
    )
    assert status == 0, text
    assert text.count("mine.py:") == 2


def test_a_penalty_takes_the_place_of_the_stored_one(here):
    for penalty in ("mine.py:strong", "GroupLasso(10.0)", "pl.GroupMCP(10.0, gamma=100.0)"):
        status, _ = invoke("compare", "captured.npz", "--solver", "Newton", "--penalty", penalty, "-o", "out")
        assert status == 0
        stored = study.Folder(here / "out" / "compare").read()
        assert stored.units[0].arrays["zero"].all()


def test_an_own_penalty_is_found_by_its_class_or_its_name(here):
    (here / "berhu.py").write_text(BERHU)
    writer = "import berhu; berhu.write()"
    subprocess.run([sys.executable, "-c", writer], check=True)
    run = ("compare", "own.npz", "--solver", "Newton")
    for penalty in ("berhu.py:GroupBerHu", "berhu.py:h"):
        assert invoke(*run, "--penalty", penalty)[0] == 0
    status, text = invoke(*run)
    assert (status, "names the class GroupBerHu" in text, "--penalty" in text) == (2, True, True)
    status, text = invoke("converge", "mine.py:loss", "--penalty", "berhu.py:GroupBerHu")
    assert (status, "is a class" in text) == (2, True)


def test_converge_runs_and_report_rebuilds_the_page(here):
    run = ("converge", "mine.py:loss", "--penalty", "GroupLasso(0.1)", "--schedule", "constant:0.1")
    status, text = invoke(*run, "--seed", "0,1", "--iterations", "20", "--solver", "adversary", "-o", "out")
    assert status == 0, text
    assert "4 runs of 20 iterations with ProxAdam; 0 stopped" in text
    assert not study.Folder(here / "out" / "converge").read().settings["decrease"]
    assert invoke(*run, "--seed", "0", "--iterations", "3", "--decrease", "-o", "out")[0] == 0
    assert study.Folder(here / "out" / "converge").read().settings["decrease"]
    page = here / "out" / "index.html"
    page.unlink()
    assert invoke("report", "out") == (0, "out/index.html")
    assert page.exists()
    assert (here / "out" / "tables" / "converge-floors.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "nowhere.npz"), "nowhere.npz"),
        (("compare", "captured.npz", "--solver", "mine.py:nothing"), "mine.py has no 'nothing'"),
        (("compare", "captured.npz", "--solver", "mine.py:number"), "must be a function, it is a int"),
        (("compare", "captured.npz", "--solver", "other.py:prox"), "other.py cannot be read"),
        (("compare", "captured.npz", "--solver", "no_such_module:prox"), "no_such_module cannot be imported"),
        (("compare", "captured.npz", "--solver", "Brant"), "'Brant' is no root finder"),
        (("compare", "captured.npz", "--solver", "mine.py"), "which function of mine.py? Say mine.py:name"),
        (("compare", "captured.npz", "--solver", "mine.py:loss"), "got the class loss"),
        (("compare", "captured.npz", "--dtype", "float31"), "float31"),
        (("compare", "captured.npz", "--seed", "x"), "--seed: must be integers"),
        (("compare", "captured.npz", "--penalty", "mine.py:number"), "must be a penalty, it is a int"),
        (("compare", "captured.npz", "--cluster", "nowhere"), "no Dask scheduler answers at 'nowhere'"),
        (("compare",), "Missing argument 'FILE"),
        (("compare", "captured.npz", "--nonsense"), "No such option"),
        (("validate", "captured.npz", "--bound", "distence"), "must be file.py:name"),
        (("converge", "mine.py:loss", "--penalty", "GroupLasso(-1)"), "is no penalty"),
        (
            ("converge", "mine.py:loss", "--penalty", "GroupLasso(1)", "--schedule", "often"),
            "schedules: must be",
        ),
        (("report", "nothing"), "nothing holds no results"),
    ],
)
def test_bad_usage_is_one_sentence_and_status_2(here, arguments, message, monkeypatch):
    monkeypatch.setattr("proxlab.study.cluster.PATIENCE", 0.5)
    status, text = invoke(*arguments)
    assert (status, message in text) == (2, True), text


@pytest.mark.parametrize(
    ("text", "kind", "made"),
    [
        ("GroupLasso(0.01)", "penalty", pl.GroupLasso(0.01)),
        ("pl.GroupMCP(0.1, gamma=3)", "penalty", pl.GroupMCP(0.1, gamma=3)),
        ("GroupLasso(1e-3, groups=Groups.over(0))", "penalty", pl.GroupLasso(1e-3, groups=pl.Groups.over(0))),
        (
            "GroupLasso(1, groups=pl.Groups.csr([0, 2, 5]), weights='sqrt_size')",
            "penalty",
            pl.GroupLasso(1, groups=pl.Groups.csr([0, 2, 5]), weights="sqrt_size"),
        ),
        ("Brent", "root finder", pl.Brent()),
        ("Brent(rtol=1e-3)", "root finder", pl.Brent(rtol=1e-3)),
        ("ProxSGD(lr=-0.0 + 1)", "optimizer", None),
        ("optim.ProxSGD(lr=0.5)", "optimizer", pl.optim.ProxSGD(lr=0.5)),
        ("__import__('os').system('true')", "penalty", None),
        ("GroupLasso(open('x'))", "penalty", None),
        ("GroupLasso(*[1])", "penalty", None),
        ("GroupLasso(**{'lam': 1})", "penalty", None),
        ("GroupLasso(lam)", "penalty", None),
        ("Penalty()", "penalty", None),
        ("(" * 3000, "penalty", None),
        ("", "penalty", None),
    ],
)
def test_expressions_make_what_they_say_and_run_nothing(text, kind, made):
    if made is None:
        with pytest.raises(ValueError, match=f"is no {kind}"):
            expressions.read(text, kind)
    else:
        assert repr(expressions.read(text, kind)) == repr(made)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_a_reader_that_goes_away_is_no_error(here):
    command = f"{sys.executable} -u -m proxlab compare captured.npz | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_missing_extra_is_one_sentence(monkeypatch):
    from proxlab.study import cli

    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "proxlab.study.commands")
    with pytest.raises(SystemExit, match=r"needs the package 'typer.*': pip install 'proxlab\[study\]'"):
        cli.main()
