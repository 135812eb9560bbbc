r"""
The paper's comparison on one layer
===================================

Deleu and Bengio (2021, `arXiv:2102.03869 <https://arxiv.org/abs/2102.03869>`_) ask for the prox of the
group lasso in the metric of the optimizer, and solve for it by Newton's method (ProxSSI). Three answers for
one layer in training, side by side: that Newton's method, written from the paper; the prox that takes no
notice of the metric; and proxlab's. The error of each is its certified distance to the exact weighted prox.
"""

import matplotlib.pyplot as plt
import numpy as np

import proxlab as pl
from proxlab import study

# %%
# The layer
# ---------
# A layer of 512 × 64 weights with the second moments that an adaptive optimizer has seen: they differ by
# orders of magnitude between columns and within them. Each input's weights are a group. For a layer of your
# own, use ``study.capture``, as in :doc:`plot_1_validate`.

rng = np.random.default_rng(0)
size = rng.lognormal(sigma=0.7, size=(512, 1))
x = 0.03 * size * rng.normal(size=(512, 64))
moment = 1e-4 * rng.lognormal(sigma=1.5, size=(1, 64)) * rng.lognormal(sigma=1.5, size=(512, 64))
metric = np.sqrt(moment) + 1e-8
layer = study.Problem("layer", x, 1e-3, metric, pl.GroupLasso(2.0))

# %%
# Three solvers
# -------------
# ProxSSI's: where :math:`\|Dx\| > \eta\lambda`, Newton's method for :math:`\theta` in :math:`\sum_i x_i^2 /
# (\theta + \eta\lambda/d_i)^2 = 1`, from :math:`(\|Dx\| - \eta\lambda)/\max_i d_i`, on all groups until the
# last one stops: where the residual, or its change, is below 1e-7, or after 100 iterations.


def proxssi(h, x, step, metric=None):
    t = x.dtype.type(step * h.lam)
    norm = np.linalg.norm(metric * x, axis=1)
    active = norm > t
    z = np.zeros_like(x)
    squares, d = x[active] ** 2, metric[active]
    theta = (norm[active] - t) / d.max(axis=1)
    last = np.zeros_like(theta)
    passes = 1  # the zero test's
    while passes <= 100:
        passes += 1
        den = theta[:, None] + t / d
        residual = (squares / den**2).sum(axis=1) - 1
        theta += residual / (2 * (squares / den**3).sum(axis=1))
        if np.all(np.abs(residual) < 1e-7) or np.all(np.abs(last - residual) < 1e-7):
            break
        last = residual
    z[active] = x[active] * (d * theta[:, None] / (d * theta[:, None] + t))
    return z, np.where(active, passes, 1)


def unweighted(h, x, step, metric=None):
    """The prox in the Euclidean metric, with a step for each group that fits its mean metric."""
    return pl.prox(h, x, step / metric.mean(axis=1).astype(float))


def weighted(h, x, step, metric=None):
    s = pl.solve(h, x, step, metric=metric)
    return s.z, s.evaluations


# %%
# Side by side
# ------------
# In float64, and in the float32 in which networks are trained. There the residual that ProxSSI waits for is
# below rounding, and it goes on to the last of its hundred iterations. (What is as small as this needs no
# workers.)

solvers = {"proxlab": weighted, "ProxSSI": proxssi, "unweighted": unweighted}
comparison = study.compare(layer, solvers, dtypes=["float64", "float32"], workers=1)
shown = ["solver", "dtype", "failed", "error, p99", "error, max", "evaluations, mean"]
print(comparison.table[shown].to_string(index=False, float_format="{:.2g}".format))

# %%
# How the errors are distributed over the groups that are not zero. The unweighted prox is another operator:
# its error does not get smaller with more work.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
for ax, dtype in zip(axes, ("float64", "float32"), strict=True):
    frame = comparison.frame.query("dtype == @dtype and not failed and error > 0")
    for name, part in frame.groupby("solver", sort=False):
        errors = np.sort(part["error"] / part["scale"])
        ax.semilogx(errors, np.arange(1, len(errors) + 1) / len(x), drawstyle="steps-post", label=name)
    ax.set(title=dtype, xlabel="certified distance to the prox over ‖x‖")
axes[0].set_ylabel("share of groups up to that error")
axes[0].legend()

# %%
# Do they agree on which groups are zero?

for name, solver in solvers.items():
    found = solver(layer.penalty, layer.x, 1e-3, metric=layer.metric)
    z = found[0] if isinstance(found, tuple) else found
    print(f"{name:12}{np.sum(~z.any(axis=1)):5} of {len(z)} groups are zero")
plt.show()
