"""Rules bound how calls of torch change distances, each a function of its arguments' constants; what has no rule is not bounded."""

import torch

from robust_lowrank.conditioning import constants
from robust_lowrank.conditioning.rules import elementwise, linear, moving, pooling
from robust_lowrank.conditioning.rules.call import Rule

EXACT_TYPES = (None, torch.float32, torch.float64)  # to which nothing rounds, in a network that stores float32
_GROUPS: list[tuple[Rule, str]] = [
    (
        elementwise.slope(1.0),
        "relu relu6 hardtanh tanh abs neg positive sin cos atan log_sigmoid clamp clamp_min clamp_max to.dtype _to_copy "
        "to.dtype_layout detach clone alias contiguous clip lift_fresh_copy logsumexp amax amin max min max.dim min.dim",
    ),
    (elementwise.limited, "clamp.Tensor clamp_min.Tensor clamp_max.Tensor clip.Tensor"),
    (elementwise.slope(0.25), "sigmoid special_expit"),
    (elementwise.slope(0.5), "softmax.int _softmax"),
    (elementwise.slope(constants.HARDSIGMOID), "hardsigmoid"),
    (elementwise.slope(constants.GELU), "gelu"),
    (elementwise.slope(constants.SILU), "silu"),
    (elementwise.slope(constants.MISH), "mish"),
    (elementwise.slope(constants.SELU), "selu"),
    (elementwise.slope(constants.ERF), "erf special_erf"),
    (elementwise.slope(constants.HARDSWISH), "hardswish"),
    (elementwise.log_softmax, "log_softmax.int _log_softmax"),
    (elementwise.leaky, "leaky_relu"),
    (elementwise.rrelu, "rrelu"),
    (elementwise.elu, "elu"),
    (elementwise.celu, "celu"),
    (elementwise.softplus, "softplus"),
    (elementwise.prelu, "prelu _prelu_kernel"),
    (elementwise.sum_of_two, "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Tensor rsub.Scalar subtract.Tensor subtract.Scalar"),
    (elementwise.extreme_of_two, "maximum minimum max.other min.other fmax fmin"),
    (elementwise.product_of_two, "mul.Tensor mul.Scalar multiply.Tensor multiply.Scalar"),
    (
        elementwise.quotient,
        "div.Tensor div.Scalar div.Tensor_mode div.Scalar_mode true_divide.Tensor true_divide.Scalar divide.Tensor divide.Scalar",
    ),
    (elementwise.mean_of_entries, "mean mean.dim"),
    (elementwise.sum_of_entries, "sum sum.dim_IntList"),
    (elementwise.euclidean, "linalg_vector_norm norm.ScalarOpt_dim norm.Scalar linalg_norm linalg_matrix_norm.str_ord"),
    (elementwise.dropout, "dropout feature_dropout alpha_dropout feature_alpha_dropout"),
    (pooling.mean_pool(1), "avg_pool1d"),
    (pooling.mean_pool(2), "avg_pool2d"),
    (pooling.max_pool(1), "max_pool1d max_pool1d_with_indices"),
    (pooling.max_pool(2), "max_pool2d max_pool2d_with_indices"),
    (pooling.adaptive_pool(1, constants.adaptive_mean_norm), "adaptive_avg_pool1d"),
    (pooling.adaptive_pool(2, constants.adaptive_mean_norm), "adaptive_avg_pool2d _adaptive_avg_pool2d"),
    (pooling.adaptive_pool(1, constants.adaptive_maximum_norm), "adaptive_max_pool1d"),
    (pooling.adaptive_pool(2, constants.adaptive_maximum_norm), "adaptive_max_pool2d"),
    (linear.matmul, "matmul mm bmm addmm mv dot"),
    (linear.linear, "linear"),
    (linear.convolution, "conv1d conv1d.padding conv2d conv2d.padding"),
    (linear.transposed, "conv_transpose1d conv_transpose2d.input"),
    (
        linear.normalisation,
        "batch_norm native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit.no_stats",
    ),
    (
        moving.moved,
        "view reshape _unsafe_view _reshape_copy view_copy flatten.using_ints unflatten.int squeeze squeeze.dim "
        "squeeze.dims unsqueeze permute transpose.int t numpy_T swapaxes movedim.int movedim.intlist expand expand_as "
        "expand_copy repeat tile repeat_interleave.self_int select.int slice.Tensor narrow index.Tensor index_select "
        "gather take_along_dim diagonal tril triu flip roll rot90 unbind.int split.Tensor split_with_sizes chunk "
        "tensor_split.sections tensor_split.indices cat stack constant_pad_nd pad reflection_pad1d reflection_pad2d "
        "replication_pad1d replication_pad2d pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle "
        "upsample_nearest1d upsample_nearest2d upsample_nearest1d.vec upsample_nearest2d.vec "
        "_upsample_nearest_exact1d.vec _upsample_nearest_exact2d.vec unfold im2col copy slice_scatter select_scatter "
        "diagonal_scatter scatter.src scatter.value index_put index_copy masked_fill.Scalar fill.Tensor zero concat "
        "concatenate hstack dstack column_stack fliplr flipud take type_as masked_fill.Tensor where.self "
        "where.ScalarOther where.ScalarSelf fill.Scalar",
    ),
]
RULES: dict[str, Rule] = {
    f"aten.{name}" if "." in name else f"aten.{name}.default": rule for rule, names in _GROUPS for name in names.split()
}
VALUES_AND_INDICES = frozenset(
    f"aten.{name}"
    for name in [
        "max.dim",
        "min.dim",
        "max_pool2d_with_indices.default",
        "max_pool1d_with_indices.default",
        "adaptive_max_pool1d.default",
        "adaptive_max_pool2d.default",
        "_native_batch_norm_legit_no_training.default",
    ]
)
SHAPE_ONLY = frozenset(
    f"aten.{name}.default"
    for name in ["zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"]
)  # of their argument's values nothing is left
LINEAR = frozenset(
    f"aten.{name}" for name in ["linear.default", "conv1d.default", "conv1d.padding", "conv2d.default", "conv2d.padding"]
)
NORMALISATION = frozenset({"aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default"})
