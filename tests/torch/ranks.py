"""What several processes do together, each as a scenario that they all run, with the asserts inside."""

import contextlib
import copy
import faulthandler
import os
import pkgutil
import random
import tempfile
import time
import traceback
import unittest.mock
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, nn

import proxlab as pl
from proxlab import study
from proxlab import torch as pt
from proxlab.optim import TargetSparsity
from proxlab.optim.rules import Proposal
from proxlab.penalties.base import Piece, RadialPenalty
from proxlab.torch.cut import solve
from proxlab.torch.everyone import all_moving
from proxlab.torch.problems import Block, CutProblem
from proxlab.torch.ranks import Ranks
from proxlab.torch.shards import lies_across, like, local, part_of
from tests.table import GROUPED
from tests.torch.methods import ONE_EACH

#: Seconds that a scenario may take: on a busy machine kernels take minutes to compile.
TIMEOUT = 300


def run(world, scenarios, folder):
    """Run scenarios in ``world`` processes; returns for each the tracebacks of those in which it failed.

    A process that waits in vain ends itself, and says where it was. What they leave in ``folder`` is for
    later runs; where they meet, and what becomes of them, lies in a folder of this run alone.
    """
    context = torch.multiprocessing.get_context("spawn")
    ours = tempfile.mkdtemp(dir=folder)
    workers = [
        context.Process(target=work, args=(rank, world, tuple(scenarios), str(folder), ours, TIMEOUT))
        for rank in range(world)
    ]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + TIMEOUT * (len(scenarios) + 1)
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    failures = {name: [] for name in scenarios}
    for name in scenarios:
        for rank in range(world):
            file, stack = (Path(ours, f"{name}-{rank}.{kind}") for kind in ("txt", "stack"))
            text = file.read_text() if file.exists() else f"did not end; status {workers[rank].exitcode}"
            if not file.exists() and stack.exists():
                text += f"\n{stack.read_text()}"
            if text:
                failures[name].append(f"rank {rank}: {text}")
    return failures


def work(rank, world, scenarios, folder, ours, limit):
    """Be one of the processes."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pl.set_num_threads(1)
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE=str(world))
    distributed.init_process_group("gloo", init_method=f"file://{ours}/store", rank=rank, world_size=world)
    for name in scenarios:
        try:
            with Path(ours, f"{name}-{rank}.stack").open("w") as stack:
                faulthandler.dump_traceback_later(limit, exit=True, file=stack)
                globals()[name](rank, world, Path(folder))
                faulthandler.cancel_dump_traceback_later()
            text = ""
        except BaseException:
            text = traceback.format_exc()
            faulthandler.cancel_dump_traceback_later()
        Path(ours, f"{name}-{rank}.txt").write_text(text)
        if text:
            # The others may wait for this one.
            os._exit(1)
    distributed.destroy_process_group()


def network(seed=0):
    """Odd sizes, so that shards are uneven and some are empty."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 3))


def sharded(model):
    """Shard each layer and what is left, as the documentation of PyTorch does."""
    from torch.distributed.fsdp import fully_shard

    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    for layer in (*layers, model):
        # PyTorch 2.8 over Gloo leaves sums where means are asked for.
        fully_shard(layer).set_force_sum_reduction_for_comms(True)
    return model


def train(model, optimizer, steps, seed=1, width=5):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        x = torch.randn(16, width, generator=generator)
        optimizer.zero_grad()
        ((model(x) - x[:, :3]) ** 2).mean().backward()
        optimizer.step()


def whole(p):
    """Return a parameter as one process would have it."""
    p = p.detach()
    return p.full_tensor() if hasattr(p, "full_tensor") else p


def assert_equal(model, one, units=16, scale=None):
    """Equal up to the order of sums, with the same zeros; units are those of a parameter's largest weight."""
    for p, q in zip(model.parameters(), one.parameters(), strict=True):
        p, q = whole(p), q.detach()
        atol = units * 2.0**-23 * (float(q.abs().max()) if scale is None else scale)
        torch.testing.assert_close(p, q, rtol=units * 2.0**-23, atol=atol)
        assert torch.equal(p == 0, q == 0)


def rows(model, strength=1e-2, kind=pl.GroupLasso):
    """Param groups with a group for each row of the weights."""
    weights, biases = (
        [m.weight for m in model if hasattr(m, "weight")],
        [m.bias for m in model if hasattr(m, "bias")],
    )
    return [
        {"params": weights, "penalty": kind(strength, groups=pl.Groups.over(-1))},
        {"params": biases, "penalty": None},
    ]


def mixed(model, strength=1e-2):
    """Param groups with rows of the first layer, and columns of the others: these are cut."""
    cut = pl.GroupLasso(strength, groups=pl.Groups.over(0))
    return [
        {"params": [model[0].weight], "penalty": pl.GroupLasso(strength, groups=pl.Groups.over(-1))},
        {"params": [model[2].weight, model[4].weight], "penalty": cut},
        {"params": [m.bias for m in (model[0], model[2], model[4])], "penalty": None},
    ]


# ----------------------------------------------------------------------------------------------------


