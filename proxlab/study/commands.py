"""The commands of ``proxlab``, as typer reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from proxlab.penalties import Penalty
from proxlab.rootfinders import RootFinder
from proxlab.study import expressions, schedules, usercode
from proxlab.study.cluster import ClusterError
from proxlab.study.compare import compare
from proxlab.study.converge import converge
from proxlab.study.environment import version
from proxlab.study.folder import FolderError
from proxlab.study.inner import INNER
from proxlab.study.problems import Problem, load
from proxlab.study.report import report
from proxlab.study.run import UnitsFailedError
from proxlab.study.truth import ERRORS
from proxlab.study.validate import validate

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done; 1 a violation or a failure was found; 2 the command or its input is wrong.",
)

_NAMED = "file.py:name or module:name"
ProblemsArgument = Annotated[
    list[Path],
    typer.Argument(help="Files and folders of problems, as study.capture writes them."),
]
SolverOption = Annotated[
    list[str] | None,
    typer.Option(
        "--solver",
        "-s",
        help=f"A root finder, or {_NAMED} of a function like proxlab.prox. Repeat it.",
    ),
]
PenaltyOption = Annotated[
    str | None,
    typer.Option("--penalty", help="In place of the one stored: 'GroupLasso(0.01)' or file.py:name."),
]
DtypeOption = Annotated[
    str | None, typer.Option("--dtype", help="Round the problems first: float32,float64.")
]
SeedOption = Annotated[str, typer.Option("--seed", help="Seeds, such as 0,1,2.")]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster", help="A Dask scheduler, tcp://host:8786, instead of processes of this machine."
    ),
]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes of this machine.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Keep results there, go on from what is there, and write a page."),
]
ExitZeroOption = Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever was found.")]


def _version(value: bool) -> None:
    if value:
        print(f"proxlab {version('proxlab')}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Weighted proximal operators, studied on your own data.

    Capture problems in training with [bold]proxlab.study.capture[/bold], then:

      proxlab validate captured.npz --solver mine.py:prox --bound mine.py:bound -o out/
      proxlab compare captured.npz --solver mine.py:prox --solver Brent -o out/
      proxlab converge mine.py:loss --penalty 'GroupLasso(0.01)' --schedule constant:0.1 -o out/

    What is computed is kept in the folder: stop at any time, and the same command goes on from there.
    """


@app.command("validate")
def _validate(
    problems: ProblemsArgument,
    solver: SolverOption = None,
    bound: Annotated[
        list[str] | None,
        typer.Option(
            "--bound", "-b", help=f"{_NAMED} of a function, or a certificate's: {', '.join(ERRORS)}."
        ),
    ] = None,
    penalty: PenaltyOption = None,
    digits: Annotated[int, typer.Option("--digits", help="Digits of the truth.")] = 50,
    dtype: DtypeOption = None,
    seed: SeedOption = "0",
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
    out: OutOption = None,
    exit_zero: ExitZeroOption = False,
) -> None:
    """Is a bound ever below the true error? Truths are exact to 50 digits, in ball arithmetic.

    Without --bound, the bounds of proxlab's certificate are judged; without --solver, results of Newton.
    """
    with _one_sentence():
        found = validate(
            _problems(problems, penalty),
            _solvers(solver),
            _bounds(bound),
            digits=digits,
            dtypes=_words(dtype),
            seeds=_seeds(seed),
            folder=None if out is None else out / "validate",
            cluster=cluster,
            workers=workers,
        )
        _finish(found, out, exit_zero)


@app.command("compare")
def _compare(
    problems: ProblemsArgument,
    solver: SolverOption = None,
    tolerance: Annotated[
        str | None, typer.Option("--tolerance", help="Relative tolerances of root finders: 1e-2,1e-8.")
    ] = None,
    penalty: PenaltyOption = None,
    digits: Annotated[
        int | None,
        typer.Option("--digits", help="Measure true errors, to so many digits; else a proved bound of them."),
    ] = None,
    dtype: DtypeOption = None,
    seed: SeedOption = "0",
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
    out: OutOption = None,
    exit_zero: ExitZeroOption = False,
) -> None:
    """What do solvers cost, and how close do they come? Errors are absolute, not against the best found."""
    with _one_sentence():
        found = compare(
            _problems(problems, penalty),
            _solvers(solver),
            _numbers(tolerance, "--tolerance"),
            digits,
            dtypes=_words(dtype),
            seeds=_seeds(seed),
            folder=None if out is None else out / "compare",
            cluster=cluster,
            workers=workers,
        )
        _finish(found, out, exit_zero)


