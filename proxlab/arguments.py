"""Validation of arguments, shared by every public verb: what is wrong, what it was, what it must be."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_VARARGS, signature
from types import FunctionType
from typing import Any, overload

import array_api_compat
import numpy as np

from proxlab.groups import Layout
from proxlab.namespaces import namespace
from proxlab.penalties.base import Penalty
from proxlab.penalties.equations import GroupEquation
from proxlab.rootfinders import RootFinder
from proxlab.types import Array
from proxlab.values import as_float, check_plain, shown

__all__ = ["Problem", "check_array", "check_root_finder", "float_bits", "problem"]

BACKENDS = (None, "numba", "cuda", "array_api")
#: Numbers that a root finder's proposal takes.
PROPOSAL = 13


@dataclass(frozen=True)
class Problem:
    """A validated problem.

    Attributes
    ----------
    penalty : Penalty
    x : array
    step : float or array of shape (n_groups,)
        In float64, in the namespace of ``x``.
    metric : None, float or array
        A scalar, or an array broadcastable to ``x`` in its namespace.
    layout : Layout
    xp : namespace
    backend : str
        "numba", "cuda" or "array_api".
    equation : GroupEquation
        That of the penalty, which makes a new one whenever it is asked.
    weights : ndarray of shape (n_groups,) or (1,)
        Those of the groups.
    """

    penalty: Penalty
    x: Array
    step: Any
    metric: Any
    layout: Layout
    xp: Any
    backend: str
    equation: GroupEquation
    weights: Any

    def full_metric(self) -> Array:
        """Return the metric in float64, of the shape of ``x``."""
        xp = self.xp
        device = array_api_compat.device(self.x)
        if self.metric is None or isinstance(self.metric, float):
            value = 1.0 if self.metric is None else self.metric
            return xp.full(self.x.shape, value, dtype=xp.float64, device=device)
        return xp.broadcast_to(xp.astype(self.metric, xp.float64), self.x.shape)

    def group_steps(self) -> Array:
        """Return the step of each group in float64, shape (n_groups,)."""
        xp = self.xp
        if isinstance(self.step, float):
            device = array_api_compat.device(self.x)
            return xp.full((self.layout.n_groups,), self.step, dtype=xp.float64, device=device)
        return self.step

    def group_weights(self) -> Array:
        """Return the weight of each group in float64, shape (n_groups,), in the namespace of ``x``."""
        weights = np.broadcast_to(self.weights, (self.layout.n_groups,)).copy()
        return self.xp.asarray(weights, dtype=self.xp.float64, device=array_api_compat.device(self.x))


# NumPy makes a dtype's name anew at each call, which takes longer than everything else here.
_NUMPY_NAMES = {np.dtype(name): name for name in ("float16", "float32", "float64")}


def dtype_name(dtype: Any) -> str:
    """Return a dtype's plain name: ``float32`` for ``torch.float32`` too."""
    if isinstance(dtype, np.dtype):
        return _NUMPY_NAMES.get(dtype) or dtype.name
    return str(dtype).rpartition(".")[2]


def float_bits(x: Array) -> int:
    """Return the bits of precision of an array's dtype."""
    return {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}[dtype_name(x.dtype)]


def check_array(name: str, x: Any) -> Any:
    """Return the namespace of a real floating-point array, or raise an error that names it."""
    is_array = type(x) is np.ndarray or (
        array_api_compat.is_array_api_obj(x) and not isinstance(x, np.generic)
    )
    if not is_array:
        told = "; use its to_numpy()" if hasattr(x, "to_numpy") else ""
        raise TypeError(f"{name}: must be an array (NumPy, CuPy, torch, …), got {type(x).__name__}{told}")
    check_plain(name, x)
    if type(x) is not np.ndarray and array_api_compat.is_dask_array(x):
        raise TypeError(
            f"{name}: prox alone takes arrays of Dask; compute it first, or certify its blocks one after the "
            "other (proxlab.study.certify_blocks)"
        )
    if type(x) is not np.ndarray and array_api_compat.is_torch_array(x):
        _check_tensor(name, x)
    dtype = dtype_name(x.dtype)
    if dtype not in ("float16", "bfloat16", "float32", "float64"):
        size = " of at most 64 bits" if dtype.startswith("float") else ""
        raise TypeError(f"{name}: must have a real floating-point dtype{size}, got {dtype}; convert it first")
    return namespace(x)


