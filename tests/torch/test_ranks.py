"""Parameters that are cut over processes: the same weights as in one process, the same errors in all."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed.fsdp")

from tests.torch import ranks  # noqa: E402

pytestmark = pytest.mark.torch

SCENARIOS = {2: ["places", "methods", "weights", "failures", "refused", "load"], 4: ["places", "save"]}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What became of every scenario: four processes save what two load."""
    folder = tmp_path_factory.mktemp("ranks")
    return {world: ranks.run(world, SCENARIOS[world], folder) for world in (4, 2)}


@pytest.mark.parametrize(("world", "name"), [(w, name) for w, names in SCENARIOS.items() for name in names])
def test_several_processes(world, name, results):
    assert not results[world][name], "\n".join(results[world][name])
