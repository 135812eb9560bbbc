"""Group sparsity of a network against counts by hand."""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import proxlab as pl  # noqa: E402
from proxlab.torch.networks import param_groups  # noqa: E402
from proxlab.torch.sparsity import group_sparsity, living  # noqa: E402
from tests.torch import models  # noqa: E402

pytestmark = pytest.mark.torch

LASSO = pl.GroupLasso(0.1)
ROWS = pl.Groups.over(1)


def group(*shapes, joint=None, **kind):
    """Param groups of which there is one, by rows."""
    params = [torch.zeros(shape, **kind) for shape in shapes]
    if joint is not None:
        return [{"params": params, "penalty": LASSO, "joint": joint}]
    return [{"params": params, "penalty": pl.GroupLasso(0.1, groups=ROWS)}]


def sparse_vgg():
    model = models.vgg()
    with torch.no_grad():
        model[4].weight[:, :3] = 0
        model[12].weight[:, [0, 4]] = 0
        model[9].weight[:, 5] = 0
        model[9].weight[1:, 6] = 0  # not all of the column
        model[0].bias[:] = 0  # in no group
    return model


@pytest.mark.parametrize("kind", ["model", "groups", "optimizer"])
def test_counts_by_hand(kind):
    model = sparse_vgg()
    groups = param_groups(model, LASSO)
    source = {"model": model, "groups": groups, "optimizer": torch.optim.SGD(groups, lr=0.1)}[kind]
    table = group_sparsity(source)
    assert [(r.name, r.groups, r.zero_groups, r.elements, r.zero_elements) for r in table.layers] == [
        ("0.weight", 3, 0, 216, 0),
        ("4.weight", 8, 3, 1152, 3 * 144),
        ("9.weight", 64, 1, 640, 10),
        ("12.weight", 10, 2, 30, 6),
    ]
    total = table.total
    assert (total.groups, total.zero_groups) == (85, 6)
    assert total.sparsity == 6 / 85
    assert total.weighted == (432 + 10 + 6) / (216 + 1152 + 640 + 30)
    lines = str(table).splitlines()
    assert lines[0].split() == ["layer", "groups", "zero", "sparsity", "weighted"]
    assert lines[2].split() == ["4.weight", "8", "3", "37.5%", "37.5%"]
    assert lines[-1].split() == ["total", "85", "6", "7.1%", "22.0%"]
    assert len({len(line) for line in lines}) == 1


def test_joint_groups_are_zero_where_all_their_parts_are():
    model = models.Encoder()
    with torch.no_grad():
        model.fc1.weight[:4] = 0
        model.fc1.bias[:3] = 0
        model.fc2.weight[:, 1:5] = 0
    groups = param_groups(model, LASSO, ffn="neurons", attention="heads")
    rows = {r.name: r for r in group_sparsity(groups).layers}
    neurons = rows["fc1.weight + fc1.bias + fc2.weight"]
    assert (neurons.groups, neurons.zero_groups) == (16, 2)
    assert (neurons.elements, neurons.zero_elements) == (16 * 25, 2 * 25)
    # Each parameter by itself would count three and four.
    elements = pl.GroupLasso(1.0, groups=pl.Groups.over(()))
    assert group_sparsity([{"params": [model.fc1.bias], "penalty": elements}]).total.zero_groups == 3


def test_ragged_groups_and_free_elements():
    w = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 2.0])
    penalty = pl.GroupLasso(1.0, groups=pl.Groups.csr([0, 2, 5, 5], [0, 1, 2, 3, 4]))
    (row,) = group_sparsity([{"params": w, "penalty": penalty}]).layers
    # An empty group has nothing that is not zero.
    assert (row.name, row.groups, row.zero_groups, row.elements, row.zero_elements) == (
        "group 0, parameter 0", 3, 2, 5, 2,
    )  # fmt: skip


