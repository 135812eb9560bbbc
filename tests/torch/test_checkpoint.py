"""Saving compacted networks of any kind, and loading them into networks made anew."""

import importlib
import json
import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

from proxlab.torch import compact, load_network, save_network  # noqa: E402
from tests.torch import models  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def _seeded(monkeypatch):
    torch.manual_seed(0)
    # Times are not looked at here.
    monkeypatch.setattr(importlib.import_module("proxlab.torch.compaction"), "_RUNS", 1)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.hidden = nn.Linear(6, 8)
        self.out = nn.Linear(8, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        x = self.embedding(tokens)
        return self.head(x + self.out(self.hidden(x).relu()))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.out = nn.Linear(12, 2)

    def forward(self, x):
        return self.out(self.attention(x, x, x, need_weights=False)[0])


IMAGE, TOKENS = torch.randn(2, 3, 8, 8), torch.arange(10).reshape(2, 5) % 9
TABLE = {
    "resnet": (models.ResNet, IMAGE),
    "encoder": (models.Encoder, TOKENS),
    "tied": (Tied, TOKENS),
    "attention": (Attending, torch.randn(2, 4, 12)),
    "lstm": (lambda: models.Recurrent(nn.LSTM), TOKENS),
    "gru": (lambda: models.Recurrent(nn.GRU), TOKENS),
}


def thinned(make, inputs, share=0.5):
    """A compacted network, of which many columns and heads were zero."""
    model = models.settle(make())
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, (nn.Linear, nn.Conv2d)) and m.weight.shape[1] > 3:
                m.weight[:, : int(share * m.weight.shape[1])] = 0
            elif isinstance(m, nn.RNNBase):
                m.weight_hh_l0[:, : int(share * m.hidden_size)] = 0
    return compact(model, inputs)[0]


@pytest.mark.parametrize("name", TABLE)
def test_what_is_loaded_computes_the_same(name, tmp_path):
    make, inputs = TABLE[name]
    small = thinned(make, inputs)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in make().parameters())
    file = save_network(small, tmp_path / "small.safetensors")
    fresh = make()
    loaded = load_network(fresh, file)
    assert loaded.training
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in make().parameters()]
    torch.testing.assert_close(loaded.eval()(inputs), small(inputs), rtol=0, atol=0)
    assert str(loaded) == str(small)
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in small.named_parameters()]
    assert list(tmp_path.iterdir()) == [file]


def test_of_another_process_dtype_and_twice(tmp_path):
    small = thinned(models.ResNet, IMAGE).double()
    file = save_network(small, tmp_path / "small.safetensors")
    code = (
        "import sys, torch; from proxlab.torch import load_network; from tests.torch.models import ResNet\n"
        "x = torch.load(sys.argv[2])\n"
        "torch.save(load_network(ResNet(), sys.argv[1]).eval()(x), sys.argv[3])\n"
    )
    torch.save(IMAGE.double(), tmp_path / "x.pt")
    command = [sys.executable, "-c", code, file, tmp_path / "x.pt", tmp_path / "y.pt"]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=120)
    assert torch.equal(torch.load(tmp_path / "y.pt"), small(IMAGE.double()))
    # One that was loaded is saved again, and goes into a small one as well.
    again = save_network(load_network(models.ResNet(), file), tmp_path / "again.safetensors")
    assert torch.equal(load_network(small, again)(IMAGE.double()), small(IMAGE.double()))


def test_shared_tensors_stay_shared(tmp_path):
    loaded = load_network(Tied(), save_network(thinned(Tied, TOKENS), tmp_path / "f"))
    assert loaded.head.weight is loaded.embedding.weight
    assert len(safetensors_torch.load_file(tmp_path / "f")) == 5


def test_a_mask_of_pruning_is_kept(tmp_path):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    prune.random_unstructured(model[0], "weight", 0.5)
    fresh = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    prune.identity(fresh[0], "weight")
    x = torch.randn(3, 4)
    loaded = load_network(fresh, save_network(model, tmp_path / "f"))
    assert torch.equal(loaded(x), model(x))


@settings(max_examples=20)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 5), st.data())
def test_widths_at_random(tmp_path_factory, widths, drop, data):
    sizes = [3, *widths, 2]

    def make():
        layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        return nn.Sequential(*(m for layer in layers for m in (layer, nn.Tanh())))

    model = make()
    with torch.no_grad():
        for layer in model[2::2]:
            zero = data.draw(st.lists(st.integers(0, layer.in_features - 1), max_size=drop))
            layer.weight[:, zero] = 0
    x = torch.randn(4, 3)
    small, _ = compact(model, x)
    file = save_network(small, tmp_path_factory.mktemp("random") / "f")
    assert torch.equal(load_network(make(), file)(x), small(x))


