"""The study of sparse networks for text: see `analysis.deep`."""

from __future__ import annotations

from analysis.deep import section as report
from analysis.deep import study
from analysis.deep.catalogue import LANGUAGE
from analysis.results import Profile, ResultsDir, Say
from proxlab.study.page import Section


def run(profile: Profile, results: ResultsDir, say: Say) -> None:
    """Train with every method, then time the steps."""
    study.run(LANGUAGE, profile, results, say)


def section(results: ResultsDir) -> Section:
    """Findings, plots and tables of the stored runs."""
    return report.section(LANGUAGE, results)
