"""Tiny networks of the libraries transformers and timm, of configurations drawn at random, and PyTorch's own.

Each function takes a random generator and returns a network in evaluation mode, and arguments of a call.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from proxlab import GroupLasso
from proxlab.torch import compact, param_groups
from tests.torch import models

SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tokens(rng, vocabulary, length=7):
    return {"input_ids": torch.from_numpy(rng.integers(3, vocabulary, (2, length)))}


def images(rng, size, channels=3):
    return torch.from_numpy(rng.standard_normal((2, channels, size, size))).float()


def sizes(rng):
    """Heads, the size of a head, hidden units, words of a vocabulary."""
    heads, size = int(rng.integers(2, 5)), int(rng.choice([2, 4]))
    return heads, size, int(rng.integers(9, 20)), int(rng.integers(29, 40))


def _transformers():
    return pytest.importorskip("transformers", reason="make test-models brings it")


def bert(rng):
    t, (heads, size, units, words) = _transformers(), sizes(rng)
    config = t.BertConfig(
        hidden_size=heads * size, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=units,
        vocab_size=words, max_position_embeddings=16, **SPECIAL, **STILL,
    )  # fmt: skip
    return t.BertForMaskedLM(config), tokens(rng, words)


def distilbert(rng):
    t, (heads, size, units, words) = _transformers(), sizes(rng)
    config = t.DistilBertConfig(
        dim=heads * size, n_layers=2, n_heads=heads, hidden_dim=units, vocab_size=words, dropout=0.0,
        attention_dropout=0.0, max_position_embeddings=16, **SPECIAL,
    )  # fmt: skip
    return t.DistilBertForSequenceClassification(config), tokens(rng, words)


def gpt2(rng):
    t, (heads, size, units, words) = _transformers(), sizes(rng)
    config = t.GPT2Config(
        n_embd=heads * size, n_layer=2, n_head=heads, n_inner=units, vocab_size=words, n_positions=32,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **SPECIAL,
    )  # fmt: skip
    return t.GPT2LMHeadModel(config), tokens(rng, words)


def _decoder(rng, name, **more):
    """Grouped queries, gated units, and embeddings that are the output layer, too."""
    t, (_, size, units, words) = _transformers(), sizes(rng)
    keys, each = int(rng.integers(2, 4)), 2
    config = getattr(t, f"{name}Config")(
        hidden_size=2 * keys * each * size, num_hidden_layers=2, num_attention_heads=keys * each,
        num_key_value_heads=keys, head_dim=2 * size, intermediate_size=units, vocab_size=words,
        max_position_embeddings=32, tie_word_embeddings=True, **SPECIAL, **more,
    )  # fmt: skip
    return getattr(t, f"{name}ForCausalLM")(config), tokens(rng, words)


def llama(rng):
    return _decoder(rng, "Llama")


def mistral(rng):
    return _decoder(rng, "Mistral", sliding_window=None)


def qwen2(rng):
    return _decoder(rng, "Qwen2")


def qwen3(rng):
    """Queries and keys pass through norms, whose weights all heads share."""
    return _decoder(rng, "Qwen3")


def neox(rng):
    t, (heads, size, units, words) = _transformers(), sizes(rng)
    config = t.GPTNeoXConfig(
        hidden_size=2 * heads * size, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=units,
        vocab_size=words, max_position_embeddings=32, attention_dropout=0.0, hidden_dropout=0.0, **SPECIAL,
    )  # fmt: skip
    return t.GPTNeoXForCausalLM(config), tokens(rng, words)


def opt(rng):
    t, (heads, size, units, words) = _transformers(), sizes(rng)
    config = t.OPTConfig(
        hidden_size=heads * size, word_embed_proj_dim=heads * size, num_hidden_layers=2, ffn_dim=units,
        num_attention_heads=heads, vocab_size=words, max_position_embeddings=32, dropout=0.0, **SPECIAL,
    )  # fmt: skip
    return t.OPTForCausalLM(config), tokens(rng, words)


def t5(rng):
    t, (heads, size, units, words) = _transformers(), sizes(rng)
    config = t.T5Config(
        d_model=heads * size, d_kv=size, d_ff=units, num_layers=2, num_heads=heads, vocab_size=words,
        dropout_rate=0.0, decoder_start_token_id=0, **SPECIAL,
    )  # fmt: skip
    inputs = tokens(rng, words)
    return t.T5ForConditionalGeneration(config), inputs | {"decoder_input_ids": inputs["input_ids"][:, :4]}


def whisper(rng):
    t, (heads, size, units, words) = _transformers(), sizes(rng)
    config = t.WhisperConfig(
        d_model=heads * size, encoder_layers=1, decoder_layers=1, encoder_attention_heads=heads,
        decoder_attention_heads=heads, encoder_ffn_dim=units, decoder_ffn_dim=units, vocab_size=words,
        num_mel_bins=5, max_source_positions=8, max_target_positions=16, dropout=0.0,
        decoder_start_token_id=1, **SPECIAL,
    )  # fmt: skip
    sound = torch.from_numpy(rng.standard_normal((2, 5, 16))).float()
    words_in = tokens(rng, words, 4)["input_ids"]
    model = t.WhisperForConditionalGeneration(config)
    return model, {"input_features": sound, "decoder_input_ids": words_in}


def vit(rng):
    t, (heads, size, units, _) = _transformers(), sizes(rng)
    config = t.ViTConfig(
        hidden_size=heads * size, num_hidden_layers=2, num_attention_heads=heads, intermediate_size=units,
        image_size=8, patch_size=4, num_labels=3, **STILL,
    )  # fmt: skip
    return t.ViTForImageClassification(config), {"pixel_values": images(rng, 8)}


TRANSFORMERS = {
    f.__name__: f
    for f in (bert, distilbert, gpt2, llama, mistral, qwen2, qwen3, neox, opt, t5, whisper, vit)
}  # fmt: skip


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return f"{cls.__name__}.{name}"


class _Empty(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Empty(spec.name)

    def exec_module(self, module):
        pass


@contextmanager
def without_torchvision():
    """Let timm be imported where torchvision is missing, of which its networks need nothing."""
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            if isinstance(sys.modules[name], _Empty):
                del sys.modules[name]


def _timm():
    with without_torchvision():
        return pytest.importorskip("timm", reason="make test-models brings it")


def resnet(rng):
    timm = _timm()
    kinds = timm.models.resnet
    widths = tuple(int(n) for n in rng.integers(5, 9, 4))
    block = [kinds.BasicBlock, kinds.Bottleneck][int(rng.integers(2))]
    model = kinds.ResNet(block, (1, 2, 1, 1), num_classes=3, stem_width=6, channels=widths)
    return model, (images(rng, 32),)


def mobilenet(rng):
    """Depthwise convolutions, squeeze and excitation, inverted residuals."""
    timm = _timm()
    decode = timm.models._efficientnet_builder.decode_arch_def
    a, b = (int(n) for n in rng.integers(2, 4, 2) * 4)
    blocks = [[f"ds_r1_k3_s2_e1_c{a}_se0.25"], [f"ir_r1_k3_s2_e3_c{b}"], [f"ir_r2_k5_s1_e3_c{b}_se0.25"]]
    model = timm.models.mobilenetv3.MobileNetV3(decode(blocks), num_classes=3, stem_size=8, num_features=16)
    return model, (images(rng, 32),)


def convnext(rng):
    dims = tuple(int(n) for n in rng.integers(5, 9, 4))
    model = _timm().models.convnext.ConvNeXt(num_classes=3, depths=(1, 1, 1, 1), dims=dims, patch_size=4)
    return model, (images(rng, 32),)


def timm_vit(rng, **more):
    heads, size, _, _ = sizes(rng)
    model = _timm().models.vision_transformer.VisionTransformer(
        img_size=16, patch_size=8, num_classes=3, embed_dim=heads * size, depth=2, num_heads=heads,
        mlp_ratio=2.5, **more,
    )  # fmt: skip
    return model, (images(rng, 16),)


def timm_vit_qk_norm(rng):
    """Layer norms, with shifts, of queries and keys."""
    return timm_vit(rng, qk_norm=True)


TIMM = {f.__name__: f for f in (resnet, mobilenet, convnext, timm_vit, timm_vit_qk_norm)}


def lstm(rng):
    return models.Recurrent(nn.LSTM, int(rng.integers(4, 9))), tokens(rng, 11)["input_ids"]


def gru(rng):
    return models.Recurrent(nn.GRU, int(rng.integers(4, 9))), tokens(rng, 11)["input_ids"]


def vgg(rng):
    return models.vgg(2 * int(rng.integers(2, 5))), images(rng, 8)


PLAIN = {f.__name__: f for f in (vgg, lstm, gru)}


def halved(groups, seed):
    """Set about half of the groups of every param group to zero; returns how many elements that is."""
    rng, count = np.random.default_rng(seed), 0
    for group in groups:
        if group["penalty"] is None:
            continue
        shares = (
            [group["joint"]] if "joint" in group else [[group["penalty"].groups] for _ in group["params"]]
        )
        params = [group["params"]] if "joint" in group else [[p] for p in group["params"]]
        for divisions, own in zip(shares, params, strict=True):
            parts = [d.indices(tuple(p.shape)) for d, p in zip(divisions, own, strict=True)]
            n = len(parts[0][0]) - 1
            for k in rng.choice(n, n // 2, replace=False):
                for (start, places), p in zip(parts, own, strict=True):
                    with torch.no_grad():
                        p.view(-1)[torch.from_numpy(np.asarray(places[start[k] : start[k + 1]]))] = 0
                    count += int(start[k + 1] - start[k])
    return count


#: Which groups fit a network.
STRUCTURES = {"attention": "heads", "ffn": "neurons", "linear": None, "conv": None, "lstm": None}
FILTERS, UNITS = {"conv": "filter+norm", "linear": None}, {"lstm": "unit", "linear": None}
GROUPS = {
    **dict.fromkeys((*TRANSFORMERS, "timm_vit", "timm_vit_qk_norm"), STRUCTURES),
    **dict.fromkeys(("resnet", "mobilenet", "vgg"), FILTERS),
    **dict.fromkeys(("lstm", "gru"), UNITS),
    "convnext": {"ffn": "neurons", "conv": None, "linear": None},
}
EVERY = TRANSFORMERS | TIMM | PLAIN


@dataclass
class Case:
    """A network of which half of the groups are zero, and what is left of it."""

    make: Callable
    model: nn.Module
    inputs: Any
    zeroed: int
    small: nn.Module
    report: Any


@functools.cache
def halves(name, seed=0):
    """Make a network, set about half of its groups to zero, and compact it."""

    def make():
        torch.manual_seed(seed)
        return EVERY[name](np.random.default_rng(seed))

    model, inputs = make()
    models.settle(model)
    groups = param_groups(model, GroupLasso(0.1), example_inputs=inputs, **GROUPS[name])
    zeroed = halved(groups, seed)
    small, report = compact(model, inputs)
    return Case(lambda: make()[0], model, inputs, zeroed, small, report)
