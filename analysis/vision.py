"""The study of sparse networks for images: see `analysis.deep`."""

from __future__ import annotations

from analysis.deep import section as report
from analysis.deep.catalogue import VISION
from analysis.report import Section
from analysis.results import Profile, Progress, ResultsDir


def run(profile: Profile, results: ResultsDir, progress: Progress) -> None:
    """Train with every method, then time the steps."""
    from analysis.deep import study  # needs PyTorch, which the report does not

    study.run(VISION, profile, results, progress)


def section(results: ResultsDir) -> Section:
    """Findings, plots and tables of the stored runs."""
    return report.section(VISION, results)
