"""The glosses of WordNet's nouns (Fellbaum 1998; Miller 1995), with the 26 files of its lexicographers.

Each noun has a gloss, such as "a mature male domestic fowl", and stands in one of 26 files: animals,
artifacts, acts, … The task is to tell the file from the gloss.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analysis.deep.samples import Samples, Split

#: Files 3 to 28 of the lexicographers (lexnames(5WN)).
CLASSES = (
    "Tops",
    "act",
    "animal",
    "artifact",
    "attribute",
    "body",
    "cognition",
    "communication",
    "event",
    "feeling",
    "food",
    "group",
    "location",
    "motive",
    "object",
    "person",
    "phenomenon",
    "plant",
    "possession",
    "process",
    "quantity",
    "relation",
    "shape",
    "state",
    "substance",
    "time",
)
_FIRST_FILE = 3
_WORD = re.compile(r"[a-z]+|[0-9]+|[^\sa-z0-9]")
#: Integers of what fills a text up, and of words that the vocabulary does not have.
PADDING, UNKNOWN = 0, 1


def parse(lines: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """Yield the synset's number, the class and the definition of each line of ``data.noun`` (wndb(5WN)).

    Examples that follow the definition, in quotation marks, are left out, as is the licence at the top.
    """
    for line in lines:
        if line.startswith(" "):
            continue
        record, _, gloss = line.partition("|")
        number, file = record.split(maxsplit=2)[:2]
        yield number, int(file) - _FIRST_FILE, gloss.partition('; "')[0].strip()


def words(text: str) -> list[str]:
    """Words, numbers and punctuation marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def _hash(number: str) -> int:
    return int.from_bytes(hashlib.sha256(number.encode()).digest()[:8], "big")


def read(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Glosses and classes of ``data.noun``, ordered by a hash of the synset's number."""
    with path.open(encoding="utf-8", errors="replace") as file:
        parsed = sorted(parse(file), key=lambda row: _hash(row[0]))
    return [gloss for _, _, gloss in parsed], np.array([label for _, label, _ in parsed], dtype=np.int64)


def held_out(count: int) -> int:
    """How many glosses, of so many that `read` returns, are for testing: the first tenth."""
    return count // 10


def divided(x: NDArray[np.int64], labels: NDArray[np.int64], vocabulary: tuple[str, ...]) -> Samples:
    """Samples of what `read` returns, its texts as rows of integers."""
    cut = held_out(len(labels))
    return Samples(Split(x[cut:], labels[cut:]), Split(x[:cut], labels[:cut]), CLASSES, vocabulary)


def wordnet_glosses(paths: list[Path], *, vocabulary: int = 6000, length: int = 24) -> Samples:
    """Glosses as rows of integers, padded with 0 at the end.

    Parameters
    ----------
    paths : list of Path
        The file ``data.noun``.
    vocabulary : int
        So many integers: the most frequent words of the training glosses, with padding and unknown words.
    length : int
        Words of a gloss that are kept.
    """
    glosses, labels = read(paths[0])
    texts = [words(gloss) for gloss in glosses]
    counts = Counter(word for text in texts[held_out(len(texts)) :] for word in text)
    # ties in the alphabet's order, so that the vocabulary does not depend on the order of the glosses
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[: vocabulary - 2]
    index = {word: number for number, word in enumerate(frequent, start=2)}
    x: NDArray[np.int64] = np.full((len(texts), length), PADDING, dtype=np.int64)
    for row, text in zip(x, texts, strict=True):
        numbers = [index.get(word, UNKNOWN) for word in text[:length]]
        row[: len(numbers)] = numbers
    return divided(x, labels, ("", "?", *frequent))