@app.command("converge")
def _converge(
    loss: Annotated[
        str,
        typer.Argument(help=f"{_NAMED} of an object with value_and_grad(w, batch=None), or of its class."),
    ],
    penalty: Annotated[str, typer.Option("--penalty", help="'GroupLasso(0.01)' or file.py:name.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--start", help=f"{_NAMED} of the first weights; by default the attribute or name w0 there."
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="An optimizer of proxlab.optim, or file.py:name.")
    ] = "ProxAdam(lr=0.01)",
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            "--schedule",
            help=f"Tolerances: {', '.join(schedules.NAMES)}, with parameters as in constant:0.1. Repeat it.",
        ),
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            "--solver",
            "-s",
            help=f"{', '.join(INNER)}, a root finder, or {_NAMED}. Repeat it.",
        ),
    ] = None,
    seed: SeedOption = "0,1,2,3,4",
    iterations: Annotated[int, typer.Option("--iterations", "-n", min=1, help="Steps of each run.")] = 300,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Samples of each gradient; all by default.")
    ] = None,
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
    out: OutOption = None,
    exit_zero: ExitZeroOption = False,
) -> None:
    """How exact must each step be? Runs on your loss, with tolerances that each step provably meets."""
    with _one_sentence():
        objective = usercode.load(loss)
        if isinstance(objective, type):
            objective = objective()
        found = converge(
            objective,
            _penalty(penalty),
            _start(start, loss, objective),
            method=_optimizer(method),
            schedules=schedule or ["square-summable", "constant:0.1"],
            solver={text: text if text in INNER else _solver(text) for text in solver} if solver else None,
            seeds=_seeds(seed),
            iterations=iterations,
            batch_size=batch_size,
            folder=None if out is None else out / "converge",
            cluster=cluster,
            workers=workers,
        )
        _finish(found, out, exit_zero)


@app.command("report")
def _report(
    folder: Annotated[Path, typer.Argument(help="The folder given as -o to other commands.")],
) -> None:
    """Write index.html, tables/*.csv and figures/* of what a folder holds; computes nothing."""
    with _one_sentence():
        print(report(folder))


def _problems(paths: Sequence[Path], penalty: str | None) -> tuple[Problem, ...]:
    found = tuple(problem for path in paths for problem in load(path))
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))}: no problems")
    if penalty is None:
        return found
    other = _penalty(penalty)
    return tuple(replace(problem, penalty=other) for problem in found)


def _penalty(text: str) -> Penalty:
    found = usercode.load(text) if _is_named(text) else expressions.read(text, "penalty")
    if not isinstance(found, Penalty):
        raise ValueError(f"--penalty: {text} must be a penalty, it is a {type(found).__name__}")
    return found


def _is_named(text: str) -> bool:
    """Whether a text is file.py:name or module:name, and no expression."""
    return ":" in text and "(" not in text


def _solvers(texts: Sequence[str] | None) -> dict[str, Any] | None:
    return {text: _solver(text) for text in texts} if texts else None


def _solver(text: str) -> Any:
    if not _is_named(text):
        return expressions.read(text, "root finder")
    found = usercode.load(text)
    if isinstance(found, type) and issubclass(found, RootFinder):
        found = found()
    return found if isinstance(found, RootFinder) else _callable(found, text, "--solver")


def _function(text: str, option: str) -> Callable[..., Any]:
    return _callable(usercode.load(text), text, option)


def _callable(found: object, text: str, option: str) -> Callable[..., Any]:
    if not callable(found):
        raise ValueError(f"{option}: {text} must be a function, it is a {type(found).__name__}")
    return found


def _optimizer(text: str) -> Any:
    return usercode.load(text) if _is_named(text) else expressions.read(text, "optimizer")


def _start(text: str | None, loss: str, objective: object) -> Any:
    if text is not None:
        return usercode.load(text)
    if hasattr(objective, "w0"):
        return objective.w0
    place = loss.rpartition(":")[0]
    try:
        return usercode.load(f"{place}:w0")
    except ValueError:
        raise ValueError(
            f"where does a run start? Neither {loss} nor {place} has a w0: say --start file.py:name"
        ) from None


def _bounds(texts: Sequence[str] | None) -> dict[str, Any] | None:
    if not texts:
        return None
    return {text: text if text in ERRORS else _function(text, "--bound") for text in texts}


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",")]


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--seed: must be integers such as 0,1,2, got {text!r}") from None


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"{option}: must be numbers such as 1e-2,1e-8, got {text!r}") from None


def _finish(found: Any, out: Path | None, exit_zero: bool) -> None:
    """Print what was found and the page, and end with the status that says so."""
    print(found)
    if out is not None:
        print(report(out))
    if not (exit_zero or found.ok):
        raise typer.Exit(1)


@contextmanager
def _one_sentence() -> Iterator[None]:
    """End with a sentence, not a traceback, where the command or its input is wrong."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        console.print(f"Warning: {message}", style="yellow", markup=False)

    status = 2
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = show
        try:
            yield
            return
        except UnitsFailedError as error:
            text, status = str(error), 1
        except (FolderError, ClusterError, TypeError, ValueError) as error:
            text = str(error)
        except OSError as error:
            text = f"{error.filename}: {(error.strerror or str(error)).lower()}"
        except KeyboardInterrupt:
            text, status = (
                "Interrupted. With -o, the same command goes on from what is there.",
                130,
            )
    console.print(text, style="red", markup=False)
    raise typer.Exit(status)
