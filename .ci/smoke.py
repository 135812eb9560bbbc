"""Try an installed proxlab with nothing but its core dependencies: a prox, its proof, and hints at extras."""

import subprocess
import sys
from importlib.metadata import requires, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import proxlab as pl

assert not {"numba", "torch", "pandas"} & set(sys.modules), "import proxlab is not light"
h = pl.GroupLasso(1.0)
x, d = np.array([[3.0, 4.0], [0.1, 0.2]]), np.array([[1.0, 1.0], [2.0, 3.0]])
for backend in ("numba", "array_api"):
    z = pl.prox(h, x, metric=d, backend=backend)
    np.testing.assert_allclose(z, [[2.4, 3.2], [0.0, 0.0]])
assert pl.certify(h, z, x, metric=d).total.distance < 1e-13


def study() -> object:
    """Look up a name of a study."""
    import proxlab.study

    return proxlab.study.validate


def networks() -> object:
    """Import what needs PyTorch."""
    import proxlab.torch

    return proxlab.torch


# Without an extra, its names say how to get it, and so does the command; with it, they work.
command = Path(sys.executable).with_name("proxlab")
run = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
for module, extra, use in (("torch", "torch", networks), ("pandas", "study", study)):
    said = ""
    try:
        use()
    except ImportError as error:
        said = str(error)
    if find_spec(module) is None:
        assert f"proxlab[{extra}]" in said, f"without {module}: {said or 'no error'}"
    else:
        assert not said, said
if find_spec("pandas") is None:
    assert run.returncode == 1, run
    assert "proxlab[study]" in run.stderr, run
else:
    assert run.stdout.strip() == f"proxlab {pl.__version__}", run
package = Path(pl.__file__).parent
for file in ("py.typed", "study/templates/page.html.j2"):
    assert (package / file).is_file(), f"{file} is not in the package"
assert version("proxlab") == pl.__version__
core = sorted(r.split(";")[0] for r in requires("proxlab") if "extra ==" not in r)
print(f"proxlab {pl.__version__} works with {', '.join(core)}")
