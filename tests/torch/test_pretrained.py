"""Saving compacted networks of transformers: another process loads them, with equal outputs."""

import copy
import functools
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="make test-models brings it")

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402

from proxlab.torch import compact, load_network, save_network, save_pretrained  # noqa: E402
from proxlab.torch.calls import Call  # noqa: E402
from proxlab.torch.heads import stand_in  # noqa: E402
from tests.torch.architectures import TRANSFORMERS, halves  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.models, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
# Layers out of the hidden units of feed-forward blocks.
LAST = re.compile(
    r"(mlp\.(c_proj|down_proj|dense_4h_to_h|fc2)|(?<!attention\.)output\.dense|lin2|fc2|DenseReluDense\.wo)$"
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    # Times are not looked at here.
    monkeypatch.setattr(importlib.import_module("proxlab.torch.compaction"), "_RUNS", 1)


def zero(layer, where):
    (layer.weight if isinstance(layer, nn.Linear) else layer.weight.t()).data[:, where] = 0


@functools.cache
def thinned(name, layers=None, change=None):
    """A network whose feed-forward blocks lose the same number of units, all of them or some."""
    torch.manual_seed(0)
    model, inputs = TRANSFORMERS[name](np.random.default_rng(5))
    model.eval()
    if change is not None:
        change(model)
    last = [m for path, m in model.named_modules() if LAST.search(path)]
    for layer in last if layers is None else [last[k] for k in layers]:
        zero(layer, slice(2, 7))
    return model, inputs, compact(model, inputs)[0]


def load(saved, auto=None, **more):
    if saved.how == "modeling file":
        more["trust_remote_code"] = True
    return getattr(transformers, auto or saved.auto_classes[0]).from_pretrained(saved.folder, **more).eval()


def once(model, inputs, seed=3):
    with torch.no_grad():
        return Call(inputs).random(seed).once(model)


UNIFORM = {
    "bert": {"intermediate_size": -5}, "distilbert": {"hidden_dim": -5}, "gpt2": {"n_inner": -5},
    "llama": {"intermediate_size": -5}, "neox": {"intermediate_size": -5}, "opt": {"ffn_dim": -5},
    "t5": {"d_ff": -5}, "whisper": {"encoder_ffn_dim": -5, "decoder_ffn_dim": -5},
    "vit": {"intermediate_size": -5}, "mistral": {"intermediate_size": -5},
    "qwen2": {"intermediate_size": -5},
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """All networks of the table, saved, and loaded by one other process that has only the folders."""
    root = tmp_path_factory.mktemp("table")
    cases = {}
    for name in UNIFORM:
        half = halves(name)
        model, inputs, small = thinned(name)
        for kind, net, args, before in (
            ("half", half.small, half.inputs, half.model),
            ("even", small, inputs, model),
        ):
            saved = save_pretrained(net, root / f"{name}-{kind}")
            cases[f"{name}-{kind}"] = (saved, net, args, before)
            torch.save(dict(Call(args).random(3).kwargs), saved.folder / "inputs.pt")
            (saved.folder / "load.json").write_text(json.dumps([saved.auto_classes[0], saved.how]))
    code = """
import json, pathlib, sys, warnings
import torch, transformers
warnings.simplefilter("ignore")
assert "proxlab" not in sys.modules
for folder in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    auto, how = json.loads((folder / "load.json").read_text())
    more = {"trust_remote_code": True} if how == "modeling file" else {}
    model = getattr(transformers, auto).from_pretrained(folder, **more)
    assert not model.training
    inputs = torch.load(folder / "inputs.pt")
    with torch.no_grad():
        torch.save(model(**inputs)[0], folder / "outputs.pt")
    base = transformers.AutoModel.from_pretrained(folder, **more)
    same = dict(model.base_model.named_parameters())
    for name, p in base.named_parameters():
        assert name not in same or torch.equal(p, same[name]), name
"""
    command = [sys.executable, "-c", code, root]
    env = {**os.environ, "HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, cwd=root, env=env, timeout=300)
    return cases


@pytest.mark.parametrize("name", [f"{name}-{kind}" for name in UNIFORM for kind in ("half", "even")])
def test_another_process_loads_it_with_equal_outputs(table, name):
    saved, small, inputs, model = table[name]
    outputs = torch.load(saved.folder / "outputs.pt")
    torch.testing.assert_close(outputs, once(small, inputs)[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs, once(model, inputs)[0], rtol=1e-5, atol=1e-5)
    architecture, kind = name.split("-")
    if kind == "even":
        was = {key: getattr(model.config, key) for key in UNIFORM[architecture]}
        assert saved.how == "config"
        assert saved.widths == {key: was[key] + less for key, less in UNIFORM[architecture].items()}
    # By chance both layers may have lost the same.
    assert (saved.how == "modeling file") == (saved.folder / "modeling_compacted.py").exists()
    assert (saved.how == "modeling file") == ("trust_remote_code=True" in str(saved))
    assert f'{saved.auto_classes[0]}.from_pretrained("{saved.folder}"' in str(saved)
    # The given one is as it was.
    assert not hasattr(small.config, "compacted")
    assert not hasattr(small.config, "auto_map")


def heads_gone(model):
    """The first group of heads of the last layer."""
    zero(model.model.layers[1].self_attn.o_proj, slice(0, 2 * model.config.head_dim))


def all_heads_gone(model):
    for layer in model.model.layers:
        zero(layer.self_attn.o_proj, slice(0, 2 * model.config.head_dim))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generate_with_fewer_heads(tmp_path, cache):
    model, inputs, given = thinned("llama", layers=(0,), change=heads_gone)
    small = copy.deepcopy(given)
    small.generation_config.max_new_tokens, small.generation_config.do_sample = 6, False
    small.generation_config.pad_token_id = 0
    loaded = load(save_pretrained(small, tmp_path / "small"))
    assert loaded.generation_config.max_new_tokens == 6
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = model.generate(**inputs, **how, use_cache=False)
    assert torch.equal(small.generate(**inputs, **how), expected)
    more = {"cache_implementation": "static", "disable_compile": True} if cache == "static" else {}
    assert torch.equal(loaded.generate(**inputs, **how, **more), expected)
    assert (
        loaded.model.layers[1].self_attn.k_proj.out_features
        < loaded.model.layers[0].self_attn.k_proj.out_features
    )


def test_fewer_heads_everywhere_are_in_the_configuration(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=3, head_dim=4,
        intermediate_size=9, vocab_size=20, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    all_heads_gone(model)
    inputs = {"input_ids": torch.arange(14).reshape(2, 7)}
    small, _ = compact(model, inputs)
    saved = save_pretrained(small, tmp_path / "small")
    assert saved.widths == {"num_attention_heads": 4, "num_key_value_heads": 2}
    loaded = load(saved)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(once(loaded, inputs)[0], once(small, inputs)[0])


def test_dtype_and_tied_embeddings_are_kept(tmp_path):
    _, inputs, small = thinned("llama", layers=(0,))
    for how, given in (("modeling file", small), ("config", thinned("llama")[2])):
        net = copy.deepcopy(given).to(torch.bfloat16)
        saved = save_pretrained(net, tmp_path / how)
        assert saved.how == how
        loaded = load(saved)
        assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
        # The frequencies of positions are those of float32 again, which the cast had rounded.
        assert loaded.model.rotary_emb.inv_freq.dtype == torch.float32
        loaded.model.rotary_emb.to(torch.bfloat16)
        assert torch.equal(once(loaded, inputs)[0], once(net, inputs)[0])


def test_layers_of_their_own_widths_where_transformers_builds_them(tmp_path, monkeypatch):
    """A transformers that builds Llama's layers by per_layer_config: what 5.24 does for some models only."""
    if not hasattr(transformers.PreTrainedConfig, "per_layer_config"):
        pytest.skip("the installed transformers has no per_layer_config")
    _, inputs, small = thinned("llama", layers=(1,))
    layer = transformers.models.llama.modeling_llama.LlamaDecoderLayer
    plain = layer.__init__
    monkeypatch.setattr(
        layer,
        "__init__",
        lambda self, config, layer_idx: plain(self, config.per_layer_config[layer_idx], layer_idx),
    )
    saved = save_pretrained(small, tmp_path / "small")
    assert saved.how == "per_layer_config"
    units = small.model.layers[1].mlp.intermediate_size
    assert saved.widths == {"per_layer_config": {0: {}, 1: {"intermediate_size": units}}}
    loaded = load(saved)
    assert torch.equal(once(loaded, inputs)[0], once(small, inputs)[0])
    assert torch.equal(
        loaded.generate(**inputs, max_new_tokens=4, do_sample=False),
        small.generate(**inputs, max_new_tokens=4, do_sample=False),
    )


def test_one_that_was_loaded_is_compacted_and_saved_again(tmp_path):
    _, inputs, small = thinned("llama", layers=(0,))
    loaded = load(save_pretrained(small, tmp_path / "first"))
    zero(loaded.model.layers[1].mlp.down_proj, slice(0, 3))
    again, report = compact(loaded, inputs)
    assert report.parameters[1] < report.parameters[0]
    second = save_pretrained(again, tmp_path / "second")
    assert second.how == "modeling file"
    assert torch.equal(once(load(second), inputs)[0], once(again, inputs)[0])
    # Even again: the configuration says it.
    zero(again.model.layers[1].mlp.down_proj, slice(0, 2))
    even, _ = compact(again, inputs)
    third = save_pretrained(even, tmp_path / "second")
    assert third.how == "config"
    assert torch.equal(once(load(third), inputs)[0], once(even, inputs)[0])
    assert not (tmp_path / "second" / "modeling_compacted.py").exists()


def test_without_trust_nothing_is_loaded_wrongly(tmp_path):
    small = thinned("llama", layers=(0,))[2]
    saved = save_pretrained(small, tmp_path / "small")
    with pytest.raises(RuntimeError, match=r"size|shape"):
        transformers.AutoModelForCausalLM.from_pretrained(saved.folder)


def test_other_files_stay_and_stale_ones_go(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("tokenizer.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (folder / name).write_text("{}")
    small = thinned("bert")[2]
    save_pretrained(small, folder)
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert list(tmp_path.iterdir()) == [folder]


def test_refusals_leave_the_folder_alone(tmp_path, monkeypatch):
    class Own(transformers.BertModel):
        pass

    small = thinned("bert")[2]
    config = small.config

    def refused(model, kind, match, folder="f"):
        with pytest.raises(kind, match=match):
            save_pretrained(model, tmp_path / folder)
        assert not (tmp_path / "f").exists()

    refused(nn.Linear(2, 3), TypeError, r"model: must be a model of .* got Linear; proxlab")
    refused(Own(config), TypeError, r"model: its class must be one of .* whose code a folder does not hold")
    refused(copy.deepcopy(small).to("meta"), ValueError, r"model: '.*' has no values")
    mixed = copy.deepcopy(small)
    mixed.cls.predictions.transform.dense.double()
    refused(mixed, ValueError, r"model: must be of one dtype, .*float32 and '.*' in torch.float64")
    with_other = copy.deepcopy(small)
    with_other.bert.encoder.layer[0].output.dense = nn.Sequential(
        with_other.bert.encoder.layer[0].output.dense
    )
    refused(
        with_other, ValueError, r"model: 'bert.encoder.layer.0.output.dense.*' is .*save_network keeps it"
    )
    (tmp_path / "file").write_text("")
    refused(small, ValueError, r"folder: must be a directory, but '.*' is a file", "file")
    # What was written is another network.
    plain = type(small).save_pretrained

    def spoilt(self, *args, **kwargs):
        other = copy.deepcopy(self)
        other.bert.embeddings.word_embeddings.weight.data += 1
        plain(other, *args, **kwargs)

    monkeypatch.setattr(type(small), "save_pretrained", spoilt)
    refused(small, ValueError, r"model: is not loaded as it was: the values of '.*word_emb")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_attention_that_was_replaced_is_named(tmp_path):
    """PyTorch's own attention inside of a model: its stand-in is no module of transformers."""
    config = transformers.SiglipVisionConfig(
        hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=10, image_size=8,
        patch_size=4,
    )  # fmt: skip
    model = transformers.SiglipVisionModel(config).eval()
    path = next(name for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention))
    stand_in(model, path)
    with pytest.raises(ValueError, match=r"which neither a configuration nor a modelling file can say"):
        save_pretrained(model, tmp_path / "f")
    file = save_network(model, tmp_path / "f.safetensors")
    loaded = load_network(transformers.SiglipVisionModel(config), file).eval()
    inputs = {"pixel_values": torch.randn(2, 3, 8, 8)}
    assert torch.equal(once(loaded, inputs)[0], once(model, inputs)[0])


def test_the_example_of_the_page(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/networks.md").read_text("utf-8")
    (code,) = re.findall(
        r"^```python\n(import torch, transformers\n.*?)^```\n\n```text\n(.*?)^```", page, re.M | re.S
    )
    model, _, _ = thinned("llama")
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("pruned")
    exec(code[0], {})
    printed = capsys.readouterr().out
    assert re.sub(r"\d+", "n", printed) == re.sub(r"\d+", "n", code[1])
