"""Small networks of the common kinds, for the tests."""

import torch
from torch import nn
from torch.nn import functional as F


def vgg(width=8, classes=3):
    """Convolution, batch norm, ReLU; for images of 3 × 8 × 8."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(10, classes),
    )


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, width=6, classes=3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = Block(width, width)
        self.layer2 = Block(width, 2 * width, 2)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class SelfAttention(nn.Module):
    def __init__(self, width=12, heads=3):
        super().__init__()
        self.num_heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (
            p(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """Tokens to classes, with attention made of four linear layers."""

    def __init__(self, width=12, hidden=16, classes=3):
        super().__init__()
        self.embedding = nn.Embedding(11, width)
        self.attention = SelfAttention(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens):
        x = self.embedding(tokens)
        x = self.norm1(x + self.attention(x))
        x = self.norm2(x + self.fc2(F.gelu(self.fc1(x))))
        return self.head(x.mean(1))


class Bert(nn.Module):
    """One layer with the modules and names of BERT in the library transformers."""

    def __init__(self, width=12, heads=3, hidden=16):
        super().__init__()
        attention, own, output = nn.Module(), nn.Module(), nn.Module()
        own.query, own.key, own.value = (nn.Linear(width, width) for _ in range(3))
        own.num_attention_heads, own.attention_head_size = heads, width // heads
        own.all_head_size = width
        output.dense, output.LayerNorm = nn.Linear(width, width), nn.LayerNorm(width)
        attention.add_module("self", own)
        attention.output = output
        self.attention = attention
        self.intermediate = nn.Module()
        self.intermediate.dense = nn.Linear(width, hidden)
        self.output = nn.Module()
        self.output.dense, self.output.LayerNorm = nn.Linear(hidden, width), nn.LayerNorm(width)

    def forward(self, x):
        own = getattr(self.attention, "self")  # noqa: B009 (a keyword-like name)
        shape = (*x.shape[:2], own.num_attention_heads, own.attention_head_size)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (own.query, own.key, own.value))
        y = torch.softmax(q @ k.transpose(-1, -2) / own.attention_head_size**0.5, -1) @ v
        y = y.transpose(1, 2).reshape(*x.shape[:2], own.all_head_size)
        x = self.attention.output.LayerNorm(x + self.attention.output.dense(y))
        return self.output.LayerNorm(x + self.output.dense(F.gelu(self.intermediate.dense(x))))


class Recurrent(nn.Module):
    def __init__(self, kind=nn.LSTM, hidden=6):
        super().__init__()
        self.embedding = nn.Embedding(11, 5)
        self.rnn = kind(5, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 3)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0][:, -1])


def settle(model):
    """Give batch norms statistics other than zero and one, and biases values."""
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm):
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 2.0)
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_()
    return model.eval()
