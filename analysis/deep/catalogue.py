"""The studies, and how much of them a profile runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from analysis.deep.methods import METHODS, Method
from analysis.deep.methods.solvers import SOLVERS
from analysis.deep.tasks import IMAGES, TEXTS, Budget, Task


@dataclass(frozen=True)
class Scale:
    """How much a profile runs, beside the budgets of the tasks.

    Attributes
    ----------
    draws : int
        Seeds of every method.
    solver_draws : int
        Seeds of the comparison of solvers; 0 leaves it out.
    strengths : {"one", "quick", "all"}
        See `Runs.strengths`.
    compacts_all : bool
        Whether zeros are removed at the end of every run, or of those of the first seed alone.
    rounds : int
        Steps of each method that are timed.
    before : int
        Steps before the clock runs; some groups are zero by then.
    """

    draws: int
    solver_draws: int
    strengths: str
    compacts_all: bool
    rounds: int
    before: int = 40


#: By profile.
SCALES = {
    "tiny": Scale(1, 2, "one", False, 2, before=2),
    "quick": Scale(1, 0, "quick", True, 20),
    "paper": Scale(5, 5, "all", False, 60),
    "full": Scale(3, 3, "all", True, 100),
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
    tasks : tuple of Task
        What is trained; the last with all methods.
    points : float
        So many points of accuracy below the dense network count as nearly the same.
    groups : str
        What stands and falls together.
    methods : tuple of Method
        What is compared.
    solvers : tuple of Method
        Solvers of the prox that are compared; the first is exact.
    """

    name: str
    title: str
    tasks: tuple[Task, ...]
    points: float
    groups: str
    methods: tuple[Method, ...] = METHODS
    solvers: tuple[Method, ...] = SOLVERS

    def task(self, name: str) -> Task:
        """The task of this name."""
        return next(task for task in self.tasks if task.name == name)

    def method(self, name: str) -> Method:
        """The method of this name."""
        return next(method for method in (*self.methods, *self.solvers) if method.name == name)

    def budgets(self, profile: str) -> dict[Task, Budget]:
        """The tasks that a profile runs, and what each is trained with."""
        return {task: task.budgets[profile] for task in self.tasks if profile in task.budgets}

    def strengths(self, task: Task, profile: str, of: tuple[Method, ...]) -> dict[Method, tuple[float, ...]]:
        """Those of the methods that a profile runs on a task."""
        choice = SCALES[profile].strengths
        runs = {method: method.runs_on(task) for method in of}
        found = {method: r.strengths(choice) for method, r in runs.items() if r is not None}
        return {method: values for method, values in found.items() if values}

    def restricted(self, names: set[str]) -> Plan:
        """The same study of some of its tasks."""
        return replace(self, tasks=tuple(task for task in self.tasks if task.name in names))


VISION = Plan(
    "vision",
    "Sparse networks for images",
    IMAGES,
    1.0,
    "input channels of convolutions and columns of linear layers",
)
LANGUAGE = Plan(
    "language",
    "A sparse transformer for text",
    TEXTS,
    1.5,
    "attention heads and neurons of the feed-forward blocks, and dimensions of the embedding where the "
    "network is trained from scratch",
)


def unit_name(task: str, method: str, strength: float, draw: int) -> str:
    """The name under which a training run is stored."""
    return f"{task}-{method}-{strength:g}-{draw}"


def suffix(profile: str) -> str:
    """What names of units end in, so that a run of one profile takes no place of another's."""
    return "" if profile == "paper" else f"-{profile}"
