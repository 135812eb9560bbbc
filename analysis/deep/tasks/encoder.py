"""A transformer encoder, for the glosses of nouns."""

from torch import nn

from analysis.deep.fetch import WORDNET
from analysis.deep.glosses import wordnet_glosses
from analysis.deep.networks import Encoder
from analysis.deep.samples import Samples
from analysis.deep.tasks.base import Budget, Task


def _build(samples: Samples) -> nn.Module:
    return Encoder(len(samples.vocabulary), len(samples.classes), samples.train.x.shape[1])


ENCODER = Task(
    "encoder",
    "transformer on WordNet",
    (WORDNET,),
    wordnet_glosses,
    _build,
    {
        "tiny": Budget(1024, 1, 1000),
        "quick": Budget(None, 1),
        "paper": Budget(None, 1),
        "full": Budget(None, 8),
    },
    groups={"attention": "heads", "ffn": "neurons", "exclude": "classify"},
    pictured=(
        "widen.weight",
        "layers.0.attention.q_proj.weight",
        "layers.0.attention.v_proj.weight",
        "layers.0.attention.out_proj.weight",
        "layers.0.linear1.weight",
        "layers.0.linear2.weight",
    ),
    bucketed=True,
)
