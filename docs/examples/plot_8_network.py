"""
A small sparse network, from start to compacted
===============================================

Train a network with an optimizer whose every step ends with a weighted prox, see channels and neurons
vanish while it learns, and cut them out: the small network computes the same as the large one. Needs
PyTorch, ``pip install 'proxlab[torch]'``; :doc:`/torch` explains each of the steps.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

import proxlab as pl
from proxlab.torch import ProxAdamW, compact, group_sparsity, param_groups

torch.manual_seed(0)
digits = load_digits()
x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
y = torch.tensor(digits.target)
test = torch.arange(len(y)) % 4 == 0

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(512, 64),
    nn.ReLU(),
    nn.Linear(64, 10),
)

# %%
# What is a group, and by which optimizer
# ---------------------------------------
# Input channels of convolutions and columns of linear layers, except those of the first layer, whose input
# is the image. MCP leaves large groups as they are. These are the only lines that differ from any other
# training.

groups = param_groups(model, pl.GroupMCP(2e-2, gamma=100.0), exclude="0")
optimizer = ProxAdamW(groups, lr=1e-2)

# %%
# The training loop
# -----------------


def accuracy(model):
    with torch.no_grad():
        return float((model.eval()(x[test]).argmax(dim=1) == y[test]).float().mean())


epochs, history = 8, []
scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=epochs)
for _ in range(epochs):
    model.train()
    for batch in torch.randperm(int((~test).sum())).split(64):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[~test][batch]), y[~test][batch]).backward()
        optimizer.step()
    scheduler.step()
    history.append((accuracy(model), group_sparsity(optimizer).total.weighted))

fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(
    range(1, epochs + 1), history, "o-", label=["accuracy on test digits", "share of weights in zero groups"]
)
ax.set(xlabel="epochs", ylim=(0, 1.03))
ax.legend()

# %%
# Groups are exactly zero, layer by layer:

print(group_sparsity(optimizer))

# %%
# Cut them out
# ------------
# What nobody reads is removed. The outputs of the small network are those of the large one, to rounding.

small, report = compact(copy.deepcopy(model).eval(), x[:4])
difference = float((small(x[test]) - model(x[test])).abs().max().detach())
before, after = report.parameters
print(f"{before} → {after} parameters, accuracy {accuracy(model):.3f} → {accuracy(small):.3f}")
print(f"outputs differ by at most {difference:.1e}")
plt.show()
