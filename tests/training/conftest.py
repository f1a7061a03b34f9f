from collections.abc import Callable
from typing import Any

import pytest

from robust_lowrank.training import TrainConfig, parse_config

SMALL = {
    "data": {"name": "digits", "train_examples": 192, "test_examples": 100},
    "model": {"name": "cnn"},
    "training": {"epochs": 2, "batch_size": 64, "lr": 0.05},
}

Small = Callable[..., TrainConfig]


@pytest.fixture
def small() -> Small:
    """Make a run of six steps on the digits; keywords replace or extend its tables."""

    def make(**tables: Any) -> TrainConfig:
        merged: dict[str, Any] = {**SMALL}
        for name, value in tables.items():
            merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
        return parse_config(merged, source="test")

    return make
