"""Random networks for the tests of compacting: each step is drawn, and so are the zeros."""

import torch
from torch import nn
from torch.nn import functional as F


def _conv(r, inputs, outputs):
    size = r.choice([1, 3])
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=r.random() < 0.5)


class _Step(nn.Module):
    """A convolution to a drawn number of channels, and what a kind of step does with it."""

    def __init__(self, r, inputs):
        super().__init__()
        self.outputs = r.choice([4, 6, 8])
        self.a = _conv(r, inputs, self.made())

    def made(self):
        return self.outputs


class Plain(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        n = self.outputs
        norms = [nn.BatchNorm2d, nn.InstanceNorm2d, lambda n: nn.GroupNorm(2, n), nn.PReLU, nn.Identity]
        self.norm = r.choice(norms)(n)
        self.after = r.choice([F.relu, F.gelu, torch.tanh, F.hardswish, lambda y: y.softmax(1)])

    def forward(self, x):
        return self.after(self.norm(self.a(x)))


class Pooled(_Step):
    def forward(self, x):
        y = F.relu(self.a(x))
        return F.interpolate(F.max_pool2d(y, 2), scale_factor=2) + F.avg_pool2d(y, 3, 1, 1)


class Shortcut(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.b, self.norm = _conv(r, self.outputs, inputs), nn.BatchNorm2d(inputs)
        self.outputs = inputs

    def forward(self, x):
        return F.relu(x + self.norm(self.b(F.relu(self.a(x)))))


class Concatenated(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.outputs += inputs

    def forward(self, x):
        return torch.cat([x, self.a(x).tanh()], 1)


class Halves(_Step):
    def made(self):
        return 2 * self.outputs

    def forward(self, x):
        a, b = self.a(x).chunk(2, 1)
        return a * b.sigmoid()


class Shuffled(_Step):
    def forward(self, x):
        return F.channel_shuffle(self.a(x), 2)


class Excited(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.squeeze, self.excite = nn.Linear(self.outputs, 3), nn.Linear(3, self.outputs)

    def forward(self, x):
        y = self.a(x)
        return y * self.excite(F.relu(self.squeeze(y.mean((2, 3))))).sigmoid()[:, :, None, None]


class Gated(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.gate = _conv(r, inputs, 1)

    def forward(self, x):
        y = self.a(x)
        return y * self.gate(x).sigmoid() + self.gate(x) + y.amax(1, keepdim=True)


class Depthwise(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        each = r.choice([1, 2])
        n, self.outputs = self.outputs, each * self.outputs
        self.d, self.norm = nn.Conv2d(n, self.outputs, 3, padding=1, groups=n), nn.BatchNorm2d(self.outputs)

    def made(self):
        return self.outputs

    def forward(self, x):
        return F.relu6(self.norm(self.d(self.a(x))))


class Grouped(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.d = nn.Conv2d(self.outputs, self.outputs, 1, groups=2)

    def forward(self, x):
        return self.d(F.relu(self.a(x)))


class Cropped(_Step):
    def forward(self, x):
        y = self.a(x)
        n = min(y.shape[1], x.shape[1])
        return torch.cat([y[:, :n] + x[:, :n], y[:, n:]], 1)


class Padded(_Step):
    def forward(self, x):
        y = self.a(x)
        more = y.shape[1] - x.shape[1]
        return y + (F.pad(x, (0, 0, 0, 0, 0, more)) if more > 0 else x[:, : y.shape[1]])


class Transposed(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.a = nn.ConvTranspose2d(inputs, self.outputs, 3, padding=1)

    def forward(self, x):
        return self.a(x).relu()


class Split(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.b = _conv(r, 2, self.outputs)

    def made(self):
        return self.outputs + 2

    def forward(self, x):
        a, b = self.a(x).split([self.outputs, 2], 1)
        return a + self.b(b)


class InPlace(_Step):
    def forward(self, x):
        y = F.relu_(self.a(x))
        y[:, :, 0] = 0
        y += 1
        return y.mul_(0.5)


class Scaled(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.scale, self.place = (
            nn.Parameter(torch.randn(self.outputs, 1, 1)),
            nn.Parameter(torch.randn(6, 6)),
        )

    def forward(self, x):
        return self.a(x) * self.scale + self.place


class Rolled(_Step):
    def forward(self, x):
        y = self.a(x)
        return y + y.roll(1, 1)


class Attending(_Step):
    def __init__(self, r, inputs):
        super().__init__(r, inputs)
        self.heads, self.shared = (2, r.random() < 0.5)
        self.k = nn.Conv2d(inputs, self.outputs // (2 if self.shared else 1), 1)
        self.v = nn.Conv2d(inputs, self.outputs // (2 if self.shared else 1), 1)

    def forward(self, x):
        size = self.outputs // 2
        q, k, v = (m(x).flatten(2).unflatten(1, (-1, size)).transpose(2, 3) for m in (self.a, self.k, self.v))
        if self.shared:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])


STEPS = _Step.__subclasses__()


class Convolutional(nn.Module):
    """Two to four steps, and linear layers behind a mean, a Flatten, or both; for images of 3 × 6 × 6."""

    def __init__(self, r):
        super().__init__()
        self.steps = nn.ModuleList()
        n = 3
        for _ in range(r.randint(2, 4)):
            self.steps.append(r.choice(STEPS)(r, n))
            n = self.steps[-1].outputs
        self.ends = r.choice(["mean", "flat", "both"])
        self.head = nn.Linear({"mean": n, "flat": 36 * n, "both": 37 * n}[self.ends], 5)
        self.last, self.dropout = nn.Linear(5, 2), nn.Dropout(0.3)

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        ends = {"mean": [x.mean((2, 3))], "flat": [x.flatten(1)], "both": [x.flatten(1), x.mean((2, 3))]}
        return self.last(self.dropout(F.relu(self.head(torch.cat(ends[self.ends], 1)))))


class Recurrent(nn.Module):
    """LSTM, GRU or RNN of any layers, directions and projection between linear layers."""

    def __init__(self, r):
        super().__init__()
        kind = r.choice([nn.LSTM, nn.GRU, nn.RNN])
        size, both = r.choice([4, 6]), r.random() < 0.5
        proj = 3 if kind is nn.LSTM and r.random() < 0.4 else 0
        options = {"batch_first": True, "bidirectional": both} | ({"proj_size": proj} if proj else {})
        self.before = nn.Linear(4, 5)
        self.rnn = kind(5, size, r.choice([1, 2, 3]), bias=r.random() < 0.8, **options)
        self.head, self.last = nn.Linear((proj or size) * (1 + both), 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.last(F.relu(self.head(self.rnn(self.before(x))[0])))


def parts(rnn):
    """The ends of the names of parameters, for each layer and direction."""
    return [n.removeprefix("weight_ih") for n, _ in rnn.named_parameters() if n.startswith("weight_ih")]


def plant(model, r, share=0.35):
    """Set slices of any parameter to zero, and hidden units whole or unread."""
    generator = torch.Generator().manual_seed(r.randrange(2**31))

    def some(n):
        return torch.rand(n, generator=generator) < share

    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.running_mean.normal_(generator=generator)
                m.running_var.uniform_(0.5, 2.0, generator=generator)
            if isinstance(m, nn.RNNBase):
                for end in {
                    n[len("weight_ih") :] for n, _ in m.named_parameters() if n.startswith("weight_ih")
                }:
                    units, rows = some(m.hidden_size), r.random() < 0.5
                    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                        p = getattr(m, name + end, None)
                        if rows and p is not None:
                            p.unflatten(0, (-1, m.hidden_size))[:, units] = 0
                    if not rows and not m.proj_size:
                        getattr(m, "weight_hh" + end)[:, units] = 0
                continue
            for p in m._parameters.values():
                for axis in range(min(p.dim() if p is not None else 0, 2)):
                    if r.random() < 0.4:
                        p.movedim(axis, 0)[some(p.shape[axis])] = 0
    return model.eval()
