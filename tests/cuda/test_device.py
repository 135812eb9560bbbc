"""What only a device can say; `make test-gpu` runs these, and docs/gpu.md says whether they have ever run."""

import numpy as np
import pytest

import proxlab as pl
from proxlab import optim
from tests import table

pytestmark = [
    pytest.mark.gpu,
    # What CuPy and numba-cuda deprecate is theirs to change.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
]
rng = np.random.default_rng(7)


@pytest.fixture(scope="module")
def cp():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    try:
        cupy.zeros(1)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no CUDA device: {error}")
    return cupy


def data(shape, dtype=np.float64):
    return rng.normal(size=shape).astype(dtype), np.exp(rng.normal(size=shape)).astype(dtype)


def agree(cp, penalty, x, d, step=0.7, **options):
    """Compare the kernels' solution with the array form on the CPU: point, brackets and statuses."""
    s = pl.solve(penalty, cp.asarray(x), step, metric=cp.asarray(d), backend="cuda", **options)
    t = pl.solve(penalty, x, step, metric=d, backend="array_api", **options)
    z = cp.asnumpy(s.z)
    assert z.dtype == x.dtype
    assert np.array_equal(cp.asnumpy(s.status), t.status)
    lower, upper, radius = (cp.asnumpy(a) for a in (*s.bracket, s.radius))
    # Close to a jump of the slope the radius moves by more than it is wrong in its equation.
    apart = np.max(np.abs(radius - t.radius) / np.where(radius == 0.0, 1.0, radius), initial=0.0)
    assert apart <= 2.0**-26
    error = (16 * np.finfo(x.dtype).eps + 8 * apart) * np.abs(x)
    assert np.all(np.abs(z - t.z) <= error)
    assert np.all(lower <= radius)
    assert np.all(radius <= upper)
    assert np.all(np.maximum(lower, t.bracket[0]) <= np.minimum(upper, t.bracket[1]))
    # Another kernel, in which other products and sums may be fused.
    plain = pl.prox(penalty, cp.asarray(x), step, metric=cp.asarray(d), **options)
    assert np.all(np.abs(cp.asnumpy(plain) - z) <= error)


@pytest.mark.parametrize("dtype", table.DTYPES)
@pytest.mark.parametrize("name", table.GROUPS)
def test_layouts(cp, name, dtype):
    make, shape = table.GROUPS[name]
    for row in table.TABLED:
        x, d = data(shape, dtype)
        agree(cp, row.build() if row.name == "L1" else row.build(groups=make()), x, d)


SIZES = {
    "lane": ((1000, 3), -1),
    "lanes": ((1000, 29), -1),
    "warp": ((300, 700), -1),
    "block": ((20, 9001), -1),
    "grid": ((2, 200_001), -1),
    "tile": ((300, 1000), 0),
    "tile of short columns": ((7, 5000), 0),
    "strided": ((40, 64, 9), (0, 2)),
    "long strided": ((4000, 8, 16), (0, 2)),
}


@pytest.mark.parametrize("row", [r for r in table.GROUPED if r in table.TABLED], ids=lambda r: r.id)
@pytest.mark.parametrize("name", SIZES)
def test_teams(cp, name, row):
    shape, axis = SIZES[name]
    for dtype in table.DTYPES:
        x, d = data(shape, dtype)
        agree(cp, row.build(groups=pl.Groups.over(axis)), x, d)


@pytest.mark.parametrize("finder", table.ROOT_FINDERS, ids=table.ids(table.ROOT_FINDERS))
def test_root_finders(cp, finder):
    x, d = data((50, 300))
    agree(cp, pl.GroupSCAD(0.7, a=2.4), x, d, root_finder=finder)
    z = pl.prox(
        pl.GroupLasso(3.0), cp.asarray(x), metric=cp.asarray(d), root_finder=finder, backend="array_api"
    )
    wanted = pl.prox(pl.GroupLasso(3.0), x, metric=d, root_finder=finder, backend="array_api")
    assert np.allclose(cp.asnumpy(z), wanted, rtol=1e-9, atol=1e-12)


def test_ragged_groups_by_all_teams(cp):
    sizes = np.array([0, 3, 30, 700, 5000, 200_000, 1, 1, 64])
    x, d = data((int(sizes.sum()) + 11,))
    chosen = rng.permutation(len(x))[: sizes.sum()]
    groups = pl.Groups.csr(np.concatenate([[0], np.cumsum(sizes)]), chosen)
    agree(cp, pl.GroupLasso(2.0, groups=groups, weights="sqrt_size"), x, d)


