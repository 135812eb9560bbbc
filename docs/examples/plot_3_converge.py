r"""
How exact must each step be? An inner solver of your own
========================================================

A proximal method need not solve its proxes to the last digit. How exact they must be is what theorems
promise, and what this study measures on a loss and with an inner solver of your own: each prox is stopped
as soon as a certificate *proves* that it is within the tolerance of its iteration. Tolerances whose squares
can be summed keep the rate of exact steps. With a constant tolerance :math:`\varepsilon` a method may come
to a floor of the order of :math:`\varepsilon^2`.
"""

import numpy as np

import proxlab as pl
from proxlab import study

# %%
# A smooth loss: anything with ``value_and_grad(w, batch=None)``. Logistic regression here, 40 groups of
# five coefficients, eight of which matter.


class Logistic:
    def __init__(self):
        rng = np.random.default_rng(0)
        scales = np.repeat(10.0 ** rng.uniform(-0.7, 0.7, 40), 5)
        self.a = rng.normal(size=(300, 200)) * scales
        truth = np.repeat(np.arange(40) < 8, 5) / scales
        self.y = np.sign(self.a @ truth + rng.normal(size=300))

    def value_and_grad(self, w, batch=None):
        margins = self.y * (self.a @ w.ravel())
        pull = -self.y / (1 + np.exp(np.clip(margins, -50, 50)))
        return np.logaddexp(0, -margins).mean(), (self.a.T @ pull / len(pull)).reshape(w.shape)


# %%
# An inner solver: a function with the arguments of :func:`proxlab.prox` that yields candidates, each with
# the passes over the array so far. It starts at the last iterate, and never has to know when to stop.


def fixed_point(h, x, step, metric=None, start=None):
    """Iterate ``r = ‖z(r)‖`` with ``z_i = x_i / (1 + step lam / (d_i r))``."""
    d = np.broadcast_to(metric, x.shape)
    alive = np.linalg.norm(d * x, axis=1, keepdims=True) > step * h.lam
    r = np.linalg.norm(start, axis=1, keepdims=True)
    r = np.where(r > 0, r, np.linalg.norm(x, axis=1, keepdims=True))
    passes = 0
    while True:
        z = np.where(alive, x / (1 + step * h.lam / (d * np.maximum(r, 1e-300))), 0.0)
        r = np.linalg.norm(z, axis=1, keepdims=True)
        passes += 1
        yield z, passes


# %%
# The study: schedules × solvers × seeds. The ``adversary`` is no solver: it takes the exact prox and goes
# as far from it as the tolerance permits, to show what a schedule allows.

result = study.converge(
    Logistic(),
    pl.GroupLasso(0.02),
    lambda rng: 0.1 * rng.normal(size=(40, 5)),
    method=pl.optim.ProxAdam(lr=0.02),
    schedules=["square-summable", "constant:0.3", "constant:0.03"],
    solver={"fixed point": fixed_point, "adversary": "adversary"},
    seeds=range(2),
    iterations=200,
)
result.plot("iterations")

# %%
# What it costs, in passes over the array. Exact steps are the baseline.

result.plot("evaluations")

# %%
# Rates and what is promised; floors over :math:`\varepsilon^2`. No run stopped, and every tolerance was
# proved.

print(result.rates().round(2).to_string(index=False))
print(result.floors().to_string(index=False, float_format="{:.2g}".format))
print("all proved:", result.ok)

# %%
# From a terminal, with the class, the solver and a start ``w0`` in a file ``mine.py``:
#
# .. code-block:: console
#
#    $ proxlab converge mine.py:Logistic --penalty 'GroupLasso(0.02)' --start mine.py:w0 \
#        --solver mine.py:fixed_point --solver adversary \
#        --schedule square-summable --schedule constant:0.3 -o out/
