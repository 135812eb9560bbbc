"""
Validate error bounds on your own training
==========================================

Capture the proximal problems that an optimizer solves in training, then ask two questions of them: how far
is a prox of your own from the exact one, and is a bound of your own ever below that distance? The truth is
known to 50 digits, in ball arithmetic, so a violation that is found is proved.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import proxlab as pl
from proxlab import study

# %%
# Capture
# -------
# Softmax regression on handwritten digits, 64 pixels and ten classes, by an adaptive optimizer. The ten
# weights of a pixel are a group. One line around the loop writes down the problem of every 30th step. The
# same line takes the optimizers of ``proxlab.torch``; for any other optimizer, make each ``study.Problem``
# from its numbers.

digits = load_digits()
images, labels = digits.data / 16, np.eye(10)[digits.target]


def gradient(w, rows):
    p = np.exp(images[rows] @ w)
    p /= p.sum(axis=1, keepdims=True)
    return images[rows].T @ (p - labels[rows]) / len(rows)


file = Path(tempfile.mkdtemp()) / "captured.npz"
rng = np.random.default_rng(0)
w = np.full((64, 10), 0.01)
optimizer = pl.optim.ProxAdamW(lr=0.03, weight_decay=0.0)
state = optimizer.init(w, pl.GroupLasso(3e-3))
with study.capture(optimizer, file, every=30):
    for _ in range(120):
        w, state = optimizer.step(w, gradient(w, rng.choice(len(images), 128)), state)

problems = study.load(file)
print(*(problem.name for problem in problems), sep="\n")

# %%
# A prox and two bounds
# ---------------------
# The prox of a group is :math:`z_i = x_i / (1 + \eta\lambda / (d_i r))` with :math:`r = \|z\|`. Here it is
# as one may write it in an afternoon: eight steps of that fixed-point equation, where the zero test leaves
# something to do.
#
# The objective of the prox is strongly convex with constant :math:`\min_i d_i / \eta`, so the residual over
# that constant is a bound of the error. Whoever takes the mean of :math:`d` instead has a bound that is
# tighter, and wrong.


def my_prox(h, x, step, metric=None):
    alive = np.linalg.norm(metric * x, axis=1, keepdims=True) > step * h.lam
    z = alive * x
    for _ in range(8):
        r = np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
        z = alive * x / (1 + step * h.lam / (metric * r))
    return z


def by_min(h, z, x, step, metric=None):
    return h.subdiff_distance(metric * (z - x) / step, z) * step / metric.min(axis=1)


def by_mean(h, z, x, step, metric=None):
    return h.subdiff_distance(metric * (z - x) / step, z) * step / metric.mean(axis=1)


# %%
# Validate
# --------
# Each bound is compared with the true error of each group. The bound named ``distance`` is that of
# :func:`proxlab.certify`, which knows more than a residual: it is at most a few per cent above the truth,
# where the residual over the smallest :math:`d` may be five orders of magnitude above it; except where the
# error is that of rounding, which a proof has to allow for.

bounds = {"residual / min d": by_min, "residual / mean d": by_mean, "distance": "distance"}
validation = study.validate(problems, {"eight steps": my_prox}, bounds, digits=50)
validation.summary()

# %%
# Points below the line of the truth are violations.

validation.plot()

# %%
# The same from a terminal, with the functions in a file ``mine.py``; the exit status is 1 if a bound is
# violated:
#
# .. code-block:: console
#
#    $ proxlab validate captured.npz --solver mine.py:my_prox --bound mine.py:by_mean -o out/
