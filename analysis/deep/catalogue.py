"""The methods that the studies compare: their names, what they are, and the strengths that are run.

Strengths are λ of the penalty, or the share of weights that is asked for. They were chosen so that a method's
runs reach from nearly dense to where its accuracy falls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Shape of the group MCP, by task; groups of a norm beyond γλ are charged alike.
GAMMAS = {"vgg": 300.0, "resnet": 300.0, "encoder": 5000.0, "minilm": 100.0}

#: Share of the groups that Bregman iterations start with.
STARTED_WITH = 0.3
#: A target is raised to its value in this first part of the steps.
RAMP = 0.5

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
        "AdamW for half of the steps; then the groups of least root mean square are set to zero, and the "
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
        "ProxAdamW, target sparsity",
        "ours",
        2,
        "the number of groups (group L0), its strength driven to a wanted sparsity",
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
    # of the pretrained weights
    "minilm": dict.fromkeys(_ADAM, 2e-4),
}

#: Edges of the histogram of log10(γ·d / (η·w)); what lies beyond counts in the last bin.
CONVEXITY_EDGES = tuple(k / 8 for k in range(-32, 33))

TARGETS = (0.75, 0.9, 0.95, 0.99)
Strengths = dict[str, tuple[float, ...]]
#: What each method is run with, from weak to strong.
STRENGTHS: dict[str, Strengths] = {
    "vgg": {
        "dense": (0.0,),
        "magnitude": (0.7, 0.8, 0.9),
        "unweighted": (0.1, 0.2),
        "sgd": (3e-3, 1e-2),
        "proxssi": (1e-4, 5e-4),
        "rmda": (1e-3, 3e-3),
        "ramda": (1e-4, 3e-4),
        "linbreg": (3e-3, 1e-2),
        "adabreg": (0.02, 0.05),
        "lasso": (3e-4, 1e-3, 2e-3, 4e-3),
        "mcp": (1e-3, 2.5e-3, 3e-3),
        "target": TARGETS,
        "inexact": (1e-3,),
    },
    "resnet": {
        "dense": (0.0,),
        "magnitude": (0.75,),
        "lasso": (1e-3,),
        "mcp": (2e-3,),
        "target": (0.75, 0.9),
    },
    "encoder": {
        "dense": (0.0,),
        "magnitude": (0.8, 0.95),
        "unweighted": (0.1, 0.2),
        "sgd": (3e-4,),
        "proxssi": (3e-5, 1e-4),
        "rmda": (1e-3,),
        "ramda": (5e-6, 2e-5),
        "linbreg": (1e-2,),
        "adabreg": (0.02,),
        "lasso": (3e-5, 1e-4, 2e-4, 4e-4),
        "mcp": (1e-4, 2e-4, 6e-4),
        "target": TARGETS,
        "inexact": (1e-4,),
    },
    "minilm": {
        "dense": (0.0,),
        "magnitude": (0.5, 0.75),
        "lasso": (2e-4, 3e-4, 5e-4),
        "mcp": (1.2e-2, 1.5e-2, 2e-2),
        "target": (0.5, 0.75, 0.9),
    },
}
#: What the full profile runs besides; the residual network with all methods.
MORE: dict[str, Strengths] = {
    "vgg": {
        "magnitude": (0.95,),
        "unweighted": (0.05,),
        "sgd": (1e-3,),
        "proxssi": (1e-3,),
        "rmda": (5e-4,),
        "ramda": (1e-3,),
        "linbreg": (3e-2,),
        "adabreg": (0.01, 0.3),
        "lasso": (1e-4, 1.5e-3),
        "mcp": (5e-4, 1.5e-3),
    },
    "resnet": STRENGTHS["vgg"],
    "encoder": {
        "magnitude": (0.7, 0.9),
        "unweighted": (0.05,),
        "sgd": (1e-5, 1e-4),
        "proxssi": (1e-5,),
        "rmda": (1e-5, 1e-4),
        "ramda": (1e-4,),
        "linbreg": (1e-3, 3e-3),
        "adabreg": (0.005, 0.3),
        "lasso": (1e-5, 1.5e-4),
        "mcp": (5e-5, 4e-4),
    },
    "minilm": {},
}
#: Whose subproblems are looked at in training, and with which strength.
PROBED = {
    ("vgg", "mcp"): 2.5e-3,
    ("vgg", "inexact"): 1e-3,
    ("encoder", "mcp"): 2e-4,
    ("encoder", "inexact"): 1e-4,
}
#: Training samples (None for all) and epochs.
Budget = tuple[int | None, int]
#: Of the quick profile, which leaves out what has none, and of the full one.
BUDGETS: dict[str, tuple[Budget | None, Budget]] = {
    "vgg": ((45_000, 2), (None, 8)),
    "resnet": ((30_000, 2), (None, 8)),
    "encoder": ((None, 1), (None, 8)),
    "minilm": (None, (40_000, 2)),
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
        What is trained, of `analysis.deep.tasks.TASKS`; the last with all methods.
    points : float
        So many points of accuracy below the dense network count as nearly the same.
    groups : str
        What stands and falls together.
    pictured : tuple of str
        Matrices of the last task whose patterns are drawn.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    points: float
    groups: str
    pictured: tuple[str, ...]


#: Heading of each task.
TITLES = {
    "vgg": "VGG on Fashion-MNIST",
    "resnet": "ResNet on Fashion-MNIST",
    "encoder": "transformer on WordNet",
    "minilm": "pretrained MiniLM on WordNet",
}
VISION = Plan(
    "vision",
    "Sparse networks for images",
    ("resnet", "vgg"),
    1.0,
    "input channels of convolutions and columns of linear layers",
    ("4.weight", "8.weight", "12.weight", "15.weight", "19.weight", "21.weight"),
)
LANGUAGE = Plan(
    "language",
    "A sparse transformer for text",
    ("minilm", "encoder"),
    1.5,
    "attention heads and neurons of the feed-forward blocks, and dimensions of the embedding where the "
    "network is trained from scratch",
    (
        "widen.weight",
        "layers.0.attention.q_proj.weight",
        "layers.0.attention.v_proj.weight",
        "layers.0.attention.out_proj.weight",
        "layers.0.linear1.weight",
        "layers.0.linear2.weight",
    ),
)


def strengths(task: str, *, full: bool) -> Strengths:
    """Methods of a task with their strengths."""
    quick = STRENGTHS[task]
    if not full:
        return quick
    both = {method: {*quick.get(method, ()), *MORE[task].get(method, ())} for method in METHODS}
    return {method: tuple(sorted(values)) for method, values in both.items() if values}


def budgets(plan: Plan, *, full: bool) -> dict[str, Budget]:
    """What each task that a profile runs is trained with."""
    given = {task: BUDGETS[task][full] for task in plan.tasks}
    return {task: budget for task, budget in given.items() if budget is not None}


def middle(values: tuple[float, ...]) -> float:
    """The strength in the middle of a list."""
    return values[len(values) // 2]


def unit_name(task: str, method: str, strength: float, draw: int) -> str:
    """The name under which a training run is stored."""
    return f"{task}-{method}-{strength:g}-{draw}"
