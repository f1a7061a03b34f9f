import json
import math
from typing import Any

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.methods import METHODS, CondLR
from robust_lowrank.training import TrainConfig, parse_config

INFINITE = {"method": {"name": "condlr", "tau": math.inf, "exclude": ["fc.*"]}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 1}, r"f\.toml: unknown key 'sed': did you mean 'seed'\?"),
        ({"training": {"epoch": 1}}, r"f\.toml: unknown key 'epoch': did you mean 'epochs'\?.*in \[training\]"),
        ({"training": {"epochs": "ten"}}, r"f\.toml: training\.epochs: .*integer, not 'ten'"),
        ({"training": {"epochs": True}}, r"training\.epochs: .*integer, not True"),
        ({"training": {"epochs": 0}}, r"training\.epochs: 0 must lie between 1 and 1,000,000"),
        ({"training": {"lr": math.nan}}, r"training\.lr: "),
        ({"training": {"lr": -0.1}}, r"training\.lr: -0.1 must be above 0"),
        ({"training": {"momentum": 1.0}}, r"training\.momentum: .*less than 1"),
        ({"training": {"schedule": "cosin"}}, r"training\.schedule: .*'cosine'"),
        ({"training": {"schedule": "multistep"}}, r"training: milestones .* go together"),
        ({"training": {"milestones": [2]}}, r"training: milestones .* go together"),
        ({"training": {"schedule": "multistep", "milestones": [3, 2]}}, "ascending"),
        ({"training": {"optimizer": "adam", "momentum": 0.9}}, "momentum belongs to sgd"),
        ({"training": {"cycle_momentum": True, "momentum": 0.5}}, "cycle_momentum .* leaves no momentum to set"),
        ({"training": {"cycle_momentum": True, "schedule": "cosine"}}, "cycle_momentum needs .* schedule = 'one-cycle'"),
        ({"training": {"device": "nowhere"}}, r"training\.device: device 'nowhere' is not available"),
        ({"model": {"name": "lenet"}}, r"model\.name: unknown model 'lenet': did you mean 'lenet5'\?"),
        ({"method": {"name": "condrl"}}, r"method: unknown method 'condrl': did you mean 'condlr'\?"),
        ({"method": {"name": "condlr", "tua": 0.1}}, r"unknown option of condlr 'tua': did you mean 'tau'\?"),
        ({"method": {"name": "condlr", "tau": "small"}}, r"method: tau = 'small': .*number"),
        ({"method": {"name": "condlr", "tau": -0.1}}, r"method: tau = -0\.1 is not allowed"),
        ({"method": {"name": "condlr", "tau": math.nan}}, r"method: tau = nan is not allowed"),
        ({"method": {"name": "dlrt", "tau": 0.1}}, "unknown option of dlrt 'tau'"),
        ({"method": {"name": "condlr", "rank": 0}}, "rank = 0 must be an integer from 1"),
        ({"method": {"name": "condlr", "rank": 1.5}}, r"rank = 1\.5 must be"),
        ({"method": {"name": "condlr", "rank": True}}, r"method\.rank: True is not a number"),
        ({"method": {"name": "condlr", "exclude": [3]}}, r"method\.exclude\.0: .*string, not 3"),
        ({"method": {"name": "condlr", "init": "weights"}}, r"method\.init: .*'gaussian' or 'kaiming', not 'weights'"),
        ({"method": {"name": "dense", "init": "kaiming"}}, "a dense network has no init"),
        ({"method": {"name": "dense", "rank": 0.5}}, "a dense network has no rank"),
        ({"method": {"name": "dense", "tau": 0.5}}, "a dense network has no tau"),
        ({"method": 3}, "method: "),
        ({"method": {"name": "condlr", "tau": 0.1, "cond": 1.2}}, "give one"),
        ({"method": {"name": "dlrt", "cond": 0.5}}, "cond = 0.5 is below 1"),
        ({"method": {"name": "landing", "rank": 0.5}}, "leave rank out"),
        ({"method": {"name": "dlrt", "rank": {"params": 2.0}}}, r"params = 2\.0 must be a fraction"),
        ({"method": {"name": "dlrt", "rank": {"latency_ms": 0.0}}}, r"latency_ms = 0\.0 must be a number of milliseconds"),
        ({"method": {"name": "dlrt", "rank": {"latency_ms": 2.0, "params": 0.5}}}, "latency_ms: Extra inputs"),
        ({"method": {"name": "dlrt", "rank": {"default": 0.5, "mx": 3}}}, "mx: Extra inputs"),
        ({"method": {"name": "dlrt", "max_rank": 3}}, "with tol = None it stays"),
        ({"method": {"name": "condlr", "rank": {"max": 3}}}, r"max is called max_rank of \[method\] now"),
        ({"method": {"name": "dlrt", "rank": {"init": 0.5}}}, "init is called default now"),
        ({"method": {"name": "dlrt", "integration": "exact"}}, "integration is called step now"),
        ({"method": {"name": "dlrt", "start": "kaiming"}}, "start is called init now"),
        ({"method": {"name": "dlrt", "rank": {"overrides": {"(": 3}}}}, "not a regular expression"),
        ({"method": {"name": "dlrt", "window": 3}}, "window belongs to step = 'amortised'"),
        ({"method": {"name": "dlrt", "step": "exat"}}, r"method\.step: .*'exact' or 'amortised'"),
        ({"method": {"name": "geolora", "tol": None, "budget": 9}}, "shares ranks out"),
        ({"method": {"name": "dlrt", "penalties": [{"form": "SOS"}]}}, r"method\.penalties\.0\.form: "),
        ({"method": {"name": "dlrt", "penalties": [{"milestones": [2]}]}}, "give one each"),
        ({"method": {"name": "lora"}}, "take rlr.adapt in Python"),
        ({"training": {"precision": "fp16"}}, r"training\.precision: "),
    ],
)
def test_mistakes_are_named_with_source_key_and_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse_config(values, source="f.toml")
    assert str(caught.value).startswith("f.toml: ")
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_made_from_its_name(name: str) -> None:
    config = parse_config({"method": {"name": name}}, source="f.toml")
    assert config.method.method() == METHODS[name]()
    assert config.method.rank == (0.25 if METHODS[name].ranked else None)


