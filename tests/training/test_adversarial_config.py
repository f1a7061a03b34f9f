import json
from pathlib import Path
from typing import Any

import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.jobs import Experiment
from robust_lowrank.training import (
    AdversarialConfig,
    MethodConfig,
    TrainConfig,
    describe,
    parse_config,
    train,
)
from robust_lowrank.training.naming import directory_name

from .conftest import Small

PGD = {"attack": "pgd", "eps": 0.1}


def parse(table: dict[str, Any]) -> TrainConfig:
    return parse_config({"training": {"adversarial": table}}, source="f.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"eps": 0.1}, r"training\.adversarial\.attack is missing"),
        ({"attack": "pgd"}, r"training\.adversarial\.eps is missing"),
        ({"attack": "cw", "eps": 0.1}, r"training\.adversarial\.attack: .*'fgsm', 'pgd' or 'trades', not 'cw'"),
        (PGD | {"step": 3}, r"unknown key 'step': did you mean 'steps'\?.*in \[training\.adversarial\]"),
        (PGD | {"eps": 0}, "eps 0 is not above 0"),
        (PGD | {"eps": -0.1}, r"eps -0\.1 is not above 0"),
        (PGD | {"eps": True}, "eps True is not"),
        (PGD | {"eps": "wide"}, "eps 'wide' is not a number: write"),
        (PGD | {"eps": "1e999"}, "eps '1e999' is not"),
        (PGD | {"eps": 8}, "eps = 8 is above 1, the range of a pixel: 8/255 is usual"),
        (PGD | {"norm": "L1"}, r"norm: .*'Linf' or 'L2'"),
        (PGD | {"steps": 0}, r"steps: 0 must lie between 1 and"),
        (PGD | {"step_size": 0}, r"step_size: 0\.0 must be above 0"),
        (PGD | {"mix": 1.5}, r"mix: .*less than or equal to 1"),
        (PGD | {"mix": 0}, r"mix: .*greater than 0"),
        (PGD | {"beta": 6}, "beta is the weight of the divergence in trades: .*choose attack = 'trades'"),
        (PGD | {"random_start": True}, "random_start is an option of fgsm: pgd always has a start of its own"),
        ({"attack": "trades", "eps": 0.1, "random_start": False}, "trades always has a start of its own"),
        ({"attack": "trades", "eps": 0.1, "mix": 0.5}, "trades trains on every image, .*leave mix out"),
        ({"attack": "trades", "eps": 0.1, "beta": 0}, r"beta: 0\.0 must be above 0"),
        ({"attack": "fgsm", "eps": 0.1, "steps": 1}, "fgsm makes one step: leave steps out"),
        ({"attack": "fgsm", "eps": 0.1, "step_size": 0.1}, r"fgsm steps by eps, or 1\.25 eps .*leave step_size out"),
        ({"attack": "fgsm", "eps": 0.1, "beta": 6}, "beta is the weight"),
    ],
)
def test_mistakes_are_named_with_reason_and_remedy(table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(table)
    assert str(caught.value).startswith("f.toml: training.adversarial") or "in [training.adversarial]" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("table", "complete"),
    [
        ({"attack": "fgsm", "eps": "8/255"}, {"random_start": False, "mix": 1.0}),
        (PGD, {"steps": 10, "step_size": pytest.approx(0.025), "mix": 1.0}),
        (PGD | {"steps": 5, "mix": 0.5}, {"steps": 5, "step_size": pytest.approx(0.05), "mix": 0.5}),
        ({"attack": "trades", "eps": 0.1}, {"steps": 10, "step_size": pytest.approx(0.0225), "beta": 6.0}),
        ({"attack": "trades", "eps": 2, "norm": "L2", "step_size": 1}, {"steps": 10, "step_size": 1, "beta": 6.0}),
    ],
)
def test_records_spell_out_the_defaults_of_the_attack(table: dict[str, Any], complete: dict[str, Any]) -> None:
    config = parse(table)
    record = json.loads(json.dumps(config.to_record(), allow_nan=False))
    eps = 8 / 255 if table["eps"] == "8/255" else table["eps"]
    assert record["training"]["adversarial"] == {"norm": "Linf"} | table | {"eps": eps} | complete
    assert TrainConfig.from_record(record).to_record() == config.to_record()


def test_a_fraction_and_its_value_are_the_same_run() -> None:
    assert parse(PGD | {"eps": "1/10"}).to_record() == parse(PGD | {"steps": 10}).to_record()


def test_records_of_ordinary_training_are_as_they_were(small: Small, tmp_path: Path) -> None:
    run = train(small(training={"epochs": 1}), tmp_path / "run")
    assert "adversarial" not in run.record.config["training"]
    assert TrainConfig.from_record(run.record.config).training.adversarial is None


def test_names_tell_robust_training_apart() -> None:
    table = AdversarialConfig.model_validate({"attack": "trades", "eps": "8/255", "norm": "L2", "beta": 3.0})
    method = MethodConfig.model_validate({"name": "condlr", "tau": 0.1})
    assert directory_name(method, table) == "condlr-tau0.1-rank0.25-trades-eps0.03137-normL2-beta3"
    assert describe(method, table) == "CondLR τ=0.1, TRADES-trained ε=0.03137, norm L2, beta 3"
    assert describe(MethodConfig(), AdversarialConfig(attack="pgd", eps=0.1)) == "Dense, PGD-trained ε=0.1"
    assert describe(MethodConfig(name="dlrt", label="Mine"), table) == "Mine"


def test_an_experiment_trains_all_its_methods_alike() -> None:
    methods = [{"name": "dense"}, {"name": "dlrt", "ranks": [4, 8]}]
    runs = Experiment.model_validate({"name": "trial", "methods": methods, "training": {"adversarial": PGD}}).runs()
    assert [name for name, _ in runs] == ["dense-pgd-eps0.1-seed0", "dlrt-rank4-pgd-eps0.1-seed0", "dlrt-rank8-pgd-eps0.1-seed0"]
    labels = [describe(config.method, config.training.adversarial) for _, config in runs]
    assert labels == ["Dense, PGD-trained ε=0.1", "DLRT, PGD-trained ε=0.1, rank 4", "DLRT, PGD-trained ε=0.1, rank 8"]
    assert all(config.training.adversarial is not None for _, config in runs)


def test_a_robust_run_is_reproducible_named_and_not_taken_for_an_ordinary_one(small: Small, tmp_path: Path) -> None:
    robust = small(training={"epochs": 1, "adversarial": PGD | {"steps": 2}}, method={"name": "condlr"})
    runs = [train(robust, tmp_path / name) for name in ("one", "two")]
    assert runs[0].record.hashes["weights"] == runs[1].record.hashes["weights"]
    assert runs[0].record.label == "CondLR τ=0.1, PGD-trained ε=0.1, steps 2"
    assert train(robust, tmp_path / "one").record == runs[0].record
    with pytest.raises(UserError, match=r"holds another run: its training\.adversarial is \{.*\}, not None"):
        train(small(training={"epochs": 1}, method={"name": "condlr"}), tmp_path / "one")


def test_an_eps_beyond_all_images_writes_nothing(small: Small, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"eps 9 is outside the range of L2: .* 0 < eps <= 8"):
        train(small(training={"adversarial": PGD | {"norm": "L2", "eps": 9}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
