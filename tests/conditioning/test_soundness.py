"""No network is steeper than its bound, and no attack finds what a certificate rules out."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from robust_lowrank import data, training
from robust_lowrank.compression import compress
from robust_lowrank.conditioning import certify, lipschitz
from robust_lowrank.conditioning.copies import own_copy, wide_copy
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import APGD, FAB, PGD, DeepFool, KeyedNoise, check, threat
from tests.conditioning import zoo

NETWORKS: dict[str, tuple[Callable[[], nn.Module], bool]] = {  # and whether they must have a bound: refused otherwise
    **{f"plain: {name}": (lambda f=f: zoo.flat(f), True) for name, f in zoo.PLAIN.items()},
    **{f"hostile: {name}": (lambda f=f: zoo.flat(f), False) for name, f in zoo.HOSTILE.items()},
    **{f"module: {name}": made for name, made in zoo.MODULES.items()},
    **{f"drawn: {seed}": (lambda seed=seed: zoo.drawn(seed), True) for seed in range(40)},
}
FAR = 3.0  # an L2 distance within which minimal attacks find something for nearly every example
MODELS = ("mlp", "cnn", "users")


def steepness(model: nn.Module, *, points: int) -> float:
    """Return the largest change that is seen over the distance of inputs: of the Jacobian in float64, between pairs in float32."""
    generator = torch.Generator().manual_seed(5)
    wide, found = wide_copy(model), 0.0
    single = own_copy(model).eval()
    units = torch.eye(32, dtype=torch.float64).reshape(32, 1, *zoo.SHAPE)
    step = 1e-5 if wide(torch.rand(1, *zoo.SHAPE, dtype=torch.float64)).dtype == torch.float64 else 1e-2
    for mode in (torch.no_grad, torch.enable_grad) * points:
        with mode():
            x = torch.rand(1, *zoo.SHAPE, dtype=torch.float64, generator=generator)
            here, *moved = (wide(each.clone()).detach().double().flatten() for each in [x, *(x + step * units)])
            found = max(found, float(torch.linalg.matrix_norm(torch.stack(moved) - here, 2)) / step)
            direction = torch.randn(1, *zoo.SHAPE, generator=generator)
            for length in (0.02, 0.5):
                there = single((x.float() + length * direction / direction.norm()).clone()).detach().clone()
                found = max(found, float((there - single(x.float().clone()).detach()).double().norm()) / length)
    return found


def pairs(model: nn.Module) -> Tensor:
    """Return how fast differences of two logits change at a few inputs."""
    wide = wide_copy(model)
    x = torch.rand(3, *zoo.SHAPE, dtype=torch.float64)
    found = []
    for single in x.split(1):
        jacobian = torch.autograd.functional.jacobian(lambda given: wide(given)[0], single).flatten(1)
        found.append(torch.cdist(jacobian, jacobian))
    return torch.stack(found).amax(0)


@pytest.mark.sampled(11)
@pytest.mark.parametrize("name", NETWORKS)
def test_no_network_is_steeper_than_its_bound(name: str) -> None:
    make, bounded = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    found = lipschitz(model, zoo.SHAPE)
    assert found.certified == (not found.reasons)
    assert found.certified == bounded, found.reasons
    if found.certified:
        assert steepness(model, points=2) <= found.bound * (1 + 1e-4)
    if found.steepness is not None:
        assert (pairs(model) <= found.steepness * (1 + 1e-4)).all()


def test_the_zoo_is_large() -> None:
    assert len(NETWORKS) >= 150


def test_hooks_on_all_modules_are_refused() -> None:
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: output)
    try:
        assert "hooks on all modules" in lipschitz(nn.Linear(3, 2), (3,)).reasons[0]
    finally:
        hook.remove()
    assert lipschitz(nn.Linear(3, 2), (3,)).certified


class Users(nn.Module):
    """A network as a user may write it: changes in place, a canvas, reflection, sub-pixels, a parametrized head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 12, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.slopes = nn.PReLU()
        self.head = parametrizations.weight_norm(nn.Linear(6 * 16, 10))

    def forward(self, x: Tensor) -> Tensor:
        h = self.slopes(self.first(F.pixel_unshuffle(x, 2)))
        canvas = torch.zeros(len(x), 6, 10, 10, dtype=x.dtype)
        canvas[..., 1:9, 1:9] = self.up(h).mul_(0.5)
        return self.head(F.avg_pool2d(F.mish(canvas[..., 1:9, 1:9]), 2).flatten(1))


def test_masked_logits_do_not_widen_what_is_taken_off_margins() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5))
    x = torch.rand(50, 6)
    y = network(x)[:, :3].argmax(dim=1)
    network[0].weight.data[3:], network[0].bias.data[3:] = 0.0, -1e9
    assert (certify(network, x, y)["radius"] > 0).mean() > 0.95


