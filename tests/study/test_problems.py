"""Problems and their files: what is read is what was written, and nothing else is taken for it."""

import json
import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proxlab as pl
from proxlab.penalties.base import Piece, RadialPenalty
from tests.table import GROUPS, PENALTIES, ids

pytest.importorskip("flint")
from proxlab import study

SUFFIXES = [".npz", ".safetensors"]


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    if request.param == ".safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"captured{request.param}"


def same(a, b):
    assert type(a.penalty) is type(b.penalty)
    assert a.name == b.name
    assert a.x.dtype == b.x.dtype
    for key in ("x", "step", "metric"):
        np.testing.assert_array_equal(getattr(a, key), getattr(b, key))
    assert a.digest == b.digest
    indptr, indices = a.penalty.groups.indices(a.x.shape)
    again = b.penalty.groups.indices(b.x.shape)
    np.testing.assert_array_equal(indptr, again[0])
    np.testing.assert_array_equal(indices, again[1])


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
def test_every_penalty_comes_back(row, path):
    x = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    options = {} if row.name == "L1" else {"weights": np.array([0.1, 1.0, 3.0])}
    given = study.Problem("rows", x, 0.3, np.float32(1) + np.abs(x), row.build(**options), {"parameter": "w"})
    study.save(path, given)
    (found,) = study.load(path)
    same(given, found)
    assert found.metadata["parameter"] == "w"
    assert found.metadata["versions"]["proxlab"] is not None
    z = [pl.prox(p.penalty, p.x, p.step, metric=p.metric) for p in (given, found)]
    np.testing.assert_array_equal(*z)


@pytest.mark.parametrize("groups", GROUPS, ids=list(GROUPS))
def test_groups_of_every_kind_come_back(groups, path):
    make, shape = GROUPS[groups]
    x = np.ones(shape)
    steps = np.linspace(0.1, 1.0, make().n_groups(shape))
    problems = [
        study.Problem(f"step {k}", k * x, steps, None, pl.GroupLasso(0.1, groups=make(), weights="sqrt_size"))
        for k in (1, 2)
    ]
    study.save(path, problems)
    for a, b in zip(problems, study.load(path), strict=True):
        same(a, b)
        assert b.penalty.weights == "sqrt_size"
    if groups == "labels":  # labels fit one shape only, also when they come from a file
        with pytest.raises(ValueError, match="labels have shape"):
            b.penalty.groups.layout((12,))


@given(
    x=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6),
    step=st.floats(1e-300, 1e300),
    lam=st.floats(0, 1e300),
)
def test_every_number_comes_back_to_the_bit(x, step, lam, tmp_path_factory):
    path = tmp_path_factory.mktemp("bits") / "p.npz"
    given = study.Problem("x", np.array([x]), step, None, pl.GroupLasso(lam))
    study.save(path, given)
    (found,) = study.load(path)
    assert found.x.tobytes() == given.x.tobytes()
    assert (found.step, found.penalty.lam) == (step, lam)


def test_files_and_folders(tmp_path):
    def problem(name):
        return study.Problem(name, np.ones((2, 2)), 1.0, 2.0, pl.GroupLasso(0.1))

    study.save(tmp_path / "in" / "b.npz", [problem("b1"), problem("b2")])
    study.save(tmp_path / "in" / "a.npz", [problem("a")])
    study.save(tmp_path / "c.npz", [problem("c")])
    assert [p.name for p in study.load(tmp_path / "in", tmp_path / "c.npz")] == ["a", "b1", "b2", "c"]
    replaced = study.load(tmp_path / "in", penalty=pl.GroupMCP(0.1, 3.0))
    assert {type(p.penalty) for p in replaced} == {pl.GroupMCP}
    assert not [p.name for p in tmp_path.rglob(".*")]


def test_groups_are_written_once(tmp_path):
    labels = np.arange(100_000) // 7
    penalty = pl.GroupLasso(0.1, groups=pl.Groups.labels(labels))
    rng = np.random.default_rng(0)
    problems = [study.Problem(f"t{k}", rng.standard_normal(100_000), 1.0, None, penalty) for k in range(4)]
    study.save(tmp_path / "p.npz", problems)
    assert (tmp_path / "p.npz").stat().st_size < (4 + 2) * 8 * 100_000


@dataclass(frozen=True, eq=False)
class Own(RadialPenalty):
    """A penalty of one's own, with a parameter of each kind."""

    table: tuple = ()
    knots: np.ndarray = None

    @property
    def pieces(self):
        return tuple(Piece(*row) for row in self.table)


@dataclass(frozen=True, eq=False)
class Unstorable(RadialPenalty):
    slope: object = None

    @property
    def pieces(self):
        return (Piece(0.0, 0.0, self.slope(1.0), 0.0),)


