"""What PyTorch's operations do with channels, as the tracer needs it. Those in no table may mix them."""

from __future__ import annotations

__all__ = [
    "ALONG", "BATCH_NORMS", "FACTORIES", "IGNORED", "JOINS", "MOVES", "PLACES", "POINTWISE", "REDUCTIONS",
    "SCALED", "UNIFORM",
]  # fmt: skip


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Each element of the result is one of the input, or zero.
MOVES = _names(
    """
    _reshape_alias _reshape_copy _to_copy _unsafe_view alias as_strided_copy channel_shuffle chunk clone
    constant_pad_nd contiguous detach diagonal expand expand_copy flip gather im2col index index_select
    lift lift_fresh lift_fresh_copy movedim narrow native_channel_shuffle permute pixel_shuffle
    pixel_unshuffle reflection_pad1d reflection_pad2d reflection_pad3d repeat replication_pad1d
    replication_pad2d replication_pad3d reshape roll rot90 select slice slice_copy split
    split_with_sizes squeeze t take_along_dim tile transpose tril triu unbind unfold unsafe_chunk
    unsafe_split unsafe_split_with_sizes unsafe_view unsqueeze view view_copy
    """
)
#: The same from several inputs.
JOINS = _names(
    """
    cat concat hstack stack vstack
    """
)
#: Element by element, besides the operations that PyTorch tags so.
POINTWISE = _names(
    """
    _prelu_kernel celu celu_ hardswish hardswish_ hardtanh hardtanh_ masked_fill mish mish_ nan_to_num
    relu6 where
    """
)
#: Sums and the like along `dim`.
REDUCTIONS = _names(
    """
    all amax amin any argmax argmin count_nonzero kthvalue linalg_vector_norm logsumexp max mean median
    min mode nanmedian nansum norm prod std std_mean sum var var_mean
    """
)
#: What keeps the shape but computes along `dim`.
ALONG = _names(
    """
    _log_softmax _safe_softmax _softmax argsort cummax cummin cumprod cumsum glu log_softmax
    logcumsumexp softmax sort
    """
)
#: Norms of each channel by itself.
BATCH_NORMS = _names(
    """
    _batch_norm_no_update _batch_norm_with_update _native_batch_norm_legit
    _native_batch_norm_legit_no_training cudnn_batch_norm native_batch_norm
    """
)
#: Operations with whole numbers that are values.
SCALED = _names(
    """
    add clamp clamp_max clamp_min div fill mul pow rsub sub
    """
)
#: Tensors with one value, made from a shape or a relative alone.
UNIFORM = _names(
    """
    empty empty_like empty_strided full full_like new_empty new_empty_strided new_full new_ones
    new_zeros ones ones_like scalar_tensor zeros zeros_like
    """
)
#: Other tensors that are made from a shape or a relative alone, and random ones.
FACTORIES = _names(
    """
    arange bernoulli_ cauchy_ exponential_ eye geometric_ linspace log_normal_ logspace normal_ rand
    rand_like randint randint_like randn randn_like random_ randperm tril_indices triu_indices uniform_
    """
)
#: What reads a tensor as a number, or checks it.
IGNORED = _names(
    """
    _assert_async _assert_scalar _local_scalar_dense equal is_same_size size sym_size
    """
)
#: Pooling and resizing: each channel by itself; the number is how many last axes are places.
PLACES = {
    "max_pool2d_with_indices": 2, "max_pool3d_with_indices": 3, "avg_pool2d": 2, "avg_pool3d": 3,
    "avg_pool1d": 1, "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3, "adaptive_max_pool2d": 2,
    "adaptive_max_pool3d": 3, "adaptive_avg_pool1d": 1, "upsample_nearest1d": 1, "upsample_nearest2d": 2,
    "upsample_nearest3d": 3, "upsample_linear1d": 1, "upsample_bilinear2d": 2, "upsample_trilinear3d": 3,
    "upsample_bicubic2d": 2, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2,
    "_upsample_nearest_exact1d": 1, "_upsample_nearest_exact2d": 2,
}  # fmt: skip