def test_the_certificate_holds(cp):
    x, d = data((200, 500))
    penalty = pl.GroupLasso(8.0)
    for backend in ("cuda", "array_api"):
        z = pl.prox(penalty, cp.asarray(x), metric=cp.asarray(d), backend=backend)
        c = pl.certify(penalty, z, cp.asarray(x), metric=cp.asarray(d))
        host = pl.certify(penalty, cp.asnumpy(z), x, metric=d)
        for a, b in ((c.distance, host.distance), (c.stationarity, host.stationarity), (c.gap, host.gap)):
            assert np.all(cp.asnumpy(a) <= 4 * b + 1e-12)
            assert np.all(b <= 4 * cp.asnumpy(a) + 1e-12)


def test_in_place_and_into_memory_that_overlaps(cp):
    x, d = data((60, 400))
    penalty = pl.GroupLasso(5.0)
    wanted = pl.prox(penalty, x, metric=d)
    a = cp.asarray(x)
    assert pl.prox(penalty, a, metric=cp.asarray(d), out=a) is a
    assert np.allclose(cp.asnumpy(a), wanted, rtol=1e-13)
    store = cp.zeros((61, 400))
    store[:-1] = cp.asarray(x)
    pl.prox(penalty, store[:-1], metric=cp.asarray(d), out=store[1:])
    assert np.allclose(cp.asnumpy(store[1:]), wanted, rtol=1e-13)


def test_invalid_values(cp):
    x, d = data((50, 40))
    x[7, 3] = np.nan
    penalty = pl.GroupLasso(1.0)
    z = cp.asnumpy(pl.prox(penalty, cp.asarray(x), metric=cp.asarray(d)))
    assert np.isnan(z[7]).all()
    assert np.isfinite(np.delete(z, 7, axis=0)).all()
    with pytest.raises(ValueError, match=r"^x: must be finite, but element \(7, 3\) is nan"):
        pl.prox(penalty, cp.asarray(x), metric=cp.asarray(d), check=True)


def test_the_current_stream_and_no_waiting(cp):
    x, d = (cp.asarray(a) for a in data((20_000, 1000), np.float32))
    penalty = pl.GroupLasso(5.0)
    wanted = pl.prox(penalty, x, metric=d)
    cp.cuda.get_current_stream().synchronize()
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        y = x.copy()
        for _ in range(20):
            z = pl.prox(penalty, y, metric=d)
        # The work takes longer than its launch: had anything waited, the stream would be empty.
        assert not stream.done
    stream.synchronize()
    assert cp.array_equal(z, wanted)


def test_no_copy_to_the_host(cp):
    """Once its weights are there, a call can be captured in a graph, which forbids copies and waiting."""
    x, d = (cp.asarray(a) for a in data((500, 100)))
    steps, z = cp.full(500, 0.5), cp.empty((500, 100))
    penalty = pl.GroupLasso(5.0, weights="sqrt_size")
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        for _ in range(2):
            wanted = pl.prox(penalty, x, steps, metric=d, out=z).copy()
        stream.synchronize()
        z[...] = 0.0
        stream.begin_capture()
        pl.prox(penalty, x, steps, metric=d, out=z)
        stream.end_capture().launch(stream)
    stream.synchronize()
    assert cp.array_equal(z, wanted)


@pytest.mark.parametrize("name", ["ProxSGD", "ProxAdam", "ProxAdamW", "RMDA", "AdaBreg"])
def test_optimizers(cp, name):
    x, d = data((30, 50))
    results = []
    for move in (cp.asarray, np.asarray):
        optimizer, w = getattr(optim, name)(), move(x)
        state = optimizer.init(w, pl.GroupLasso(0.1))
        for _ in range(3):
            w, state = optimizer.step(w, move(d - 1.0), state)
        results.append(w)
    assert np.allclose(cp.asnumpy(results[0]), results[1], rtol=1e-10)


@pytest.mark.torch
def test_torch_tensors(cp):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this build of torch has no CUDA")
    x, d = data((60, 400), np.float32)
    a, b = torch.from_numpy(x).cuda(), torch.from_numpy(d).cuda()
    penalty = pl.GroupLasso(5.0)
    wanted = pl.prox(penalty, x, metric=d)
    with torch.cuda.stream(torch.cuda.Stream()):
        z = pl.prox(penalty, a, metric=b)
    torch.cuda.synchronize()
    assert z.is_cuda
    assert np.allclose(z.cpu().numpy(), wanted, rtol=1e-5)
    assert torch.equal(
        z, torch.as_tensor(pl.prox(penalty, cp.asarray(x), metric=cp.asarray(d)), device="cuda")
    )
    from proxlab.torch import ProxAdamW

    weights = []
    for device in ("cuda", "cpu"):
        w = torch.nn.Parameter(torch.from_numpy(x).to(device))
        optimizer = ProxAdamW([w], lr=0.01, penalty=penalty)
        for _ in range(3):
            optimizer.zero_grad()
            (torch.from_numpy(d).to(device) * w**2).sum().backward()
            optimizer.step()
        weights.append(w.detach().cpu().numpy())
    assert np.allclose(*weights, rtol=1e-4, atol=1e-6)