def places(rank, world, folder):
    """Draw tensors, placements and groups; which element is of which group is known from its flat index."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    draw = random.Random(world)
    meshes = [init_device_mesh("cpu", (world,)), init_device_mesh("cpu", (world // 2, 2))]
    # Where a mesh is a part of all processes, its own have to find together.
    ranks = Ranks(distribute_tensor(torch.zeros(2), meshes[1], [Replicate(), Replicate()]))
    counts = [(rank + k) % 3 for k in range(world)]
    sent = torch.arange(float(sum(counts))) + 100 * rank
    expected = ranks.swap(sent, counts)
    ranks._groups = [meshes[1].get_group(axis) for axis in (0, 1)]
    got = ranks.swap(sent, counts)
    assert torch.equal(got[0], expected[0])
    assert got[1] == expected[1] == [(k + rank) % 3 for k in range(world)]
    for _ in range(40):
        shape = tuple(draw.randint(1, 6) for _ in range(draw.randint(1, 4)))
        size, axes = int(np.prod(shape)), list(range(len(shape)))
        mesh = draw.choice(meshes)
        cuts = [Replicate(), *(Shard(a) for a in axes)]
        flat = torch.arange(size, dtype=torch.float32).reshape(shape)
        p = distribute_tensor(flat, mesh, [draw.choice(cuts) for _ in range(mesh.ndim)])
        if draw.random() < 0.3:
            rows = draw.choice([n for n in range(1, size + 1) if size % n == 0])
            groups = pl.Groups.over(draw.choice([0, 1]), shape=(rows, -1))
        else:
            groups = pl.Groups.over(tuple(a for a in axes if draw.random() < 0.5))
        indptr, indices = groups.indices(shape)
        sizes = np.diff(indptr)
        group_of = np.empty(size, np.int64)
        group_of[indices] = np.repeat(np.arange(len(sizes)), sizes)

        part, here = part_of(groups, p), local(p)
        assert (part.n_groups, part.size) == (len(sizes), sizes.max())
        ids = torch.as_tensor(np.arange(len(sizes)) if part.ids is None else part.ids)
        found = np.zeros(len(sizes))
        if here.numel():
            matrices = zip(part.layout.split(here, -1.0), part.layout.split_groups(ids), strict=True)
            for row, k in ((r, k) for rows, own in matrices for r, k in zip(rows, own, strict=True)):
                inside = row[row >= 0].numpy().astype(int)
                assert (group_of[inside] == int(k)).all()
                found[int(k)] += len(inside)
        assert found.sum() == here.numel()
        assert lies_across([groups], [p]) or set(found) <= {0.0, float(part.size)}


def methods(rank, world, folder):
    """All optimizers take the steps that they take in one process, whole groups and cut ones."""
    for name, method in ONE_EACH.items():
        one, model = network(), sharded(network())
        first, second = method(mixed(one)), method(mixed(model))
        train(one, first, 8)
        train(model, second, 8)
        assert_equal(model, one)
        assert pt.group_sparsity(second) == pt.group_sparsity(first), name
        for p, state in second.state.items():
            for key, value in state.items():
                if key not in ("step", "weight_sum"):
                    assert value.placements == p.placements, (name, key)


def weights(rank, world, folder):
    """Weights of groups go with the groups."""

    def groups(model):
        w = np.linspace(0.5, 3.0, 9)
        penalty = pl.GroupMCP(2e-2, 30.0, groups=pl.Groups.over(-1), weights=w)
        rest = [p for p in model.parameters() if p is not model[2].weight]
        return [{"params": [model[2].weight], "penalty": penalty}, {"params": rest, "penalty": None}]

    one, model = network(), sharded(network())
    train(one, pt.ProxAdamW(groups(one), lr=1e-2), 8)
    train(model, pt.ProxAdamW(groups(model), lr=1e-2), 8)
    assert_equal(model, one)


@dataclass(frozen=True, eq=False)
class Bent(RadialPenalty):
    """Pieces that no kernel knows: the slope rises once."""

    lam: float = 1.0

    @property
    def pieces(self):
        return Piece(0.0, 0.0, self.lam, 0.0), Piece(0.5, 0.5 * self.lam, 3.0 * self.lam, 0.0)


def penalties(rank, world, folder):
    """Every penalty, of columns, joint neurons, heads, in any placement."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world // 2, 2)) if world > 2 else init_device_mesh("cpu", (world,))
    draw = random.Random(3)
    cuts = [Replicate(), Shard(0), Shard(1)]
    kinds = [(row.id, row.build) for row in GROUPED] + [("Bent", Bent)]
    for name, build in kinds:
        torch.manual_seed(4)
        m, n, size, width = (draw.randint(2, 7) for _ in range(4))
        heads = pl.Groups.over((0, 2, 3), shape=(2, m, size, width))
        shapes = (m, n), (m,), (2 * m * size, width)
        weights, grads = [[torch.randn(shape) for shape in shapes] for _ in range(2)]
        joint = build(weights=np.linspace(0.5, 2, m)).with_strength(0.05)
        alone = build(groups=heads).with_strength(0.05)

        def optimizer(params, joint=joint, alone=alone):
            p, q, r = params
            groups = [pl.Groups.over(-1), pl.Groups.over(())]
            return pt.ProxAdam(
                [{"params": [p, q], "joint": groups, "penalty": joint}, {"params": [r], "penalty": alone}],
                lr=0.05,
            )

        placed = [[draw.choice(cuts[: a.ndim + 1]) for _ in range(mesh.ndim)] for a in weights]
        one = [nn.Parameter(a.clone()) for a in weights]
        model = [nn.Parameter(distribute_tensor(a, mesh, at)) for a, at in zip(weights, placed, strict=True)]
        first, second = optimizer(one), optimizer(model)
        for step in range(4):
            for p, q, grad in zip(one, model, grads, strict=True):
                p.grad = grad * (step + 1) + p.detach()
                full = grad * (step + 1) + whole(q)
                q.grad = distribute_tensor(full, q.device_mesh, q.placements)
            first.step()
            second.step()
            for p, q in zip(one, model, strict=True):
                torch.testing.assert_close(whole(q), p.detach(), rtol=2e-6, atol=2e-6, msg=name)
                assert torch.equal(whole(q) == 0, p.detach() == 0), name


def reductions(rank, world, folder):
    """A step takes few reductions, however many parameters there are."""
    model = sharded(network())
    cut = pl.GroupLasso(1e-2, groups=pl.Groups.over(0))
    mcp = pl.GroupMCP(1e-2, 30.0, groups=pl.Groups.over(0))
    for penalty, most in ((cut, 6), (mcp, 8)):
        groups = [
            {"params": [m.weight for m in model if isinstance(m, nn.Linear)], "penalty": penalty},
            {"params": [m.bias for m in model if isinstance(m, nn.Linear)], "penalty": None},
        ]
        optimizer = pt.ProxAdamW(groups, lr=1e-2)
        train(model, optimizer, 5)
        with unittest.mock.patch.object(distributed, "all_reduce", wraps=distributed.all_reduce) as reduce:
            optimizer.step()
        assert 2 < reduce.call_count <= most


def page(rank, world, folder):
    """The example of the documentation."""
    text = Path(__file__).parents[2].joinpath("docs", "sharded.md").read_text()
    code = text.split("```{code-block} python\n")[1].split("```")[0]
    code = code.replace('distributed.init_process_group("gloo")', "pass").replace("range(100)", "range(20)")
    names: dict[str, object] = {}
    exec(code, names)
    total = names["sparsity"].total
    assert total.groups == 64 + 256
    assert 0 < total.zero_groups < total.groups