def test_networks_that_take_one_example_or_keep_what_they_saw_are_certified() -> None:
    class Alone(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            self.seen = super().forward(input.reshape(1, 6))
            return self.seen

    network = Alone(6, 3)
    network(torch.rand(1, 6)).sum()
    x = torch.rand(4, 6)
    y = torch.cat([network(row) for row in x.split(1)]).argmax(dim=1)
    assert (certify(network, x, y.to(torch.uint8))["radius"] > 0).all()


@pytest.mark.parametrize("output", [lambda y: (y, y), lambda y: y[:, 0], lambda y: y.argmax(dim=1)])
def test_what_is_no_logits_is_refused_in_words(output: Callable[[Tensor], object]) -> None:
    class Other(nn.Linear):
        def forward(self, input: Tensor) -> object:
            return output(super().forward(input))

    with pytest.raises(UserError, match=r"where logits \(4, classes\) are due"):
        certify(Other(6, 3), torch.rand(4, 6), torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("shape", [5, (2, -1), (2.5, "x"), None])
def test_what_is_no_shape_is_refused(shape: object) -> None:
    with pytest.raises(UserError, match="is no shape of an input"):
        lipschitz(nn.Linear(3, 2), shape)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_threads_take_turns() -> None:
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    compress(network, method="condlr", rank=0.5)
    with ThreadPoolExecutor(4) as pool:
        bounds = [found.bound for found in pool.map(lambda _: lipschitz(network, (6,)), range(8))]
    assert len(set(bounds)) == 1
    assert bounds[0] < float("inf")


def users_network() -> nn.Module:
    digits = data.load("digits")
    torch.manual_seed(0)
    network = Users()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(20):
        for rows in torch.randperm(len(digits.train_y)).split(128):
            loss = F.cross_entropy(network(digits.train_x[rows]), digits.train_y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    found = {"users": users_network()}
    for name in MODELS[:2]:
        place = tmp_path_factory.mktemp(name) / "run"
        values = {
            "model": {"name": name},
            "method": {"name": "condlr", "tau": 0.1, "rank": 0.5},
            "training": {"epochs": 4, "batch_size": 64},
        }
        training.train(training.TrainConfig.model_validate(values), place)
        found[name] = training.load_network(Path(place))
    return found


def certified(model: nn.Module, examples: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first test images, their labels and their radii, ascending, without those that have none."""
    digits = data.load("digits")
    x, y = digits.test_x[:examples], digits.test_y[:examples]
    radii = torch.tensor(certify(model, x, y, bound=lipschitz(model, x.shape[1:]))["radius"].to_numpy())
    order = radii.argsort()[int((radii == 0).sum()) :]
    return x[order], y[order], radii[order]


def attempts_within(model: nn.Module, examples: int, *, restarts: int, groups: int) -> int:
    """Attack examples in groups of similar radii, each with the smallest of its group; require that none is broken."""
    attempts = 0
    attacks = [
        PGD(steps=20, restarts=3 * restarts),
        APGD(steps=20, restarts=restarts),
        APGD(steps=20, restarts=restarts, loss="dlr"),
    ]
    x, y, radii = certified(model, examples)
    assert len(y) > 0.8 * examples
    for rows in torch.arange(len(y)).tensor_split(groups):
        budget = threat("L2", float(radii[rows].min()), features=64)
        for number, attack in enumerate(attacks):
            noise = KeyedNoise(0, f"{attack.label} {number}", rows)
            attempt = attack.attempt(model, x[rows], y[rows], budget, noise)
            assert not attempt.claimed.any()
            assert not check(model, x[rows], y[rows], attempt.inputs, budget).broken.any()
            attempts += len(rows) * attack.restarts
    return attempts


def nearest_found(model: nn.Module, examples: int) -> tuple[int, Tensor]:
    """Return how often minimal attacks were tried, and the distances that they found over the certified radii."""
    x, y, radii = certified(model, examples)
    budget = threat("L2", FAR, features=64)
    rows, ratios, attempts = torch.arange(len(y)), [], 0
    for attack in (DeepFool(), FAB(steps=15, targets=3)):
        attempt = attack.attempt(model, x, y, budget, KeyedNoise(0, attack.label, rows))
        found = check(model, x, y, attempt.inputs, budget)
        ratios.append((found.distance / radii)[found.broken])
        attempts += len(y) * (attack.targets if isinstance(attack, FAB) else 1)
    return attempts, torch.cat(ratios)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_no_attack_breaks_an_example_within_its_radius(name: str, networks: dict[str, nn.Module]) -> None:
    model = networks[name]
    assert attempts_within(model, 40, restarts=1, groups=2) > 150
    _, ratios = nearest_found(model, 30)
    assert len(ratios) > 40  # the attacks do find something, further away
    assert float(ratios.min()) > 1


@pytest.mark.slow
def test_ten_thousand_attempts_break_no_example_within_its_radius(networks: dict[str, nn.Module]) -> None:
    attempts = 0
    for model in networks.values():
        attempts += attempts_within(model, 400, restarts=3, groups=10)
        tried, ratios = nearest_found(model, 100)
        attempts += tried
        assert float(ratios.min()) > 1
    assert attempts >= 10_000
