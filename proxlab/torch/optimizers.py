"""The proximal optimizers for PyTorch: the names and keywords of ``torch.optim``, and a penalty.

Each class states its signature and its settings; the update itself is a rule of :mod:`proxlab.optim.rules`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from proxlab.inexactness import Criterion, Schedule
from proxlab.optim.rules import RULES
from proxlab.optim.sparsity import TargetSparsity
from proxlab.penalties import Penalty
from proxlab.rootfinders import Newton, RootFinder
from proxlab.torch.base import ProxOptimizer

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


class ProxSGD(ProxOptimizer):
    """Stochastic gradient descent with momentum, and the prox of a penalty.

    Step and metric of the prox are ``lr`` and the identity. Without a penalty this is
    :class:`torch.optim.SGD`, whose state it shares.

    Parameters
    ----------
    params : iterable
        Parameters or param groups. A param group is a dict with ``params`` and whatever else is not as given
        here, above all its own ``penalty``; :func:`~proxlab.torch.param_groups` makes those of a network.
    lr : float or Tensor, optional
        Learning rate; the prox has it as its step.
    momentum, dampening : float, optional
        Momentum, and the share of the gradient that is left out of it.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    nesterov : bool, optional
        Nesterov's momentum; needs momentum and no dampening.
    maximize : bool, optional
        Maximise the objective.
    penalty : Penalty, optional
        What the parameters are penalised with, where their param group does not say otherwise; None for no
        penalty. Its groups must fit the shapes of all these parameters.
    start : int, optional
        The step of the optimizer from which on the penalty is applied. An element whose gradients were all
        exactly zero so far has the metric ``eps``, in which a small strength is large: where layers start at
        zero, or embeddings wait for their tokens, let some steps go by first. A ramp of ``sparsity`` begins
        there too.
    root_finder : RootFinder, optional
        What solves the secular equation of each group; by default exact to rounding.
    sparsity : TargetSparsity, optional
        Drives the strength λ of all penalties, in proportion, towards a wanted sparsity; ``history`` tells
        how.
    certify_every : int, optional
        Certify the proxes of every so many steps; ``history`` holds the proved bounds of all together.
    inexactness : tuple of (type of Criterion, Schedule), optional
        Solve each prox just well enough, for example to ``(Stationarity, SquareSummable(1e-2))`` of
        :mod:`proxlab.inexactness`. The tolerance holds for all parameters together. It is proved in the steps
        of ``certify_every`` (by default in all), with as many iterations as that takes, and the steps between
        take as many, or all where they are one compiled pass; a tolerance that cannot be proved is an error.
    fused : bool, optional
        Whether update and prox are one compiled pass over memory, which takes parameters on the CPU without
        gaps in memory, and penalties of groups by axes whose slope nowhere jumps up. By default where that is
        so; True is an error where it is not. Steps that are certified take several passes all the same.

    Attributes
    ----------
    history : list of dict
        What was driven or certified, step by step.

    Examples
    --------
    >>> import torch, proxlab as pl
    >>> from proxlab.torch import ProxSGD
    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    >>> optimizer = ProxSGD([weight], lr=1.0, penalty=pl.GroupLasso(1.0))
    >>> weight.grad = torch.zeros(2, 2)
    >>> optimizer.step()
    >>> weight.data
    tensor([[2.4000, 3.2000],
            [0.0000, 0.0000]])
    """

    rule = RULES["ProxSGD"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class ProxAdagrad(ProxOptimizer):
    """Adagrad, and the prox of a penalty in its metric.

    The metric is ``sqrt(Σ g²) + eps``. Without a penalty this is :class:`torch.optim.Adagrad`, whose state it
    shares.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate; the prox has it as its step.
    lr_decay : float, optional
        The learning rate of step t is ``lr / (1 + (t - 1) lr_decay)``.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    initial_accumulator_value : float, optional
        The sum of squares at the start.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Duchi, Hazan & Singer (2011), "Adaptive subgradient methods for online learning and stochastic
    optimization", JMLR 12.
    """

    rule = RULES["ProxAdagrad"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class ProxRMSprop(ProxOptimizer):
    """RMSprop, and the prox of a penalty in its metric.

    The metric is ``sqrt(v) + eps``. Without a penalty this is :class:`torch.optim.RMSprop`, whose state it
    shares.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate; the prox has it as its step.
    alpha : float, optional
        Decay of the mean of squares.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    momentum : float, optional
        Momentum of the rescaled gradient.
    centered : bool, optional
        Take the variance of the gradient in place of its mean square.
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Tieleman & Hinton (2012), lecture 6.5 of "Neural networks for machine learning".
    """

    rule = RULES["ProxRMSprop"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class ProxAdam(ProxOptimizer):
    """Adam, and the prox of a penalty in its metric.

    The point is ``w - lr m̂ / (sqrt(v̂) + eps)``, the step ``lr`` and the metric ``sqrt(v̂) + eps``, both
    moments corrected for their bias. Without a penalty this is :class:`torch.optim.Adam`, whose state it
    shares.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate; the prox has it as its step.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    amsgrad : bool, optional
        Keep the largest second moment (:class:`ProxAMSGrad`).
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Kingma & Ba (2015), "Adam: a method for stochastic optimization", ICLR; with the prox: Deleu & Bengio
    (2021), arXiv:2102.03869.
    """

    rule = RULES["ProxAdam"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class ProxAdamW(ProxOptimizer):
    """AdamW (decoupled weight decay), and the prox of a penalty in its metric.

    The point is ``w (1 - lr weight_decay) - lr m̂ / (sqrt(v̂) + eps)``, the step ``lr`` and the metric
    ``sqrt(v̂) + eps``. Without a penalty this is :class:`torch.optim.AdamW`, whose state it shares.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate; the prox has it as its step.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Weights shrink by the factor ``1 - lr weight_decay``.
    amsgrad : bool, optional
        Keep the largest second moment (:class:`ProxAMSGrad`).
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Loshchilov & Hutter (2019), "Decoupled weight decay regularization", ICLR; with the prox: Deleu & Bengio
    (2021), arXiv:2102.03869.

    Examples
    --------
    >>> import torch, proxlab as pl
    >>> from proxlab.torch import ProxAdamW, param_groups
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> optimizer = ProxAdamW(param_groups(model, pl.GroupLasso(1e-3)), lr=1e-3)
    >>> optimizer.zero_grad()
    >>> model(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    """

    rule = RULES["ProxAdamW"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class ProxAMSGrad(ProxOptimizer):
    """AMSGrad, and the prox of a penalty in its metric.

    As :class:`ProxAdam` with ``amsgrad=True``: the metric never shrinks but for the correction of the bias.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate; the prox has it as its step.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    weight_decay : float, optional
        Factor of an ℓ2 penalty, whose gradient is added to the gradient.
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Reddi, Kale & Kumar (2018), "On the convergence of Adam and beyond", ICLR.
    """

    rule = RULES["ProxAMSGrad"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class DualAveraging(ProxOptimizer):
    """Base of the methods whose averages start anew at each stage of training."""

    def restart(self) -> None:
        """Start a new stage at the weights as they are, as the authors do when the learning rate drops."""
        self.state.clear()


class RMDA(DualAveraging):
    """Regularised modernised dual averaging.

    With ``s_t = lr √t``, ``α_t = Σ s`` and ``V = Σ s g``, the prox of step ``α_t/√t`` at ``w0 - V/√t``. Its
    sparsity pattern settles after finitely many steps; call :meth:`restart` where the learning rate drops.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate.
    momentum : float, optional
        The share of the last weights in the new ones, below 1. Weights are exactly zero only without it.
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Huang & Lee (2022), "Training structured neural networks through manifold identification and variance
    reduction", ICLR.
    """

    rule = RULES["RMDA"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-1,
        momentum: float = 0.0,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class RAMDA(DualAveraging):
    """Regularised adaptive momentumised dual averaging.

    As :class:`RMDA` with a metric: ``U = Σ s g²``, ``P = U^(1/3) + eps`` and the prox of step ``α_t`` in the
    metric ``P`` at ``w0 - V/P``.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate.
    momentum : float, optional
        The share of the last weights in the new ones, below 1. Weights are exactly zero only without it.
    eps : float, optional
        Added to the metric; above 0.
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Huang & Lee (2024), "Regularized adaptive momentum dual averaging with an efficient inexact subproblem
    solver for training structured neural network", arXiv:2403.14398.
    """

    rule = RULES["RAMDA"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        momentum: float = 0.0,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class LinBreg(ProxOptimizer):
    """Linearised Bregman iterations.

    Gradients move a dual variable, ``v ← v - lr m``, and the weights are read off it, ``w = prox_{δψ}(δ v)``:
    groups that are zero stay so until the gradients of many steps agree. The penalty must be convex. The
    method is made to start from few groups (:func:`proxlab.optim.sparse_start`). Where the strength changes,
    ``v`` stays and the weights follow.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate.
    momentum : float, optional
        Share of the last direction in the new one, below 1.
    delta : float, optional
        The δ of ``J_δ = ψ + ‖·‖²/2δ``, the step of the prox: large values regularise less.
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Bungert, Roith, Tenbrinck & Burger (2022), "A Bregman learning framework for sparse neural networks",
    JMLR 23.
    """

    rule = RULES["LinBreg"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        delta: float = 1.0,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "delta": delta,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )


class AdaBreg(ProxOptimizer):
    """Linearised Bregman iterations with the directions of Adam.

    As :class:`LinBreg`, with ``m̂ / (sqrt(v̂) + eps)`` in place of the momentum.

    Parameters
    ----------
    params : iterable
        Parameters or param groups.
    lr : float or Tensor, optional
        Learning rate.
    betas : tuple of float, optional
        Decay of the first and second moment.
    eps : float, optional
        Added to the root of the second moment; above 0, since the metric has to be.
    delta : float, optional
        The δ of ``J_δ = ψ + ‖·‖²/2δ``, the step of the prox: large values regularise less.
    maximize, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As in :class:`ProxSGD`.

    References
    ----------
    Bungert, Roith, Tenbrinck & Burger (2022), "A Bregman learning framework for sparse neural networks",
    JMLR 23.
    """

    rule = RULES["AdaBreg"]

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        delta: float = 1.0,
        *,
        maximize: bool = False,
        penalty: Penalty | None = None,
        start: int = 1,
        root_finder: RootFinder = Newton(),  # noqa: B008 (frozen)
        sparsity: TargetSparsity | None = None,
        certify_every: int | None = None,
        inexactness: tuple[type[Criterion], Schedule] | None = None,
        fused: bool | None = None,
    ) -> None:
        settings = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "delta": delta,
            "maximize": maximize,
        }
        super().__init__(
            params, settings, penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        )