def native(a: Any) -> Any:
    """Return an array of NumPy in this machine's byte order; anything else as it is."""
    if isinstance(a, np.ndarray) and not a.dtype.isnative:
        return a.astype(a.dtype.newbyteorder("="))
    return a


def _check_tensor(name: str, x: Any) -> None:
    """Raise an error for tensors of torch that are no dense arrays of numbers."""
    layout = str(x.layout).rpartition(".")[2]
    if layout != "strided" or x.is_nested:
        told = "a nested tensor" if x.is_nested else f"one of layout {layout}"
        raise TypeError(f"{name}: must be a dense tensor, got {told}; convert it first")
    if x.device.type == "meta":
        raise TypeError(f"{name}: must hold values, got a tensor on the meta device")


def is_plain_tensor(x: Any) -> bool:
    """Tell whether an array is a tensor of torch whose memory on the CPU NumPy can share."""
    if not array_api_compat.is_torch_array(x):
        return False
    torch: Any = sys.modules["torch"]
    return bool(
        type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.layout is torch.strided
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not torch.compiler.is_compiling()
    )


@overload
def as_host(a: Problem) -> Problem: ...
@overload
def as_host(a: Any) -> Any: ...
def as_host(a: Any) -> Any:
    """Return a tensor on the CPU, or a problem of such tensors, as NumPy's, of the same memory.

    What is not a tensor is returned as it is.
    """
    if isinstance(a, Problem):
        if not array_api_compat.is_torch_array(a.x):
            return a
        x, step, metric = as_host(a.x), as_host(a.step), as_host(a.metric)
        return replace(a, x=x, step=step, metric=metric, xp=namespace(x))
    return a.detach().resolve_neg().numpy() if array_api_compat.is_torch_array(a) else a


def as_tensor(a: Any) -> Any:
    """Return an array of NumPy as a tensor of the same memory."""
    return sys.modules["torch"].from_numpy(a)


def check_root_finder(root_finder: object) -> RootFinder:
    """Return the root finder, or raise an error."""
    if not isinstance(root_finder, RootFinder) or type(root_finder) is RootFinder:
        raise TypeError(f"root_finder: must be a root finder such as proxlab.Newton(), got {root_finder!r}")
    kind = type(root_finder)
    if not isinstance(kind.needs_bracket, bool):
        raise TypeError(f"root_finder: needs_bracket must be True or False, got {kind.needs_bracket!r}")
    if "propose" in vars(root_finder):
        raise TypeError(
            f"root_finder: {kind.__name__}.propose must be a function of the class, set by "
            "propose = staticmethod(…), not of the object; what it needs to know may be its constants"
        )
    _check_propose(kind)
    return root_finder


def check_group_weights(penalty: Penalty, layout: Layout) -> Any:
    """Return the group weights, which compiled code indexes, or raise an error if they do not fit."""
    weights: Any = penalty.group_weights(layout)
    if not isinstance(weights, np.ndarray) or weights.dtype != np.float64:
        raise TypeError(f"penalty: its group_weights must return an array of float64, got {weights!r}")
    if weights.shape != (1,) and weights.shape != (layout.n_groups,):
        raise ValueError(
            f"penalty: its group_weights must be one or one per group, of which there are {layout.n_groups}, "
            f"got shape {weights.shape}"
        )
    return weights


def _check_propose(kind: type[RootFinder]) -> None:
    """Raise an error if the class does not propose by a plain function of thirteen numbers."""
    propose = getattr(kind, "propose", None)
    propose = getattr(propose, "py_func", propose)  # of one that Numba has compiled
    told = f"root_finder: {kind.__name__}.propose must be a function of thirteen numbers"
    if not isinstance(propose, FunctionType):
        raise TypeError(f"{told}, set by propose = staticmethod(…), got {type(propose).__name__}")
    code = propose.__code__
    least = code.co_argcount - len(propose.__defaults__ or ())
    if code.co_argcount == PROPOSAL + 1 == least:
        raise TypeError(
            f"{told}, and it takes fourteen: a method cannot be compiled, so write "
            "propose = staticmethod(…) and give it its options as constants"
        )
    many = bool(code.co_flags & CO_VARARGS)
    if least > PROPOSAL or (code.co_argcount < PROPOSAL and not many) or code.co_kwonlyargcount:
        raise TypeError(f"{told}, by position, got {propose.__name__}{signature(propose)}")
    if code.co_flags & (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR):
        raise TypeError(f"{told} that returns, and {propose.__name__} yields or is awaited")


