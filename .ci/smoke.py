"""Try an installed proxlab with nothing but its core dependencies: a prox, its proof, and hints at extras."""

import sys
from importlib.metadata import requires, version
from importlib.util import find_spec

import numpy as np

import proxlab as pl

assert not {"numba", "torch", "pandas"} & set(sys.modules), "import proxlab is not light"
h = pl.GroupLasso(1.0)
x, d = np.array([[3.0, 4.0], [0.1, 0.2]]), np.array([[1.0, 1.0], [2.0, 3.0]])
for backend in ("numba", "array_api"):
    z = pl.prox(h, x, metric=d, backend=backend)
    np.testing.assert_allclose(z, [[2.4, 3.2], [0.0, 0.0]])
assert pl.certify(h, z, x, metric=d).total.distance < 1e-14
for module, extra in (("torch", "torch"), ("pandas", "study")):
    if find_spec(module) is None:
        name = {"torch": "proxlab.torch", "study": "proxlab.study.validate"}[extra]
        said = ""
        try:
            __import__(name)
        except ImportError as error:
            said = str(error)
        assert f"proxlab[{extra}]" in said, f"{name} without {module}: {said or 'no error'}"
assert version("proxlab") == pl.__version__
core = sorted(r.split(";")[0] for r in requires("proxlab") if "extra ==" not in r)
print(f"proxlab {pl.__version__} works with {', '.join(core)}")
