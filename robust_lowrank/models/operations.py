"""The operations of exported programs that compute with tensors and do nothing else: no files, and no code."""

import re

import torch
from torch import nn

_TENSORS = """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata _cdist_forward _conj
    _conj_physical _convolution _local_scalar_dense _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training
    _pdist_forward _scaled_dot_product_attention_math _softmax _to_copy _unsafe_view _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _weight_norm _weight_norm_interface abs abs_ absolute acos acosh adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d add add_ addbmm addcdiv
    addcdiv_ addcmul addcmul_ addmm addmv addr alias all alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin
    arcsinh arctan arctan2 arctanh argmax argmin argsort asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d
    avg_pool2d avg_pool3d baddbmm batch_norm bernoulli bilinear bitwise_and bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor block_diag bmm broadcast_tensors broadcast_to bucketize cat cdist ceil ceil_ celu celu_
    chain_matmul channel_shuffle chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clip clip_ clone col2im column_stack
    complex concat concatenate conj conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution copy copy_ copysign cos cos_ cosh cosine_similarity count_nonzero cross cummax
    cummin cumprod cumsum deg2rad detach detach_ diag diag_embed diagonal diagonal_scatter diff digamma dist div div_ divide dot
    dropout dropout_ dsplit dstack einsum elu elu_ embedding embedding_bag empty empty_like eq equal erf erfc erfinv exp exp2
    exp_ expand expand_as expm1 eye feature_alpha_dropout feature_dropout fft_fft fft_fft2 fft_fftfreq fft_fftn fft_fftshift
    fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill
    fill_ flatten flip fliplr flipud float_power floor floor_ floor_divide fmax fmin fmod frac frobenius_norm full full_like
    gather ge gelu gelu_ glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gt hamming_window
    hann_window hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ hsplit hstack huber_loss hypot
    im2col imag index index_add index_add_ index_copy index_fill index_put index_put_ index_select inner instance_norm inverse
    is_nonzero isclose isfinite isin isinf isnan isneginf isposinf item kron layer_norm le leaky_relu leaky_relu_ lerp less
    less_equal lgamma lift_fresh lift_fresh_copy linalg_cholesky linalg_cross linalg_det linalg_inv linalg_matmul
    linalg_matrix_norm linalg_multi_dot linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve linalg_svd linalg_svdvals
    linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2 log_ log_sigmoid log_softmax logaddexp logaddexp2
    logcumsumexp logical_and logical_not logical_or logical_xor logit logspace logsumexp lstm lt masked_fill masked_fill_
    masked_scatter masked_select matmul max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
    max_pool3d_with_indices maximum mean median meshgrid min minimum mish mish_ mm mode moveaxis movedim mse_loss mul mul_
    multiply mv nan_to_num nan_to_num_ nanmean nansum narrow narrow_copy native_batch_norm native_dropout native_group_norm
    native_layer_norm ne neg neg_ negative new_empty new_empty_strided new_full new_ones new_zeros nonzero norm normal normal_
    not_equal nuclear_norm numpy_T one_hot ones ones_like outer pad pairwise_distance permute pinverse pixel_shuffle
    pixel_unshuffle polar positive pow pow_ prelu prod rad2deg rand rand_like randint randint_like randn randn_like randperm
    ravel real reciprocal reciprocal_ reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 relu6_ relu_ remainder
    renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj
    resolve_neg rms_norm rnn_relu rnn_tanh roll rot90 round round_ rrelu rsqrt rsqrt_ rsub scalar_tensor
    scaled_dot_product_attention scatter scatter_ scatter_add scatter_add_ scatter_reduce searchsorted select select_copy
    select_scatter selu selu_ sgn sigmoid sigmoid_ sign signbit silu silu_ sin sin_ sinc sinh size slice slice_copy
    slice_scatter softmax softplus softshrink sort special_erf special_expit special_log_softmax special_logsumexp
    special_softmax split split_copy split_with_sizes split_with_sizes_copy sqrt sqrt_ square square_ squeeze squeeze_
    squeeze_copy stack std std_mean stft sub sub_ subtract sum sum_to_size svd swapaxes swapdims sym_constrain_range
    sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride t t_ take take_along_dim tan
    tanh tanh_ tensor_split tensordot threshold threshold_ tile to topk trace transpose transpose_ trapezoid tril tril_indices
    triu triu_indices true_divide trunc trunc_ type_as unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes
    unsqueeze unsqueeze_ unsqueeze_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean vdot view view_as view_as_complex
    view_as_complex_copy view_as_real view_as_real_copy view_copy vsplit vstack where xlogy zero_ zeros zeros_like
"""
_SIZES = """
    _operator.add _operator.and_ _operator.eq _operator.floordiv _operator.ge _operator.getitem _operator.gt _operator.le
    _operator.lt _operator.mod _operator.mul _operator.ne _operator.neg _operator.or_ _operator.pos _operator.sub
    _operator.truediv math.ceil math.floor math.trunc torch.sym_float torch.sym_int torch.sym_ite torch.sym_max torch.sym_min
    torch.sym_not
"""
ATEN = frozenset(_TENSORS.split())
PYTHON = frozenset(_SIZES.split())
AROUND = frozenset(("torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.ops.higher_order.wrap_with_autocast"))
NAMED = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)", re.ASCII)


def is_known(target: str) -> bool:
    """Return whether an operation of an exported program, by its name there, computes with tensors and does nothing else.

    Example:
        >>> is_known("torch.ops.aten.conv2d.default"), is_known("torch.ops.aten.from_file.default"), is_known("torch.hub.load")
        (True, False, False)
    """
    if target in PYTHON or target in AROUND:
        return True
    named = NAMED.fullmatch(target)
    if named is None or named[1] not in ATEN:
        return False
    overloads = getattr(torch.ops.aten, named[1], None)
    return overloads is not None and named[2] in overloads.overloads()


def unknown_operations(program: nn.Module) -> list[str]:
    """Return the names of a traced network's operations that are not known, in order."""
    graphs = [module.graph for module in program.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = {node.target for graph in graphs for node in graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    return sorted(str(target) for target in targets if not is_known(f"torch.ops.{target}"))
