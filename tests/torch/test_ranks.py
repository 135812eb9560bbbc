"""Parameters that are cut over processes: the same weights as in one process, the same errors in all."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.fsdp")

from tests.torch import ranks  # noqa: E402

pytestmark = pytest.mark.torch

#: Processes and what they do, in this order: four save what two load.
TWO = [
    "places",
    "methods",
    "weights",
    "penalties",
    "reductions",
    "page",
    "extremes",
    "wrapper",
    "failures",
    "overflows",
    "raised",
    "rest",
    "zero",
    "refused",
    "driven",
    "strengths",
    "parallel",
    "certified",
    "captured",
    "clipped",
    "divided",
    "compiled",
    "path",
    "fifty",
]
MORE = {
    4: [
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
    2: ["load"],
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What became of every scenario on two processes."""
    return ranks.run(2, TWO, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """What became of the others."""
    folder = tmp_path_factory.mktemp("ranks")
    return {world: ranks.run(world, names, folder) for world, names in MORE.items()}


@pytest.mark.parametrize("name", TWO)
def test_two_processes(name, two):
    assert not two[name], "\n".join(two[name])


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("world", "name"), [(world, name) for world, names in MORE.items() for name in names]
)
def test_four_processes(world, name, more):
    assert not more[world][name], "\n".join(more[world][name])
