"""Save a compacted network of the library transformers so that its Auto classes load it."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from proxlab.torch.fit import fit
from proxlab.torch.shards import is_distributed
from proxlab.torch.structures import FFN_WIDTHS, HEAD_COUNTS
from proxlab.torch.weights import held_tensors
from proxlab.torch.widths import differences, kind, record
from proxlab.torch.wrappers import check_model

__all__ = ["SavedModel", "save_pretrained"]

How = Literal["config", "per_layer_config", "modeling file"]

#: The modelling file of a checkpoint, and the entry of its configuration that the file reads.
_FILE, _ENTRY = "modeling_compacted.py", "compacted"
#: Keys of a configuration that are widths, and how many other values of each are tried at most.
_PROBES = 4
_KEYS = (*HEAD_COUNTS, "encoder_attention_heads", "decoder_attention_heads", *FFN_WIDTHS)


@dataclass(frozen=True)
class SavedModel:
    """Where :func:`save_pretrained` put a model, and how it is loaded.

    Attributes
    ----------
    folder : Path
        The checkpoint.
    how : {"config", "per_layer_config", "modeling file"}
        What says the widths: the model's own configuration, its entry for single layers, or a modelling file
        beside the weights, which is loaded with ``trust_remote_code=True``.
    widths : dict
        What was changed in the configuration.
    auto_classes : tuple of str
        The Auto classes of transformers that load it.
    """

    folder: Path
    how: How
    widths: Mapping[str, Any]
    auto_classes: tuple[str, ...]

    def __str__(self) -> str:
        trust = ", trust_remote_code=True" if self.how == "modeling file" else ""
        said = {
            "config": "widths in its own configuration",
            "per_layer_config": "widths in per_layer_config",
            "modeling file": f"widths in {_FILE}, since its configuration cannot say them",
        }[self.how]
        changed = ", ".join(f"{name} = {value}" for name, value in self.widths.items())
        return (
            f"{said}{f': {changed}' if changed else ''}\n"
            f'{self.auto_classes[0]}.from_pretrained("{self.folder}"{trust})'
        )


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> SavedModel:
    """Save a network of the library transformers that :func:`compact` made smaller.

    It writes what ``model.save_pretrained`` does (safetensors, configuration, generation configuration), and
    sees to it that ``from_pretrained`` makes a network of the small widths. Where all layers have one width
    that is the model's own configuration. Where they differ it is ``per_layer_config``, if the installed
    transformers builds this model by it, and otherwise a small modelling file in the folder, for
    ``trust_remote_code=True``, that needs transformers alone.

    What was written is loaded once and compared before it is put into place: all modules, their numbers, and
    all tensors bit by bit. So there is room needed for the model twice.

    Parameters
    ----------
    model : torch.nn.Module
        A model of transformers, compacted or not; its own class, or one that was loaded from such a folder.
    folder : path-like
        Where to. A folder that exists keeps its other files, such as a tokenizer.

    Returns
    -------
    SavedModel
        What says the widths, and how it is loaded; printed, the line that loads it.

    Raises
    ------
    ImportError
        If transformers is not installed.
    TypeError, ValueError
        If the model is of another kind, has parts that cannot be written (the message names the module or
        parameter), or what was written is not loaded as it was. The folder is then as it was before.

    Examples
    --------
    ::

        model = transformers.AutoModelForCausalLM.from_pretrained("pruned")
        small, report = compact(model, {"input_ids": torch.arange(16)[None]})
        print(save_pretrained(small, "small"))
        # widths in its own configuration: intermediate_size = 5504
        # AutoModelForCausalLM.from_pretrained("small")
    """
    try:
        from transformers import PreTrainedModel
    except ModuleNotFoundError as error:
        raise ImportError(
            "save_pretrained needs the library transformers: pip install 'proxlab[export]'"
        ) from error
    model = check_model(model)
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"model: must be a model of the library transformers, got {type(model).__name__}; "
            "proxlab.torch.save_network keeps any other"
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder: must be a directory, but {str(folder)!r} is a file")
    _check(model)
    cls = _own_class(model)
    autos = _auto_classes(cls, model.config)
    plan = _plan(cls, model)
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}"
    temporary.mkdir(parents=True)
    try:
        with _quiet():
            _write(model, plan, autos, cls, temporary)
            _verify(model, plan, cls, temporary)
        _place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return SavedModel(folder, plan.how, plan.widths, tuple(autos))


def _check(model: Any) -> None:
    """Refuse what a checkpoint cannot hold."""
    if getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False):
        raise ValueError("model: is quantized; compact and save it before it is")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError("model: has adapters of the library peft; merge them into the weights first")
    types: dict[torch.dtype, str] = {}
    for name, t in (*model.named_parameters(), *model.named_buffers()):
        if is_distributed(t):
            raise ValueError(f"model: {name!r} is distributed over processes; gather the network first")
        if t.is_meta:
            raise ValueError(f"model: {name!r} has no values (it is on the device meta, or offloaded)")
        if t.layout != torch.strided:
            raise ValueError(f"model: {name!r} must be a dense tensor, but its layout is {t.layout}")
    for name, p in model.named_parameters():
        types.setdefault(p.dtype, name)
    if len(types) > 1:
        both = " and ".join(f"{name!r} in {dtype}" for dtype, name in list(types.items())[:2])
        raise ValueError(f"model: must be of one dtype, which from_pretrained loads, but has {both}")


def _own_class(model: nn.Module) -> Any:
    """Return the class of transformers that a model is of, also through a modelling file of ours."""
    cls = type(model)
    if getattr(cls, "is_compacted", False):
        cls = cls.__mro__[2]
    if not cls.__module__.startswith("transformers.models."):
        raise TypeError(
            f"model: its class must be one of the library transformers, but is {kind(model)}, whose code a "
            "folder does not hold; proxlab.torch.save_network keeps it"
        )
    return cls


def _auto_classes(cls: Any, config: Any) -> list[str]:
    """Return the Auto classes that make a model of a class from its configuration."""
    from transformers.models.auto import modeling_auto

    found = []
    for name, auto in vars(modeling_auto).items():
        mapping = getattr(auto, "_model_mapping", None)
        if name.startswith("AutoModel") and isinstance(auto, type) and mapping is not None:
            made = mapping.get(type(config), None)
            if cls in (made if isinstance(made, (tuple, list)) else [made]):
                found.append(name)
    # What its own name says first, and what generates text before what fills gaps.
    own = cls.__name__.partition("For")[2]
    usual = ["AutoModel", f"AutoModelFor{own}", "AutoModelForSeq2SeqLM", "AutoModelForSpeechSeq2Seq"]
    found.sort(key=lambda name: (usual.index(name) if name in usual else len(usual), name))
    if not found:
        raise ValueError(f"model: no Auto class of transformers makes a {cls.__name__}; save its base model")
    return found


# ----------------------------------------------------------------------------------------------------
# What says the widths.


@dataclass(frozen=True)
class _Plan:
    """A configuration, what it changes, and how it says the widths."""

    how: How
    config: Any
    widths: dict[str, Any]


def _plan(cls: Any, model: Any) -> _Plan:
    """Find the configuration by which transformers builds a network of these widths: by building it."""
    config = copy.deepcopy(model.config)
    for name in (_ENTRY, "auto_map"):
        config.__dict__.pop(name, None)
    try:
        big = _built(cls, config)
    except Exception as error:  # whatever a model raises
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"model: its configuration does not make a {cls.__name__} ({why})") from error
    if _is_alike(model, big):
        return _Plan("config", config, {})
    layers = _layers(model, config)
    decided = _decided(cls, config, model, big)
    found = {path: _values(decided, config, model, big, path) for path in ("", *layers)}
    for how, change in (
        ("config", found[""]),
        ("per_layer_config", {"per_layer_config": {i: found[path] for i, path in enumerate(layers)}}),
    ):
        changed = _changed(config, change)
        if changed is None:
            continue
        try:
            alike = _is_alike(model, _built(cls, changed))
        except Exception:  # what a model says where its configuration does not allow it
            continue
        if alike:
            return _Plan(how, changed, change)  # type: ignore[arg-type]
    widths = record(model, big)
    fit(big, widths)
    for difference in differences(model, big):
        raise ValueError(
            f"model: {difference}, which neither a configuration nor a modelling file can say; "
            "proxlab.torch.save_network keeps it"
        )
    setattr(config, _ENTRY, widths)
    return _Plan("modeling file", config, {})


def _is_alike(model: nn.Module, other: nn.Module) -> bool:
    return next(differences(model, other), None) is None


def _built(cls: Any, config: Any) -> nn.Module:
    """A network without values."""
    with torch.device("meta"), _quiet():
        built: nn.Module = cls(copy.deepcopy(config))
    return built


def _layers(model: nn.Module, config: Any) -> list[str]:
    """Paths of the layers that a configuration counts, if it does."""
    count = getattr(config, "num_hidden_layers", None)
    lists = [path for path, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    return [f"{lists[0]}.{i}." for i in range(count)] if len(lists) == 1 and count else []


def _changed(config: Any, change: Mapping[str, Any]) -> Any:
    """A configuration with other values, or None where there are none or it does not take them."""
    if not change or (isinstance(change.get("per_layer_config"), dict) and not _per_layer(config, change)):
        return None
    try:
        with _quiet():
            return type(config).from_dict({**config.to_dict(), **change})
    except Exception:  # what a configuration says of values that it does not allow
        return None


def _per_layer(config: Any, change: Mapping[str, Any]) -> bool:
    """Whether there are widths of single layers, and the installed transformers has a place for them."""
    asked = change["per_layer_config"]
    return hasattr(type(config), "per_layer_config") and any(asked.values()) and not config.is_heterogeneous


def _decided(cls: Any, config: Any, model: nn.Module, big: nn.Module) -> dict[str, list[tuple[str, int]]]:
    """Find which axes of parameters each width of a configuration decides: by building with another value."""
    sizes, before = dict(_sizes(model)), dict(_sizes(big))
    ratios = {(before[place], n) for place, n in sizes.items() if before.get(place, n) != n}
    found: dict[str, list[tuple[str, int]]] = {}
    for key in dict.fromkeys(config.attribute_map.get(name, name) for name in _KEYS):
        value = getattr(config, key, True)
        if isinstance(value, bool) or not isinstance(value, int | None):
            continue
        probes = {n if value is None else value * n // old for old, n in ratios} - {0, value}
        for probe in sorted(probes)[:_PROBES]:
            other = _changed(config, {key: probe})
            try:
                built = {} if other is None else dict(_sizes(_built(cls, other)))
            except Exception:  # what a model says of a width that it does not allow
                continue
            if built:
                found[key] = [place for place, n in built.items() if before.get(place, n) != n]
                break
    return found


def _values(
    decided: Mapping[str, list[tuple[str, int]]], config: Any, model: nn.Module, big: nn.Module, inside: str
) -> dict[str, int]:
    """Return the values of a configuration's widths by which the layers under a path are as they are."""
    sizes, before = dict(_sizes(model)), dict(_sizes(big))
    found: dict[str, int] = {}
    for key, places in decided.items():
        value = getattr(config, key)
        own = [place for place in places if place[0].startswith(inside) and place in sizes]
        asked = {sizes[p] if value is None else value * sizes[p] / before[p] for p in own}
        if len(asked) == 1 and float(new := asked.pop()).is_integer() and int(new) != value:
            found[key] = int(new)
    return found


