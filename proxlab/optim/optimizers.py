"""The adaptive proximal methods on arrays of any namespace: each states its settings and names its rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from proxlab.optim import tree
from proxlab.optim.base import LearningRate, Optimizer
from proxlab.optim.rules import RULES, Rule
from proxlab.optim.state import State
from proxlab.untraced import untraced

__all__ = [
    "RAMDA",
    "RMDA",
    "AdaBreg",
    "LinBreg",
    "ProxAMSGrad",
    "ProxAdagrad",
    "ProxAdam",
    "ProxAdamW",
    "ProxRMSprop",
    "ProxSGD",
]


@dataclass(frozen=True, kw_only=True)
class ProxSGD(Optimizer):
    """Stochastic gradient descent with momentum; the prox has step ``lr`` and the identity for a metric.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps ``t = 1, 2, …``; the prox has it as its step.
    momentum, dampening : float, optional
        Momentum, and the share of the gradient that is left out of it.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    nesterov : bool, optional
        Nesterov's momentum; needs momentum and no dampening.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.

    Examples
    --------
    >>> import numpy as np, proxlab as pl
    >>> optimizer = pl.optim.ProxSGD(lr=1.0)
    >>> params = np.array([[3.0, 4.0], [0.3, 0.4]])
    >>> state = optimizer.init(params, pl.GroupLasso(1.0))
    >>> params, state = optimizer.step(params, np.zeros((2, 2)), state)
    >>> params
    array([[2.4, 3.2],
           [0. , 0. ]])
    """

    rule: ClassVar[Rule] = RULES["ProxSGD"]

    lr: LearningRate = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False
    maximize: bool = False


@dataclass(frozen=True, kw_only=True)
class ProxAdagrad(Optimizer):
    """Adagrad; the metric is ``sqrt(Σ g²) + eps``.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps.
    lr_decay : float, optional
        The learning rate of step t is divided by ``1 + (t - 1) lr_decay``.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    initial_accumulator_value : float, optional
        The sum of squares at the start.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["ProxAdagrad"]

    lr: LearningRate = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    maximize: bool = False


@dataclass(frozen=True, kw_only=True)
class ProxRMSprop(Optimizer):
    """RMSprop; the metric is ``sqrt(v) + eps``.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps.
    alpha : float, optional
        Decay of the second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    momentum : float, optional
        Momentum of the preconditioned gradient.
    centered : bool, optional
        Take the variance of the gradient for its second moment.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["ProxRMSprop"]

    lr: LearningRate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False


@dataclass(frozen=True, kw_only=True)
class ProxAdam(Optimizer):
    """Adam; the metric is ``sqrt(v̂) + eps``, corrected for its bias as the step is.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps; the prox has it as its step.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    maximize, amsgrad : bool, optional
        Maximise the loss; take the largest second moment so far.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["ProxAdam"]

    lr: LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False
    amsgrad: bool = False


@dataclass(frozen=True, kw_only=True)
class ProxAdamW(Optimizer):
    """Adam with decoupled weight decay: the point of the prox is ``w (1 - lr·weight_decay) - lr m̂/d``.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps; the prox has it as its step.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Shrinks the weights by the factor ``1 - lr·weight_decay`` before the step.
    maximize, amsgrad : bool, optional
        Maximise the loss; take the largest second moment so far.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["ProxAdamW"]

    lr: LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    maximize: bool = False
    amsgrad: bool = False


@dataclass(frozen=True, kw_only=True)
class ProxAMSGrad(Optimizer):
    """AMSGrad: Adam whose metric has the largest second moment so far.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps; the prox has it as its step.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["ProxAMSGrad"]

    lr: LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False


class DualAveraging(Optimizer):
    """Base of the methods whose averages start anew at each stage of training."""

    @untraced
    def restart(self, params: Any, state: State) -> State:
        """Return the state of a new stage that starts at ``params``, as where the learning rate drops.

        Parameters
        ----------
        params : tree of array
            The parameters as they are.
        state : State
            The state that goes with them; its count of steps, history and target go on.
        """
        found = tree.leaves(params, "params")
        return replace(state, stage_step=0, weight_sum=0.0, slots=self._start(found, state.penalties))


@dataclass(frozen=True, kw_only=True)
class RMDA(DualAveraging):
    """Regularised modernised dual averaging (Huang & Lee 2022).

    With ``s_t = lr √t``, ``α_t = Σ s`` and ``V = Σ s g``, the prox of step ``α_t/√t`` at ``w0 - V/√t``.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps.
    momentum : float, optional
        The share of the last weights in the new ones, below 1. Weights are exactly zero only without it.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["RMDA"]

    lr: LearningRate = 1e-1
    momentum: float = 0.0
    maximize: bool = False


@dataclass(frozen=True, kw_only=True)
class RAMDA(DualAveraging):
    """Regularised adaptive momentum dual averaging (Huang & Lee 2024).

    As :class:`RMDA` with ``U = Σ s g²`` and the metric ``P = U^(1/3) + eps``: the prox of step ``α_t`` at
    ``w0 - V/P``.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps.
    momentum : float, optional
        The share of the last weights in the new ones, below 1. Weights are exactly zero only without it.
    eps : float, optional
        Added to the metric; above 0.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["RAMDA"]

    lr: LearningRate = 1e-2
    momentum: float = 0.0
    eps: float = 1e-8
    maximize: bool = False


@dataclass(frozen=True, kw_only=True)
class LinBreg(Optimizer):
    """Linearised Bregman iterations (Bungert, Roith, Tenbrinck & Burger 2022), for convex penalties.

    Gradients move a dual variable, ``v ← v - lr m``, and the weights are read off it, ``w = prox_{δψ}(δ v)``.
    Where the strength changes, ``v`` stays and the weights follow.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps.
    momentum : float, optional
        Momentum, below 1.
    delta : float, optional
        The δ of ``J_δ = ψ + ‖·‖²/2δ``, the step of the prox: large values regularise less.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["LinBreg"]

    lr: LearningRate = 1e-3
    momentum: float = 0.0
    delta: float = 1.0
    maximize: bool = False


@dataclass(frozen=True, kw_only=True)
class AdaBreg(Optimizer):
    """Linearised Bregman iterations with the directions of Adam, ``v ← v - lr m̂/(sqrt(v̂) + eps)``.

    Parameters
    ----------
    lr : float or callable, optional
        Learning rate, or a function of the count of steps.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0.
    delta : float, optional
        The δ of ``J_δ = ψ + ‖·‖²/2δ``, the step of the prox: large values regularise less.
    maximize : bool, optional
        Maximise the loss.
    root_finder, inexactness, certify_every, sparsity
        As in :class:`Optimizer`.
    """

    rule: ClassVar[Rule] = RULES["AdaBreg"]

    lr: LearningRate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    delta: float = 1.0
    maximize: bool = False
