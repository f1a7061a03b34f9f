"""Really trained small networks for attacks to work on."""

from typing import NamedTuple

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


class Digits(NamedTuple):
    train_x: Tensor
    train_y: Tensor
    x: Tensor  # test part, (297, 1, 8, 8) in [0, 1]
    y: Tensor


@pytest.fixture(scope="session")
def digits() -> Digits:
    data = load_digits()
    x, y = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target)
    return Digits(x[:1500], y[:1500], x[1500:], y[1500:])


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def cnn(digits: Digits) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.LeakyReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 32),
        nn.LeakyReLU(),
        nn.Linear(32, 10),
    )
    return fit(model, digits.train_x, digits.train_y, epochs=8)


@pytest.fixture(scope="session")
def mlp(digits: Digits) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.LeakyReLU(), nn.Linear(24, 10))
    return fit(model, digits.train_x, digits.train_y, epochs=8)