def extremes(rank, world, folder):
    """Where squares leave the range of numbers, in both directions."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    for scale in (1e-200, 1.0, 1e200):
        torch.manual_seed(1)
        w, g = scale * torch.randn(5, 4, dtype=torch.float64), scale * torch.randn(5, 4, dtype=torch.float64)
        p, q = nn.Parameter(w.clone()), nn.Parameter(distribute_tensor(w.clone(), mesh, [Shard(0)]))
        for a, grad in ((p, g), (q, distribute_tensor(g, mesh, [Shard(0)]))):
            a.grad = grad
            pt.ProxSGD(
                [{"params": [a], "penalty": pl.GroupLasso(4 * scale, groups=pl.Groups.over(0))}], lr=0.5
            ).step()
        torch.testing.assert_close(whole(q), p.detach(), rtol=1e-12, atol=0.0)
        assert len({bool(v) for v in p.detach().any(dim=0)}) == 2
    w = torch.tensor([[1e-200, 1.0], [1e200, 1.0]], dtype=torch.float64)
    q = nn.Parameter(distribute_tensor(w, mesh, [Shard(0)]))
    d = distribute_tensor(torch.tensor([[1e300, 1.0], [1e-100, 1.0]], dtype=torch.float64), mesh, [Shard(0)])
    block = Block(0, {"params": [q], "penalty": pl.GroupLasso(1.0, groups=pl.Groups.over(0))}, {"lr": 1.0}, 0)
    problem = CutProblem(block, [Proposal(local(q).detach(), local(d), 1.0, (), 0.0)])
    ((z,),) = solve([problem], Ranks.of([q]), pl.Newton())
    expected = pl.prox(pl.GroupLasso(1.0, groups=pl.Groups.over(0)), w.numpy(), metric=whole(d).numpy())
    np.testing.assert_allclose(whole(like(z, q)).numpy(), expected, rtol=1e-15)
    local(d)[0, 1] = np.inf
    kind = ValueError if rank == 1 else RuntimeError
    with pytest.raises(kind, match="rank 1: it failed" if kind is RuntimeError else "metric"):
        solve([problem], Ranks.of([q]), pl.Newton())


def wrapper(rank, world, folder):
    """A prox behind another optimizer, and zeros that are kept."""
    one, model = network(), sharded(network())
    first, second = (
        pt.ProxWrapper(torch.optim.AdamW(m.parameters(), lr=1e-2), mixed(m, 0.1)[:2]) for m in (one, model)
    )
    train(one, first, 6)
    train(model, second, 6)
    assert_equal(model, one)
    assert pt.group_sparsity(second) == pt.group_sparsity(first)
    assert 0 < pt.group_sparsity(first).total.zero_groups < pt.group_sparsity(first).total.groups
    first.freeze()
    second.freeze()
    train(one, first, 3, seed=2)
    train(model, second, 3, seed=2)
    assert_equal(model, one)
    if rank == world - 1:
        local(model[2].weight)[...] = float("nan")
    # All gradients are NaN then, and so are all weights: the first rank that has one is named.
    with pytest.raises(ValueError, match=r"rank 0: param group 0, parameter 0 .* its weights must be finite"):
        train(model, second, 1)


def failures(rank, world, folder):
    """What is wrong in one process is an error in all, and nothing has changed."""
    model = sharded(network())
    optimizer = pt.ProxAdamW(rows(model), lr=1e-2)
    train(model, optimizer, 2)
    before = [whole(p).clone() for p in model.parameters()]
    if rank == world - 1:
        local(model[2].bias.grad)[...] = float("nan")
    if rank == 0:
        local(model[0].weight.grad)[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"rank 0: param group 0, parameter 0 .* must be finite"):
        optimizer.step()
    train(model, optimizer, 1)
    before = [whole(p).clone() for p in model.parameters()]
    if rank == 1:
        optimizer.param_groups[0]["penalty"] = None
    with pytest.raises(ValueError, match=r"ranks \[1\]: param group 0, .* its penalty and"):
        optimizer.step()
    assert all(torch.equal(whole(p), q) for p, q in zip(model.parameters(), before, strict=True))

    # A state that one refuses, and a closure that raises in one.
    model = sharded(network())
    optimizer = pt.ProxAdamW(mixed(model), lr=1e-2)
    train(model, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    spoilt = copy.deepcopy(saved)
    local(spoilt["state"][0]["exp_avg"]).fill_(float("nan"))
    for bad in (None, {"state": {}}, spoilt):
        with pytest.raises((TypeError, ValueError, RuntimeError), match=r"state"):
            optimizer.load_state_dict(bad if rank == 0 else saved)
    before = [whole(p).clone() for p in model.parameters()]

    def closure():
        if rank == world - 1:
            raise ArithmeticError("no loss")
        return 0.0

    with pytest.raises((ArithmeticError, RuntimeError), match="no loss"):
        optimizer.step(closure)
    assert all(torch.equal(whole(p), q) for p, q in zip(model.parameters(), before, strict=True))
    optimizer.load_state_dict(saved)
    train(model, optimizer, 1)


def rest(rank, world, folder):
    """A first step at rate 0 counts in all processes, also where only some have gradients that are not 0."""
    one, model = network(), sharded(network())
    first, second = (pt.ProxAdamW(mixed(m), lr=0.0) for m in (one, model))
    for p, q in zip(one.parameters(), model.parameters(), strict=True):
        q.grad = torch.zeros_like(q)
        if rank == 0:
            local(q.grad)[...] = 1.0
        p.grad = whole(q.grad).clone()
    for optimizer in (first, second):
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] = 1e-2
    train(one, first, 2)
    train(model, second, 2)
    assert_equal(model, one)
    if rank == 1:
        second.param_groups[1]["lr"] = 2e-2
    with pytest.raises(ValueError, match=r"ranks \[1\]: param group 1, .* settings .* must be the"):
        second.step()


def zero(rank, world, folder):
    """ZeroRedundancyOptimizer shares whole parameters out."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    one, model = network(), nn.parallel.DistributedDataParallel(network())
    first = pt.ProxAdamW(mixed(one), lr=1e-2)
    second = ZeroRedundancyOptimizer(mixed(model.module), pt.ProxAdamW, lr=1e-2)
    train(one, first, 4)
    train(model, second, 4)
    assert_equal(model, one)
    told = "sparsity: drives one strength"
    with pytest.raises(ValueError, match=told):
        ZeroRedundancyOptimizer(mixed(model.module), pt.ProxAdamW, lr=1e-2, sparsity=TargetSparsity(0.5))


def refused(rank, world, folder):
    """What is not supported is an error in every process, which names it."""
    model = sharded(network())
    with pytest.raises(ValueError, match=r"model: '0.weight' is distributed .*get_model_state_dict"):
        pt.compact(model, torch.zeros(1, 5))
    batches = [(torch.ones(2, 5), torch.zeros(2, 3))] * (1 + rank)
    with pytest.raises(ValueError, match=r"ranks \[1\]: groups, at, samples and the number of batches"):
        pt.strengths(model, mixed(model), nn.functional.mse_loss, batches)
    with pytest.raises((ValueError, RuntimeError), match=r"at: must be|rank 1: it failed"):
        pt.strengths(model, mixed(model), nn.functional.mse_loss, batches, at="zero" if rank != 1 else "now")
    for options in ({"certify_every": 1 + rank}, {"sparsity": TargetSparsity(0.3 + 0.1 * rank)}):
        with pytest.raises(ValueError, match=r"ranks \[1\]: the optimizer"):
            train(model, pt.ProxAdamW(mixed(model), lr=1e-2, **options), 1)
    optimizer = pt.ProxAdamW(mixed(model), lr=1e-2)
    with (
        study.capture(optimizer, folder / "one.npz") if rank else contextlib.nullcontext(),
        pytest.raises(ValueError, match=r"ranks \[1\]: .* whether steps are captured"),
    ):
        train(model, optimizer, 1)
    labels = pl.GroupLasso(1.0, groups=pl.Groups.labels(np.zeros((7, 5), int)))
    with pytest.raises(ValueError, match="groups by labels"):
        pt.ProxAdamW([{"params": [model[0].weight], "penalty": labels}], lr=1e-2)


