"""Machines: a cache that is broken or cannot be written, no compilation, packages that are not there."""

import os
import shutil
import subprocess
import sys
import textwrap
import warnings

import numba
import numpy as np
import pytest

from proxlab.backends import disk_cache, sums
from proxlab.backends.closed import ClosedCompiler, PartCompiler
from proxlab.backends.compiling import TARGET
from proxlab.backends.disk_cache import KernelCache


def thrice(v):
    return v + v + v


def fresh(place):
    """The function as a new process would compile it."""
    dispatcher = numba.njit(thrice)
    dispatcher._cache = KernelCache(thrice, str(place))
    return dispatcher


def misses(dispatcher):
    return sum(dispatcher.stats.cache_misses.values())


def cut(path):
    path.write_bytes(path.read_bytes()[:20])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@pytest.mark.parametrize("spoil", [cut, emptied, flipped, foreign])
@pytest.mark.parametrize("pattern", ["*.nbi", "*.nbc"])
def test_a_broken_file_is_named_removed_and_made_again(tmp_path, pattern, spoil):
    assert fresh(tmp_path)(2.0) == 6.0
    (path,) = tmp_path.glob(pattern)
    good = path.stat().st_size
    spoil(path)
    again = fresh(tmp_path)
    with pytest.warns(RuntimeWarning, match="broken: it is removed and made again") as said:
        assert again(2.0) == 6.0
    assert [str(path) in str(w.message) for w in said] == [True]
    assert misses(again) == 1
    assert abs(path.stat().st_size - good) < 200
    warm = fresh(tmp_path)
    assert warm(2.0) == 6.0
    assert misses(warm) == 0


def test_the_data_of_another_signature_is_not_taken(tmp_path):
    """As Numba's own cache may, where two processes number their files at the same time."""
    dispatcher = fresh(tmp_path)
    assert (dispatcher(2.0), dispatcher(2)) == (6.0, 6)
    first, second = sorted(tmp_path.glob("*.nbc"))
    shutil.copy(first, second)
    again = fresh(tmp_path)
    with pytest.warns(RuntimeWarning, match="broken"):
        assert (again(2.0), again(2)) == (6.0, 6)
    assert isinstance(again(2), int)


BESIDE_OTHERS = """
import numba
import numpy as np
from proxlab.backends.closed import ClosedCompiler

def total(a, unused, b):
    s = 0.0
    for i in range(a.size):
        s += a[i] * b
        if s > 1e10:
            s -= b * a[0]
    for i in range(a.size):
        s += a[i] / (b + 1.0)
        if s < -1e10:
            s -= b * a[0]
    return s

def first(a, b):
    return total(a, 3.0, b) + 2 * total(a, 4.0, 2 * b) + 3 * total(a[::2].copy(), 5.0, b)

def second(a, b):
    return total(a, 1.0, b) + total(a, 2.0, b + 1)

a = np.arange(5.0)
expected = first(a, 2.0), second(a, 2.0)
total = numba.njit(total)
closed = numba.njit(pipeline_class=ClosedCompiler)(first)
assert (closed(a, 2.0), numba.njit(second)(a, 2.0)) == expected
print("beside others")
"""


def test_what_only_kernels_call_is_compiled_with_them_alone():
    """No code of its own, which would take a third of the time that a kernel takes to compile."""

    def part(a):
        return 2.0 * a

    part = numba.njit(pipeline_class=PartCompiler, no_cpython_wrapper=True, no_cfunc_wrapper=True)(part)
    kernel = numba.njit(pipeline_class=ClosedCompiler)(lambda a: part(a) + 1.0)
    assert kernel(3.0) == 7.0
    (made,) = part.overloads.values()
    assert made.library.get_pointer_to_function(made.fndesc.llvm_func_name) == 0
    (made,) = kernel.overloads.values()
    assert made.library.get_pointer_to_function(made.fndesc.llvm_func_name) != 0
    # As the CPU's kernels are made.
    linked = TARGET.link(sums.narrow_fraction)
    linked.compile((numba.float64,))
    (made,) = linked.overloads.values()
    assert made.library.get_pointer_to_function(made.fndesc.llvm_func_name) == 0


def test_what_a_kernel_has_of_its_own_is_not_taken_for_what_others_have():
    """The loader merges functions by name, and a kernel's copies take other arguments: that was a crash."""
    end = subprocess.run([sys.executable, "-c", BESIDE_OTHERS], capture_output=True, text=True)
    assert end.stdout == "beside others\n", end.stderr


def test_an_edit_of_what_is_written_for_the_compiler_is_another_kernel(tmp_path):
    """The linker does not read it."""
    import proxlab

    shutil.copytree(os.path.dirname(proxlab.__file__), tmp_path / "proxlab")
    told = []
    for edited in ("", "turning", "cube_root"):
        if edited:
            with open(tmp_path / "proxlab" / "optim" / f"{edited}.py", "a") as file:
                file.write("# another one\n")
        code = "from proxlab.optim.fused_kernels import plain_kernel; print(plain_kernel('side_of').__name__)"
        told.append(subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True))
    assert len(set(told)) == 3, told


