"""What is captured is the problem that the step solved: solved again, it gives the step's weights."""

import numpy as np
import pytest

import proxlab as pl

pytest.importorskip("flint")
from proxlab import study

METHODS = [
    *(pl.optim.ProxSGD(lr=0.1, momentum=0.9), pl.optim.ProxAdagrad(lr=0.1), pl.optim.ProxRMSprop(lr=0.05)),
    *(pl.optim.ProxAdam(lr=0.1), pl.optim.ProxAdamW(lr=0.1), pl.optim.ProxAMSGrad(lr=0.1)),
    *(pl.optim.RMDA(lr=0.5), pl.optim.RAMDA(lr=0.1), pl.optim.LinBreg(lr=0.1), pl.optim.AdaBreg(lr=0.1)),
]


def solved(problem):
    return pl.prox(problem.penalty, problem.x, problem.step, metric=problem.metric)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_methods_on_arrays(method, suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((6, 4)), "b": rng.standard_normal((3, 5)), "c": rng.standard_normal(4)}
    state = method.init(params, {"a": pl.GroupLasso(0.3), "b": pl.SparseGroupLasso(0.1, 0.2), "c": None})
    after = []
    with study.capture(method, tmp_path / f"p{suffix}", every=2) as c:
        for _ in range(5):
            grads = {k: rng.standard_normal(w.shape) for k, w in params.items()}
            params, state = method.step(params, grads, state)
            after.append(params)
    assert (c.steps, c.problems) == (5, 6)
    problems = study.load(c.path)
    assert [p.metadata["step_count"] for p in problems] == [1, 1, 3, 3, 5, 5]
    for p in problems:
        place = p.metadata["parameter"]
        weights = after[p.metadata["step_count"] - 1]["a" if "'a'" in place or place.endswith("a") else "b"]
        np.testing.assert_array_equal(solved(p), weights)  # the same computation, to the bit


def test_a_driven_strength_is_that_of_the_step(tmp_path):
    rng = np.random.default_rng(0)
    method = pl.optim.ProxAdamW(lr=0.1, sparsity=pl.optim.TargetSparsity(0.5, ramp="linear", ramp_steps=5))
    w = rng.standard_normal((10, 4))
    state = method.init(w, pl.GroupLasso(1e-3))
    after = []
    with study.capture(method, tmp_path / "p.npz"):
        for _ in range(6):
            w, state = method.step(w, w + 0.1 * rng.standard_normal(w.shape), state)
            after.append(w)
    problems = study.load(tmp_path / "p.npz")
    assert len({p.penalty.lam for p in problems}) > 3
    for p, weights in zip(problems, after, strict=True):
        np.testing.assert_array_equal(solved(p), weights)


def test_an_exception_leaves_what_is_there_and_an_optimizer_as_before(tmp_path):
    method, w = pl.optim.ProxSGD(lr=0.1), np.ones((2, 2))
    state = method.init(w, pl.GroupLasso(0.1))

    def interrupted():
        with study.capture(method, tmp_path / "p.npz"):
            method.step(w, w, state)
            with pytest.raises(RuntimeError, match="captured already"):
                study.capture(method, tmp_path / "q.npz").__enter__()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(study.load(tmp_path / "p.npz")) == 1
    method.step(w, w, state)
    assert [f.name for f in tmp_path.iterdir()] == ["p.npz"]
    with study.capture(method, tmp_path / "none.npz"):
        pass
    assert study.load(tmp_path / "none.npz") == ()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"optimizer": object()}, "optimizer: must be one of proxlab.torch or proxlab.optim"),
        ({"every": 0}, "every: must be"),
        ({"path": 3}, "path: must be a file, got 3"),
    ],
)
def test_wrong_arguments_are_errors(arguments, match, tmp_path):
    with pytest.raises((TypeError, ValueError), match=match):
        study.capture(**({"optimizer": pl.optim.ProxSGD(), "path": tmp_path / "p.npz"} | arguments))
    with (
        pytest.raises(ValueError, match=r"path: must end in"),
        study.capture(pl.optim.ProxSGD(), tmp_path / "p.pt"),
    ):
        pass


