"""`attack` on run directories: every suite, budgets that end early, what is kept, and processes that share the work."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from typer.testing import Result

from robust_lowrank import records
from robust_lowrank.evaluation import load_suite, read_adversarial, suite_names

Command = Callable[..., Result]

# what makes a suite that takes long take seconds, with all its attacks
SHORT = {
    "aa-native": ("--eps", "0.5", "--n", 6),  # the first attack breaks them all
    "blackbox": ("queries = 5000", "queries = 50"),
    "curve": ("steps = 100", "steps = 5"),
    "minimal-norm": ("steps = 100", "steps = 5"),
    "plus": ("--eps", "0.5", "--n", 6),
    "rand": ("--eps", "0.5", "--n", 6),
    "standard": ("--eps", "0.5", "--n", 6),
}


def attacked(rlr_eval: Command, *args: object) -> Result:
    result = rlr_eval("attack", *args)
    assert result.exit_code == 0, result.stderr
    return result


def verdicts(run: str, suite: str) -> pd.DataFrame:
    return records.read_run(Path(run)).results[suite].verdicts


def assert_same_verdicts(found: pd.DataFrame, expected: pd.DataFrame) -> None:
    assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))


def assert_complete(run: str, suite: str, stdout: str) -> None:
    """Check the files of a result, and that what was printed is what they hold."""
    stored = records.read_run(Path(run)).results[suite]
    (printed,) = json.loads(stdout)
    assert printed["result"] == stored.record.model_dump()
    assert printed["run"] == run
    spec = load_suite(suite)
    told = {name.removesuffix("-on-survivors") for name in stored.verdicts["attack"]}
    assert len(told) == sum(attack.attack != "transfer" for attack in spec.attacks)
    broken = stored.verdicts[stored.verdicts["verdict"] == "broken"]
    inputs = read_adversarial(Path(run) / "results" / suite / "adversarial.safetensors")
    assert sum(len(part.examples) for part in inputs.values()) == len(broken)
    assert stored.record.audit
    assert not [entry for entry in stored.record.accuracies if entry.unresolved]


@pytest.mark.parametrize("suite", suite_names())
def test_every_suite_runs(rlr_eval: Command, runs: Path, suite: str) -> None:
    change = SHORT.get(suite, ())
    if change and not str(change[0]).startswith("--"):
        full, short = map(str, change)
        text = (Path(__file__).parents[2] / "attacks" / f"{suite}.toml").read_text(encoding="utf-8")
        assert full in text
        (runs / f"{suite}.toml").write_text(text.replace(full, short), encoding="utf-8")
        options: tuple[object, ...] = ("--suite", f"{suite}.toml", "--n", 12)
    else:
        options = ("--suite", suite, *(change or ("--n", 12)))
    assert_complete("LOW", suite, attacked(rlr_eval, "LOW", *options, "--json").stdout)


@pytest.mark.slow
@pytest.mark.parametrize("suite", SHORT)
def test_every_long_suite_runs_in_full(rlr_eval: Command, runs: Path, suite: str) -> None:
    assert_complete("LOW", suite, attacked(rlr_eval, "LOW", "--suite", suite, "--n", 12, "--json").stdout)
