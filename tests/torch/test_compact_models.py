"""Compacting tiny random networks of transformers and timm: what is zero goes, and nothing is lost."""

import copy
import importlib
import re

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="make test-models brings it")

from torch import nn  # noqa: E402

from proxlab.torch import compact  # noqa: E402
from proxlab.torch.calls import Call  # noqa: E402
from tests.torch.architectures import EVERY, TRANSFORMERS, halves  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.models, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Times are not looked at here.
    monkeypatch.setattr(importlib.import_module("proxlab.torch.compaction"), "_RUNS", 1)


TOKENS = {"input_ids": torch.arange(14).reshape(2, 7)}
IMAGES = {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 8 * 8).sin().reshape(2, 3, 8, 8)}
WIDE = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 16}
WORDS = {
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def bert():
    model = transformers.BertModel(transformers.BertConfig(**WIDE, **WORDS, **STILL))
    layer = model.encoder.layer[0]
    return model, TOKENS, layer.attention.output.dense, (4, 8), layer.output.dense


def distilbert():
    config = transformers.DistilBertConfig(
        dim=12, n_layers=2, n_heads=3, hidden_dim=16, dropout=0.0, attention_dropout=0.0, **WORDS
    )
    model = transformers.DistilBertModel(config)
    layer = model.transformer.layer[0]
    return model, TOKENS, layer.attention.out_lin, (4, 8), layer.ffn.lin2


def gpt2():
    config = transformers.GPT2Config(
        n_embd=12, n_layer=2, n_head=3, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **WORDS
    )
    model = transformers.GPT2LMHeadModel(config)
    block = model.transformer.h[0]
    return model, TOKENS, block.attn.c_proj, (4, 8), block.mlp.c_proj


def llama():
    sizes = WIDE | {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **WORDS))
    layer = model.model.layers[0]
    # Two heads share a key and a value: they go together.
    return model, TOKENS, layer.self_attn.o_proj, (0, 8), layer.mlp.down_proj


def neox():
    config = transformers.GPTNeoXConfig(attention_dropout=0.0, hidden_dropout=0.0, **WIDE, **WORDS)
    model = transformers.GPTNeoXForCausalLM(config)
    layer = model.gpt_neox.layers[0]
    return model, TOKENS, layer.attention.dense, (4, 8), layer.mlp.dense_4h_to_h


def vit():
    config = transformers.ViTConfig(image_size=8, patch_size=4, **WIDE, **STILL)
    model = transformers.ViTModel(config, add_pooling_layer=False)
    narrow = [m for m in model.modules() if isinstance(m, nn.Linear) and m.in_features == 16]
    out = [m for name, m in model.named_modules() if name.endswith(("o_proj", "attention.output.dense"))]
    return model, IMAGES, out[0], (4, 8), narrow[0]


@pytest.mark.parametrize("kind", [bert, distilbert, gpt2, llama, neox, vit])
def test_heads_and_neurons(kind):
    torch.manual_seed(0)
    model, inputs, output, (start, end), last = kind()
    with torch.no_grad():
        for layer, where in ((output, slice(start, end)), (last, slice(2, 7))):
            (layer.weight if isinstance(layer, nn.Linear) else layer.weight.t())[:, where] = 0
    small, report = compact(model.eval(), inputs)
    fresh = {k: x.flip(-1) if k == "input_ids" else 3.0 * x.double() + 0.4 for k, x in inputs.items()}
    for training in (False, True):
        wide, narrow = (copy.deepcopy(m).double().train(training) for m in (model, small))
        with torch.no_grad():
            torch.testing.assert_close(narrow(**fresh)[0], wide(**fresh)[0], rtol=1e-6, atol=1e-6)
    heads = [r.before - r.after for r in report.removed if r.what == "heads"]
    neurons = [r.before - r.after for r in report.removed if r.what == "outputs"]
    assert heads == [1]
    assert set(neurons) == {5}
    assert not report.notes
    assert not report.kept


# What stays of the groups that are zero, and why; of all others nothing does.
STAYS = {
    "t5": r"one head with what 'encoder.*' reads|one head with what 'decoder.*' reads",
    "resnet": r"it is coupled with '.*', which is not zero",
    "mobilenet": r"it is coupled with '.*', which is not zero|a constant that differs by place",
}


def same_everywhere(case, rtol=1e-6):
    """Compare outputs in both modes, on inputs that compact has not seen, in float64."""
    for training in (False, True):
        wide, narrow = (copy.deepcopy(m).double().train(training) for m in (case.model, case.small))
        call = Call(case.inputs).to(torch.float64).random(7)
        with torch.no_grad():
            torch.manual_seed(0)
            expected = call.once(wide)
            torch.manual_seed(0)
            torch.testing.assert_close(call.once(narrow), expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", EVERY)
def test_half_of_all_groups(name):
    # The first of the small networks with depthwise convolutions is dead without half of its groups.
    case = halves(name, seed=1 if name == "mobilenet" else 0)
    zeros = [sum(int((p == 0).sum()) for p in m.parameters()) for m in (case.model, case.small)]
    gone, report = zeros[0] - zeros[1], case.report
    assert report.parameters[0] - report.parameters[1] >= gone
    assert not report.notes
    assert not report.dead
    # What no group holds, as the word of padding in an output layer, is none of these.
    kept = [k for k in report.kept if k.reason != "it is an output of the model"]
    if name not in STAYS:
        assert gone == case.zeroed
        assert not kept
    else:
        assert 0.4 * case.zeroed < gone < case.zeroed
        assert all(re.search(STAYS[name], k.reason) for k in kept), kept
    if name in TRANSFORMERS or name.startswith("timm_vit"):
        assert {r.what for r in report.removed} == {"heads", "outputs"}
    same_everywhere(case)