def _sizes(model: nn.Module) -> Iterator[tuple[tuple[str, int], int]]:
    """Go through the sizes of the axes of all parameters, by name and axis."""
    for name, p in model.named_parameters():
        for axis, size in enumerate(p.shape):
            yield (name, axis), size


# ----------------------------------------------------------------------------------------------------
# Files.


def _write(model: Any, plan: _Plan, autos: list[str], cls: Any, folder: Path) -> None:
    """Write weights, configurations and, where it is needed, the modelling file."""
    # Names that older checkpoints have are translated for the classes of transformers alone.
    model.save_pretrained(folder, save_original_format=plan.how != "modeling file")
    (folder / _FILE).unlink(missing_ok=True)
    config = plan.config
    config.architectures, config.dtype = [cls.__name__], model.dtype
    if plan.how == "modeling file":
        base, prefix = _base(model, cls)
        (folder / _FILE).write_text(_modeling(cls, base, prefix), encoding="utf-8")
        config.architectures = [f"Compacted{cls.__name__}"]
        names = dict.fromkeys(autos, f"{_FILE[:-3]}.Compacted{cls.__name__}")
        config.auto_map = {"AutoModel": f"{_FILE[:-3]}.Compacted{base.__name__}"} | names
    config.save_pretrained(folder)


