"""`rlr-eval plan` says what training would compress."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from robust_lowrank import compress, models, plan

Command = Callable[..., Result]


def test_the_plan_is_what_compress_does(rlr_eval: Command) -> None:
    listed = json.loads(
        rlr_eval("plan", "--data", "digits", "--model", "cnn", "--method", "condlr", "--rank", 0.25, "--json").stdout
    )
    model = models.build("cnn", input_shape=(1, 8, 8), num_classes=10)
    expected = plan(model, method="condlr", rank=0.25, exclude=["fc2"], example_input=torch.zeros(2, 1, 8, 8)).to_dict("records")
    assert all(row.pop("milliseconds") > 0 for row in (*listed, *expected))
    assert listed == expected
    report = compress(model, method="condlr", rank=0.25, exclude=["fc2"])
    assert {row["layer"]: row["kept_dense"] for row in listed if row["kept_dense"]} == report.kept_dense
    assert {row["layer"]: row["rank"] for row in listed if not row["kept_dense"]} == report.ranks


def test_a_file_and_options_are_read_as_in_training(rlr_eval: Command, here: Path) -> None:
    (here / "run.toml").write_text('[data]\nname = "digits"\n[method]\nname = "tdlrt"\nrank = 0.5\n')
    lines = rlr_eval("plan", "--config", here / "run.toml", "--exclude", "conv1").stdout.splitlines()
    assert "conv1 stays dense: excluded by 'conv1'" in lines
    assert lines[-1].startswith("Together")
    assert sorted(path.name for path in here.iterdir()) == ["run.toml"]


def test_a_budget_of_milliseconds_is_measured(rlr_eval: Command, here: Path) -> None:
    told = rlr_eval("plan", "--data", "digits", "--model", "cnn", "--method", "condlr", "--latency-ms", 1000)
    assert told.exit_code == 2 and "dense, the network takes" in told.stderr
    (here / "run.toml").write_text('[data]\nname = "digits"\n[method]\nname = "condlr"\nrank = { latency_ms = 1e-3, batch = 3 }\n')
    assert "cannot be reached" in rlr_eval("plan", "--config", here / "run.toml").stderr
    both = rlr_eval("plan", "--method", "condlr", "--latency-ms", 1, "--params", 0.2)
    assert both.exit_code == 2 and "give one of the three" in both.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "a dense network is not compressed"), (("--method", "condrl"), "condlr"), (("--method", "condlr", "--rank", "x"), "'x'")],
)
def test_wrong_use_is_named(rlr_eval: Command, options: tuple[str, ...], message: str) -> None:
    result = rlr_eval("plan", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_way_of_choosing_ranks_replaces_that_of_the_file(rlr_eval: Command, here: Path) -> None:
    (here / "run.toml").write_text('[data]\nname = "digits"\n[method]\nname = "condlr"\nrank = { latency_ms = 1e-3, batch = 3 }\n')
    told = rlr_eval("plan", "--config", here / "run.toml", "--params", 0.3, "--json")
    assert told.exit_code == 0 and all(row["kept_dense"] or row["rank"] for row in json.loads(told.stdout))
