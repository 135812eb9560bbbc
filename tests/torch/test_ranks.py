"""Parameters that are cut over processes: the same weights as in one process, the same errors in all."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.fsdp")

from tests.torch import ranks  # noqa: E402

pytestmark = pytest.mark.torch

#: What two processes do in `make test`.
FEW = ["places", "penalties", "failures", "raised", "refused", "rest", "driven"]
#: Processes and what else they do, in this order: four save what two load.
MORE = [
    (
        2,
        [
            "methods",
            "weights",
            "reductions",
            "page",
            "extremes",
            "wrapper",
            "overflows",
            "zero",
            "strengths",
            "parallel",
            "certified",
            "captured",
            "clipped",
            "divided",
            "compiled",
            "path",
            "fifty",
        ],
    ),
    (
        4,
        [
            "places",
            "methods",
            "penalties",
            "driven",
            "parallel",
            "certified",
            "divided",
            "compiled",
            "path",
            "fifty",
            "save",
        ],
    ),
    (2, ["load"]),
]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """What became of some scenarios on two processes."""
    return ranks.run(2, FEW, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """What became of the others."""
    folder = tmp_path_factory.mktemp("ranks")
    return {
        (world, name): told for world, names in MORE for name, told in ranks.run(world, names, folder).items()
    }


@pytest.mark.parametrize("name", FEW)
def test_two_processes(name, few):
    assert not few[name], "\n".join(few[name])


@pytest.mark.ranks
@pytest.mark.parametrize(("world", "name"), [(world, name) for world, names in MORE for name in names])
def test_more_processes(world, name, more):
    assert not more[world, name], "\n".join(more[world, name])
