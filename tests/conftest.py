"""Fixtures and Hypothesis profiles shared by all tests."""

import importlib
import os

# Processes that share the cores divide them: threads of OpenMP that wait for a core take it from the others.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import providers

# "ci" is the default and draws the same examples on every run; `HYPOTHESIS_PROFILE=long pytest` searches.
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
settings.register_profile("ci", max_examples=15, derandomize=True, database=None, **COMMON)
settings.register_profile("dev", max_examples=10, phases=[Phase.explicit, Phase.generate], **COMMON)
settings.register_profile("long", max_examples=2000, **COMMON)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci")
settings.load_profile(PROFILE)
if PROFILE == "ci" and hasattr(providers, "_get_local_constants"):
    # Otherwise examples hold constants of the modules that are loaded so far, and depend on which tests run.
    # The other profiles keep them.
    providers._get_local_constants = providers.Constants


class Namespace:
    """An array library as the tests use it: how to make its arrays and how to read them back.

    Attributes
    ----------
    name : str
    module : module
    """

    def __init__(self, name):
        self.name = name
        self.module = importlib.import_module("numpy" if name.startswith("numpy") else name)

    def asarray(self, a):
        """Make an array of this library with the values and dtype of a NumPy array."""
        if self.name == "numpy_readonly":
            a = np.array(a)
            a.flags.writeable = False
            return a
        return self.module.asarray(np.array(a))

    def to_numpy(self, a):
        """Read an array back."""
        assert isinstance(a, type(self.asarray(np.zeros(1)))), type(a)
        return np.asarray(a) if self.name != "array_api_strict" else np.asarray(a._array)


@pytest.fixture(
    params=["numpy", "numpy_readonly", "array_api_strict", pytest.param("torch", marks=pytest.mark.torch)]
)
def xp(request):
    """Array namespaces that the array form runs over; those not installed are skipped visibly."""
    module = request.param.removesuffix("_readonly")
    pytest.importorskip(module, reason=f"{module} is not installed")
    return Namespace(request.param)
