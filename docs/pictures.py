"""Draw the documentation's pictures from stored results: `make pictures`, after `make study`."""

from __future__ import annotations

import importlib
from pathlib import Path

from analysis.report import STUDIES
from analysis.results import ResultsDir
from proxlab.study import style
from proxlab.study.page import Plot

#: Study and plot of each picture; the file is docs/_static/<study>-<plot>.png.
PICTURES = [("solvers", "accuracy"), ("bounds", "scatter"), ("convergence", "theorem")]


def main() -> None:
    """Draw all pictures."""
    results = ResultsDir(Path("results"))
    for study, name in PICTURES:
        with style.style():
            section = importlib.import_module(STUDIES[study]).section(results)
            (plot,) = [item for item in section.items if isinstance(item, Plot) and item.name == name]
            path = Path(__file__).parent / "_static" / f"{study}-{name}.png"
            plot.figure.savefig(path, dpi=110, facecolor="white", metadata={"Software": None})
        print(path)


if __name__ == "__main__":
    main()
