"""Gradients of tensors through prox, solve and envelope; and tensors without any, on the kernels of NumPy."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import proxlab as pl  # noqa: E402
from tests.table import GROUPED, GROUPS, PENALTIES, ids  # noqa: E402

pytestmark = pytest.mark.torch


def tensors(n_groups, shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(shape, dtype=torch.float64, generator=g)
    d = 0.5 + torch.rand(shape, dtype=torch.float64, generator=g)
    step = 0.4 + 0.5 * torch.rand(n_groups, dtype=torch.float64, generator=g)
    return [a.requires_grad_() for a in (x, d, step)]


@pytest.mark.parametrize("backend", [None, "array_api"])
@pytest.mark.parametrize("grouping", ["rows", "labels"])
@pytest.mark.parametrize("row", PENALTIES, ids=ids(PENALTIES))
def test_gradcheck(row, grouping, backend):
    make, shape = GROUPS[grouping]
    h = row.build(**({} if row.name == "L1" else {"groups": make()}))
    x, d, step = tensors(h.groups.n_groups(shape), shape)
    options = {"fast_mode": True, "atol": 1e-6}
    assert torch.autograd.gradcheck(
        lambda x, d, s: pl.prox(h, x, s, metric=d, backend=backend), (x, d, step), **options
    )
    if backend is None:
        assert torch.autograd.gradcheck(
            lambda x, d, s: pl.envelope(h, x, s, metric=d), (x, d, step), **options
        )
        one, small = torch.tensor(0.7, dtype=torch.float64, requires_grad=True), d[:1].detach()
        assert torch.autograd.gradcheck(
            lambda x, d, s: pl.solve(h, x, s, metric=d).z, (x, small.requires_grad_(), one), **options
        )


@pytest.mark.parametrize("row", GROUPED, ids=ids(GROUPED))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_zero_groups_have_gradient_zero(row, dtype):
    x = torch.tensor([[0.0, 0.0], [1e-3, -1e-3], [3.0, 4.0]], dtype=dtype, requires_grad=True)
    d = torch.ones_like(x).requires_grad_()
    z = pl.prox(row.build(), x, metric=d)
    (z.sum() + pl.envelope(row.build(), x, metric=d).sum()).backward()
    for grad in (x.grad, d.grad):
        assert grad.dtype == dtype
        assert grad.isfinite().all()
    assert (d.grad[0] == 0).all()


@pytest.mark.filterwarnings(  # of torch's own decompositions
    "ignore::DeprecationWarning", "ignore:.*torch.jit.script:FutureWarning"
)
def test_second_derivatives_forward_mode_and_vmap_are_refused_in_a_sentence():
    h = pl.GroupLasso(0.3)
    x, *_ = tensors(2, (2, 3))
    for name, verb in (("prox", pl.prox), ("envelope", pl.envelope)):
        (g,) = torch.autograd.grad(verb(h, x).pow(2).sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match=f"^{name}: its second derivatives are not known"):
            torch.autograd.grad(g.sum(), x)
        with pytest.raises(NotImplementedError, match=f"^{name}: does not work under torch.vmap"):
            torch.func.vmap(lambda a, verb=verb: verb(h, a))(x.detach()[None])
        with (
            torch.autograd.forward_ad.dual_level(),
            pytest.raises(NotImplementedError, match=f"^{name}: its derivative in forward mode"),
        ):
            verb(h, torch.autograd.forward_ad.make_dual(x.detach(), x.detach()))


def test_transforms_of_first_order_work():
    h = pl.GroupMCP(0.4, gamma=3.0)
    x, d, _ = tensors(4, (4, 3))
    pl.prox(h, x, metric=d).pow(2).sum().backward()
    found = torch.func.grad(lambda a, b: pl.prox(h, a, metric=b).pow(2).sum(), (0, 1))(x.detach(), d.detach())
    assert torch.allclose(found[0], x.grad)
    assert torch.allclose(found[1], d.grad)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own decompositions
def test_jacobians_by_batches_of_cotangents():
    h = pl.GroupLasso(0.4)
    x, d, _ = tensors(5, (3, 2))
    step = torch.tensor(0.7, dtype=torch.float64)
    arguments = (x.detach(), d.detach(), step)

    def prox(a, b, s):
        return pl.prox(h, a, s, metric=b)

    found = torch.func.jacrev(prox, argnums=(0, 1, 2), chunk_size=4)(*arguments)
    for got, wanted in zip(found, torch.autograd.functional.jacobian(prox, arguments), strict=True):
        assert torch.allclose(got, wanted)
    # Numbers are differentiated by nobody.
    assert torch.func.jacrev(lambda a: prox(a, 1.0, 0.7))(x.detach()).shape == (3, 2, 3, 2)
    with pytest.raises(NotImplementedError, match=r"^prox: its second derivatives are not known"):
        torch.func.jacrev(torch.func.jacrev(lambda a: prox(a, d.detach(), step).sum()))(x.detach())
    with pytest.raises(NotImplementedError, match=r"^prox: .*batch of gradients.*jacrev"):
        torch.autograd.functional.jacobian(prox, arguments, vectorize=True)


def test_overwritten_data_are_noticed():
    h = pl.GroupLasso(0.3)
    for write in (
        lambda x: x.mul_(2),
        lambda x: pl.prox(h, x, out=x),
        lambda x: pl.prox(h, x.detach().clone(), out=x),
    ):
        x = torch.randn(3, 4, requires_grad=True)
        z = pl.prox(h, x)
        write(x.detach())
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            z.sum().backward()


def test_what_is_explained_and_certified_records_nothing_but_z():
    h = pl.GroupLasso(0.3)
    x, d, _ = tensors(3, (3, 4))
    s = pl.solve(h, x, metric=d)
    assert s.z.requires_grad
    assert not any(a.requires_grad for a in (s.radius, *s.bracket, s.status, s.iterations))
    c = pl.certify(h, s.z, x, metric=d)
    assert not any(a.requires_grad for a in (c.distance, c.upper, c.z, c.x))
    assert c.total.distance < 1e-12
    with torch.no_grad():
        assert not pl.prox(h, x, metric=d).requires_grad
    for out in (torch.empty(3, 4, dtype=torch.float64), x):
        with pytest.raises(ValueError, match=r"^out: must "):
            pl.prox(h, x, metric=d, out=out)
    with pytest.raises(ValueError, match=r"^out: must not require a gradient"):
        pl.prox(h, x.detach(), out=x)


@pytest.mark.parametrize("row", GROUPED, ids=ids(GROUPED))
def test_values_of_penalties_have_a_gradient_that_is_a_number(row):
    z = torch.tensor([[0.0, 0.0], [0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    (row.build().value(z).sum() + 0.0 * z.sum()).backward()
    assert z.grad.isfinite().all()
    assert (z.grad[0] == 0).all()


# Without gradients: the kernels of NumPy, on the tensor's own memory.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grouping", ["rows", "columns", "labels"])
def test_tensors_get_what_arrays_get(grouping, dtype):
    make, shape = GROUPS[grouping]
    h = pl.GroupMCP(0.8, gamma=3.0, groups=make())
    n = h.groups.n_groups(shape)
    x, d, step = (a.detach().to(dtype) for a in tensors(n, shape))
    arrays = [a.numpy() for a in (x, d, step)]
    for backend in (None, "numba"):
        s = pl.solve(h, x, step, metric=d, backend=backend)
        expected = pl.solve(h, arrays[0], arrays[2], metric=arrays[1])
        for name in ("z", "radius", "status", "iterations", "evaluations", "value"):
            assert type(getattr(s, name)) is torch.Tensor
            np.testing.assert_array_equal(getattr(s, name).numpy(), getattr(expected, name))
        assert s.z.dtype == dtype
        assert s.ok
        c, e = (
            pl.certify(h, s.z, x, step, metric=d),
            pl.certify(h, expected.z, *arrays[::2], metric=arrays[1]),
        )
        assert type(c.distance) is torch.Tensor
        np.testing.assert_array_equal(c.distance.numpy(), e.distance)
        assert c.total == pytest.approx(e.total, rel=1e-14)


def test_every_view_of_memory(monkeypatch):
    """Strided, transposed, expanded, offset and parameter tensors; `out` may be any of them but expanded."""
    h = pl.GroupLasso(0.8)
    base = torch.randn(8, 10, dtype=torch.float64)
    views = [base[::2, 1::3], base.T[:4], base[3:4].expand(4, 10), torch.nn.Parameter(base), base[:0]]
    for x in views:
        expected = pl.prox(h, x.detach().numpy().copy())
        with torch.no_grad():
            np.testing.assert_array_equal(pl.prox(h, x).numpy(), expected)
    for out in (base.clone()[::2, 1::3], torch.nn.Parameter(base[::2, 1::3].clone())):
        with torch.no_grad():
            assert pl.prox(h, base[::2, 1::3], out=out) is out
        np.testing.assert_array_equal(out.detach().numpy(), pl.prox(h, base.numpy()[::2, 1::3]))
    with pytest.raises(ValueError, match=r"^out: must have a place for every element"):
        pl.prox(h, base, out=torch.zeros(1, 10, dtype=torch.float64).expand(8, 10))
    negated = torch.complex(base, base).conj().imag
    np.testing.assert_array_equal(pl.prox(h, negated).numpy(), pl.prox(h, -base.numpy()))
    with pytest.raises(ValueError, match=r"^out: must not be a view of negated memory"):
        pl.prox(h, base, out=negated)


def test_backends_are_named():
    h = pl.GroupLasso(0.8)
    with pytest.raises(TypeError, match=r"^backend: the numba backend needs a NumPy array or a CPU tensor"):
        pl.prox(h, torch.ones(2, 2, dtype=torch.float16), backend="numba")
    with pytest.raises(TypeError, match=r"^metric: must be an array of the kind of x"):
        pl.prox(h, torch.ones(2, 2), metric=np.ones(2))


def test_a_learned_metric_finds_its_data():
    """Gradient descent through the prox on a metric: the loss falls to rounding."""
    h, x = pl.GroupLasso(1.0), torch.tensor([[3.0, 4.0, -2.0]], dtype=torch.float64)
    wanted = pl.prox(h, x, metric=torch.tensor([[1.0, 2.0, 0.7]], dtype=torch.float64))
    logs = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=100, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        loss = ((pl.prox(h, x, metric=logs.exp()) - wanted) ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(closure().detach()) < 1e-12