def placed(a, mesh, cuts):
    """Return a tensor as a parameter that is divided over a mesh."""
    from torch.distributed.tensor import distribute_tensor

    return nn.Parameter(distribute_tensor(a.clone(), mesh, cuts))


def divided(rank, world, folder):
    """Gradients and states that are divided otherwise than their parameters; what does not fit is refused."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    line, square = init_device_mesh("cpu", (world,)), init_device_mesh("cpu", (world // 2, 2))
    torch.manual_seed(0)
    # Of the first, some processes have nothing: they form its prox in another place than the others.
    starts = [torch.randn(1, 6), torch.randn(5, 6), torch.randn(4, 6)]
    grads = [torch.randn_like(w) for w in starts]
    penalty = pl.GroupLasso(0.3, groups=pl.Groups.over(-1))

    def partial(g, at=0):
        return DTensor.from_local(g if rank == at else torch.zeros_like(g), line, [Partial()])

    def whole_again(optimizer):
        states = optimizer.state_dict()["state"].values()
        return [{name: whole(a) if a.dim() else a for name, a in state.items()} for state in states]

    one = [nn.Parameter(w.clone()) for w in starts]
    first = pt.ProxAdamW(one, lr=0.1, penalty=penalty)
    for kind in (partial, lambda g: distribute_tensor(g, line, [Replicate()]), None):
        params = [placed(w, line, [Shard(0)]) for w in starts]
        second = pt.ProxAdamW(params, lr=0.1, penalty=penalty)
        for p, q, g in zip(params, one, grads, strict=True):
            q.grad = g.clone()
            p.grad = distribute_tensor(g, line, [Shard(1)]) if kind is None else kind(g)
        second.step()
        if kind is partial:
            first.step()
        # Groups that lie whole take the step of one process, bit by bit.
        assert all(torch.equal(whole(p), q) for p, q in zip(params, one, strict=True))
    saved = [{name: a.clone() for name, a in state.items()} for state in whole_again(first)]
    before = [whole(p).clone() for p in params]
    for p, g in zip(params, grads, strict=True):
        p.grad = partial(g, world - 1)
    # The sum over processes has its NaN in the first one's rows.
    local(params[1].grad)[0, 0] = float("nan") if rank == world - 1 else 0.0
    with pytest.raises(ValueError, match=rf"rank {world - 1}: param group 0, parameter 1 .* must be finite"):
        second.step()
    huge = torch.full((5, 6), 3e38)
    params[1].grad = DTensor.from_local(huge, line, [Partial()])
    with pytest.raises((ValueError, RuntimeError), match=r"finite, summed over|it failed"):
        second.step()
    even = distribute_tensor(grads[1], line, [Shard(0)])
    params[1].grad = even if rank else partial(grads[1])
    with pytest.raises(ValueError, match=r"parameter 1 .* how that is divided"):
        second.step()
    for wrong in (grads[1], distribute_tensor(grads[1], square, [Shard(0), Shard(1)])):
        params[1].grad = None
        params[1].grad = wrong
        with pytest.raises(ValueError, match=r"parameter 1 .* its gradient must be divided over"):
            second.step()
    assert all(torch.equal(whole(p), q) for p, q in zip(params, before, strict=True))

    states = second.state_dict()
    for mesh, cuts in ((line, [Shard(1)]), (square, [Replicate(), Shard(0)]), (square, [Shard(0), Shard(0)])):
        other = pt.ProxAdamW([placed(w, mesh, cuts) for w in starts], lr=0.1, penalty=penalty)
        other.load_state_dict(states)
        for state, expected in zip(whole_again(other), saved, strict=True):
            assert all(torch.equal(state[name], a) for name, a in expected.items())
        p = other.param_groups[0]["params"][1]
        p.grad = distribute_tensor(grads[1], mesh, cuts)
        other.state[p]["exp_avg"] = second.state[params[1]]["exp_avg"]
        with pytest.raises(ValueError, match="its state 'exp_avg' must be divided over processes as it is"):
            other.step()
    again = pt.ProxAdamW([nn.Parameter(w) for w in starts], lr=0.1, penalty=penalty)
    again.load_state_dict(states)
    assert all(
        torch.equal(state[name], a)
        for state, expected in zip(whole_again(again), saved, strict=True)
        for name, a in expected.items()
    )
    if world > 2:
        rows = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("a", "b"))
        params = [placed(starts[1], rows["a"], [Shard(0)]), placed(starts[1], rows["b"], [Shard(0)])]
        for p in params:
            p.grad = torch.ones_like(p)
        with pytest.raises(ValueError, match="processes of a parameter must be among those of the one"):
            pt.ProxAdamW(params, lr=0.1, penalty=penalty).step()
        parts = pt.ProxAdamW(params[:1], lr=0.1, penalty=penalty)
        parts.step()
        second = pt.ProxAdamW([placed(starts[1], line, [Shard(0)])], lr=0.1)
        with pytest.raises(ValueError, match="'exp_avg' must lie on all processes of the parameter"):
            second.load_state_dict(parts.state_dict())


def overflows(rank, world, folder):
    """What fails in one process after all have agreed on a step is an error in all, with its name."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    whole_rows, cut = (pl.GroupLasso(0.1, groups=pl.Groups.over(axis)) for axis in (1, 0))
    late = {"sparsity": TargetSparsity(0.5)}
    distance = (pl.inexactness.Distance, pl.inexactness.Constant(1.0))
    for penalties, bad, options in (
        ([whole_rows], 0, {}), ([whole_rows], 0, {"fused": False}), ([cut, whole_rows], 1, {}),
        ([cut], 0, {}), ([pl.GroupLinf(0.1, groups=pl.Groups.over(0)), whole_rows], 1, {}),
        ([cut, whole_rows], 1, {"certify_every": 1}), ([cut, whole_rows], 1, {"inexactness": distance}),
        ([cut, whole_rows], 1, late), ([cut, whole_rows], 0, late),
    ):  # fmt: skip
        params = [
            nn.Parameter(distribute_tensor(torch.ones(2 * world, 3), mesh, [Shard(0)])) for _ in penalties
        ]
        groups = [{"params": [p], "penalty": h} for p, h in zip(params, penalties, strict=True)]
        optimizer = pt.ProxAdamW(groups, lr=0.1, **options)
        for p in params:
            p.grad = distribute_tensor(torch.ones(2 * world, 3), mesh, [Shard(0)])
        optimizer.step()
        if rank == world - 1:
            # Finite, but not its square.
            local(params[bad].grad)[...] = 1e30
        own = rf"param group {bad}.* must be finite"
        if penalties[bad] is cut:
            # Whoever has the group says so.
            match, kinds = r"param group 0, parameter 0 .* must be finite", (ValueError, RuntimeError)
        elif rank == world - 1:
            match, kinds = own, ValueError
        else:
            match, kinds = rf"rank {world - 1}: it failed: {own}", RuntimeError
        with pytest.raises(kinds, match=match):
            optimizer.step()
    optimizer = pt.ProxAdamW([{"params": params[:1], "penalty": whole_rows}], lr=0.1, fused=True)
    params[0].grad = distribute_tensor(torch.ones(2 * world, 3), mesh, [Shard(0)])
    if rank == 0:
        params[0].grad = like(torch.ones(3, 2).T, params[0])
    kind = RuntimeError
    with pytest.raises(kind, match=r"fused=True: param group 0, parameter 0 .* has gaps in memory"):
        optimizer.step()


