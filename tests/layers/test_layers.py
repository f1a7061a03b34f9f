"""Factored layers against dense ones with the merged weight, and the gradient identities."""

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import TDLRT, Rank, linalg
from robust_lowrank.compression import compress
from robust_lowrank.layers import FactoredLayer, LowRankLinear, TuckerConv2d
from robust_lowrank.layers.functional import FEW_PIXELS, pointwise_weight_gradient
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import Method
from tests.methods.catalogue import NAMES

CONVOLUTIONS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "stride": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 2},
    "no bias": {"kernel_size": 3, "bias": False},
    "1x1": {"kernel_size": 1},
    "rectangular": {"kernel_size": (3, 2), "stride": (1, 2), "padding": (0, 1)},
    "same": {"kernel_size": 3, "padding": "same"},
    "valid": {"kernel_size": 2, "padding": "valid"},
}
METHODS = [*NAMES, "usv"]
KERNEL_METHODS = {**{name: name for name in METHODS}, "tdlrt all": TDLRT(modes="all")}
each_kernel_method = pytest.mark.parametrize("method", KERNEL_METHODS.values(), ids=KERNEL_METHODS)


def factored(layer: nn.Module, method: str | Method, rank: float = 0.6) -> FactoredLayer:
    net = nn.Sequential(layer)
    compress(net, method=method, rank=Rank(overrides={"0": rank}))  # asked for by name, also where factors grow
    assert isinstance(net[0], FactoredLayer)
    return net[0]


def with_full_core(layer: FactoredLayer) -> FactoredLayer:
    """Give the core random entries, so that nothing hides behind a diagonal."""
    if layer.bases():
        layer.core.data = torch.randn_like(layer.core)
    return layer


