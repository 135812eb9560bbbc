"""The command line of the studies."""

from __future__ import annotations

import enum
import importlib
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from analysis.deep.fetch import MissingDataError
from analysis.report import DEEP_STUDIES, STUDIES, build
from analysis.results import DeepProfile, Profile, ResultsDir
from proxlab.study import ClusterError, FolderError, UnitsFailedError
from proxlab.study.environment import usable_cores

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with [bold]python -m analysis all[/bold], then open results/index.html.",
)


class ProfileName(enum.StrEnum):
    """The two sizes of a study."""

    quick = enum.auto()
    full = enum.auto()


class DeepProfileName(enum.StrEnum):
    """The sizes of a study on networks."""

    quick = enum.auto()
    full = enum.auto()
    paper = enum.auto()
    tiny = enum.auto()


ProfileOption = Annotated[
    ProfileName, typer.Option("--profile", "-p", help="How much work: quick is minutes, full is hours.")
]
DeepProfileOption = Annotated[
    DeepProfileName,
    typer.Option(
        "--profile",
        "-p",
        help="How much work: quick is minutes, paper at most two and a half hours on two cores, full is "
        "many hours; tiny is a short trial.",
    ),
]
ResultsOption = Annotated[Path, typer.Option("--results", "-r", help="Where results are kept and looked up.")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", "-t", min=0, help="Threads and processes; 0 takes every usable core.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option("--cluster", help="A Dask scheduler, tcp://host:8786, for what is not timed."),
]
SeedOption = Annotated[int, typer.Option("--seed", "-s", min=0, help="All random numbers follow from it.")]

RESULTS = Path("results")
#: What the studies on networks need beyond the others.
_DEEP_PACKAGES = ("torch",)

HELP = {
    "problems": """Train on the real data and keep the proximal steps that the other studies work on.""",
    "bounds": """Is a certified bound ever below the true error, and how tight is it?

    True errors against references of at least 50 digits, for each root finder, tolerance, dtype and
    ensemble of inputs.""",
    "solvers": """Which root finder, and how do they compare with what people use today?

    Iterations, evaluations, time, accuracy and failures, beside SciPy, CVXPY and two published solvers.""",
    "convergence": """How exact must each proximal step be for training to converge?

    Inexact ProxGen on two real problems, with schedules of tolerances that each step provably meets.""",
    "speed": """How close to memory speed is a prox, and how far ahead of published solvers?""",
    "vision": """Sparse networks for images: every method on Fashion-MNIST. Needs PyTorch.

    Accuracy against group sparsity, time of a step, and what is left after compact. Data: the folder in
    PROXLAB_DATA, the Debian package, or its download.""",
    "language": """A sparse transformer for text: every method on the glosses of WordNet. Needs PyTorch.

    As vision, with attention heads and feed-forward neurons as groups.""",
    "ranks": """What does a step send where groups are cut over processes? Needs PyTorch.

    Bytes and collectives, counted; times over loopback; a prediction for many GPUs; and the prox of a Dask
    array whose chunks cut groups.""",
}


def _run(
    studies: list[str],
    profile: ProfileName | DeepProfileName,
    results: Path,
    threads: int,
    seed: int,
    cluster: str | None,
    **options: Any,
) -> None:
    sort = DeepProfile if isinstance(profile, DeepProfileName) else Profile
    chosen = sort(profile.value, seed=seed, threads=threads or usable_cores(), cluster=cluster)
    directory = ResultsDir(results)
    started = time.perf_counter()
    modules = STUDIES | DEEP_STUDIES
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(text, highlight=False)

    for name in studies:
        say(f"[bold]{name}[/bold]")
        try:
            importlib.import_module(modules[name]).run(chosen, directory, say, **options)
        except (MissingDataError, FolderError, ClusterError, UnitsFailedError) as error:
            _stop(str(error))
        except ModuleNotFoundError as error:
            if error.name not in _DEEP_PACKAGES:
                raise
            _stop(f"The study {name} needs the package {error.name!r}: pip install 'proxlab[torch]'")
    _report(directory, time.perf_counter() - started)