class Broken(Exception):
    """What is raised in one process, of a kind that nobody else raises."""


def told(rank, world, where=""):
    """Expect what the last process raises: there as it is, and in the others with its rank and the place."""
    if rank == world - 1:
        return pytest.raises(Broken, match="in one process")
    return pytest.raises(RuntimeError, match=rf"rank {world - 1}: it failed: in one process.*{where}")


def broken(rank, world, name, calls=0):
    """Let a function raise an error in the last process, after so many calls."""
    if rank != world - 1:
        return contextlib.nullcontext()
    home, _, attribute = name.rpartition(".")
    given = pkgutil.resolve_name(name)
    left = iter(range(calls))

    def fails(*args, **kwargs):
        if next(left, None) is None:
            raise Broken("in one process")
        return given(*args, **kwargs)

    return unittest.mock.patch.object(pkgutil.resolve_name(home), attribute, fails)


def raised(rank, world, folder):
    """Wherever one process raises an error, all raise one in the same step, and go on together after it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    last = rank == world - 1
    rows, columns = pl.Groups.over(1), pl.Groups.over(0)
    cut, whole_rows = pl.GroupLasso(0.1, groups=columns), pl.GroupLasso(0.1, groups=rows)
    step, tensors = "proxlab.torch.step", [torch.ones(2 * world, 3), torch.ones(2 * world, 2)]

    def grads(params):
        for p in params:
            p.grad = distribute_tensor(torch.ones(p.shape), mesh, [Shard(0)])

    def params():
        made = [nn.Parameter(distribute_tensor(a, mesh, [Shard(0)])) for a in tensors]
        grads(made)
        return made

    def groups(penalties):
        return [{"params": [p], "penalty": h} for p, h in zip(params(), penalties, strict=False)]

    both, late = [cut, whole_rows], {"sparsity": TargetSparsity(0.5)}
    gap = (pl.inexactness.Gap, pl.inexactness.Adaptive(1e-3))
    first = "param group 0, parameter 0"
    for name, penalties, options, where in (
        (f"{step}.Stepper._propose", both, {}, first),
        (f"{step}.Stepper._propose", both, {"certify_every": 1}, first),
        (f"{step}.Stepper._propose", both, late, first),
        (f"{step}.Stepper._problem", both, {"fused": False}, ""),
        (f"{step}.Stepper._problem", both, {"certify_every": 1}, ""),
        (f"{step}.Stepper._problem", both, late, ""),
        (f"{step}.Stepper._is_fused", both, {}, ""),
        ("proxlab.torch.problems.BlockProblem.asked", both, {"certify_every": 1}, ""),
        ("proxlab.torch.everyone.moving", both, late, ""),
        ("proxlab.torch.exchange.Share.penalty", [pl.GroupLinf(0.1, groups=columns)], {}, ""),
        ("proxlab.optim.problem.certify", both, {"certify_every": 1}, "param group 1, parameter 0"),
        (
            "proxlab.optim.problem.certify",
            both,
            {"inexactness": gap, "root_finder": pl.Bisection()},
            "param group 1, parameter 0",
        ),
    ):
        optimizer = pt.ProxAdamW(groups(penalties), lr=0.1, **options)
        with broken(rank, world, name), told(rank, world, where):
            optimizer.step()
        # Where it is not the update rule that fails, groups of another process may have been written.
        assert not optimizer.state or "_propose" not in name
        optimizer = pt.ProxAdamW(groups(penalties), lr=0.1, **options)
        optimizer.step()

    # Dual variables start again where a step has failed.
    for name, penalty, where in (
        ("proxlab.optim.bregman.dual_start", whole_rows, first),
        ("proxlab.torch.cut.dual_start", pl.GroupLinf(0.1, groups=columns), first),
        (f"{step}.Stepper._take_own", cut, ""),
    ):
        optimizer = pt.AdaBreg(groups([penalty]), lr=0.1)
        with broken(rank, world, name), told(rank, world, where):
            optimizer.step()
        assert not (optimizer.state and penalty is not whole_rows)
        optimizer.step()
    optimizer = pt.AdaBreg(groups([whole_rows]), lr=0.0)
    grads(optimizer.param_groups[0]["params"])
    for p in optimizer.param_groups[0]["params"]:
        local(p.grad).zero_()
    with broken(rank, world, f"{step}.slots_of"), told(rank, world):
        optimizer.step()

    # Who watches: all where groups are cut, any process elsewhere.
    optimizer = pt.ProxAdamW(groups(both), lr=0.1)
    place = "proxlab.study.capture.Problem"
    with (
        study.capture(optimizer, folder / f"raised-{rank}.npz"),
        broken(rank, world, place),
        told(rank, world, "capture: group 1, parameter 0, step 1"),
    ):
        optimizer.step()
    assert not optimizer.state
    optimizer = pt.ProxAdamW(groups([whole_rows]), lr=0.1)
    watched = study.capture(optimizer, folder / f"raised-{rank}.npz") if last else contextlib.nullcontext()
    with watched, broken(rank, world, place), told(rank, world, "capture: group 0, parameter 0, step 1"):
        optimizer.step()
    optimizer.step()

    # What processes hold and are given.
    optimizer = pt.ProxAdamW(groups([cut]), lr=0.1)
    optimizer.step()
    if last:
        optimizer.state.clear()
    with pytest.raises(ValueError, match=rf"ranks \[{world - 1}\]: param group 0, .* its state must be"):
        optimizer.step()
    many = np.ones(1500)
    many[700] += rank
    wide = nn.Parameter(distribute_tensor(torch.ones(2 * world, 1500), mesh, [Shard(0)]))
    wide.grad = torch.ones_like(wide)
    with pytest.raises(ValueError, match=r"param group 0, parameter 0 .* its penalty and settings"):
        pt.ProxAdamW([wide], lr=0.1, penalty=pl.GroupLasso(0.1, groups=columns, weights=many)).step()
    optimizer = pt.ProxAdamW(groups(both), lr=0.1, **late)
    if last:
        optimizer.param_groups[1]["penalty"] = whole_rows.with_strength(0.0)
    with pytest.raises((ValueError, RuntimeError), match="param group 1: penalty: must have a strength > 0"):
        optimizer.step()

    # States of another mesh, which all divide anew: a hook of the user, and what is no state of the method.
    first = pt.ProxAdamW(groups([whole_rows]), lr=0.1)
    first.step()
    (entry,) = first.state_dict()["state"].values()
    other = {name: a.redistribute(placements=[Shard(1)]) if a.dim() else a for name, a in entry.items()}
    for hooked in (False, True):
        optimizer = pt.ProxAdamW(groups([whole_rows]), lr=0.1)
        saved = {**first.state_dict(), "state": {0: dict(other)}}
        if last and hooked:
            optimizer.register_load_state_dict_pre_hook(lambda *_: (_ for _ in ()).throw(Broken("in one")))
        elif last:
            del saved["state"][0]["exp_avg"]
        with pytest.raises((Broken, ValueError, RuntimeError), match=r"in one|has no 'exp_avg'"):
            optimizer.load_state_dict(saved)
        assert not optimizer.state
    optimizer = pt.ProxAdamW(groups([whole_rows]), lr=0.1)
    optimizer.load_state_dict({**first.state_dict(), "state": {0: other}})
    optimizer.step()

    # Behind another optimizer: its step, the metric that its state implies, and proxes.
    for name, penalties in (
        ("torch.optim.SGD.step", both),
        ("proxlab.torch.follow.implied_metric", [cut]),
        ("proxlab.torch.follow.implied_metric", both[::-1]),
        ("proxlab.torch.follow.ProxWrapper._shrink", [whole_rows]),
    ):
        given = groups(penalties)
        inner = torch.optim.SGD([p for group in given for p in group["params"]], lr=0.1)
        with broken(rank, world, name), told(rank, world):
            pt.ProxWrapper(inner, given).step()
        pt.ProxWrapper(inner, given).step()

    # Losses.
    for name, calls in (("torch.nn.functional.mse_loss", 1), ("torch.nn.functional.mse_loss", 3)):
        model = sharded(network())
        joint = {"joint": [pl.Groups.over(-1), pl.Groups.over(())], "penalty": pl.GroupLasso(1.0)}
        some = [{"params": [model[0].weight, model[0].bias], **joint}] if calls > 1 else mixed(model)
        batches = [(torch.ones(2, 5), torch.zeros(2, 3))] * 2
        with broken(rank, world, name, calls), told(rank, world):
            pt.strengths(model, some, lambda a, b: nn.functional.mse_loss(a, b), batches)
    with broken(rank, world, "proxlab.penalties.base.Penalty.__call__"), told(rank, world):
        pt.strengths(model, some, nn.functional.mse_loss, batches)


def compiled(rank, world, folder):
    """Groups that lie whole in a process take the compiled step of one process, bit by bit."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    meshes = init_device_mesh("cpu", (world,)), init_device_mesh("cpu", (world // 2, 2))
    draw = random.Random(world)
    one, model = [], []
    for axis in (0, 1) * 6:
        # A column that is alone is summed in another order, as a row.
        m, n = draw.randint(1, 9), draw.choice([8, 11]) if axis else draw.randint(1, 9)
        mesh, weights = draw.choice(meshes), draw.choice([None, "some"])
        cuts = [draw.choice([Replicate(), Shard(axis)]) for _ in range(mesh.ndim)]
        if weights:
            weights = np.linspace(0.5, 2.0, (m, n)[axis])
        penalty = pl.GroupLasso(1.5, groups=pl.Groups.over(1 - axis), weights=weights)
        a = torch.randn(m, n, generator=torch.Generator().manual_seed(len(one)))
        one.append({"params": [nn.Parameter(a.clone())], "penalty": penalty})
        model.append({"params": [placed(a, mesh, cuts)], "penalty": penalty})
    first, second = (pt.ProxAdamW(groups, lr=0.05, fused=True) for groups in (one, model))
    for seed in range(5):
        generator = torch.Generator().manual_seed(100 + seed)
        for a, b in zip(one, model, strict=True):
            (p,), (q,) = a["params"], b["params"]
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = distribute_tensor(p.grad, q.device_mesh, q.placements)
        first.step()
        with unittest.mock.patch.object(distributed, "all_reduce", wraps=distributed.all_reduce) as reduce:
            second.step()
        # That all may begin, and that nothing has failed.
        assert reduce.call_count == 2
        for a, b in zip(one, model, strict=True):
            (p,), (q,) = a["params"], b["params"]
            assert torch.equal(whole(q), p.detach())
    zeros = pt.group_sparsity(first).total
    assert 0 < zeros.zero_groups < zeros.groups


