"""What validate, compare and converge have in common: results that are made of units, saved and read back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import pandas as pd

from proxlab.study.folder import Folder, FolderError, Result, StoredStudy

__all__ = ["Results", "Tables"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Results(ABC):
    """Base of all results: data frames that follow from units of work and the settings of the study."""

    #: The study, as folders name it.
    study: ClassVar[str]

    _results: Mapping[str, Result] = field(repr=False)
    _settings: Mapping[str, Any] = field(repr=False)

    @classmethod
    @abstractmethod
    def of(cls, results: Mapping[str, Result], settings: Mapping[str, Any]) -> Self:
        """Make the tables of what units found.

        Parameters
        ----------
        results : mapping of str to Result
            By the unit's name.
        settings : mapping
            What the study was asked for.
        """

    @classmethod
    def read(cls, folder: str | Path | StoredStudy) -> Self:
        """Read results back from a folder, as far as they are there; computes nothing.

        Parameters
        ----------
        folder : str, path or StoredStudy
            The folder of one study.

        Raises
        ------
        MissingResultsError
            If there is none.
        FolderError
            If it is of another format or another study, or cannot be read.
        """
        stored = folder if isinstance(folder, StoredStudy) else Folder(Path(folder)).read()
        if stored.study != cls.study:
            raise FolderError(f"{folder} holds the study {stored.study!r}, not {cls.study!r}")
        return cls.of({unit.name: unit.result for unit in stored.units}, stored.settings)

    def save(self, folder: str | Path) -> None:
        """Write the results to a folder, which ``proxlab.study.report`` makes a page of.

        Parameters
        ----------
        folder : str or path
            Made if it is not there.
        """
        Folder(Path(folder), self.study, self._settings).save(self._results)

    def summary(self) -> None:
        """Print what matters first."""
        print(self)


@dataclass(frozen=True)
class Tables:
    """Rows of units, put together.

    Parameters
    ----------
    keys : sequence of str
        What every unit says of itself among its values: the first columns of all tables.
    """

    keys: Sequence[str]

    def about(self, result: Result) -> dict[str, Any]:
        """Return what a unit says of itself."""
        return {key: result.values[key] for key in self.keys}

    def frame(self, parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
        """Return the rows of all units; with all columns where there are none."""
        full = [part for part in parts if len(part)] or parts[:1]
        named = [*self.keys, *columns]
        return (pd.concat(full, ignore_index=True) if full else pd.DataFrame(columns=named))[named]

    def failures(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
        """Return a row for each failure."""
        return pd.DataFrame(rows, columns=[*self.keys, *columns])