def test_options_reach_the_method() -> None:
    config = parse_config({"method": {"name": "condlr", "tau": 1, "precond": "none"}}, source="f.toml")
    assert config.method.method() == CondLR(tau=1, precond="none")


def test_whole_numbers_do_for_decimal_ones_and_keep_their_meaning_as_ranks() -> None:
    config = parse_config({"training": {"lr": 1}, "method": {"name": "dlrt", "rank": 1}}, source="f.toml")
    assert config.training.lr == 1.0
    assert isinstance(config.method.rank, int)


@pytest.mark.parametrize(
    "values",
    [
        {},
        INFINITE,
        {"training": {"optimizer": "adamw"}},
        {"training": {"cycle_momentum": True}},
        {"method": {"name": "dlrt", "rank": 4}},
    ],
)
def test_records_hold_the_whole_configuration_as_json(values: dict[str, Any]) -> None:
    config = parse_config(values, source="f.toml")
    record = json.loads(json.dumps(config.to_record(), allow_nan=False))
    restored = TrainConfig.from_record(record)
    assert restored.to_record() == config.to_record()
    if config.method.name != "dense":
        assert restored.method.method() == config.method.method()


def test_defaults_of_a_method_are_spelled_out_in_records() -> None:
    short = parse_config({"method": {"name": "condlr"}}, source="f.toml")
    long = parse_config({"method": {"name": "condlr", "tau": 0.1, "retraction": "qr"}}, source="f.toml")
    assert short.to_record() == long.to_record()
    assert short.to_record()["method"]["precond"] == "exact"


def test_a_default_momentum_is_recorded_but_does_not_count_as_given() -> None:
    config = TrainConfig.model_validate({"training": {"lr": 0.2}})
    assert config.to_record()["training"]["momentum"] == 0.3
    assert "momentum" not in config.model_dump(exclude_unset=True)["training"]
    assert TrainConfig.from_record(config.to_record()).to_record() == config.to_record()
    assert TrainConfig.model_validate({"training": {"optimizer": "adamw"}}).to_record()["training"]["momentum"] is None


def test_a_monitor_is_part_of_the_record_only_where_there_is_one() -> None:
    watched = parse_config({"monitor": {"every": 5, "dense_every": 10}}, source="test")
    assert TrainConfig.from_record(watched.to_record()).monitor == watched.monitor
    assert "monitor" not in TrainConfig().to_record()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"every": 0}, r"monitor\.every: 0 must lie between 1 and"),
        ({"every": 10, "dense_every": 15}, "dense_every = 15 must be a multiple of every = 10"),
        ({"evry": 10}, "unknown key 'evry': did you mean 'every'"),
    ],
)
def test_a_wrong_monitor_is_named(table: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_config({"monitor": table}, source="test")


def test_a_temperature_of_one_leaves_records_as_they_were_before_it() -> None:
    assert "temperature" not in TrainConfig().to_record()["training"]
    warm = TrainConfig.model_validate({"training": {"temperature": 5}})
    assert TrainConfig.from_record(warm.to_record()).training.temperature == 5
    assert warm.to_record()["training"]["temperature"] == 5
