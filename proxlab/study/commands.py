"""The commands of ``proxlab``, as typer reads them."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

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
SolverOption = Annotated[
    list[str] | None,
    typer.Option(
        "--solver",
        "-s",
        metavar="NAME",
        help=f"A root finder, or {_NAMED} of a function like proxlab.prox. Repeat it.",
    ),
]
SeedOption = Annotated[str, typer.Option("--seed", metavar="0,1,…", help="Seeds.")]


def _running(*names: str, **more: Any) -> Any:
    """An option of where and how a study runs."""
    return typer.Option(*names, rich_help_panel="Running", **more)


@dataclass(frozen=True)
class _Data:
    """What validate and compare work on."""

    problems: Annotated[
        list[Path],
        typer.Argument(help="Files and folders of problems, as study.capture writes them.", metavar="FILE"),
    ]
    solver: SolverOption = None
    penalty: Annotated[
        str | None,
        typer.Option(
            "--penalty",
            metavar="PENALTY",
            help="In place of the one stored: 'GroupLasso(0.01)', or file.py:name of a penalty or its class.",
        ),
    ] = None
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", metavar="TYPE,…", help="Round the problems first: float32,float64."),
    ] = None
    seed: SeedOption = "0"

    def given(self) -> dict[str, Any]:
        """Return the arguments of both functions."""
        return {
            "problems": _problems(self.problems, self.penalty),
            "solvers": {text: _solver(text) for text in self.solver} if self.solver else None,
            "dtypes": None if self.dtype is None else [word.strip() for word in self.dtype.split(",")],
            "seeds": _seeds(self.seed),
        }


@dataclass(frozen=True)
class _Run:
    """Where and how a study runs, and what becomes of its results."""

    out: Annotated[
        Path | None,
        _running(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Keep results there, go on from what is there, and write a page.",
        ),
    ] = None
    workers: Annotated[
        int | None, _running("--workers", min=1, metavar="N", help="Processes of this machine.")
    ] = None
    cluster: Annotated[
        str | None,
        _running("--cluster", metavar="ADDRESS", help="A Dask scheduler, tcp://host:8786, instead of them."),
    ] = None
    exit_zero: Annotated[bool, _running("--exit-zero", help="Exit with 0 whatever was found.")] = False

    def given(self, study: str) -> dict[str, Any]:
        """Return the arguments of every study."""
        folder = None if self.out is None else self.out / study
        return {"folder": folder, "cluster": self.cluster, "workers": self.workers}

    def finish(self, found: Any) -> None:
        """Print what was found and the page, and end with the status that says so."""
        print(found)
        if self.out is not None:
            print(report(self.out))
        if not (self.exit_zero or found.ok):
            raise typer.Exit(1)


def _options(kind: type) -> dict[str, inspect.Parameter]:
    """Return the fields of a dataclass as parameters."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        one.name: inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if one.default is MISSING else one.default,
            annotation=hints[one.name],
        )
        for one in fields(kind)
    }


def _study(name: str) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Make a command of a function that returns what it found.

    Its options are its arguments, where those of a dataclass stand for the fields of that; one is `_Run`.
    """

    def command(function: Callable[..., Any]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        shared: dict[str, type] = {}
        parameters: dict[str, inspect.Parameter] = {}
        for key, parameter in inspect.signature(function).parameters.items():
            if is_dataclass(hints[key]):
                shared[key] = hints[key]
                parameters |= _options(hints[key])
            else:
                keyword = inspect.Parameter.KEYWORD_ONLY
                parameters[key] = parameter.replace(kind=keyword, annotation=hints[key])

        def run(**words: Any) -> None:
            with _one_sentence():
                held = {
                    key: kind(**{one.name: words.pop(one.name) for one in fields(kind)})
                    for key, kind in shared.items()
                }
                held["run"].finish(function(**words, **held))

        run.__doc__ = function.__doc__
        run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
        run.__annotations__ = {key: parameter.annotation for key, parameter in parameters.items()}
        return app.command(name)(run)

    return command


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
      proxlab report out/

    What is computed is kept in the folder: stop at any time, and the same command goes on from there.
    """


@_study("validate")
def _validate(
    data: _Data,
    run: _Run,
    bound: Annotated[
        list[str] | None,
        typer.Option(
            "--bound",
            "-b",
            metavar="NAME",
            help=f"{_NAMED} of a function, or a certificate's: {', '.join(ERRORS)}.",
        ),
    ] = None,
    digits: Annotated[int, typer.Option("--digits", metavar="N", help="Digits of the truth.")] = 50,
) -> Any:
    """Is a bound ever below the true error?

    The truth is known to 50 digits, in ball arithmetic. Without --bound, the bounds of proxlab's
    certificate are judged; without --solver, results of Newton.
    """
    return validate(**data.given(), bounds=_bounds(bound), digits=digits, **run.given("validate"))


