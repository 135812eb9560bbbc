"""A pytest plugin: kernels are linked as for the compiler and run as plain Python (``-p tests.interpreted``).

A mutant of a kernel's source, which all that calls it would be compiled for again, is tried in seconds so.
"""

import math
from inspect import signature
from typing import get_type_hints

import numpy as np

from proxlab import scalar
from proxlab.backends import compiling, copies, numba_cpu, numba_curved
from proxlab.linker import Given, Target

#: Compiled code divides by zero without an exception, and so do NumPy's numbers.
LIKE_COMPILED = {math.ldexp: np.ldexp, math.sqrt: np.sqrt}
PLAIN = Target(
    lambda function, loose: function,
    "interpreted",
    operations={scalar.sqrt: np.sqrt},
    native=lambda value: LIKE_COMPILED.get(value, value) if callable(value) else value,
    whole=False,
)


def outermost(_, kernel, names):
    """What Python calls, with the parts of its records one by one."""
    hints = get_type_hints(kernel)
    kinds = [compiling.parts_of(hints[name]) for name in signature(kernel).parameters]
    if "call" in names:
        names = names | {"call": Given(lambda function, own, r: FUNCTIONS[function](r), "interpreted")}
    linked = PLAIN.link(kernel, names)

    def call(*parts):
        left = iter(parts)

        def typed(kind):
            return next(left) if kind is None else kind[0](*[typed(part) for part in kind[1]])

        with np.errstate(all="ignore"):
            return linked(*[typed(kind) for kind in kinds])

    return call


#: Functions of curved penalties, by what stands for their addresses.
FUNCTIONS = []


def compiled_functions(penalty):
    """Give the functions of a penalty numbers instead of addresses."""
    first = len(FUNCTIONS)
    # Those over arrays: compiled code has no exception where an exponential leaves the range.
    FUNCTIONS.extend(lambda r, f=f: np.float64(f(np.float64(r))) for f in penalty.curve(np))
    called = [lambda _, r, f=f: f(r) for f in FUNCTIONS[first:]]
    return numba_curved.Compiled((), list(range(first, len(FUNCTIONS))), called)


for module in (compiling, copies, numba_cpu, numba_curved):
    module.outermost = outermost
numba_curved.compiled_functions = compiled_functions
