"""A pretrained encoder of sentences, fine-tuned on the glosses of nouns."""

from torch import nn

from analysis.deep.fetch import MINILM, WORDNET, locate
from analysis.deep.minilm import pretrained, wordnet_pieces
from analysis.deep.samples import Samples
from analysis.deep.tasks.base import Budget, Task


def _build(samples: Samples) -> nn.Module:
    return pretrained(locate(MINILM), len(samples.classes))


MINILM_ENCODER = Task(
    "minilm",
    "pretrained MiniLM on WordNet",
    (WORDNET, MINILM),
    wordnet_pieces,
    _build,
    {"full": Budget(40_000, 2)},
    groups={"attention": "heads", "ffn": "neurons", "exclude": "classify"},
    pictured=tuple(
        f"layers.0.{name}.weight" for name in ("attention.q_proj", "attention.v_proj", "linear1", "linear2")
    ),
    bucketed=True,
    classifier_rate=1e-3,
)