@_study("compare")
def _compare(
    data: _Data,
    run: _Run,
    tolerance: Annotated[
        str | None,
        typer.Option("--tolerance", metavar="1e-2,…", help="Relative tolerances that root finders run at."),
    ] = None,
    digits: Annotated[
        int | None,
        typer.Option(
            "--digits", metavar="N", help="Measure true errors, to so many digits; else proved bounds."
        ),
    ] = None,
) -> Any:
    """What do solvers cost, and how close do they come?

    Errors are absolute: a proved distance to the exact prox or the true one, not that to the best that
    was found. Without --solver, Newton.
    """
    limits = _numbers(tolerance, "--tolerance")
    return compare(**data.given(), tolerances=limits, digits=digits, **run.given("compare"))


@_study("converge")
def _converge(
    run: _Run,
    loss: Annotated[
        str,
        typer.Argument(
            help=f"{_NAMED} of an object with value_and_grad(w, batch=None), or of its class.", metavar="LOSS"
        ),
    ],
    penalty: Annotated[
        str, typer.Option("--penalty", metavar="PENALTY", help="'GroupLasso(0.01)' or file.py:name.")
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--start",
            metavar="NAME",
            help=f"{_NAMED} of the first weights; by default the attribute or name w0 there.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option("--method", metavar="METHOD", help="An optimizer of proxlab.optim, or file.py:name."),
    ] = "ProxAdam(lr=0.01)",
    schedule: Annotated[
        list[str] | None,
        typer.Option(
            "--schedule",
            metavar="NAME",
            help=f"Tolerances: {', '.join(schedules.NAMES)}, with parameters as in constant:0.1. Repeat it.",
        ),
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            "--solver",
            "-s",
            metavar="NAME",
            help=f"{', '.join(INNER)}, a root finder, or {_NAMED}. Repeat it.",
        ),
    ] = None,
    decrease: Annotated[
        bool, typer.Option("--decrease", help="Prove the decrease of each prox's objective too.")
    ] = False,
    seed: SeedOption = "0,1,2,3,4",
    iterations: Annotated[
        int, typer.Option("--iterations", "-n", min=1, metavar="N", help="Steps of each run.")
    ] = 300,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, metavar="N", help="Samples of each gradient; all by default."),
    ] = None,
) -> Any:
    """How exact must each step be for training to converge?

    Runs on your loss, beside exact ones, with tolerances that each step provably meets.
    """
    objective = usercode.load(loss)
    if isinstance(objective, type):
        objective = objective()
    return converge(
        objective,
        _penalty(penalty),
        _start(start, loss, objective),
        method=_optimizer(method),
        schedules=schedule or ["square-summable", "constant:0.1"],
        solver={text: text if text in INNER else _solver(text) for text in solver} if solver else None,
        seeds=_seeds(seed),
        iterations=iterations,
        batch_size=batch_size,
        decrease=decrease,
        **run.given("converge"),
    )


@app.command("report")
def _report(
    folder: Annotated[
        Path, typer.Argument(help="The folder given as -o to other commands.", metavar="FOLDER")
    ],
) -> None:
    """Write the page of a folder: index.html, tables/*.csv and figures/*.

    It computes nothing, and can be written while a study runs or after one was stopped.
    """
    with _one_sentence():
        print(report(folder))


def _problems(paths: Sequence[Path], penalty: str | None) -> tuple[Problem, ...]:
    found = load(*paths, penalty=None if penalty is None else _penalty_or_class(penalty))
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))}: no problems")
    return found


def _penalty_or_class(text: str) -> Penalty | type[Penalty]:
    found = usercode.load(text) if _is_named(text) else expressions.read(text, "penalty")
    if not isinstance(found, Penalty) and not (isinstance(found, type) and issubclass(found, Penalty)):
        raise ValueError(f"--penalty: {text} must be a penalty, it is a {type(found).__name__}")
    return found


def _penalty(text: str) -> Penalty:
    found = _penalty_or_class(text)
    if isinstance(found, type):
        raise ValueError(f"--penalty: {text} is a class: name a penalty, such as {text} with its parameters")
    return found


def _is_named(text: str) -> bool:
    """Whether a text is file.py:name or module:name, and no expression."""
    return ":" in text and "(" not in text


def _solver(text: str) -> Any:
    if text.endswith(".py"):
        raise ValueError(f"--solver: which function of {text}? Say {text}:name")
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
        except BrokenPipeError:
            # Who read the output has seen enough. What is left of it goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(128 + signal.SIGPIPE) from None
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            text = reason if error.filename is None else f"{error.filename}: {reason}"
        except KeyboardInterrupt:
            text, status = (
                "Interrupted. With -o, the same command goes on from what is there.",
                130,
            )
    console.print(text, style="red", markup=False)
    raise typer.Exit(status)