def path(rank, world, folder):
    """The strength from which on nothing is left, also where processes have batches of their own."""
    torch.manual_seed(3)
    batches = [(torch.randn(8, 5).double(), torch.randn(8, 3).double()) for _ in range(2 * world)]
    one, model = network().double(), sharded(network().double())
    columns = pl.Groups.over(0)
    asked = {
        "mixed": mixed,
        "zero": lambda m: [{"params": [m[2].weight], "penalty": pl.GroupMCP(0.2, 3.0, groups=columns)}],
        "parts": lambda m: [
            {"params": [m[0].weight], "penalty": pl.SparseGroupLasso(1.0, 1.0, groups=columns)}
        ],
        "weights": lambda m: [
            {
                "params": [m[4].weight],
                "penalty": pl.GroupLasso(2.0, groups=pl.Groups.over(-1), weights=np.array([1.0, 0.5, 3.0])),
            }
        ],
        "joint": lambda m: [
            {
                "params": [m[0].weight, m[0].bias, m[2].weight],
                "joint": [pl.Groups.over(-1), pl.Groups.over(()), columns],
                "penalty": pl.GroupMCP(1.0, 3.0),
            },
            {
                "params": [m[4].weight, m[4].bias],
                "joint": [pl.Groups.over(-1), pl.Groups.over(())],
                "penalty": pl.GroupLasso(2.0, weights=np.array([1.0, 0.5, 3.0])),
            },
        ],
    }
    kept = {name: local(p).detach().clone() for name, p in model.named_parameters()}
    for name, groups in asked.items():
        expected, grid = pt.strengths(one, groups(one), nn.functional.mse_loss, batches, samples=4)
        own = batches[2 * rank : 2 * rank + 2]
        found = pt.strengths(model, groups(model), nn.functional.mse_loss, own, samples=4)
        assert found.lam_max == pytest.approx(expected, rel=1e-10), name
        assert all(told == [found.lam_max] for told in Ranks.of(model.parameters()).tell([found.lam_max]))
        np.testing.assert_allclose(found.grid, grid, rtol=1e-10)
        for key, p in model.named_parameters():
            assert torch.equal(local(p), kept[key])
            assert p.grad is None
    own[0][0][...] = float("nan") if rank == 1 else 0.0
    with pytest.raises((ValueError, RuntimeError), match=r"must be finite|it failed"):
        pt.strengths(model, mixed(model), nn.functional.mse_loss, own)