def test_refusals(tmp_path):
    small = models.ResNet()
    file = save_network(small, tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"model: must be the network of the file, but '0' is not in the"):
        load_network(models.vgg(), file)
    other = models.ResNet()
    other.bn1 = nn.Identity()
    with pytest.raises(ValueError, match=r"in which 'bn1' is a BatchNorm2d, not a Identity"):
        load_network(other, file)
    biased = models.ResNet()
    biased.bn1 = nn.BatchNorm2d(6)
    biased.conv1.bias = nn.Parameter(torch.zeros(6))
    with pytest.raises(ValueError, match=r"model: 'conv1.bias' must be in the file, too"):
        load_network(biased, file)
    plain = tmp_path / "plain.safetensors"
    safetensors_torch.save_file(small.state_dict(), plain)
    with pytest.raises(ValueError, match=r"file: must be one that .* has no record of widths"):
        load_network(models.ResNet(), plain)
    safetensors_torch.save_file({}, plain, metadata={"proxlab": json.dumps({"version": 7})})
    with pytest.raises(ValueError, match=r"version 1, but .* has version 7"):
        load_network(models.ResNet(), plain)
    with pytest.raises(
        ValueError, match=r"model: 'weight' must be a dense tensor with values, but is on meta"
    ):
        save_network(nn.Linear(2, 3, device="meta"), tmp_path / "f")
    with pytest.raises(TypeError, match=r"model: must be a torch\.nn\.Module, got OrderedDict"):
        save_network(small.state_dict(), tmp_path / "f")
    assert not (tmp_path / "f").exists()


@given(data=st.data())
def test_a_file_that_is_none_is_refused_by_name(tmp_path_factory, data):
    """Cut off, empty, of torch, without a tensor, or with a record of widths that says something else."""
    folder = tmp_path_factory.mktemp("files")
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    file = save_network(model, folder / "a.safetensors")
    what = data.draw(st.sampled_from(["cut", "empty", "torch", "tensor", "record", "json"]))
    whole = file.read_bytes()
    tensors = safetensors_torch.load_file(file)
    record = json.loads(safetensors_torch.safe_open(file, "pt").metadata()["proxlab"])
    if what == "cut":
        file.write_bytes(whole[: data.draw(st.integers(1, len(whole) - 1))])
    elif what == "empty":
        file.write_bytes(b"")
    elif what == "torch":
        torch.save(model.state_dict(), file)
    elif what == "tensor":
        tensors.pop(data.draw(st.sampled_from(sorted(tensors))))
    elif what == "record":
        key = data.draw(st.sampled_from(["modules", "shared", "version"]))
        record = data.draw(
            st.sampled_from(
                [
                    [], 3, None, {k: v for k, v in record.items() if k != key},
                    record | {"modules": {"0": {"kind": "Linear", "tensors": ["weight"]}}},
                    record | {"modules": {"0": 3}},
                ]
            )
        )  # fmt: skip
    if what in ("tensor", "record", "json"):
        said = "{" if what == "json" else json.dumps(record)
        safetensors_torch.save_file(tensors, file, metadata={"format": "pt", "proxlab": said})
    with pytest.raises(ValueError, match=r"^file: must be one that proxlab.torch.save_network wrote"):
        load_network(model, file)


def test_what_modules_hold_comes_back_or_is_refused(tmp_path):
    class Holds(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.pads = ((1, 2), (3, 4))

    class Extra(nn.Linear):
        def get_extra_state(self):
            return {"count": 3}

    saved, new = Holds(), Holds()
    saved.pads = ((5, 6), (7, 8))
    assert load_network(new, save_network(saved, tmp_path / "a.safetensors")).pads == ((5, 6), (7, 8))
    with pytest.raises(ValueError, match="model: '0' must have no state of its own, but Extra has get_extra"):
        save_network(nn.Sequential(Extra(2, 2)), tmp_path / "b.safetensors")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="file: must be in a folder that exists"):
        save_network(nn.Linear(2, 2), tmp_path / "nowhere" / "a.safetensors")


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    file = save_network(nn.Linear(2, 3), tmp_path / "f")
    before = file.read_bytes()

    def failing(tensors, path, **_):
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(safetensors_torch, "save_file", failing)
    with pytest.raises(OSError, match="no space left"):
        save_network(nn.Linear(4, 5), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_no_code_is_in_the_file(tmp_path):
    file = save_network(nn.Linear(2, 3), tmp_path / "f")
    with pytest.raises(Exception, match=r".*"):
        pickle.loads(file.read_bytes())


def test_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.delitem(sys.modules, "safetensors.torch", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'proxlab\[export\]'"):
        save_network(nn.Linear(2, 3), tmp_path / "f")