def test_processes_that_write_at_the_same_time(tmp_path, monkeypatch):
    """Each has read the index before the other one wrote it: an entry may be lost, none is wrong."""
    one, other = fresh(tmp_path), fresh(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(disk_cache._Files, "_read", lambda self, path: {})
        assert (one(2.0), other(2)) == (6.0, 6)
    last = fresh(tmp_path)
    assert (last(2.0), last(2), isinstance(last(2), int)) == (6.0, 6, True)


def test_a_full_disk_is_said_once(tmp_path, monkeypatch):
    def write(self, path, content):
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(disk_cache, "_said", [])
    monkeypatch.setattr(disk_cache._Files, "_write", write)
    dispatcher = fresh(tmp_path)
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR") as said:
        assert (dispatcher(2.0), dispatcher(2)) == (6.0, 6)
    assert len(said) == 1


def test_files_that_cannot_be_read_are_said_once(tmp_path, monkeypatch):
    def read(self, path):
        raise PermissionError(13, "Permission denied", path)

    assert fresh(tmp_path)(2.0) == 6.0
    monkeypatch.setattr(disk_cache, "_said", [])
    monkeypatch.setattr(disk_cache._Files, "_read", read)
    dispatcher = fresh(tmp_path)
    with pytest.warns(RuntimeWarning, match=r"cannot be read .*NUMBA_CACHE_DIR") as said:
        assert (dispatcher(2.0), dispatcher(2)) == (6.0, 6)
    assert len(said) == 1


def test_functions_of_other_names(tmp_path):
    """Nothing but the name tells a function: another one's file is not looked at."""
    assert fresh(tmp_path)(2.0) == 6.0
    dispatcher = numba.njit(lambda v: v * 4.0)
    dispatcher._cache = KernelCache(dispatcher.py_func, str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatcher(2.0) == 8.0


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-W", "default", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )


SMALL = """
    import numpy as np, proxlab as pl
    for dtype in (np.float32, np.float64):
        print(pl.prox(pl.L1(1.0), np.array([[3.0, -0.5]], dtype)).tolist())
"""


def test_what_is_kept_runs_without_what_compiles(tmp_path):
    """Numba's registries, and NumPy's modules that nobody asked for, would take half of the first call."""
    first = run(SMALL, NUMBA_CACHE_DIR=str(tmp_path))
    heavy = ["numba.np.npyimpl", "numba.np.linalg", "proxlab.backends.arrays"]
    heavy += ["proxlab.backends.numba_certify", "proxlab.penalties.group_lasso"]
    # NumPy 2.0 is taken through array-api-compat, which loads all of it.
    heavy += ["numpy.f2py"] if hasattr(np, "cumulative_sum") else []
    told = f"\n    import sys; print([m for m in {heavy!r} if m in sys.modules])"
    again = run(SMALL + told, NUMBA_CACHE_DIR=str(tmp_path))
    assert again.stdout == f"{first.stdout}[]\n", again.stderr


def test_a_cache_that_cannot_be_written_is_said_once(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = run(SMALL, NUMBA_CACHE_DIR=str(tmp_path / "file"))
    assert done.stdout.split("\n")[:2] == ["[[2.0, -0.0]]"] * 2 or done.stdout.count("[[2.0, ") == 2, (
        done.stderr
    )
    assert done.stderr.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1


def test_without_compilation_everything_runs_over_arrays():
    code = """
        import numpy as np, proxlab as pl
        from proxlab import optim
        x, d = np.array([[3.0, 4.0], [0.1, 0.2]]), np.array([1.0, 16.0])
        for backend in (None, "numba"):
            for penalty in (pl.L1(1.0), pl.GroupMCP(1.0, gamma=3.0), pl.GroupLinf(1.0)):
                z = pl.prox(penalty, x, metric=d, backend=backend)
                assert (z == pl.prox(penalty, x, metric=d, backend="array_api")).all()
        assert pl.certify(pl.GroupLasso(1.0), pl.prox(pl.GroupLasso(1.0), x), x).distance.max() < 1e-13
        try:
            import torch, proxlab.torch
        except ImportError:
            raise SystemExit
        w = [torch.nn.Parameter(torch.tensor(x)) for _ in range(2)]
        for p, fused in zip(w, (None, False)):
            step = proxlab.torch.ProxAdamW([p], lr=0.1, penalty=pl.GroupLasso(1.0), fused=fused)
            p.grad = torch.ones_like(p)
            step.step()
        assert (w[0] == w[1]).all()
        try:
            step.__class__([p], lr=0.1, penalty=pl.GroupLasso(1.0), fused=True).step()
        except RuntimeError as error:
            assert "NUMBA_DISABLE_JIT" in str(error), error
        else:
            raise AssertionError("fused without a compiler")
    """
    done = run(code, NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr


def test_without_torch_the_extra_is_named():
    done = run("import sys; sys.modules['torch'] = None; import proxlab.torch")
    assert done.stderr.strip().endswith(
        "ImportError: proxlab.torch needs PyTorch: pip install 'proxlab[torch]'"
    )