def fifty(rank, world, folder):
    """Small networks in any placement: after 50 steps the weights are those of one process, to rounding."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    draw = random.Random(7)
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    zeros = []
    kinds = ["shards", "after", "half", *(["replicas", "tensor"] if world > 2 else [])]
    for kind in kinds:
        a, b = (2 * draw.randint(1, 4) + (kind != "tensor") for _ in range(2))
        seed, steps = draw.randint(0, 99), 50

        def net(a=a, b=b, seed=seed):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(5, a), nn.Tanh(), nn.Linear(a, b), nn.Tanh(), nn.Linear(b, 3))

        one, model = net(), net()
        options = {"mesh": mesh["data"] if kind == "tensor" else mesh} if world > 2 else {}
        if kind == "half":
            options["mp_policy"] = half
        if kind == "after":
            options["reshard_after_forward"] = False
        if kind == "tensor":
            parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
        for layer in (*(m for m in model if isinstance(m, nn.Linear)), model):
            fully_shard(layer, **options).set_force_sum_reduction_for_comms(True)
        method, lr = draw.choice([(pt.ProxSGD, 0.1), (pt.ProxAdamW, 1e-2)])
        first, second = (method(mixed(m, 0.1), lr=lr) for m in (one, model))
        train(Halved(one) if kind == "half" else one, first, steps)
        train(model, second, steps)
        assert_equal(model, one, units=4, scale=max(float(q.detach().abs().max()) for q in one.parameters()))
        assert pt.group_sparsity(second) == pt.group_sparsity(first), kind
        zeros.append(pt.group_sparsity(second).total.zero_groups)
        for p in model.parameters():
            # Copies of a part are equal bit by bit.
            parts = {}
            told = [None] * world
            distributed.all_gather_object(told, (tuple(p.__create_chunk_list__()), local(p).detach()))
            for chunks, part in told:
                key = str([(c.offsets, c.sizes) for c in chunks])
                assert torch.equal(parts.setdefault(key, part), part)
    assert sum(map(bool, zeros)) > 1


class Halved(nn.Module):
    """A network that computes in bfloat16, with weights in float32."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        weights = {name: p.bfloat16() for name, p in self.model.named_parameters()}
        return torch.func.functional_call(self.model, weights, x.bfloat16())


def driven(rank, world, folder):
    """The strength for a sparsity, also where groups tie."""
    for options in (
        {}, {"per": "layer", "multiple_of": 2}, {"budget": "parameters", "keep_at_least": 2},
        {"method": "multiplicative", "rate": 0.5},
    ):  # fmt: skip
        one, model = network(), sharded(network())
        first, second = (
            pt.ProxAdamW(mixed(m, 1e-2), lr=1e-2, sparsity=TargetSparsity(0.4, **options), start=2)
            for m in (one, model)
        )
        for steps, rate in ((5, 1e-2), (1, 0.0)):
            for m, optimizer in ((one, first), (model, second)):
                for group in optimizer.param_groups:
                    group["lr"] = rate
                train(m, optimizer, steps)
        assert_equal(model, one)
        assert pt.group_sparsity(second) == pt.group_sparsity(first)
        assert [h["sparsity"] for h in second.history] == [h["sparsity"] for h in first.history]
        lams = [[h["lam"] for h in o.history] for o in (first, second)]
        np.testing.assert_allclose(*lams, rtol=1e-5)
        assert all(told == lams[1] for told in Ranks.of(model.parameters()).tell(lams[1]))
    one, model = network(), sharded(network())
    for m in (one, model):
        with torch.no_grad():
            for p in m.parameters():
                local(p).fill_(0.1)
    penalty = pl.SparseGroupLasso(0.1, 0.1, groups=pl.Groups.over(0))
    first, second = (
        pt.ProxSGD(
            [{"params": [m[0].weight, m[2].weight], "penalty": penalty}], lr=0.1, sparsity=TargetSparsity(0.5)
        )
        for m in (one, model)
    )
    train(one, first, 2)
    train(model, second, 2)
    assert_equal(model, one)


def strengths(rank, world, folder):
    """From which strength on groups vanish is known in all processes as in one."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (world,))
    columns = pl.Groups.over(0)
    for row in GROUPED:
        for scale in (1.0, 1e200, 1e-200) if row.name == "GroupMCP" else (1.0,):
            torch.manual_seed(2)
            x, d = scale * torch.randn(5, 6, dtype=torch.float64), torch.rand(5, 6, dtype=torch.float64) + 0.2
            x[:, 2] = 0.0
            weights = np.array([1.0, 2.0, 0.5, 1.0, 0.0, 3.0])
            penalty = row.build(groups=columns, weights=weights)
            q = nn.Parameter(distribute_tensor(x.clone(), mesh, [Shard(0)]))
            part = local(distribute_tensor(d.clone(), mesh, [Shard(0)]))
            block = Block(0, {"params": [q], "penalty": penalty}, {"lr": 0.3}, 0)
            problem = CutProblem(block, [Proposal(local(q).detach(), part, 0.3, (), 0.0)])
            (found,) = all_moving([(problem, penalty)], Ranks.of([q]))
            expected = pl.optim.vanishing_strength(penalty, x.numpy(), 0.3, metric=d.numpy())
            np.testing.assert_allclose(
                found.strengths * penalty.strength, expected, rtol=1e-12, err_msg=row.id
            )
            assert found.sizes.tolist() == [5] * 6
    # Dual variables start from the strength that the first step decides on.
    for make in (pt.LinBreg, pt.AdaBreg):
        for method in ("quantile", "multiplicative"):
            one, model = network(), sharded(network())
            target = TargetSparsity(0.5, method=method, rate=0.5)
            first, second = (make(mixed(m, 0.1), lr=1e-2, sparsity=target) for m in (one, model))
            train(one, first, 3)
            train(model, second, 3)
            assert_equal(model, one)


def parallel(rank, world, folder):
    """Tensor parallel, alone and with shards of shards, replicas, and data parallel."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
    mesh = init_device_mesh("cpu", (world // 2, 2), mesh_dim_names=("data", "tensor"))

    def even():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))

    def tensor(model):
        return parallelize_module(model, mesh["tensor"], plan)

    def both(model):
        for layer in (*(m for m in tensor(model) if isinstance(m, nn.Linear)), model):
            fully_shard(layer, mesh=mesh["data"]).set_force_sum_reduction_for_comms(True)
        return model

    def replicas(model):
        for layer in (*(m for m in model if isinstance(m, nn.Linear)), model):
            fully_shard(layer, mesh=mesh).set_force_sum_reduction_for_comms(True)
        return model

    def groups(model, only):
        named = dict(model.named_parameters())
        weights = [named[f"{k}.weight"] for k in only]
        penalty = pl.GroupLasso(2e-2, groups=pl.Groups.over(0))
        return [
            {"params": [w], "penalty": penalty if k else rows(model)[0]["penalty"]}
            for k, w in enumerate(weights)
        ]

    kinds = (
        {"tensor": (tensor, (0, 2))}
        if world == 2
        else {"both": (both, (0, 2, 4)), "replicas": (replicas, (0, 2, 4))}
    )
    for name, (divide, only) in kinds.items():
        one, model = even(), divide(even())
        first, second = (pt.ProxAdamW(groups(m, only), lr=1e-2, certify_every=2) for m in (one, model))
        train(one, first, 6)
        train(model, second, 6)
        assert_equal(model, one)
        assert pt.group_sparsity(second) == pt.group_sparsity(first), name
        assert [h["evaluations"] for h in second.history] == [h["evaluations"] for h in first.history], name
    one, model = even(), nn.parallel.DistributedDataParallel(even())
    first, second = (pt.ProxAdamW(rows(m), lr=1e-2) for m in (one, model.module))
    train(one, first, 4)
    train(model, second, 4)
    assert_equal(model, one)


