"""Norms of layers as operators, against the singular values of the matrix that is made column by column."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robust_lowrank import adapt
from robust_lowrank.compression import compress
from robust_lowrank.conditioning import spectra
from robust_lowrank.conditioning.operators import circular_singular_values, conv_bound, conv_norm, convolution, operators
from robust_lowrank.conditioning.operators.convolution import apply, apply_adjoint
from robust_lowrank.conditioning.operators.symbol import fourier_bound
from robust_lowrank.errors import UserError
from robust_lowrank.methods import METHODS
from robust_lowrank.records import OPERATORS

SHAPES = {
    "plain": ({"kernel_size": 3}, (6, 6)),
    "same": ({"kernel_size": 3, "padding": 1}, (6, 5)),
    "wide padding": ({"kernel_size": 2, "padding": 3}, (4, 5)),
    "stride": ({"kernel_size": 3, "padding": 1, "stride": 2}, (7, 6)),
    "patches": ({"kernel_size": 2, "stride": 2}, (6, 7)),
    "gaps": ({"kernel_size": 2, "stride": 3, "padding": 1}, (7, 8)),
    "dilation": ({"kernel_size": 3, "padding": 2, "dilation": 2}, (7, 6)),
    "rectangle": ({"kernel_size": (1, 5), "padding": (0, 2), "stride": (2, 1), "dilation": (3, 1)}, (5, 9)),
    "even, same": ({"kernel_size": (4, 2), "padding": "same", "dilation": (1, 2)}, (5, 6)),
    "groups": ({"kernel_size": 3, "padding": 1, "groups": 2, "stride": 2}, (5, 6)),
    "larger than the image": ({"kernel_size": 5, "padding": 2}, (3, 2)),
}
LOOSE = {"patches": 1 + 1e-8, "larger than the image": 2}


def matrix_of(layer: nn.Module, channels: int, size: tuple[int, int]) -> Tensor:
    """Return the layer as a matrix: what it makes of every unit image."""
    basis = torch.eye(channels * math.prod(size), dtype=torch.float64).reshape(-1, channels, *size)
    with torch.no_grad():
        return (layer(basis) - layer(torch.zeros_like(basis[:1]))).flatten(1).T


def norm_of(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix.detach(), 2))


def conv(options: dict[str, Any]) -> nn.Conv2d:
    return nn.Conv2d(4, 6, **options, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", SHAPES)
def test_the_norm_is_that_of_the_matrix_and_the_bound_is_above_it(name: str) -> None:
    options, size = SHAPES[name]
    layer = conv(options)
    norm = norm_of(matrix_of(layer, 4, size))
    estimate = conv_norm(layer, size, tolerance=1e-9, steps=200)
    assert estimate.value == pytest.approx(norm, rel=1e-6)
    assert estimate.value <= norm * (1 + 1e-12)
    assert estimate.residual < 1e-8
    assert norm <= conv_bound(layer, size) == pytest.approx(norm, rel=1e-8)
    assert norm <= fourier_bound(convolution(layer), size) <= LOOSE.get(name, 1.6) * norm


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", SHAPES)
def test_the_adjoint_is_the_transposed_matrix(name: str) -> None:
    options, size = SHAPES[name]
    layer = conv(options)
    matrix, operator = matrix_of(layer, 4, size), convolution(layer)
    x = torch.randn(1, 4, *size, dtype=torch.float64)
    y = apply(operator, x)
    torch.testing.assert_close(y.flatten(), matrix @ x.flatten())
    torch.testing.assert_close(apply_adjoint(operator, y, size).flatten(), matrix.T @ y.flatten())


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(kernel=pairs, stride=pairs, dilation=pairs, padding=st.tuples(st.integers(0, 4), st.integers(0, 4)), seed=st.integers(0, 99))
@pytest.mark.parametrize("smooth", [False, True])
def test_the_bound_is_never_below_the_norm(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    seed: int,
    smooth: bool,
) -> None:
    torch.manual_seed(seed)
    size = (int(torch.randint(1, 7, ())), int(torch.randint(1, 7, ())))
    assume(all(s + 2 * p > d * (k - 1) for s, p, d, k in zip(size, padding, dilation, kernel, strict=True)))
    layer = nn.Conv2d(2, 3, kernel, stride, padding, dilation, dtype=torch.float64)
    if smooth:
        layer.weight.data.abs_()
    norm = norm_of(matrix_of(layer, 2, size))
    assert norm <= fourier_bound(convolution(layer), size)
    assert conv_norm(layer, size).value <= norm * (1 + 1e-12) <= conv_bound(layer, size)


def test_the_bound_is_tight_on_large_images() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    norm = norm_of(matrix_of(layer, 2, (20, 20)))
    assert norm <= fourier_bound(convolution(layer), (20, 20)) <= 1.02 * norm


def test_without_aliasing_a_strided_bound_would_be_looser() -> None:
    layer = nn.Conv2d(3, 5, 3, 2, 1, dtype=torch.float64)
    unstrided = nn.Conv2d(3, 5, 3, 1, 1, dtype=torch.float64)
    unstrided.weight = layer.weight
    assert fourier_bound(convolution(layer), (8, 8)) < 0.9 * fourier_bound(convolution(unstrided), (8, 8))


def test_circular_singular_values_are_those_of_the_periodic_matrix() -> None:
    layer = nn.Conv2d(2, 3, (3, 5), padding=(1, 2), padding_mode="circular", dtype=torch.float64)
    wanted = torch.linalg.svdvals(matrix_of(layer, 2, (4, 6)))
    plain = nn.Conv2d(2, 3, (3, 5), padding=(1, 2), dtype=torch.float64)
    plain.weight = layer.weight
    torch.testing.assert_close(circular_singular_values(plain, (4, 6)), wanted)


@pytest.mark.parametrize("method", METHODS)
def test_factored_layers_have_the_norms_of_their_forward(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(54, 12)).double()
    compress(model, method=method, rank=0.5 if METHODS[method].ranked else None)
    for parameter in model.parameters():  # factors that no step has brought back
        parameter.data += 0.05 * torch.randn_like(parameter)
    conv, linear = model[0], model[2]
    scale = torch.rand(6, dtype=torch.float64)
    matrix = matrix_of(conv, 3, (6, 6))
    assert conv_norm(conv, (6, 6)).value == pytest.approx(norm_of(matrix), rel=1e-6)
    folded = scale.repeat_interleave(9)[:, None] * matrix
    assert conv_norm(convolution(conv, scale=scale), (6, 6)).value == pytest.approx(norm_of(folded), rel=1e-6)
    dense = norm_of(linear.dense_weight())
    assert dense <= conv_bound(linear, (1, 1)) == pytest.approx(dense, rel=1e-8)
    top = circular_singular_values(conv, (6, 6))
    whole = nn.Conv2d(3, 6, 3, padding=1, dtype=torch.float64)
    whole.weight.data = conv.dense_weight()
    torch.testing.assert_close(top, circular_singular_values(whole, (6, 6))[: len(top)])


def test_adapters_and_scales_of_dense_layers() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3)).double()
    adapt(model, method="lora", rank=2)
    for parameter in model.parameters():
        parameter.data += 0.1
    scale = torch.tensor([1.0, -2.0, 0.0, 3.0, 1.0, 1.0], dtype=torch.float64)
    matrix = scale.repeat_interleave(9)[:, None] * matrix_of(model, 3, (5, 5))
    assert conv_norm(convolution(model[0], scale=scale), (5, 5)).value == pytest.approx(norm_of(matrix), rel=1e-6)


def test_a_zero_layer_has_norm_zero() -> None:
    layer = nn.Conv2d(1, 1, 3)
    layer.weight.data.zero_()
    assert conv_norm(layer, (4, 4)) == (0.0, 0.0, 1)
    assert conv_bound(layer, (4, 4)) == 0


def test_other_paddings_and_broken_weights_are_refused() -> None:
    with pytest.raises(UserError, match="'reflect'"):
        convolution(nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"))
    layer = nn.Conv2d(1, 1, 3)
    layer.weight.data[0] = math.nan
    with pytest.raises(UserError, match="NaN"):
        convolution(layer)


def test_the_table_has_every_layer_as_it_is_reached() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.Flatten(), nn.Linear(36, 5)
    ).double()
    norm = model[1]
    norm.weight.data.uniform_(0.5, 2)
    norm.running_var.uniform_(0.5, 2)
    compress(model, method="condlr", rank=2, exclude=["0"])
    frame = operators(model, (2, 6, 6)).set_index("layer")
    assert tuple(frame.reset_index().columns) == OPERATORS
    assert frame.index.tolist() == ["0", "3", "5"]
    assert frame["kind"].tolist() == ["conv", "conv", "linear"]
    assert frame[["height", "width"]].to_numpy().tolist() == [[6, 6], [6, 6], [1, 1]]
    matrices = {"0": matrix_of(model[0], 2, (6, 6)), "3": matrix_of(model[3], 4, (6, 6)), "5": model[5].dense_weight()}
    for name, matrix in matrices.items():
        assert frame.loc[name, "operator_norm"] == pytest.approx(norm_of(matrix), rel=1e-6)
        assert norm_of(matrix) <= frame.loc[name, "operator_bound"] == pytest.approx(norm_of(matrix), rel=1e-8)
    assert frame["sigma_max"].tolist() == pytest.approx(spectra(model)["sigma_max"].tolist())
    folded = norm_of(matrix_of(model[:2].eval(), 2, (6, 6)))
    assert frame.loc["0", "folded_bound"] == pytest.approx(folded, rel=1e-8)
    assert frame["contribution"].tolist() == pytest.approx([math.log10(value) for value in frame["folded_bound"]])
    assert frame.loc["5", "circular_min"] == pytest.approx(float(model[5].singular_values()[-1]))
    assert model[0]._forward_hooks == {}


def test_parametrized_layers_have_norms():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(32, 4))
    ).eval()
    assert operators(model, (1, 4, 4))["operator_norm"].iloc[1] == pytest.approx(1, abs=0.2)


def test_geometry_is_that_which_forward_uses() -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    layer.padding, layer.dilation = (2, 2), (2, 2)  # as networks for segmentation widen what they loaded
    frame = operators(nn.Sequential(layer), (2, 7, 7))
    assert frame.loc[0, "operator_norm"] == pytest.approx(norm_of(matrix_of(layer, 2, (7, 7))), rel=1e-6)
    layer.padding = "valid"
    assert convolution(layer).padding == (0, 0, 0, 0)


def test_one_position_meets_one_tap() -> None:
    layer = nn.Conv2d(300, 20, 3, padding=1, dtype=torch.float64)
    assert conv_bound(layer, (1, 1)) == pytest.approx(norm_of(layer.weight[:, :, 1, 1]), rel=1e-8)


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_norms_survive_tiny_and_huge_weights(size: float) -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    before = conv_bound(layer, (9, 9))
    layer.weight.data *= size
    assert conv_bound(layer, (9, 9)) == pytest.approx(size * before, rel=1e-12)
