"""Pictures of every penalty, in the axes that are given."""

import numpy as np
import pytest

import proxlab as pl
from tests.table import PENALTIES, ids

pytest.importorskip("flint")
pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from proxlab import study


@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
def test_every_penalty(row):
    figure = Figure(figsize=(9, 3))
    axes = figure.subplots(1, 3)
    assert list(study.draw(row.build(), axes)) == list(axes)
    figure.canvas.draw()
    value, slope, prox = ([line.get_xydata() for line in ax.lines] for ax in axes)
    assert axes[0].get_title() == row.name
    assert np.isfinite(value[0]).all()
    assert np.isfinite(slope[0][:, 1]).any()
    assert len(prox) == 3  # the point itself, and two metrics
    assert any(np.nanmin(line[:, 1]) == 0 and np.nanmax(line[:, 1]) > 0 for line in prox[1:])
    # both metrics have their say
    assert not np.array_equal(prox[1], prox[2], equal_nan=True)


def test_what_is_drawn_is_the_penalty():
    axes = Figure().subplots(1, 3)
    study.draw(pl.GroupMCP(1.0, 2.0), axes, step=0.5, radius=4.0)
    r, value = axes[0].lines[0].get_xydata().T
    np.testing.assert_allclose(value, np.where(r < 2, r - r**2 / 4, 1.0), atol=1e-12)
    r, slope = axes[1].lines[0].get_xydata().T
    shown = ~np.isnan(slope)
    np.testing.assert_allclose(slope[shown], np.maximum(1 - r[shown] / 2, 0.0), atol=1e-12)
    x, length = axes[2].lines[1].get_xydata().T  # the identity: firm thresholding
    expected = np.where(x <= 0.5, 0.0, np.where(x <= 2.0, (x - 0.5) / 0.75, x))
    np.testing.assert_allclose(length, expected, atol=1e-12)


def test_wrong_arguments_are_errors():
    with pytest.raises(TypeError, match="penalty: must be"):
        study.draw("lasso")
    with pytest.raises(ValueError, match="axes: must be three"):
        study.draw(pl.L1(1.0), [Figure().subplots()])
    with pytest.raises(ValueError, match="step: must be positive"):
        study.draw(pl.L1(1.0), step=0.0)