def certified(rank, world, folder):
    """Bounds and tolerances hold for all processes together."""
    one, model = network(), sharded(network())
    first, second = (pt.ProxAdamW(mixed(m), lr=1e-2, certify_every=2) for m in (one, model))
    train(one, first, 4)
    train(model, second, 4)
    assert_equal(model, one)
    for a, b in zip(first.history, second.history, strict=True):
        assert a.keys() == b.keys()
        assert b["evaluations"] == a["evaluations"]
        for name in ("distance", "metric_distance", "stationarity", "gap"):
            assert 0 < b[name] < 4 * a[name] + 1e-30
            assert a[name] < 4 * b[name] + 1e-30
    schedule = pl.inexactness.Adaptive(1e-6)
    for inexactness in (
        (pl.inexactness.Distance, pl.inexactness.Constant(1e-5)), (pl.inexactness.Gap, schedule),
    ):  # fmt: skip
        one, model = network(), sharded(network())
        options = {"lr": 1e-2, "inexactness": inexactness, "root_finder": pl.Bisection()}
        first, second = (pt.ProxAdamW(mixed(m), **options) for m in (one, model))
        train(one, first, 3)
        train(model, second, 3)
        told = [[h[name] for h in second.history] for name in ("distance", "gap", "tolerance", "iterations")]
        assert all(own == told[3] for own in Ranks.of(model.parameters()).tell(told[3]))
        bounds = told[0] if inexactness[0] is pl.inexactness.Distance else told[1]
        assert all(b <= eps for b, eps in zip(bounds, told[2], strict=True))
        assert max(told[3]) > 1, told
        for p, q in zip(model.parameters(), one.parameters(), strict=True):
            torch.testing.assert_close(whole(p), q.detach(), rtol=1e-2, atol=1e-3)
    model = sharded(network())
    options["inexactness"] = (pl.inexactness.Distance, pl.inexactness.Constant(1e-30))
    options["root_finder"] = pl.Bisection(max_iterations=3)
    optimizer = pt.ProxAdamW(mixed(model), **options)
    before = [whole(p).clone() for p in model.parameters()]
    with pytest.raises((ValueError, RuntimeError), match="inexactness: step 1"):
        train(model, optimizer, 1)
    assert all(torch.equal(whole(p), q) for p, q in zip(model.parameters(), before, strict=True))


def captured(rank, world, folder):
    """The problems that processes have solved are together those of one process."""
    problems = {}
    for name, model in (("one", network()), (f"{rank}", sharded(network()))):
        optimizer = pt.ProxAdamW(mixed(model), lr=1e-2)
        path = folder / f"captured-{world}-{rank}-{name}.npz"
        with study.capture(optimizer, path, every=2):
            train(model, optimizer, 3)
        problems[name] = {p.name: p for p in study.load(path)}
    ranks, count = Ranks.of(model.parameters()), 0
    for name, p in problems["one"].items():
        own = problems[f"{rank}"].get(name)
        groups = 0 if own is None else own.penalty.groups.n_groups(own.x.shape)
        told = ranks.tell([groups, 0.0 if own is None else float((np.asarray(own.x) ** 2).sum())])
        assert sum(n for n, _ in told) == p.penalty.groups.n_groups(p.x.shape)
        assert sum(s for _, s in told) == pytest.approx(float((np.asarray(p.x) ** 2).sum()), rel=1e-5)
        count += 1
    assert count == 6


def clipped(rank, world, folder):
    """Gradients that PyTorch clips, to a norm over all processes."""
    one, model = network(), sharded(network())
    first, second = pt.ProxAdamW(mixed(one), lr=1e-2), pt.ProxAdamW(mixed(model), lr=1e-2)
    for seed in range(3):
        for m, optimizer in ((one, first), (model, second)):
            x = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            ((m(x) - x[:, :3]) ** 2).mean().backward()
            nn.utils.clip_grad_norm_(m.parameters(), 0.1)
            optimizer.step()
    assert_equal(model, one)


def save(rank, world, folder):
    """Save a checkpoint after a few steps, which any number of processes continues."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model = sharded(network())
    optimizer = pt.ProxAdamW(rows(model), lr=1e-2)
    train(model, optimizer, 4)
    weights, state = get_state_dict(model, optimizer)
    checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=folder / "checkpoint")


def load(rank, world, folder):
    """Continue it on other numbers of processes."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model = sharded(network(seed=5))
    optimizer = pt.ProxAdamW(rows(model), lr=1e-2)
    weights, state = get_state_dict(model, optimizer)
    checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id=folder / "checkpoint")
    set_state_dict(model, optimizer, model_state_dict=weights, optim_state_dict=state)
    train(model, optimizer, 4, seed=2)
    one = network()
    first = pt.ProxAdamW(rows(one), lr=1e-2)
    train(one, first, 4)
    saved = first.state_dict()
    train(one, first, 4, seed=2)
    assert_equal(model, one)
    # The state of one process, too.
    again = sharded(network(seed=5))
    again.load_state_dict(model.state_dict())
    optimizer = pt.ProxAdamW(rows(again), lr=1e-2)
    optimizer.load_state_dict(saved)
    one = network()
    first = pt.ProxAdamW(rows(one), lr=1e-2)
    one.load_state_dict({k: whole(v) for k, v in again.state_dict().items()})
    first.load_state_dict(saved)
    train(again, optimizer, 4, seed=3)
    train(one, first, 4, seed=3)
    assert_equal(again, one)
