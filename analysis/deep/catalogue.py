"""The methods that the studies compare: their names, what they are, and the strengths that are run.

Strengths are λ of the penalty, or the share of weights that is asked for. They were chosen so that a method's
runs reach from nearly dense to where its accuracy falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Shape of the group MCP.
GAMMA = 300.0

Kind = Literal["ours", "published", "shortcut"]


@dataclass(frozen=True)
class Method:
    """A method as the report shows it.

    Attributes
    ----------
    title : str
        For legends and tables.
    kind : {"ours", "published", "shortcut"}
        The weighted prox in Adam, another method of the literature, or what is done for want of a weighted
        prox.
    colour : int
        Series of the report's palette.
    text : str
        What it does.
    """

    title: str
    kind: Kind
    colour: int
    text: str


METHODS = {
    "dense": Method("dense AdamW", "shortcut", 8, "AdamW without a penalty"),
    "magnitude": Method(
        "AdamW, magnitude pruning",
        "shortcut",
        8,
        "AdamW for half of the epochs; then the groups of least root mean square are set to zero, and the "
        "rest is fine-tuned",
    ),
    "unweighted": Method(
        "AdamW, unweighted prox", "shortcut", 4, "AdamW followed by the prox in the identity metric"
    ),
    "sgd": Method(
        "ProxSGD", "published", 5, "SGD with momentum 0.9 and the prox in its metric, the identity"
    ),
    "proxssi": Method(
        "ProxSSI as published",
        "published",
        7,
        "AdamW and the weighted prox with the uncorrected metric (Deleu & Bengio 2021)",
    ),
    "rmda": Method("RMDA", "published", 3, "dual averaging with momentum (Huang & Lee 2022)"),
    "ramda": Method("RAMDA", "published", 6, "adaptive dual averaging (Huang et al. 2024)"),
    "linbreg": Method("LinBreg", "published", 2, "linearised Bregman iterations (Bungert et al. 2022)"),
    "adabreg": Method("AdaBreg", "published", 1, "their Adam variant (Bungert et al. 2022)"),
    "lasso": Method("ProxAdamW, group lasso", "ours", 0, "AdamW and the exact prox in its own metric"),
    "mcp": Method("ProxAdamW, group MCP", "ours", 1, "the same with the nonconvex group MCP"),
    "target": Method(
        "ProxAdamW, target sparsity", "ours", 2, "the group lasso, its strength driven to a wanted sparsity"
    ),
    "inexact": Method(
        "ProxAdamW, inexact prox", "ours", 0, "the group lasso, each prox by bisection to a proved tolerance"
    ),
}

_ADAM = ("dense", "magnitude", "unweighted", "proxssi", "adabreg", "lasso", "mcp", "target", "inexact")
#: Largest learning rate of each method, by task; one for all that are built on Adam.
RATES = {
    "vgg": dict.fromkeys(_ADAM, 2e-3) | {"sgd": 5e-2, "rmda": 1e-1, "ramda": 1e-2, "linbreg": 5e-2},
    "resnet": dict.fromkeys(_ADAM, 2e-3) | {"sgd": 5e-2, "rmda": 1e-1, "ramda": 1e-2, "linbreg": 5e-2},
    "encoder": dict.fromkeys(_ADAM, 3e-3) | {"sgd": 1e-1, "rmda": 1e-1, "ramda": 1e-2, "linbreg": 1e-1},
}

#: Edges of the histogram of log10(γ·d / (η·w)); what lies beyond counts in the last bin.
CONVEXITY_EDGES = tuple(k / 8 for k in range(-32, 33))

TARGETS = (0.75, 0.9, 0.95, 0.99)
#: What each method is run with, from weak to strong.
STRENGTHS: dict[str, dict[str, tuple[float, ...]]] = {
    "vgg": {
        "dense": (0.0,),
        "magnitude": (0.7, 0.9, 0.95),
        "unweighted": (0.05, 0.1, 0.2),
        "sgd": (3e-4, 1e-3, 3e-3),
        "proxssi": (3e-5, 1e-4),
        "rmda": (5e-4, 1e-3, 2e-3),
        "ramda": (5e-5, 1e-4, 3e-4),
        "linbreg": (1e-2, 3e-2, 1e-1),
        "adabreg": (0.1, 0.3, 0.5),
        "lasso": (3e-4, 1e-3, 1.5e-3, 3e-3),
        "mcp": (5e-4, 1e-3, 2e-3, 3e-3),
        "target": TARGETS,
        "inexact": (1e-3,),
    },
}
STRENGTHS["resnet"] = STRENGTHS["vgg"]
STRENGTHS["encoder"] = STRENGTHS["vgg"]
#: What the quick profile runs instead.
_QUICK: dict[str, dict[str, tuple[float, ...]]] = {
    "resnet": {
        "dense": (0.0,),
        "magnitude": (0.7, 0.9),
        "lasso": (5e-4, 1e-3),
        "mcp": (1e-3, 2e-3),
        "target": (0.75, 0.9),
    }
}
#: Whose subproblems are looked at in training, and with which strength.
PROBED = {
    ("vgg", "mcp"): 1e-3,
    ("vgg", "inexact"): 1e-3,
    ("encoder", "mcp"): 3e-3,
    ("encoder", "inexact"): 1e-3,
}
#: Training samples (None for all) and epochs, of the quick profile and of the full one.
BUDGETS: dict[str, tuple[tuple[int | None, int], tuple[int | None, int]]] = {
    "vgg": ((45_000, 2), (None, 8)),
    "resnet": ((30_000, 2), (None, 8)),
    "encoder": ((None, 1), (None, 8)),
}


@dataclass(frozen=True)
class Plan:
    """A study.

    Attributes
    ----------
    name : str
        As the command line knows it.
    title : str
        Heading of its section.
    tasks : tuple of str
        What is trained, of `analysis.deep.tasks.TASKS`; the first with all methods.
    points : float
        So many points of accuracy below the dense network count as nearly the same.
    pictured : tuple of str
        Matrices of the first task whose patterns are drawn.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    points: float
    pictured: tuple[str, ...]


#: Heading of each task.
TITLES = {
    "vgg": "VGG on Fashion-MNIST",
    "resnet": "ResNet on Fashion-MNIST",
    "encoder": "transformer on WordNet",
}
VISION = Plan(
    "vision",
    "Sparse networks for images",
    ("resnet", "vgg"),
    1.0,
    ("4.weight", "8.weight", "12.weight", "15.weight", "19.weight", "21.weight"),
)
LANGUAGE = Plan(
    "language",
    "A sparse transformer for text",
    ("encoder",),
    1.5,
    (
        "widen.weight",
        "layers.0.attention.q_proj.weight",
        "layers.0.attention.v_proj.weight",
        "layers.0.attention.out_proj.weight",
        "layers.0.linear1.weight",
        "layers.0.linear2.weight",
    ),
)


def strengths(task: str, *, full: bool) -> dict[str, tuple[float, ...]]:
    """Methods of a task with their strengths."""
    return STRENGTHS[task] if full else _QUICK.get(task, STRENGTHS[task])


def middle(values: tuple[float, ...]) -> float:
    """The strength in the middle of a list."""
    return values[len(values) // 2]


def unit_name(task: str, method: str, strength: float, draw: int) -> str:
    """The name under which a training run is stored."""
    return f"{task}-{method}-{strength:g}-{draw}"