def outcomes(layer: nn.Module, x: Tensor, delta: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the output, the gradient of the input and the upstream gradient."""
    x = x.clone().requires_grad_()
    y = layer(x)
    delta = torch.randn_like(y) if delta is None else delta
    y.backward(delta)
    assert x.grad is not None
    return y, x.grad, delta


def relative(a: Tensor, b: Tensor) -> float:
    return float(torch.dist(a.detach(), b.detach()) / (b.detach().norm() + 1e-30))


def check_identities(layer: FactoredLayer, g: Tensor, tolerance: float) -> None:
    """Compare the gradients in the factors' slots with those computed from G."""
    if isinstance(layer, TuckerConv2d):
        turned = [basis.T for basis in layer.bases()]
        assert relative(layer.C.grad, linalg.multi_product(g, turned)) < tolerance
        for mode, basis in enumerate(layer.bases()):
            h = g
            for other, matrix in enumerate(turned):
                h = h if other == mode else linalg.mode_product(h, matrix, other)
            h = linalg.unfold(h, mode)
            q, r = torch.linalg.qr(linalg.unfold(layer.C, mode).T)
            assert relative(basis.grad, h @ q) < tolerance
            g_basis = h @ linalg.unfold(layer.C, mode).T
            assert relative(basis.grad @ r, g_basis) < tolerance  # T23: g_i = dL/dK_i S_i^T
    elif layer.bases():
        u, v = layer.bases()
        g = g.flatten(1)
        for got, expected in ((u.grad, g @ v), (layer.core.grad, u.T @ g @ v), (v.grad, g.T @ u)):
            assert relative(got, expected) < tolerance


@pytest.mark.sampled(4)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(7, 6), (2, 3, 6), (6,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_T19_T20_linear_equals_dense(method: str, shape: tuple[int, ...], bias: bool, precision, device) -> None:
    layer = with_full_core(factored(nn.Linear(6, 9, bias=bias).to(device, precision.dtype), method))
    dense = layer.dense_layer()
    x = torch.randn(*shape, dtype=precision.dtype, device=device)
    y, dx, delta = outcomes(layer, x)
    y_dense, dx_dense, _ = outcomes(dense, x, delta)
    assert relative(y, y_dense) < precision.loose
    assert relative(dx, dx_dense) < precision.loose
    assert bias == (layer.bias is not None)
    if layer.bias is not None:
        assert relative(layer.bias.grad, dense.bias.grad) < precision.loose
    check_identities(layer, dense.weight.grad, precision.loose)


@pytest.mark.sampled(4)
@each_kernel_method
@pytest.mark.parametrize("options", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_T19_T20_convolution_equals_dense(method: str | Method, options: dict, precision, device) -> None:
    layer = with_full_core(factored(nn.Conv2d(4, 6, **options).to(device, precision.dtype), method))
    dense = layer.dense_layer()
    x = torch.randn(3, 4, 7, 8, dtype=precision.dtype, device=device)
    y, dx, delta = outcomes(layer, x)
    y_dense, dx_dense, _ = outcomes(dense, x, delta)
    assert relative(y, y_dense) < precision.loose
    assert relative(dx, dx_dense) < precision.loose
    if layer.bias is not None:
        assert relative(layer.bias.grad, dense.bias.grad) < precision.loose
    check_identities(layer, dense.weight.grad, precision.loose)


def test_T20_gradients_of_a_zero_core() -> None:
    bases = tuple(linalg.orth(torch.randn(n, 3, dtype=torch.float64)) for n in (5, 4))
    layer = LowRankLinear(Factors(torch.zeros(3, 3, dtype=torch.float64), bases))
    dense = layer.dense_layer()
    x = torch.randn(2, 4, dtype=torch.float64)
    _, _, delta = outcomes(layer, x)
    outcomes(dense, x, delta)
    check_identities(layer, dense.weight.grad, 1e-12)
    assert layer.U.grad.norm() > 0


@each_kernel_method
@pytest.mark.parametrize("form", ["dense_layer", "factored_layers"])
def test_plain_layers_compute_the_same(method: str | Method, form: str) -> None:
    linear = (nn.Linear(6, 5), torch.randn(3, 6))
    conv = (nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.randn(2, 3, 6, 6))
    for dense, x in (linear, conv) if isinstance(method, str) else (conv,):
        layer = with_full_core(factored(dense, method))
        plain = getattr(layer, form)()
        assert relative(plain(x), layer(x)) < 1e-5
        assert not any(isinstance(module, FactoredLayer) for module in plain.modules())


@pytest.mark.parametrize("method", METHODS)
def test_singular_values_are_those_of_the_weight(method: str) -> None:
    for dense in (nn.Linear(6, 9).double(), nn.Conv2d(4, 6, 3).double()):
        layer = with_full_core(factored(dense, method))
        expected = torch.linalg.svdvals(layer.dense_weight().flatten(1))[: layer.rank]
        assert torch.dist(layer.singular_values(), expected) < 1e-10


def test_a_rank_change_survives_graphs_of_the_old_rank() -> None:
    layer = factored(nn.Linear(8, 8), "geolora", 0.25)
    x = torch.randn(4, 8)
    held = layer(x).sum()
    held.backward()
    layer.set_factors(Factors(torch.randn(5, 5), (torch.randn(8, 5), torch.randn(8, 5))))
    layer.U.grad = layer.S.grad = layer.V.grad = None
    layer(x).sum().backward()
    assert layer.S.grad.shape == (5, 5)
    assert held.requires_grad


def test_autocast_runs_in_short_precision_and_keeps_factors_long() -> None:
    for dense, x in ((nn.Linear(6, 5), torch.randn(3, 6)), (nn.Conv2d(3, 8, 3), torch.randn(2, 3, 6, 6))):
        for method in METHODS:
            layer = factored(dense, method)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                y = layer(x)
            assert y.dtype == torch.bfloat16
            y.float().square().sum().backward()
            assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())


def test_nothing_is_computed_for_factors_that_need_no_gradient(device) -> None:
    layer = factored(nn.Conv2d(4, 6, 3).to(device), "tdlrt").requires_grad_(False)
    x = torch.randn(2, 4, 6, 6, device=device, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in layer.parameters())


@each_kernel_method
def test_strided_pointwise_kernels_are_laid_out_soundly(method: str | Method) -> None:
    """Channels-last images and a strided 1 x 1 kernel are where oneDNN's weight gradient writes out of bounds."""
    layer = factored(nn.Conv2d(2, 4, 1, stride=2, bias=False), method, 1.0)
    dense = layer.dense_layer()
    x = torch.randn(4, 2, 8, 6).contiguous(memory_format=torch.channels_last)
    for _ in range(50):
        layer.zero_grad()
        _, _, delta = outcomes(layer, x)
    outcomes(dense, x.contiguous(), delta.contiguous())
    check_identities(layer, dense.weight.grad, 1e-4)
    assert all(p.stride() == torch.empty(p.shape).stride() for p in layer.parameters())


def test_values_are_taken_up_without_a_copy_unless_they_are_parts_or_turned() -> None:
    parameter, value = nn.Parameter(torch.zeros(3, 2)), torch.randn(4, 3)
    FactoredLayer.take_value(parameter, value)
    assert parameter.data_ptr() == value.data_ptr() and parameter.shape == (4, 3)
    for part in (value[:2], value.T):
        FactoredLayer.take_value(parameter, part)
        assert parameter.equal(part) and parameter.is_contiguous() and parameter.data_ptr() != value.data_ptr()
        assert parameter.untyped_storage().nbytes() == part.nbytes


@pytest.mark.parametrize("pixels", [1, FEW_PIXELS, FEW_PIXELS + 1])
def test_the_gradient_of_a_pointwise_kernel_is_that_of_autograd(pixels: int) -> None:
    x, delta = torch.randn(5, 4, pixels, 1, dtype=torch.float64), torch.randn(5, 3, pixels, 1, dtype=torch.float64)
    kernel = torch.randn(3, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    nn.functional.conv2d(x, kernel).backward(delta)
    assert float((pointwise_weight_gradient(delta, x) - kernel.grad[:, :, 0, 0]).abs().max()) < 1e-12