def check_finite(name: str, x: Array, xp: Any) -> None:
    """Raise an error that names the first element of ``x`` that is not finite."""
    good = xp.isfinite(x)
    if not bool(xp.all(good)):
        raise ValueError(f"{name}: must be finite, but {_first(x, good, xp)}")


def check_metric_values(metric: Array, xp: Any) -> None:
    """Raise an error that names the first element of the metric that is not finite and > 0."""
    good = (metric > 0) & xp.isfinite(metric)
    if not bool(xp.all(good)):
        raise ValueError(f"metric: must be finite and > 0, but {_first(metric, good, xp)}")


def check_values(p: Problem) -> None:
    """Raise an error that names an element of the point, the metric or the steps that is invalid."""
    check_finite("x", p.x, p.xp)
    if p.metric is not None and not isinstance(p.metric, float):
        check_metric_values(p.metric, p.xp)
    if not isinstance(p.step, float):
        _check_steps(p.step, p.xp)


def _check_steps(steps: Array, xp: Any) -> None:
    good = (steps > 0) & xp.isfinite(steps)
    if not bool(xp.all(good)):
        raise ValueError(f"step: must be finite and > 0, but {_first(steps, good, xp)}")


def _first(x: Array, good: Array, xp: Any) -> str:
    flat = int(xp.argmin(xp.reshape(xp.astype(good, xp.int8), (-1,))))
    index = tuple(int(i) for i in np.unravel_index(flat, tuple(x.shape)))
    return f"element {index} is {float(xp.reshape(x, (-1,))[flat])}"


def _step(step: Any, layout: Layout, x: Array, xp: Any, reads: bool) -> Any:
    if not array_api_compat.is_array_api_obj(step) or isinstance(step, np.generic):
        if isinstance(step, bool) or not isinstance(step, (int, float, np.integer, np.floating)):
            told = "step: must be a positive number or an array of shape (n_groups,)"
            raise TypeError(f"{told}, got {shown(step)}")
        number = as_float(step)
        if not math.isfinite(number) or number <= 0:
            raise ValueError(f"step: must be finite and > 0, got {shown(step)}")
        return number
    reads |= array_api_compat.is_numpy_array(step)
    shape = tuple(step.shape)
    check_plain("step", step)
    if shape == () and reads and not (isinstance(step, np.ndarray) and step.dtype.kind not in "fiu"):
        return _step(float(step), layout, x, xp, reads)
    if shape not in ((), (layout.n_groups,)):
        raise ValueError(
            f"step: must be a number or have shape (n_groups,) = ({layout.n_groups},), got {shape}"
        )
    check_array("step", step)
    if array_api_compat.is_numpy_array(step) and not array_api_compat.is_numpy_array(x):
        step = xp.asarray(step, device=array_api_compat.device(x))
    steps = xp.astype(_same_kind("step", step, x, xp), xp.float64)
    if reads:
        _check_steps(steps, xp)
    return steps if shape else xp.broadcast_to(steps, (layout.n_groups,))


def _same_kind(name: str, a: Any, x: Array, xp: Any) -> Array:
    if namespace(a) is not xp:
        raise TypeError(
            f"{name}: must be an array of the kind of x, {type(x).__name__}, got {type(a).__name__}"
        )
    if array_api_compat.device(a) != array_api_compat.device(x):
        here, there = array_api_compat.device(x), array_api_compat.device(a)
        raise ValueError(f"{name}: must be on the device of x, {here}, got {there}")
    return a


def _metric(metric: object, x: Array, xp: Any) -> Any:
    if metric is None:
        return None
    if not array_api_compat.is_array_api_obj(metric) or isinstance(metric, np.generic):
        if isinstance(metric, bool) or not isinstance(metric, (int, float, np.integer, np.floating)):
            raise TypeError(
                f"metric: must be an array broadcastable to x, a positive number or None, got {shown(metric)}"
            )
        number = as_float(metric)
        if not math.isfinite(number) or number <= 0:
            raise ValueError(f"metric: must be finite and > 0, got {shown(metric)}")
        return number
    check_array("metric", metric)
    array = _same_kind("metric", metric, x, xp)
    shape, target = tuple(array.shape), tuple(x.shape)
    padded = (1,) * (len(target) - len(shape)) + shape
    if len(shape) > len(target) or any(m not in (1, n) for m, n in zip(padded, target, strict=True)):
        raise ValueError(f"metric: must be broadcastable to the shape of x, {target}, got {shape}")
    return array


