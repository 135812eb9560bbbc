"""The networks of the studies: small enough to train in minutes, of the kinds that people prune."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from analysis.deep.glosses import PADDING


def _conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> list[nn.Module]:
    """A convolution without bias and its batch norm."""
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def vgg(channels: int = 1, classes: int = 10, width: int = 16, hidden: int = 256) -> nn.Sequential:
    """Five 3 × 3 convolutions with batch norm, and one hidden linear layer (Simonyan & Zisserman 2015).

    Pooling comes right after the convolution, so that norm and activation run on a quarter of the pixels.
    """
    sizes = [width, 2 * width, 4 * width, 8 * width, 8 * width]
    layers: list[nn.Module] = []
    inputs = channels
    for number, outputs in enumerate(sizes):
        conv, norm = _conv(inputs, outputs)
        pool = [nn.MaxPool2d(2)] if number < 3 else []
        layers += [conv, *pool, norm, nn.ReLU()]
        inputs = outputs
    # an image of 28 × 28 pixels has come down to 3 × 3
    layers += [nn.Flatten(), nn.Linear(9 * inputs, hidden), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a 1 × 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(inputs, outputs, stride)
        self.conv2, self.bn2 = _conv(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv(inputs, outputs, stride, size=1))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


def resnet(channels: int = 1, classes: int = 10, width: int = 16) -> nn.Sequential:
    """A residual network with one block at each of three widths (He, Zhang, Ren & Sun 2016)."""
    w = width
    stem = nn.Sequential(*_conv(channels, w), nn.ReLU(), nn.MaxPool2d(2))
    blocks = [Residual(w, 2 * w, 1), Residual(2 * w, 4 * w, 2), Residual(4 * w, 8 * w, 2)]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * w, classes))


class SelfAttention(nn.Module):
    """Multi-head attention of separate linear layers; the number of heads is that of their rows."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend to the positions where `mask` is true."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return output


class EncoderLayer(nn.Module):
    """Attention and a feed-forward block, each normalised before and added to its input."""

    def __init__(self, width: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, num_heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The layer's output."""
        x = x + self.attention(self.norm1(x), mask)
        y: Tensor = self.linear2(functional.gelu(self.linear1(self.norm2(x))))
        return x + y


class Encoder(nn.Module):
    """A transformer encoder with a linear classifier of its mean output (Vaswani et al. 2017).

    A linear layer stands between embeddings and residual stream (Lan et al. 2020), so that dimensions of the
    embeddings can be removed. Embeddings start small: otherwise the first epochs go into forgetting them.

    Parameters
    ----------
    vocabulary, classes, length : int
        Number of words and of classes; longest text.
    embedding, width, hidden : int
        Sizes of embeddings, of the residual stream and of the feed-forward blocks.
    heads, layers : int
        Number of heads in a layer, and of layers.
    dropout : float
        Share of the embeddings that is dropped in training.
    """

    def __init__(
        self,
        vocabulary: int,
        classes: int,
        length: int,
        *,
        embedding: int = 32,
        width: int = 128,
        hidden: int = 512,
        heads: int = 8,
        layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, embedding, padding_idx=PADDING)
        nn.init.normal_(self.words.weight, std=0.05)
        self.widen = nn.Linear(embedding, width)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, text: Tensor) -> Tensor:
        """Scores of the classes, for texts of shape (n, at most `length`)."""
        mask = text != PADDING
        x = self.dropout(self.widen(self.words(text)) + self.positions[: text.shape[1]])
        for layer in self.layers:
            x = layer(x, mask)
        present = mask[..., None].to(x.dtype)
        mean = (self.norm(x) * present).sum(1) / present.sum(1).clamp_min(1.0)
        scores: Tensor = self.classify(mean)
        return scores
