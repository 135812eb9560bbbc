"""The real data of the studies: scikit-learn's digits, and `birthwt` of Hosmer and Lemeshow."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

Array = NDArray[np.float64]

BIRTHWT = Path(__file__).parent / "birthwt.csv"

#: Columns of `birthwt`'s design matrix by group, in the order of grpreg's ``Birthwt``.
BIRTHWT_GROUPS: dict[str, tuple[str, ...]] = {
    "age": ("age1", "age2", "age3"),
    "lwt": ("lwt1", "lwt2", "lwt3"),
    "race": ("white", "black"),
    "smoke": ("smoke",),
    "ptl": ("ptl1", "ptl2m"),
    "ht": ("ht",),
    "ui": ("ui",),
    "ftv": ("ftv1", "ftv2", "ftv3m"),
}


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, 8 × 8 pixels.

    Attributes
    ----------
    pixels : (1797, 64) array
        Intensities in [0, 1].
    labels : (1797,) array of int
        The digit.
    """

    pixels: Array
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Birthwt:
    """Birth weight of 189 infants and what is known of their mothers.

    Attributes
    ----------
    design : (189, 16) array
        Predictors in eight groups: orthonormal polynomials of degree 3 in age and in the mother's weight,
        indicators for the rest; not standardised.
    columns : tuple of str
        Their names.
    indptr : (9,) array of int
        Group g is the columns ``indptr[g]:indptr[g + 1]``.
    weight : (189,) array
        Birth weight in kilograms.
    low : (189,) array
        1 where it is below 2.5 kg.
    """

    design: Array
    columns: tuple[str, ...]
    indptr: NDArray[np.int64]
    weight: Array
    low: Array


def digits() -> Digits:
    """scikit-learn's digits, scaled to [0, 1]."""
    loaded = load_digits()
    return Digits(loaded.data / 16.0, loaded.target.astype(np.int64))


def read_birthwt() -> dict[str, Array]:
    """The raw columns of `birthwt.csv` by name."""
    with BIRTHWT.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def orthonormal_polynomials(x: Array, degree: int) -> Array:
    """Polynomials of degree 1 to `degree` in x, orthonormal over its values and to the constant.

    The columns are those of R's ``poly(x, degree)``; each has a positive leading coefficient.
    """
    powers = np.vander(x - x.mean(), degree + 1, increasing=True)
    q, r = np.linalg.qr(powers)
    return (q * np.sign(np.diag(r)))[:, 1:]


def birthwt() -> Birthwt:
    """`birthwt` with the design matrix of grpreg's ``Birthwt``: 16 columns in 8 groups."""
    raw = read_birthwt()
    race, ptl, ftv = raw["race"], raw["ptl"], raw["ftv"]
    columns = [
        *orthonormal_polynomials(raw["age"], 3).T,
        *orthonormal_polynomials(raw["lwt"], 3).T,
        race == 1,
        race == 2,
        raw["smoke"],
        ptl == 1,
        ptl >= 2,
        raw["ht"],
        raw["ui"],
        ftv == 1,
        ftv == 2,
        ftv >= 3,
    ]
    sizes = [len(names) for names in BIRTHWT_GROUPS.values()]
    return Birthwt(
        design=np.column_stack(columns).astype(np.float64),
        columns=tuple(name for names in BIRTHWT_GROUPS.values() for name in names),
        indptr=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        weight=raw["bwt"] / 1000.0,
        low=raw["low"],
    )
