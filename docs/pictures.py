"""Draw the pictures of README and documentation: `make pictures`.

Those of the examples are drawn by running them, those of the repository's studies from stored results, after
`make study`.
"""

from __future__ import annotations

import importlib
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

from analysis.report import STUDIES
from analysis.results import ResultsDir
from proxlab.study import MissingResultsError, style
from proxlab.study.page import Plot

FOLDER = Path(__file__).parent

#: By picture, docs/_static/<picture>.svg: the example, and how to draw it from the example's names.
EXAMPLES: dict[str, tuple[str, Callable[[dict[str, Any], Any], Any]]] = {
    "validate": ("plot_1_validate.py", lambda names, ax: names["validation"].plot(ax)),
    "compare": ("plot_2_compare.py", lambda names, ax: names["comparison"].accuracy(ax)),
    "converge": ("plot_3_converge.py", lambda names, ax: names["result"].plot("iterations", ax)),
}

#: Study and plot of each picture; the file is docs/_static/<study>-<plot>.png.
STUDIED = [("solvers", "accuracy"), ("bounds", "scatter"), ("convergence", "theorem")]


def draw_examples() -> None:
    """Run the examples and draw their pictures."""
    mpl.use("Agg")
    for picture, (example, draw) in EXAMPLES.items():
        names = runpy.run_path(str(FOLDER / "examples" / example), run_name="__main__")
        with style.style():
            figure = style.new_figure(width=5.4, height=3.6)
            draw(names, figure.add_subplot())
            path = FOLDER / "_static" / f"{picture}.svg"
            metadata = {"Date": None, "Creator": None}
            figure.savefig(path, dpi=160, facecolor="white", metadata=metadata)
        print(path)


def draw_studies() -> None:
    """Draw from the results of the repository's studies, as far as they are there."""
    results = ResultsDir(Path("results"))
    for study, name in STUDIED:
        with style.style():
            try:
                section = importlib.import_module(STUDIES[study]).section(results)
            except MissingResultsError as error:
                print(f"{study}-{name}.png stays as it is: {error}")
                continue
            (plot,) = [item for item in section.items if isinstance(item, Plot) and item.name == name]
            path = FOLDER / "_static" / f"{study}-{name}.png"
            plot.figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})
        print(path)


if __name__ == "__main__":
    draw_examples()
    draw_studies()