def _base(model: Any, cls: Any) -> tuple[Any, str]:
    """The class that AutoModel makes of a configuration, and what its paths begin with in the model."""
    from transformers import AutoModel

    if model.base_model is not model:
        return _own_class(model.base_model), f"{model.base_model_prefix}."
    made = AutoModel._model_mapping.get(type(model.config), cls)
    return (cls if isinstance(made, (tuple, list)) else made), ""


def _modeling(cls: Any, base: Any, prefix: str) -> str:
    """The text of a modelling file for a class and its base model."""
    classes = {cls: "", base: prefix}
    imports = "\n".join(f"from {c.__module__} import {c.__name__}" for c in classes)
    made = "\n\n".join(
        f"class Compacted{c.__name__}(_Compacted, {c.__name__}):\n"
        f'    """{c.__name__} with the widths of its configuration\'s entry {_ENTRY!r}."""\n'
        f"\n    widths_prefix = {under!r}\n"
        for c, under in classes.items()
    )
    return _TEMPLATE.format(imports=imports, fit=inspect.getsource(fit), classes=made, entry=_ENTRY)


_TEMPLATE = '''"""A network whose layers have other widths than transformers makes. Written by proxlab."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
{imports}


{fit}

class _Compacted:
    is_compacted = True
    widths_prefix = ""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        fit(self, getattr(config, {entry!r}, {{}}), self.widths_prefix)
        self.tie_weights()

    def _get_static_cache_init_shape(self) -> None:
        """Leave the shapes of a static cache to the layers, which differ."""


{classes}'''


