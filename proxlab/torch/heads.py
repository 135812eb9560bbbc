"""Remove attention heads: cut the layers of attention, and stand in for ``nn.MultiheadAttention``."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from proxlab.torch.structures import CONFIG, COUNTS, HEAD_COUNTS, named_counts, own_counts

__all__ = ["HeadAttention", "scale_counts", "stand_in"]

#: Attributes in which attention modules keep the width of all heads together.
_WIDTHS = ("all_head_size", "inner_dim", "split_size", "attn_dim")


class HeadAttention(nn.Module):
    """Attention that is called like :class:`torch.nn.MultiheadAttention`, with any number of heads.

    PyTorch's own module needs ``heads × head size = width``, so it cannot lose a head. Returned attention
    weights are those of the heads that are left.

    Parameters
    ----------
    q_proj, k_proj, v_proj, out_proj : torch.nn.Linear
        The projections.
    kept : list of int
        Which of the heads these are.
    heads : int
        How many heads there were, as masks count them.
    dropout : float
        Share of attention weights that is dropped in training.
    batch_first : bool
        Whether the batch is the first axis, else the second.
    """

    def __init__(
        self,
        q_proj: nn.Linear,
        k_proj: nn.Linear,
        v_proj: nn.Linear,
        out_proj: nn.Linear,
        kept: list[int],
        heads: int,
        dropout: float,
        batch_first: bool,
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q_proj, k_proj, v_proj, out_proj
        self.kept, self.heads = list(kept), heads
        self.num_heads = len(kept)
        self.dropout = dropout
        self.batch_first = batch_first
        # PyTorch's transformer layers look for a stacked projection before they take a fused kernel.
        self.in_proj_weight = self.in_proj_bias = None
        self._qkv_same_embed_dim = False

    def keep(self, heads: list[int]) -> None:
        """Note which of its heads are left, where their layers were cut."""
        self.kept = [self.kept[k] for k in heads]
        self.num_heads = len(heads)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as :class:`torch.nn.MultiheadAttention` does; see there for the arguments."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
        q, k, v = (
            proj(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        mask = self._mask(attn_mask, key_padding_mask, q)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            context = functional.dropout(weights, dropout) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights[0]
        else:
            context = functional.scaled_dot_product_attention(
                q, k, v, mask, dropout, is_causal=is_causal and mask is None
            )
        out = self.out_proj(context.transpose(1, 2).flatten(2))
        if not batched:
            return out[0], weights
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _mask(self, attn: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Add up the masks as floats that broadcast to (batch, heads, queries, keys)."""
        total = None
        if attn is not None:
            mask = _additive(attn, like)
            if mask.dim() == 3:
                mask = torch.unflatten(mask, 0, (-1, self.heads))[:, self.kept]
            total = mask
        if padding is not None:
            mask = _additive(padding, like)[:, None, None, :]
            total = mask if total is None else total + mask
        return total


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _projections(attention: nn.MultiheadAttention) -> list[nn.Linear]:
    """The projections as separate layers, sharing nothing with the module."""
    if attention.in_proj_weight is not None:
        weights = list(attention.in_proj_weight.chunk(3))
    else:
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    biases: list[Tensor | None] = [None] * 3
    if attention.in_proj_bias is not None:
        biases[:] = attention.in_proj_bias.chunk(3)
    return [_linear(w, b) for w, b in zip(weights, biases, strict=True)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(
        weight.shape[1], weight.shape[0], bias=bias is not None, device=weight.device, dtype=weight.dtype
    )
    layer.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone())
    return layer


def stand_in(model: nn.Module, path: str) -> None:
    """Put a :class:`HeadAttention` in the place of a :class:`torch.nn.MultiheadAttention`, with all heads."""
    old = model.get_submodule(path)
    assert isinstance(old, nn.MultiheadAttention)
    q, k, v = _projections(old)
    out = _linear(old.out_proj.weight, old.out_proj.bias)
    kept = list(range(old.num_heads))
    new = HeadAttention(q, k, v, out, kept, old.num_heads, old.dropout, old.batch_first)
    # A stack of encoder layers would hand over nested tensors, which only PyTorch's own attention takes.
    for name, stack in model.named_modules():
        if isinstance(stack, nn.TransformerEncoder) and path.startswith(f"{name}." if name else ""):
            stack.enable_nested_tensor = stack.use_nested_tensor = False
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new.train(old.training))


def scale_counts(holder: nn.Module, left: int, heads: int) -> None:
    """Make what a module remembers of its heads true again, after all but ``left`` are gone."""
    for name in (*HEAD_COUNTS, *_WIDTHS):
        count = getattr(holder, name, None)
        if isinstance(count, int):
            setattr(holder, name, count * left // heads)
    if own_counts(holder):
        return
    # All that is known is what a configuration says of all layers, and this one differs from it now.
    for names in COUNTS:
        for name, count in named_counts(holder, names).items():
            if name.startswith(CONFIG):
                setattr(holder, name.removeprefix(CONFIG), count * left // heads)
