"""Compacted networks as programs: torch.export, and ONNX in another runtime, with equal outputs."""

import importlib

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402

from proxlab.torch.calls import Call, outputs  # noqa: E402
from tests.torch.architectures import halves  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.models, pytest.mark.filterwarnings("ignore")]

NAMES = ["bert", "gpt2", "llama", "vit", "resnet", "mobilenet", "convnext", "timm_vit", "vgg", "lstm", "gru"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Times are not looked at here.
    monkeypatch.setattr(importlib.import_module("proxlab.torch.compaction"), "_RUNS", 1)


class First(nn.Module):
    """What a program returns: the first output, without caches."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args, **kwargs):
        return outputs(self.model(*args, **kwargs))[0]


def program(name):
    case = halves(name, seed=1 if name == "mobilenet" else 0)
    call = Call(case.inputs)
    if name in ("gpt2", "llama"):
        call.kwargs["use_cache"] = False
    return First(case.small).eval(), call


@pytest.mark.parametrize("name", NAMES)
def test_torch_export(name, tmp_path):
    model, call = program(name)
    exported = torch.export.export(model, call.args, call.kwargs)
    torch.export.save(exported, tmp_path / "small.pt2")
    loaded = torch.export.load(tmp_path / "small.pt2").module()
    fresh = call.random(3)
    with torch.no_grad():
        expected = model(*fresh.args, **fresh.kwargs)
        torch.testing.assert_close(loaded(*fresh.args, **fresh.kwargs), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_onnx(name, tmp_path):
    onnx = pytest.importorskip("onnx", reason="make test-models brings it")
    pytest.importorskip("onnxscript", reason="make test-models brings it")
    runtime = pytest.importorskip("onnxruntime", reason="make test-models brings it")
    model, call = program(name)
    file = tmp_path / "small.onnx"
    torch.onnx.export(model, call.args, file, kwargs=call.kwargs, dynamo=True, verbose=False)
    onnx.checker.check_model(str(file))
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    fresh = call.random(3)
    given = {i.name: t.numpy() for i, t in zip(session.get_inputs(), fresh.tensors(), strict=True)}
    with torch.no_grad():
        expected = model(*fresh.args, **fresh.kwargs).numpy()
    np.testing.assert_allclose(session.run(None, given)[0], expected, rtol=1e-4, atol=1e-5)
