"""No attack finds what a certificate rules out: trained networks, attacked just within their certified radii."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robust_lowrank import data, training
from robust_lowrank.conditioning import certify, lipschitz
from robust_lowrank.evaluation import APGD, FAB, PGD, DeepFool, KeyedNoise, check, threat

FAR = 3.0  # an L2 distance within which minimal attacks find something for nearly every example
MODELS = ("mlp", "cnn")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, nn.Module]:
    found = {}
    for name in MODELS:
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
