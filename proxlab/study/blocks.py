"""Arrays that do not fit into memory: certificates of blocks put together, and the prox of Dask arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxlab.bounds import rounding
from proxlab.certificate import Total, certify
from proxlab.penalties import Penalty

__all__ = ["Certified", "certify_blocks"]


@dataclass(frozen=True)
class Certified:
    """The certificate of all blocks together.

    Attributes
    ----------
    total : Total
        Bounds of the whole array, as those of a :class:`~proxlab.Certificate`: 2-norms of the distances and
        of the stationarity, and the sum of the gaps.
    groups, undecided : int
        How many groups there are, and in how many rounding leaves open which point is the minimiser.
    blocks : int
        How many blocks there were.
    """

    total: Total
    groups: int
    undecided: int
    blocks: int

    @property
    def decided(self) -> bool:
        """Whether every group is decided."""
        return self.undecided == 0


def certify_blocks(blocks: Iterable[tuple[Any, ...]]) -> Certified:
    """Certify an array block by block, with no more than a block in memory.

    Parameters
    ----------
    blocks : iterable of tuple
        ``(penalty, z, x, step, metric)`` for each block, or without the last, or the last two: what
        :func:`proxlab.certify` takes. No group may be cut: a block holds whole groups, and its penalty has
        the groups of the block.

    Returns
    -------
    Certified

    Raises
    ------
    TypeError, ValueError
        If a block is not admissible; the message has its number.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> from proxlab import study
    >>> h, x = pl.GroupLasso(1.0), np.random.default_rng(0).standard_normal((1000, 8))
    >>> z = pl.prox(h, x, 0.5)
    >>> rows = (slice(k, k + 100) for k in range(0, 1000, 100))
    >>> found = study.certify_blocks((h, z[part], x[part], 0.5) for part in rows)
    >>> found.groups, found.decided, found.total.distance < 1e-12
    (1000, True, True)
    """
    sums = dict.fromkeys(Total._fields, 0.0)
    groups = undecided = count = 0
    for number, block in enumerate(blocks):
        given: Any = block
        if not (isinstance(given, tuple) and 3 <= len(given) <= 5 and isinstance(given[0], Penalty)):
            raise TypeError(
                f"blocks: block {number} must be (penalty, z, x, step, metric), got {type(given).__name__}"
            )
        penalty, z, x, step, metric = (given + (1.0, None)[len(given) - 3 :])[:5]
        try:
            c = certify(penalty, z, x, step, metric=metric)
        except (TypeError, ValueError) as error:
            raise type(error)(f"blocks: block {number}: {error}") from error
        for name, value in c.total._asdict().items():
            squared = value * value * (1.0 + 2.0**-50) + (_TINY if value else 0.0)
            sums[name] += value if name == "gap" else squared
        decided = np.asarray(c.decided)
        groups += len(decided)
        undecided += int(len(decided) - decided.sum())
        count += 1
        # The block may be let go before the next one is read.
        del block, given, penalty, z, x, step, metric, c
    up = 1.0 + rounding(count + 16)
    gap = sums.pop("gap") * up
    norms = {name: math.sqrt(square * up) * up for name, square in sums.items()}
    return Certified(Total(**norms, gap=gap), groups, undecided, count)


# Added where a square may have vanished.
_TINY = 2.0**-1074