def check_same(name: str, a: object, x: Array, xp: Any) -> Array:
    """Return ``a`` if it is an array of the kind, shape and device of ``x``, or raise an error."""
    check_array(name, a)
    array = _same_kind(name, a, x, xp)
    if tuple(array.shape) != tuple(x.shape):
        raise ValueError(f"{name}: must have the shape of x, {tuple(x.shape)}, got {tuple(array.shape)}")
    return array


def check_out(out: Any, x: Array, xp: Any) -> None:
    """Raise an error if a result like ``x`` cannot be written to ``out``."""
    check_same("out", out, x, xp)
    if out.dtype != x.dtype:
        raise TypeError(f"out: must have the dtype of x, {x.dtype}, got {out.dtype}")
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise ValueError("out: must be writeable, got a read-only array")
        strides: tuple[int, ...] = out.strides
    elif array_api_compat.is_torch_array(out):
        if out.requires_grad and sys.modules["torch"].is_grad_enabled():
            raise ValueError("out: must not require a gradient; detach it, or use torch.no_grad()")
        strides = out.stride() if is_plain_tensor(out) else ()
        if strides and out.is_neg():
            raise ValueError("out: must not be a view of negated memory, as imag of a conjugate is")
    else:
        return
    if 0 not in out.shape and any(s == 0 and n > 1 for s, n in zip(strides, out.shape, strict=False)):
        raise ValueError("out: must have a place for every element, got one that is broadcast")


def on_gpu(x: Array) -> bool:
    """Tell whether an array lies where GPU kernels can reach it: one of CuPy, or a CUDA tensor of torch."""
    if array_api_compat.is_cupy_array(x):
        return True
    return bool(array_api_compat.is_torch_array(x) and x.is_cuda)


@lru_cache(maxsize=1)
def has_kernels() -> bool:
    """Tell whether what compiles kernels for a GPU is installed."""
    return find_spec("numba_cuda") is not None


def compiles() -> bool:
    """Tell whether Numba compiles here; with ``NUMBA_DISABLE_JIT=1`` everything runs in its array form."""
    from numba.core import config

    return not vars(config)["DISABLE_JIT"]


def _choose(backend: str | None, x: Array) -> str:
    """Return the backend that was asked for, if it can take the array; by default, the fastest that can."""
    if backend not in BACKENDS:
        raise ValueError(f'backend: must be None, "numba", "cuda" or "array_api", got {backend!r}')
    native = dtype_name(x.dtype) in ("float32", "float64")
    numpy = array_api_compat.is_numpy_array(x)
    device = native and not numpy and on_gpu(x)
    host = native and not device and (numpy or is_plain_tensor(x))
    if backend == "numba" and not host:
        raise TypeError(
            "backend: the numba backend needs a NumPy array or a CPU tensor of torch, of float32 or float64, "
            f"got {type(x).__name__} of {x.dtype}; use backend=None"
        )
    if backend == "cuda" and not device:
        raise TypeError(
            f"backend: the cuda backend needs an array of CuPy or a CUDA tensor of torch, of float32 or "
            f"float64, got {type(x).__name__} of {x.dtype}; move it there (cupy.asarray, x.cuda()), or use "
            "backend=None"
        )
    if host and backend != "array_api" and not compiles():
        return "array_api"
    if backend is not None:
        return backend
    return "numba" if host else ("cuda" if device and has_kernels() else "array_api")


def problem(
    penalty: object,
    x: Any,
    step: object,
    metric: object,
    backend: str | None,
    check: bool | None = True,
) -> Problem:
    """Validate the arguments that all verbs share, all but the values of ``x`` and ``metric``.

    Those are checked where they are read anyway: by the compiled kernel, or before the array form. Nor are
    steps on a GPU read without ``check``.
    """
    if not isinstance(penalty, Penalty):
        raise TypeError(f"penalty: must be a proxlab penalty such as GroupLasso(0.1), got {penalty!r}")
    xp = check_array("x", x)
    chosen, equation = _choose(backend, x), penalty.equation
    if not equation.compiled:
        if backend == "cuda":
            name = type(penalty).__name__
            raise ValueError(
                f"backend: the cuda backend has no kernels for the {equation.shape} of {name}; use "
                "backend=None, which solves them on the device too"
            )
        chosen = chosen if chosen in penalty.equation.solvers else "array_api"
    layout = penalty.groups.layout(tuple(x.shape))
    weights = check_group_weights(penalty, layout)
    steps = _step(step, layout, x, xp, bool(check) or chosen != "cuda")
    return Problem(penalty, x, steps, _metric(metric, x, xp), layout, xp, chosen, equation, weights)