def _stop(text: str) -> NoReturn:
    Console().print(text, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from None


def _report(directory: ResultsDir, seconds: float | None = None) -> None:
    console = Console()
    try:
        path = build(directory)
    except FolderError as error:
        _stop(str(error))
    taken = "" if seconds is None else f" ({seconds:.0f} s)"
    console.print(f"{path}{taken}", highlight=False, soft_wrap=True)


@app.callback()
def main() -> None:
    """Studies of weighted proximal operators, on tensors captured while training on real data.

    Each study stores what it finishes: stop it at any time and start it again, and it goes on where it was.
    Every command ends by rebuilding one self-contained page, [bold]results/index.html[/bold].
    """


def _add_command(name: str, studies: list[str], text: str) -> None:
    def command(
        profile: ProfileOption = ProfileName.quick,
        results: ResultsOption = RESULTS,
        threads: ThreadsOption = 0,
        seed: SeedOption = 0,
        cluster: ClusterOption = None,
    ) -> None:
        _run(studies, profile, results, threads, seed, cluster)

    app.command(name, help=text)(command)


def _add_deep_command(name: str, text: str) -> None:
    def command(
        profile: DeepProfileOption = DeepProfileName.quick,
        results: ResultsOption = RESULTS,
        threads: ThreadsOption = 0,
        seed: SeedOption = 0,
        cluster: ClusterOption = None,
    ) -> None:
        _run([name], profile, results, threads, seed, cluster)

    app.command(name, help=text)(command)


for _study, _text in HELP.items():
    if _study in DEEP_STUDIES:
        _add_deep_command(_study, _text)
    elif _study != "speed":
        _add_command(_study, [_study], _text)
_add_command(
    "all",
    list(STUDIES),
    "Every study but vision, language and ranks, then the page: at most eight minutes on two cores.",
)


class Backend(enum.StrEnum):
    """Where speed is measured."""

    cpu = enum.auto()
    cuda = enum.auto()


@app.command("speed", help=HELP["speed"])
def _speed(
    profile: ProfileOption = ProfileName.quick,
    results: ResultsOption = RESULTS,
    threads: ThreadsOption = 0,
    seed: SeedOption = 0,
    backend: Annotated[
        Backend, typer.Option(help="cuda: on a GPU instead; prints a record and stores nothing.")
    ] = Backend.cpu,
    only: Annotated[
        list[str], typer.Option(help="Measure only what begins so: contiguous, strided, passes, step, …")
    ] = [],  # noqa: B006 (typer copies it)
    against: Annotated[
        Path | None,
        typer.Option(help="Another checkout: the same measurements of both in turn; prints their ratios."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Pairs of each measurement with --against.")] = 31,
) -> None:
    if against is not None:
        from analysis import speed_against

        try:
            speed_against.run(against, Console().print, only=only, rounds=rounds)
        except speed_against.CheckoutError as error:
            _stop(str(error))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--only") from None
        return
    if backend is Backend.cpu:
        try:
            _run(["speed"], profile, results, threads, seed, None, only=only)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--only") from None
        return
    from analysis import speed_cuda

    try:
        speed_cuda.run(print)
    except speed_cuda.NoDeviceError as error:
        _stop(str(error))


@app.command("gpu-static")
def _gpu_static() -> None:
    """Build every GPU kernel for two architectures, without a GPU, and write docs/gpu.md's tables."""
    from analysis import gpu_static

    try:
        gpu_static.write(print)
    except gpu_static.MissingToolError as error:
        _stop(str(error))


@app.command()
def report(results: ResultsOption = RESULTS) -> None:
    """Rebuild the page and its tables from stored results; computes nothing."""
    _report(ResultsDir(results))


@app.command()
def keep(
    study: Annotated[str, typer.Argument(help="A study that was run to its end.")],
    results: ResultsOption = RESULTS,
) -> None:
    """Write a study's findings and tables into docs/records, with date and machine; computes nothing."""
    from analysis import record

    if study not in STUDIES | DEEP_STUDIES:
        raise typer.BadParameter(
            f"must be {', '.join(STUDIES | DEEP_STUDIES)}, got {study!r}", param_hint="study"
        )
    try:
        path = record.keep(study, ResultsDir(results))
    except FolderError as error:
        _stop(str(error))
    Console().print(path, highlight=False, soft_wrap=True)
