"""The optimizer that all methods share: its param groups, their settings, and its state as it is saved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import partial
from operator import is_
from typing import Any

from torch import Tensor, distributed

from proxlab.arguments import check_root_finder
from proxlab.inexactness import Criterion, Schedule
from proxlab.optim.inexact import Tolerance
from proxlab.optim.rules import check_settings, check_start
from proxlab.optim.sparsity import TargetSparsity, check_sparsity
from proxlab.penalties import Penalty
from proxlab.rootfinders import RootFinder
from proxlab.torch.fitting import Fitting
from proxlab.torch.loading import adapted, check_entry, check_noted
from proxlab.torch.problems import check_group
from proxlab.torch.ranks import Ranks
from proxlab.torch.states import as_given, copied
from proxlab.torch.step import Stepper
from proxlab.torch.strength import DrivenStrength
from proxlab.torch.vanishing import Vanishing
from proxlab.untraced import untraced
from proxlab.values import check_count, check_number, shown

__all__ = ["ProxOptimizer"]

# Objects, which a state dict does not hold: it has to load without pickle.
_OBJECTS = ("penalty", "joint")
# Settings of PyTorch's optimizers, which would be without effect where they are none of the method's.
_FOREIGN = (
    *("amsgrad", "capturable", "centered", "dampening", "differentiable", "foreach", "maximize"),
    "nesterov",
)
# Arguments that hold for all param groups.
_WHOLE = ("start", "root_finder", "certify_every", "sparsity")
_PICKLED = (
    "root_finder",
    "fused",
    "certify_every",
    "start",
    "history",
    "_strength",
    "_tolerance",
    "_vanishing",
)
#: What every param group has besides its settings: the count of steps, the iterations that were enough for a
#: tolerance, the strength that was set, and what a driven strength goes on from.
NOTED: dict[str, Any] = {"steps": 0, "iterations": 1, "strength": None, "sparsity": None}


class ProxOptimizer(Stepper):
    """Base of the proximal optimizers: an update rule, and the prox of a penalty in its metric.

    Parameters
    ----------
    params : iterable
        Tensors, named tensors or param groups, as all optimizers of PyTorch take them.
    settings : dict
        The settings of the update rule.
    penalty, start, root_finder, sparsity, certify_every, inexactness, fused
        As the methods document them.
    """

    def __init__(
        self,
        params: Iterable[Any],
        settings: dict[str, Any],
        penalty: Penalty | None,
        start: int,
        root_finder: RootFinder,
        sparsity: TargetSparsity | None,
        certify_every: int | None,
        inexactness: tuple[type[Criterion], Schedule] | None,
        fused: bool | None,
    ) -> None:
        if not isinstance(fused, (bool, type(None))):
            raise TypeError(f"fused: must be True, False or None, got {fused!r}")
        if certify_every is not None:
            certify_every = check_count("certify_every", certify_every)
        self.start = check_start(start, self.rule)
        self.root_finder = check_root_finder(root_finder)
        self.fused = fused
        self._tolerance = None if inexactness is None else Tolerance(inexactness)
        # Without a word on it, a tolerance is proved in every step.
        self.certify_every = 1 if certify_every is None and inexactness is not None else certify_every
        self.history: list[dict[str, Any]] = []
        target = check_sparsity(sparsity)
        self._strength = None if target is None else DrivenStrength(target)
        self._vanishing = Vanishing()
        self._lent, self._fitting = set(), Fitting()
        self._validated: dict[int, tuple[list[Any], dict[str, Any]]] = {}
        self._check_settings(settings)
        super().__init__(params, {**settings, "penalty": penalty})

    def _check_settings(self, group: Mapping[str, Any]) -> dict[str, Any]:
        return check_settings(self.rule, {name: _plain(name, group[name]) for name in self.rule.settings})

    def _settings_of(self, number: int) -> dict[str, Any]:
        """Return the settings of a param group as they are now, or raise an error that names it.

        They are validated once: as long as they are the same, so is what is returned.
        """
        group = self.param_groups[number]
        given, before = as_given(self.rule, group), self._validated.get(number)
        if given is not None and before is not None and all(map(is_, given, before[0])):
            return before[1]
        with _naming(number):
            settings = self._check_settings(group)
        if given is not None:
            self._validated[number] = given, settings
        return settings

    @untraced
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group, with its ``penalty`` and its ``joint`` groups if it has them.

        Parameters
        ----------
        param_group : dict
            ``params`` and what differs from the defaults. The optimizer keeps a copy: what it changes later,
            as a strength that is driven, does not show in the dict.

        Raises
        ------
        TypeError, ValueError
            If a setting is not admissible, or the penalty does not fit the parameters. The message names the
            param group.
        """
        super().add_param_group(param_group)
        number = len(self.param_groups) - 1
        group = self.param_groups[number] = dict(param_group)
        whole = {name: group.get(name) for name in _WHOLE}
        noted = self.param_groups[0] if number else NOTED
        group.update({name: noted[name] for name in NOTED} | {"strength": None})
        try:
            check_group(group, f"param group {number}", self.rule.convex)
            with _naming(number):
                self._check_names(group)
                self._check_whole(whole)
                self._check_settings(group)
            if self._strength is not None:
                self._strength.read(self.param_groups)
        except Exception:
            self.param_groups.pop()
            raise
        self._vanishing.open(self.param_groups[0]["steps"])

    def _check_names(self, group: Mapping[str, Any]) -> None:
        """Raise an error for what a param group seems to ask for in vain; other names are the user's own."""
        for name, value in group.items():
            known = name in self.defaults or name in type(self).__name__.lower()
            if name in _FOREIGN and value and not known:
                raise ValueError(f"{name}: is no setting of {type(self).__name__}, got {value!r}")
            if name.lower().startswith("penal") and name != "penalty":
                raise ValueError(f"{name}: is no setting of {type(self).__name__}; write penalty")

    def _check_whole(self, given: Mapping[str, Any]) -> None:
        """Raise an error if a param group has an argument of its own that holds for the whole optimizer."""
        target = None if self._strength is None else self._strength.target
        own = {"start": self.start, "root_finder": self.root_finder, "certify_every": self.certify_every}
        for name, value in own.items():
            if given[name] is not None and given[name] != value:
                raise ValueError(f"{name}: holds for all param groups; give it to {type(self).__name__}")
        if not isinstance(given["sparsity"], TargetSparsity):
            return
        if given["sparsity"] != target:
            raise ValueError(f"sparsity: holds for all param groups; give it to {type(self).__name__}")
        # An optimizer that shards others has put it there.
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            raise ValueError(
                "sparsity: drives one strength for the groups of all processes, but an optimizer that shards "
                "gives each process its own; use one optimizer of all parameters"
            )

    def set_strength(self, strength: float, group: int | None = None) -> None:
        """Set the strength λ of the penalties, as a schedule of one's own does between steps.

        Parameters
        ----------
        strength : float
            The new strength: that of :meth:`proxlab.Penalty.with_strength`, which leaves the shape of a
            penalty as it is.
        group : int, optional
            The param group whose penalty it is; by default all that have one.

        Raises
        ------
        TypeError, ValueError
            If the strength is not a number >= 0, there is no such penalty, or ``sparsity`` drives it.
        """
        if self._strength is not None:
            raise ValueError("strength: is driven by sparsity=, so it cannot be set")
        strength = check_number("strength", strength, 0.0)
        count = len(self.param_groups)
        if group is not None and (isinstance(group, bool) or group not in range(count)):
            raise ValueError(
                f"group: must be the number of a param group, below {count}, or None, got {group!r}"
            )
        chosen = range(count) if group is None else [group]
        found = [g for g in (self.param_groups[k] for k in chosen) if g["penalty"] is not None]
        if not found:
            raise ValueError("group: there is no penalty, so there is no strength to set")
        for g in found:
            g.update(penalty=g["penalty"].with_strength(strength), strength=strength)
        self._vanishing.open(self._steps)

    @untraced
    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers, strings and tensors.

        Of penalties and joint groups it has a description; they themselves, and root finders, are not in it.
        The tensors are those of the optimizer until its next step, which makes new ones.
        """
        saved = super().state_dict()
        # Steps replace what is in an entry.
        saved["state"] = {key: copy(entry) for key, entry in saved["state"].items()}
        for group in saved["param_groups"]:
            # A checkpoint that is flattened has to have every key of the optimizer's param groups.
            group.update({key: repr(group[key]) for key in _OBJECTS if key in group})
        self._lent = set(self.state)
        return saved

    @untraced
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state: of this optimizer, or of the optimizer of PyTorch that has the same state.

        The parameters may be divided into other param groups than they were: they are found by names, where
        both sides have some (``model.named_parameters()``, :func:`~proxlab.torch.param_groups`); of a single
        param group of all parameters of the model by their places there; otherwise by order. Penalties, joint
        groups and root finders stay as they are, and so do the tensors that are loaded.

        Parameters
        ----------
        state_dict : dict
            What ``state_dict`` returned.

        Raises
        ------
        TypeError, ValueError
            If the state is of other parameters or of another method, or a setting is not admissible. The
            message names the param group and the parameter; nothing has changed. Where parameters are
            divided over processes, an error in one is one in all.
        """
        given: dict[str, Any] = {}
        before = self.param_groups
        # Arrays that are divided over processes may have to be divided anew, by all of them together; and
        # what one refuses all do.
        ranks = Ranks.of(p for group in before for p in group["params"])
        asked = False

        def admit(_: Any, state: dict[str, Any]) -> dict[str, Any]:
            nonlocal asked
            asked = True
            admitted = partial(self._admitted, state)
            given.update(admitted() if ranks is None else ranks.attempt(admitted))
            return given

        # Hooks of the user may change what is loaded; this one runs after them.
        handle = self.register_load_state_dict_pre_hook(admit)
        try:
            if not isinstance(state_dict, Mapping):
                # PyTorch copies it before anybody looks at it.
                raise TypeError(
                    f"state_dict: must be a dict with 'state' and 'param_groups', got {shown(state_dict)}"
                )
            super().load_state_dict(state_dict)
        except Exception as error:
            if ranks is not None and not asked:
                ranks.settle(error)
            raise
        finally:
            handle.remove()
        for old, new, saved in zip(before, self.param_groups, given["param_groups"], strict=True):
            for key, value in old.items():
                new.setdefault(key, value)
            for p, k in zip(new["params"], saved["params"], strict=True):
                if k in given["state"]:
                    # PyTorch rounds to the parameter's precision, and takes the tensors themselves.
                    self.state[p] = copied(given["state"][k], p)
            if self._strength is None and new["strength"] is not None and new["penalty"] is not None:
                new["penalty"] = new["penalty"].with_strength(new["strength"])
        if self._strength is not None:
            self._strength.read(self.param_groups)

    def _admitted(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Return a saved state in the order of the param groups, or raise an error if it is not of them."""
        new = adapted(state_dict, self.param_groups, tuple(self.rule.settings))
        for number, (group, saved) in enumerate(zip(self.param_groups, new["param_groups"], strict=True)):
            with _naming(number):
                settings = self._check_settings({**group, **saved})
                check_noted({**group, **saved})
            for index, k in enumerate(saved["params"]):
                if k in new["state"]:
                    where = f"param group {number}"
                    new["state"][k] = check_entry(self.rule, settings, new["state"][k], group, index, where)
        return new

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {name: self.__dict__[name] for name in _PICKLED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_lent", set())
        self.__dict__.setdefault("_validated", {})
        self.__dict__.setdefault("_fitting", Fitting())
        self._vanishing.forget()


@contextmanager
def _naming(number: int) -> Iterator[None]:
    """Let an error name the param group."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"param group {number}: {error}") from error


def _plain(name: str, value: Any) -> Any:
    """Return a setting as Python numbers: PyTorch takes tensors of one element too."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{name}: must have one element, got a tensor of shape {tuple(value.shape)}")
        return value.item()
    if isinstance(value, (tuple, list)):
        return tuple(_plain(f"{name}[{k}]", v) for k, v in enumerate(value))
    return value