@pytest.mark.torch
class TestNetworks:
    """The optimizers of proxlab.torch, by the parameters' names."""

    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")

    @staticmethod
    def run(build, path, dtype=None, steps=4, **options):
        import torch

        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        model = model.to(dtype or torch.float32)
        optimizer = build(model, **options)
        after = []
        with study.capture(optimizer, path) as c:
            for _ in range(steps):
                optimizer.zero_grad()
                x = torch.randn(6, 5).to(dtype or torch.float32)
                model(x).square().sum().backward()
                optimizer.step()
                after.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return model, study.load(c.path), after

    @pytest.mark.parametrize("fused", [None, False])
    @pytest.mark.parametrize("method", ["ProxSGD", "ProxAdamW"])
    def test_fused_or_not(self, method, fused, tmp_path):
        from proxlab import torch as pt

        def build(model):
            return getattr(pt, method)(pt.param_groups(model, pl.GroupLasso(0.05)), lr=0.02, fused=fused)

        _, problems, after = self.run(build, tmp_path / "p.npz")
        assert {p.metadata["parameter"] for p in problems} == {"0.weight", "2.weight"}
        assert {p.x.dtype for p in problems} == {np.dtype(np.float32)}
        assert len(problems) == 8
        for p in problems:
            weights = after[p.metadata["step_count"] - 1][p.metadata["parameter"]].numpy()
            if fused is False:
                np.testing.assert_array_equal(solved(p), weights)
            else:  # a compiled pass forms the point with other roundings
                np.testing.assert_allclose(solved(p), weights, rtol=0, atol=4e-7 * np.abs(p.x).max())

    def test_joint_groups(self, tmp_path):
        from proxlab import torch as pt

        def build(model):
            first, second = model[0].weight, model[2].weight
            joint = [pl.Groups.over(1), pl.Groups.over(0)]
            group = {"params": [first, second], "joint": joint, "penalty": pl.GroupLasso(0.1)}
            return pt.ProxAdamW([group | {"names": ["0.weight", "2.weight"]}], lr=0.02)

        _, problems, after = self.run(build, tmp_path / "p.npz")
        assert [p.metadata["parameter"] for p in problems] == ["0.weight + 2.weight"] * 4
        for p, weights in zip(problems, after, strict=True):
            rows = np.concatenate([weights["0.weight"].numpy(), weights["2.weight"].numpy().T], axis=1)
            np.testing.assert_allclose(solved(p), rows, rtol=0, atol=4e-7 * np.abs(p.x).max())

    def test_a_prox_behind_an_optimizer_of_pytorch(self, tmp_path):
        torch = pytest.importorskip("torch")
        from proxlab import torch as pt

        def build(model):
            groups = pt.param_groups(model, pl.GroupLasso(0.05))
            return pt.ProxWrapper(torch.optim.NAdam(model.parameters(), lr=0.02), groups)

        _, problems, after = self.run(build, tmp_path / "p.npz")
        assert {p.metadata["optimizer"] for p in problems} == {"NAdam"}
        assert len(problems) == 8
        for p in problems:
            weights = after[p.metadata["step_count"] - 1][p.metadata["parameter"]].numpy()
            np.testing.assert_array_equal(solved(p), weights)

    @pytest.mark.parametrize("fused", [None, False])
    def test_target_sparsity(self, fused, tmp_path):
        from proxlab import torch as pt

        def build(model):
            target = pl.optim.TargetSparsity(0.5, ramp="linear", ramp_steps=4)
            groups = pt.param_groups(model, pl.GroupLasso(1e-3))
            return pt.ProxAdamW(groups, lr=0.02, sparsity=target, fused=fused)

        _, problems, after = self.run(build, tmp_path / "p.npz", steps=5)
        assert len({p.penalty.lam for p in problems}) > 2
        for p in problems:
            weights = after[p.metadata["step_count"] - 1][p.metadata["parameter"]].numpy()
            np.testing.assert_allclose(solved(p), weights, rtol=0, atol=4e-7 * np.abs(p.x).max())

    def test_half_precision(self, tmp_path):
        torch = pytest.importorskip("torch")
        from proxlab import torch as pt

        def build(model):
            return pt.ProxAdamW(pt.param_groups(model, pl.GroupLasso(0.05)), lr=0.02)

        _, problems, after = self.run(build, tmp_path / "p.npz", dtype=torch.bfloat16)
        for p in problems:  # solved in float32, then rounded to the parameter
            weights = after[p.metadata["step_count"] - 1][p.metadata["parameter"]]
            assert torch.equal(torch.from_numpy(solved(p)).to(torch.bfloat16), weights)

    def test_what_cannot_be_written_down_is_named_and_nothing_is_stepped(self, tmp_path, monkeypatch):
        torch = pytest.importorskip("torch")
        from proxlab import torch as pt

        model = torch.nn.Linear(3, 2)
        optimizer = pt.ProxAdamW(pt.param_groups(model, pl.GroupLasso(0.05)), lr=0.1)
        model(torch.ones(1, 3)).sum().backward()
        before = model.weight.detach().clone()

        def fails(*_):
            raise OSError("no space left")

        with study.capture(optimizer, tmp_path / "p.npz") as c:
            monkeypatch.setattr(c._collector, "add", fails)
            with pytest.raises(OSError, match="no space left") as caught:
                optimizer.step()
        assert caught.value.__notes__ == ["capture: weight, step 1"]
        assert torch.equal(model.weight, before)
        assert not optimizer.state
        assert optimizer.param_groups[0]["steps"] == 0
