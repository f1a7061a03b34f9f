"""Matrices that are bounded together are never steeper than that, and never bounded worse than one by one."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import LowRankOptimizer, compress, data
from robust_lowrank.conditioning import certified_curve, certify, lipschitz
from robust_lowrank.conditioning.chains import Chain, steepness
from robust_lowrank.layers import ChainLayer

DIGITS = data.load("digits")


def perceptron(*sizes: int, bend: type[nn.Module] = nn.ReLU, norm: bool = False, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for n, m in zip(sizes[1:], sizes[:-1], strict=True):
        layers += [nn.Linear(m, n), *([nn.BatchNorm1d(n)] if norm else []), bend()]
    network = nn.Sequential(*layers[:-1]).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.uniform_(0.3, 2)
            module.weight.data.uniform_(-2, 2)
    return network.double()


def weights_of(network: nn.Module) -> tuple[Tensor, ...]:
    return tuple(each.weight.detach() for each in network.modules() if isinstance(each, nn.Linear))


def one_by_one(weights: tuple[Tensor, ...]) -> Tensor:
    return math.prod(float(torch.linalg.matrix_norm(each, 2)) for each in weights[:-1]) * torch.cdist(weights[-1], weights[-1])


def steepest(network: nn.Module, size: int, points: int = 200) -> Tensor:
    """Return how fast differences of logits change where that has been looked for: along gradients, uphill."""
    classes = network(torch.zeros(1, size).double()).shape[1]
    found = torch.zeros(classes, classes, dtype=torch.float64)
    for y in range(classes):
        for j in range(y):
            x = (3 * torch.randn(points, size)).double().requires_grad_()
            for _ in range(10):  # towards where the slope is steeper
                out = network(x)
                (slope,) = torch.autograd.grad((out[:, y] - out[:, j]).sum(), x)
                found[y, j] = found[j, y] = max(float(found[y, j]), float(slope.norm(dim=1).max()))
                x = (x + slope / slope.norm(dim=1, keepdim=True).clamp(min=1e-9)).detach().requires_grad_()
    return found


@pytest.mark.parametrize("sizes", [(6, 4), (6, 9, 3), (5, 8, 8, 3), (4, 12, 12, 12, 12, 3)])
@pytest.mark.parametrize("bend", [nn.ReLU, nn.Tanh, nn.LeakyReLU, nn.Hardtanh])
def test_nothing_is_steeper(sizes: tuple[int, ...], bend: type[nn.Module]) -> None:
    network = perceptron(*sizes, bend=bend)
    found = lipschitz(network, (sizes[0],)).steepness
    assert found is not None
    true, apart = steepest(network, sizes[0]), one_by_one(weights_of(network))
    assert (true <= found * (1 + 1e-9)).all()
    assert (found <= apart * (1 + 1e-6)).all()
    if len(sizes) > 2:
        assert float((found / apart)[~torch.eye(len(found), dtype=torch.bool)].mean()) < 0.95


@pytest.mark.parametrize("shown", [0.25, 1.0, 4.0])
def test_layers_that_stretch_apart_directions_are_bounded_exactly(shown: float) -> None:
    """One matrix doubles the first entry and the next the second: together they double, and the product of norms is four."""
    first, second = torch.diag(torch.tensor([2.0, 1.0])).double(), torch.diag(torch.tensor([1.0, 2.0])).double()
    found = steepness(Chain(shown, (first, second, torch.eye(2).double())))
    assert float(found[0, 1]) == pytest.approx(shown * math.sqrt(8), rel=0.01)
    assert float(one_by_one((first, second, torch.eye(2).double()))[0, 1]) == pytest.approx(4 * math.sqrt(2))


def test_a_single_layer_is_exact_and_two_without_a_function_between_are_one() -> None:
    a, b = torch.randn(4, 5).double(), torch.randn(3, 4).double()
    found = steepness(Chain(2.0, (a,)).then(b))
    torch.testing.assert_close(found, 2 * torch.cdist(b @ a, b @ a))
    bent = Chain(2.0, (a,)).bend().then(b)
    assert len(bent.weights) == 2 and not bent.bent


def test_batch_normalisation_counts_with_the_layer_before_it() -> None:
    network = perceptron(6, 9, 9, 3, norm=True)
    plain = perceptron(6, 9, 9, 3)
    linear = [each for each in network if isinstance(each, nn.Linear)]
    norms = [each for each in network if isinstance(each, nn.BatchNorm1d)]
    for layer, source, norm in zip([each for each in plain if isinstance(each, nn.Linear)], linear, [*norms, None], strict=False):
        scale = 1.0 if norm is None else (norm.weight / (norm.running_var + norm.eps).sqrt())[:, None]
        layer.weight.data = (source.weight * scale).detach()
    ours, theirs = lipschitz(network, (6,)).steepness, lipschitz(plain, (6,)).steepness
    assert ours is not None and theirs is not None
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_what_is_scaled_scales_with_it_and_nothing_else_matters() -> None:
    network = perceptron(5, 8, 8, 3)
    weights = weights_of(network)
    found = steepness(Chain(1.0, weights))
    scaled = steepness(Chain(1.0, (1e3 * weights[0], 1e-6 * weights[1], weights[2])))
    torch.testing.assert_close(scaled, 1e-3 * found, rtol=1e-4, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(steepness(Chain(1.0, weights)), found)


@pytest.mark.parametrize("what", ["zero", "one row", "rank one"])
def test_degenerate_matrices(what: str) -> None:
    network = perceptron(5, 8, 8, 3)
    layer = network[3]
    assert isinstance(layer, nn.Linear)
    layer.weight.data[slice(None) if what == "zero" else slice(1, None)] *= 0
    if what == "rank one":
        layer.weight.data[:] = torch.randn(8, 1).double() * torch.randn(1, 8).double()
    found = lipschitz(network, (5,)).steepness
    assert found is not None and torch.isfinite(found).all()
    assert (steepest(network, 5) <= found * (1 + 1e-9)).all()


def test_tiny_rows_are_not_taken_for_equal_ones() -> None:
    """The first layer multiplies by 1e180, the second by 1e-170, whose square float64 does not hold."""
    first, last = nn.Linear(2, 2, bias=False).double(), nn.Linear(2, 2, bias=False).double()
    first.weight.data, last.weight.data = 1e180 * torch.eye(2).double(), 1e-170 * torch.eye(2).double()
    network, x = nn.Sequential(first, nn.ReLU(), last), torch.tensor([[0.51, 0.49]]).double()
    radius = certify(network, x, torch.tensor([0]))["radius"][0]
    assert radius == pytest.approx(0.02 / math.sqrt(2), rel=1e-4)


def test_what_cancels_between_matrices_loses_no_slope() -> None:
    """The product is 2^-28 of the norms; exactly, in fractions, it is no steeper than the bound."""
    for seed in range(6):
        torch.manual_seed(seed)
        a, b, rest = torch.randn(8, 3).double(), torch.randn(2, 8).double(), torch.randn(2, 8).double()
        basis = torch.linalg.qr(a).Q
        for _ in range(2):
            b = b - (b @ basis) @ basis.T
        b = b + rest * 2.0**-28
        network = nn.Sequential(nn.Linear(3, 8, bias=False), nn.Linear(8, 2)).double()
        network[0].weight.data, network[1].weight.data, network[1].bias.data = a, b, torch.tensor([1.0, 2.0]).double()
        found = lipschitz(network, (3,)).steepness
        columns = [[Fraction(entry) for entry in column] for column in a.T.tolist()]
        row = [Fraction(y) - Fraction(j) for y, j in zip(*b.tolist(), strict=True)]
        true = math.sqrt(sum(sum(p * q for p, q in zip(row, column, strict=True)) ** 2 for column in columns))
        assert found is not None and true <= float(found[0, 1]) <= 3 * true


@pytest.fixture(scope="module", params=["dense", "condlr"])
def deep(request: pytest.FixtureRequest) -> nn.Module:
    """A perceptron of six layers, trained on the digits."""
    torch.manual_seed(0)
    network = perceptron(64, 64, 64, 64, 64, 64, 10).float()
    for module in network:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    if request.param == "condlr":
        compress(network, method="condlr", rank=0.5, exclude=["11"], init="kaiming")
    optimizer = LowRankOptimizer(network, torch.optim.SGD, lr=0.1, momentum=0.3)
    for _ in range(25):
        for x, y in zip(DIGITS.train_x.split(64), DIGITS.train_y.split(64), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x) / 2, y).backward()
            optimizer.step()
    return network.eval()


@pytest.mark.slow
def test_twice_as_much_is_certified_of_deeper_networks(deep: nn.Module) -> None:
    bound = lipschitz(deep, DIGITS.input_shape)
    weights = tuple(
        (each.dense_weight() if isinstance(each, ChainLayer) else each.weight).detach().double()
        for each in deep
        if isinstance(each, nn.Linear | ChainLayer)
    )
    x, y = DIGITS.test_x, DIGITS.test_y
    together = certify(deep, x, y, bound=bound)
    apart = certify(deep, x, y, bound=replace(bound, steepness=one_by_one(weights)))
    assert (together["radius"] >= apart["radius"] * (1 - 1e-6)).all()
    assert float((together["radius"] > 0).mean()) > 0.9
    ours, theirs = (certified_curve(table, [0.1, 0.2])["value"].tolist() for table in (together, apart))
    assert ours[0] > 0.5 and max(ours[0] / max(theirs[0], 1e-9), ours[1] / max(theirs[1], 1e-9)) >= 2


@pytest.mark.slow
def test_ten_thousand_attacks_break_no_example_within_its_radius(deep: nn.Module) -> None:
    table = certify(deep, DIGITS.test_x, DIGITS.test_y)
    proved = torch.tensor((table["radius"] > 0).to_numpy())
    x, y = DIGITS.test_x[proved], DIGITS.test_y[proved]
    radii = torch.tensor(table["radius"].to_numpy())[proved].float().view(-1, 1, 1, 1) * (1 - 1e-4)
    tried = 0
    for seed in range(-(-10_000 // len(y))):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
        moved = radii * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        for step in range(30):
            moved.requires_grad_()
            logits = deep(x + moved)
            assert (logits.argmax(dim=1) == y).all()
            others = logits.masked_fill(nn.functional.one_hot(y, 10).bool(), -math.inf).amax(dim=1)
            (slope,) = torch.autograd.grad((others - logits.gather(1, y[:, None]).squeeze(1)).sum(), moved)
            with torch.no_grad():
                unit = slope / slope.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
                moved = moved + radii * unit * 0.5 / (1 + step / 5)
                moved = moved * (radii / moved.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).clamp(max=1)
        tried += len(y)
    assert tried >= 10_000