def test_layouts_and_dtypes():
    weight = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last).bfloat16()
    weight[:, 2] = 0
    weight[1, 3:] = -0.0
    penalty = pl.GroupLasso(1.0, groups=pl.Groups.conv("channel"))
    assert group_sparsity([{"params": [weight], "penalty": penalty}]).total.zero_groups == 1
    assert group_sparsity([{"params": [weight[:, 2:3]], "penalty": penalty}]).total.sparsity == 1.0


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([], ValueError, "source: no param group has a penalty"),
        ([{"params": []}], ValueError, "source: no param group has a penalty"),
        ([nn.Parameter(torch.ones(2))], TypeError, r"source\[0\]: must be a param group"),
        (3, TypeError, "source: must hold param groups, dicts with the key 'params', got 3"),
        ([{"params": [3]}], TypeError, r"source\[0\]: params\[0\]: must be a tensor, got 3"),
        ([{"params": [], "penalty": 3}], TypeError, r"source\[0\]: penalty: must be a proxlab penalty"),
        (nn.ReLU(), ValueError, "source: param_groups penalises nothing of this ReLU by default"),
        (nn.Linear(3, 4, device="meta"), ValueError, r"source\[0\]: .*'weight'.* not be on the meta device"),
        (group((3,)), ValueError, r"source\[0\]: parameter 0 \(shape \(3,\)\).* axis 1"),
        (group((3, 2), dtype=torch.int32), TypeError, r"source\[0\]: parameter 0 .* floating-point dtype"),
        (group((3, 2), layout=torch.sparse_coo), ValueError, r"source\[0\]: parameter 0 .* be dense"),
        (group((3, 2), joint="ab"), TypeError, r"source\[0\]: joint: must be a list"),
        (group((3, 2), joint=[1]), TypeError, r"source\[0\]: joint"),
        (group((3, 2), (3, 2), joint=[ROWS]), ValueError, r"source\[0\]: joint"),
        (group((3, 2), (4, 2), joint=[ROWS, ROWS]), ValueError, r"source\[0\]: .*\[3, 4\]"),
    ],
)
def test_errors(source, error, message):
    with pytest.raises(error, match=message):
        group_sparsity(source)


def test_what_transforms_hide_is_an_error():
    def count(w):
        with pytest.raises(ValueError, match=r"parameter 0 .* must have memory for each of its elements"):
            group_sparsity([{"params": [w], "penalty": LASSO}])
        return w

    torch.func.functionalize(count)(torch.ones(3, 4))


LAYOUTS = {
    "as it is": lambda w: w,
    "channels last": lambda w: w.contiguous(memory_format=torch.channels_last),
    "transposed": lambda w: w.transpose(0, 1).contiguous().transpose(0, 1),
    "a part": lambda w: torch.ones(w.shape[0], 2 * w.shape[1], *w.shape[2:], dtype=w.dtype)[:, ::2].copy_(w),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_layers_of_any_type_and_layout(dtype, layout):
    rng = np.random.default_rng(0)
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    layers, wanted = [], []
    for k in range(12):
        axes = ((0,), (1, 2, 3), (0, 2, 3), (2, 3), (0, 1), ())[k % 6]
        groups = pl.Groups.over(axes)
        shape = (4, *rng.choice([1, 2, 5, 40], 3).tolist())
        indptr, indices = groups.indices(shape)
        # Joint with another parameter, or alone.
        alive, params = np.zeros(len(indptr) - 1, bool), []
        for _ in range(1 + k % 2):
            w = torch.zeros(shape, dtype=dtype) * -1.0
            some = rng.random(len(alive)) < 0.4
            places = [int(rng.choice(indices[a:b])) for a, b in pairwise(indptr)]
            w.view(-1)[np.array(places)[some]] = least
            params.append(nn.Parameter(LAYOUTS[layout](w)))
            alive |= some
        layers.append((params, [groups] * len(params)))
        wanted.append((alive.tolist(), (np.diff(indptr) * len(params)).tolist()))
    assert [(found.alive.tolist(), found.sizes.tolist()) for found in living(layers)] == wanted


@pytest.mark.parametrize("held", [0, 16])
def test_weights_without_memory_are_an_error(held):
    weight = torch.ones(3, 4)
    weight.untyped_storage().resize_(held)
    with pytest.raises(ValueError, match=rf"parameter 0 .* of its elements, 48 bytes, got {held}"):
        group_sparsity([{"params": [weight], "penalty": pl.GroupLasso(1.0)}])


@pytest.mark.parametrize("least", [torch.tensor(-(2**63)), torch.tensor(1j), torch.tensor(True)])
def test_what_is_no_float_is_looked_at_by_itself(least):
    w = torch.zeros(3, 4, dtype=least.dtype)
    w[1, 2] = least
    (found,) = living([([w], [ROWS])])
    assert found.alive.tolist() == [False, True, False]