def _verify(model: Any, plan: _Plan, cls: Any, folder: Path) -> None:
    """Load what was written, and compare all of it."""
    made = cls
    if plan.how == "modeling file":
        space: dict[str, Any] = {"__name__": _FILE[:-3]}
        exec(compile((folder / _FILE).read_text(encoding="utf-8"), _FILE, "exec"), space)
        made = space[f"Compacted{cls.__name__}"]
    try:
        loaded = made.from_pretrained(folder)
    except Exception as error:  # whatever a model raises
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"model: what was written cannot be loaded ({why})") from error
    for difference in differences(model, loaded):
        raise ValueError(f"model: is not loaded as it was: {difference}")
    ours, theirs, written = held_tensors(model), held_tensors(loaded), set(model.state_dict())
    for name in {**ours, **theirs}:
        if name not in ours or name not in theirs:
            raise ValueError(f"model: is not loaded as it was: {name!r} is shared in one of them only")
        a, b = ours[name], theirs[name]
        # What is computed anew, as the frequencies of positions, may have been rounded in the model.
        if not _is_equal(a, b if name in written else b.to(a.dtype)):
            raise ValueError(f"model: is not loaded as it was: the values of {name!r} are others")


def _is_equal(a: Tensor, b: Tensor) -> bool:
    a, b = a.detach().cpu(), b.detach().cpu()
    return a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def _place(temporary: Path, folder: Path) -> None:
    """Move files to where they belong. Until all are there the folder has no configuration to load."""
    if not folder.exists():
        temporary.rename(folder)
        return
    new = {path.name for path in temporary.iterdir()}
    (folder / "config.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        stale = path.suffix == ".safetensors" or path.name in (_FILE, "model.safetensors.index.json")
        if path.name not in new and stale:
            path.unlink()
    for name in sorted(new, key=lambda name: name == "config.json"):
        (temporary / name).replace(folder / name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bars and no advice of transformers."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
