"""MiniLM, a small pretrained encoder of sentences, to be fine-tuned on the glosses.

It is ``all-MiniLM-L6-v2`` (Apache-2.0): BERT with six layers, distilled from a large one and trained to tell
which sentences belong together [1]_ [2]_ [3]_.

Sources
-------
.. [1] J. Devlin, M.-W. Chang, K. Lee, K. Toutanova, "BERT: Pre-training of deep bidirectional transformers
       for language understanding", NAACL 2019.
.. [2] W. Wang, F. Wei, L. Dong, H. Bao, N. Yang, M. Zhou, "MiniLM: Deep self-attention distillation for
       task-agnostic compression of pre-trained transformers", NeurIPS 2020.
.. [3] N. Reimers, I. Gurevych, "Sentence-BERT: Sentence embeddings using Siamese BERT-networks", EMNLP 2019.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from analysis.deep.glosses import PADDING, divided, read
from analysis.deep.networks import SelfAttention
from analysis.deep.samples import Samples


class Layer(nn.Module):
    """Attention and a feed-forward block, each added to its input and normalised after."""

    def __init__(self, width: int, num_heads: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, num_heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The layer's output."""
        x = self.norm1(x + self.attention(x, mask))
        y: Tensor = self.norm2(x + self.linear2(functional.gelu(self.linear1(x))))
        return y


class MiniLM(nn.Module):
    """BERT for texts of one segment, with a linear classifier of its mean output.

    Nothing is dropped in training, because there is little to overfit in an epoch or two.

    Parameters
    ----------
    vocabulary, classes, length : int
        Number of words and of classes; longest text.
    width, hidden : int
        Sizes of the residual stream and of the feed-forward blocks.
    heads, layers : int
        Number of heads in a layer, and of layers.
    segments : int
        Number of segments that the embeddings tell apart; a text is the first.
    eps : float
        Of the layer norms.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        length: int,
        *,
        width: int,
        hidden: int,
        heads: int,
        layers: int,
        segments: int = 2,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.positions = nn.Embedding(length, width)
        self.segments = nn.Embedding(segments, width)
        self.norm = nn.LayerNorm(width, eps)
        self.layers = nn.ModuleList(Layer(width, heads, hidden, eps) for _ in range(layers))
        self.classify = nn.Linear(width, classes)

    def embed(self, text: Tensor) -> Tensor:
        """The mean of the last layer's output over the words of each text."""
        mask = text != PADDING
        x = self.words(text) + self.positions.weight[: text.shape[1]] + self.segments.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x, mask)
        present = mask[..., None].to(x.dtype)
        mean: Tensor = (x * present).sum(1) / present.sum(1).clamp_min(1.0)
        return mean

    def forward(self, text: Tensor) -> Tensor:
        """Scores of the classes, for texts of shape (n, at most `length`)."""
        scores: Tensor = self.classify(self.embed(text))
        return scores


#: What our modules are called in the files of BERT; those of a layer below, without its number.
_MODULES = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
_IN_LAYER = {
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}
#: Tensors of the files that the mean output does not need: 0, 1, 2, …, and a layer on the first word alone.
_UNUSED = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}


def stored_name(name: str) -> str:
    """The name in BERT's files of a parameter of `MiniLM`."""
    module, _, kind = name.rpartition(".")
    if module.startswith("layers."):
        _, number, inner = module.split(".", 2)
        return f"encoder.layer.{number}.{_IN_LAYER[inner]}.{kind}"
    return f"{_MODULES[module]}.{kind}"


def pretrained(paths: list[Path], classes: int) -> MiniLM:
    """The pretrained network with a new classifier.

    Parameters
    ----------
    paths : list of Path
        ``config.json`` and ``model.safetensors`` of a BERT model, in this order; others after them are left.
    classes : int
        Number of classes.

    Raises
    ------
    ValueError
        If the file of weights lacks tensors, or holds others than the configuration asks for.
    """
    from safetensors.torch import load_file  # only the full profile needs it

    config = json.loads(paths[0].read_text(encoding="utf-8"))
    model = MiniLM(
        config["vocab_size"],
        classes,
        config["max_position_embeddings"],
        width=config["hidden_size"],
        hidden=config["intermediate_size"],
        heads=config["num_attention_heads"],
        layers=config["num_hidden_layers"],
        segments=config["type_vocab_size"],
        eps=config["layer_norm_eps"],
    )
    stored = load_file(paths[1])
    names = {own: stored_name(own) for own in model.state_dict() if not own.startswith("classify.")}
    missing = sorted(set(names.values()) - set(stored))
    unknown = sorted(set(stored) - set(names.values()) - _UNUSED)
    if missing or unknown:
        wrong = [
            f"{what} {', '.join(listed)}"
            for what, listed in (("lacks", missing), ("holds the unknown", unknown))
            if listed
        ]
        raise ValueError(f"{paths[1]}: must hold the tensors of a BERT model, but {'; '.join(wrong)}")
    with torch.no_grad():
        for own, p in model.named_parameters():
            if own in names:
                given = stored[names[own]]
                if given.shape != p.shape:
                    raise ValueError(
                        f"{paths[1]}: {names[own]} must have the shape {tuple(p.shape)} that {paths[0].name} "
                        f"asks for, got {tuple(given.shape)}"
                    )
                p.copy_(given)
    return model


def tokenise(path: Path, texts: list[str], length: int) -> NDArray[np.int64]:
    """Texts as rows of word pieces, with the two that mark their ends, cut to a length or padded at the end.

    Parameters
    ----------
    path : Path
        ``tokenizer.json``.
    texts : list of str
    length : int
        Word pieces of a text that are kept.
    """
    from tokenizers import Tokenizer  # only the full profile needs it

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(pad_id=PADDING, pad_token=tokenizer.id_to_token(PADDING), length=length)
    return np.array([text.ids for text in tokenizer.encode_batch(texts)], dtype=np.int64)


def wordnet_pieces(paths: list[Path], *, length: int = 32) -> Samples:
    """Glosses as rows of word pieces; those for testing are the same as of `wordnet_glosses`.

    Parameters
    ----------
    paths : list of Path
        ``data.noun``, then the files of the network: ``config.json``, its weights, and ``tokenizer.json``.
    length : int
        Word pieces of a gloss that are kept.
    """
    texts, labels = read(paths[0])
    pieces = json.loads(paths[3].read_text(encoding="utf-8"))["model"]["vocab"]
    return divided(tokenise(paths[3], texts, length), labels, tuple(sorted(pieces, key=pieces.get)))