def test_a_penalty_of_ones_own(path, monkeypatch):
    penalty = Own(table=((0.0, 0.0, 1.0, 0.0), (1.0, 1.0, 2.0, 0.0)), knots=np.array([1.0]))
    given = study.Problem("own", np.array([[3.0]]), 1.0, None, penalty)
    # the tests' files are no modules that Python finds by name
    module = types.ModuleType("mine")
    monkeypatch.setattr(Own, "__module__", "mine")
    study.save(path, given)
    with pytest.raises(
        ValueError, match=r"the class Own of mine, which is not known here: pass penalty= \(--penalty\)"
    ):
        study.load(path)
    (found,) = study.load(path, penalty=Own)
    same(given, found)
    np.testing.assert_array_equal(found.penalty.knots, [1.0])
    (replaced,) = study.load(path, penalty=pl.GroupLasso(1.0))
    assert isinstance(replaced.penalty, pl.GroupLasso)
    module.Own = Own
    monkeypatch.setitem(sys.modules, "mine", module)
    same(given, study.load(path)[0])
    with pytest.raises(ValueError, match="GroupLasso does not take what was stored"):
        study.load(path, penalty=pl.GroupLasso)


def test_what_cannot_be_stored_leaves_no_file(tmp_path):
    bad = study.Problem("bad", np.ones((1, 1)), 1.0, None, Unstorable(slope=np.exp))
    with pytest.raises(TypeError, match="Unstorable cannot be stored: its parameter 'slope'"):
        study.save(tmp_path / "p.npz", bad)
    with pytest.raises(TypeError, match="problems: must hold"):
        study.save(tmp_path / "p.npz", ["problem"])
    with pytest.raises(ValueError, match=r"path: must end in \.npz or \.safetensors"):
        study.save(tmp_path / "p.pt", bad)
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no more")
    study.save(tmp_path / "good.npz", study.Problem("x", np.ones((9, 9)), 1.0, None, pl.L1(0.1)))
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    header = {"format": "proxlab.study problems", "version": 99, "problems": []}
    np.savez(tmp_path / "newer.npz", proxlab=np.frombuffer(json.dumps(header).encode(), dtype=np.uint8))
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "study.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    for name, match in {
        "other.npz": "holds no problems of proxlab.study",
        "broken.npz": "cannot be read",
        "cut.npz": "cannot be read",
        "newer.npz": "is of version 99 of the format",
        "results": "is a folder of results, not of problems",
    }.items():
        with pytest.raises(ValueError, match=match) as error:
            study.load(tmp_path / name)
        assert name in str(error.value)
    for name in ("none.npz", "empty"):
        with pytest.raises(FileNotFoundError, match=name):
            study.load(tmp_path / name)
    objects = {"proxlab": np.frombuffer(json.dumps(header | {"version": 1}).encode(), dtype=np.uint8)}
    np.savez(tmp_path / "pickled.npz", a=np.array([None]), **objects)
    with pytest.raises(ValueError, match=r"pickled\.npz.* cannot be read"):
        study.load(tmp_path / "pickled.npz")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"step": 0.0}, "layer: step: must be finite and > 0"),
        ({"metric": np.zeros((2, 2))}, "layer: metric: must be finite and > 0"),
        ({"x": np.array([[np.inf, 1.0]])}, "layer: x: must be finite"),
        ({"x": np.ones((2, 2), dtype=int)}, "layer: x: must have a real floating-point dtype"),
        ({"x": [1.0]}, "layer: x: must be an array"),
        ({"x": np.ma.ones((2, 2))}, "layer: x: must not be a masked array"),
        ({"metric": np.ma.ones((2, 2))}, "layer: metric: must not be a masked array"),
        ({"step": np.ma.ones(1)}, "layer: step: must not be a masked array"),
        ({"penalty": None}, "penalty: must be a proxlab penalty"),
        ({"name": ""}, "name: must be text"),
    ],
)
def test_a_problem_is_checked(change, match):
    good = {"name": "layer", "x": np.ones((2, 2)), "step": 1.0, "metric": None, "penalty": pl.GroupLasso(1.0)}
    with pytest.raises((TypeError, ValueError), match=match):
        study.Problem(**(good | change))


@pytest.mark.torch
def test_tensors_become_arrays():
    torch = pytest.importorskip("torch")
    x = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    problem = study.Problem("layer", x, 0.1, torch.full((3,), 2.0, dtype=torch.bfloat16), pl.GroupLasso(1.0))
    assert problem.x.dtype == np.float32
    assert problem.metric.tolist() == [2.0, 2.0, 2.0]
    x.data.zero_()
    assert problem.x.all()


def test_a_problem_keeps_what_it_was_given():
    x = np.ones((2, 2), dtype=">f8")
    problem = study.Problem("layer", x, 1.0, None, pl.GroupLasso(1.0))
    x[:] = 0
    assert problem.x.all()
    assert problem.x.dtype.isnative
    single = problem.astype(np.float32)
    assert single.x.dtype == np.float32
    with pytest.raises(ValueError, match="x: must be finite"):
        study.Problem("big", np.full((1, 1), 1e300), 1.0, None, pl.GroupLasso(1.0)).astype(np.float32)
