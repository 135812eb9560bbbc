"""Save a compacted network of any kind, and load it into one that was made anew."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from proxlab.torch.calls import copied
from proxlab.torch.heads import HeadAttention, stand_in
from proxlab.torch.shards import is_distributed
from proxlab.torch.weights import held_tensors
from proxlab.torch.widths import contents
from proxlab.torch.wrappers import check_model

__all__ = ["load_network", "save_network"]

#: Entry of a file's metadata, and the version of what is in it.
_ENTRY, _VERSION = "proxlab", 1


class _Saved(NamedTuple):
    """What a file says of a module: the name of its type, its numbers, and the names of its tensors."""

    kind: str
    numbers: dict[str, Any]
    tensors: list[str]


class _File(NamedTuple):
    """What a file holds: modules by their paths, first names of shared tensors, and the tensors."""

    modules: dict[str, _Saved]
    shared: dict[str, str]
    tensors: dict[str, Any]


def save_network(model: nn.Module, file: str | os.PathLike[str]) -> Path:
    """Save a network that :func:`compact` made smaller, of any kind, with its widths.

    The file is one of safetensors: all tensors, and as metadata what every module holds of numbers. No code
    is in it; :func:`load_network` needs the code that made the network before it was compacted.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    file : path-like
        Where to; it is replaced at once, or not at all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    FileNotFoundError
        If the folder does not exist.
    TypeError, ValueError
        If the model is of another kind or has tensors that cannot be written; the message names them.
    """
    save_file = _safetensors().save_file
    model, file = check_model(model), Path(file)
    tensors = held_tensors(model)
    for name, t in tensors.items():
        if is_distributed(t):
            raise ValueError(f"model: {name!r} is distributed over processes; gather the network first")
        if t.is_meta or t.layout != torch.strided or t.is_quantized:
            raise ValueError(
                f"model: {name!r} must be a dense tensor with values, but is on {t.device} as {t.layout}"
                f"{', quantized' if t.is_quantized else ''}"
            )
    modules = {}
    for path, module in model.named_modules(remove_duplicate=False):
        held = contents(module)
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            raise ValueError(
                f"model: {path!r} must have no state of its own, but {type(module).__name__} has "
                "get_extra_state"
            )
        modules[path] = _Saved(type(module).__name__, held.numbers, list(held.shapes))._asdict()
    first = {id(t): name for name, t in tensors.items()}
    shared = {name: first[id(t)] for name, t in _every_name(model) if first[id(t)] != name}
    said = json.dumps({"version": _VERSION, "modules": modules, "shared": shared})
    if not file.parent.is_dir():
        raise FileNotFoundError(f"file: must be in a folder that exists, got {str(file)!r}")
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        plain = torch.contiguous_format
        written = {name: t.detach().cpu().clone(memory_format=plain) for name, t in tensors.items()}
        save_file(written, temporary, metadata={"format": "pt", _ENTRY: said})
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def load_network(model: nn.Module, file: str | os.PathLike[str]) -> nn.Module:
    """Return the network that :func:`save_network` saved, made of one with the widths before.

    Parameters
    ----------
    model : torch.nn.Module
        A network as it was before it was compacted, of the same code and arguments; its values do not matter.
        It is not changed.
    file : path-like
        What was saved.

    Returns
    -------
    torch.nn.Module
        The saved network, on the device and in the mode of ``model``.

    Raises
    ------
    ImportError
        If safetensors is not installed.
    ValueError
        If the file is not of :func:`save_network`, or of another network; the message names the module.

    Examples
    --------
    >>> import pathlib, tempfile, torch
    >>> from proxlab.torch import compact, load_network, save_network
    >>> def make():
    ...     return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> model = make()
    >>> with torch.no_grad():
    ...     model[2].weight[:, :6] = 0
    >>> small, report = compact(model, torch.randn(3, 4))
    >>> file = save_network(small, pathlib.Path(tempfile.mkdtemp()) / "small.safetensors")
    >>> load_network(make(), file)[0]
    Linear(in_features=4, out_features=2, bias=True)
    """
    _safetensors()
    model = check_model(model)
    saved = _read(Path(file))
    model = copied(model)
    for path, entry in saved.modules.items():
        if entry.kind == HeadAttention.__name__ and isinstance(_module(model, path), nn.MultiheadAttention):
            stand_in(model, path)
    own, there = dict(model.named_modules(remove_duplicate=False)), saved.modules
    for path in (*own, *there):
        if path not in own or path not in there:
            where = "the file" if path in own else "the model"
            raise ValueError(f"model: must be the network of the file, but {path!r} is not in {where}")
    for path, module in own.items():
        if type(module).__name__ != there[path].kind:
            raise ValueError(
                f"model: must be the network of the file, in which {path!r} is a {there[path].kind}, not a "
                f"{type(module).__name__}"
            )
        _fill(path, module, saved)
    return model


def _read(file: Path) -> _File:
    """Return what a file holds; all tensors that it speaks of are there."""
    from safetensors import SafetensorError, safe_open

    told = f"file: must be one that proxlab.torch.save_network wrote, version {_VERSION}, but {str(file)!r}"
    try:
        with safe_open(file, framework="pt") as opened:
            said = json.loads((opened.metadata() or {}).get(_ENTRY, "{}"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{told} is none: {error}") from error
    if not isinstance(said, dict) or said.get("version") != _VERSION:
        known = isinstance(said, dict) and "version" in said
        has = f"version {said['version']!r}" if known else "no record of widths"
        raise ValueError(f"{told} has {has}")
    try:
        modules = {
            path: _Saved(str(entry["kind"]), dict(entry["numbers"]), list(map(str, entry["tensors"])))
            for path, entry in said["modules"].items()
        }
        shared = dict(said["shared"])
        full = [_join(path, name) for path, entry in modules.items() for name in entry.tensors]
        first = {shared.get(name, name) for name in full}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{told} has a record of widths that is none: {error!r}") from error
    if missing := sorted(first - set(tensors)):
        raise ValueError(f"{told} lacks the tensor {missing[0]!r}")
    return _File(modules, shared, tensors)


def _fill(path: str, module: nn.Module, saved: _File) -> None:
    """Give a module the numbers and tensors of the file. Tensors that modules share are put in once."""
    _, numbers, names = saved.modules[path]
    for name in set(contents(module).shapes) - set(names):
        raise ValueError(f"model: {_join(path, name)!r} must be in the file, too")
    for name, value in numbers.items():
        old = getattr(module, name, None)
        setattr(module, name, _as_were(value, old))
    for name in names:
        full = _join(path, name)
        first = saved.shared.get(full, full)
        old = getattr(module, name, None)
        new = saved.tensors[first]
        like = old if isinstance(old, Tensor) else next(module.parameters(recurse=False), new)
        if isinstance(old, nn.Parameter) or (old is None and name in module._parameters):
            if not isinstance(new, nn.Parameter):
                new = nn.Parameter(new.to(like.device), like.requires_grad and new.is_floating_point())
        elif not isinstance(old, Tensor):
            raise ValueError(f"model: must have a tensor {full!r}, as the file has")
        else:
            new = new.to(like.device)
        saved.tensors[first] = new
        if name in vars(module):
            vars(module)[name] = new
        else:
            setattr(module, name, new)


def _as_were(value: Any, old: Any) -> Any:
    """Return lists of a file as the tuples that they were, those in tuples too."""
    if not isinstance(value, list):
        return value
    parts = old if isinstance(old, (tuple, list)) and len(old) == len(value) else [None] * len(value)
    made = [_as_were(v, o) for v, o in zip(value, parts, strict=True)]
    return tuple(made) if isinstance(old, tuple) else made


def _every_name(model: nn.Module) -> list[tuple[str, Tensor]]:
    """All names of all tensors, those of shared ones too."""
    found = []
    for path, module in model.named_modules(remove_duplicate=False):
        found += [(_join(path, name), getattr(module, name)) for name in contents(module).shapes]
    return found


def _module(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise ImportError("save_network needs safetensors: pip install 'proxlab[export]'") from error
    return safetensors.torch
