"""`list`: every name that the other commands take."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from robust_lowrank.data import DATASETS
from robust_lowrank.evaluation import suite_names
from robust_lowrank.jobs import experiment_names
from robust_lowrank.methods import METHODS
from robust_lowrank.models import MODELS

Command = Callable[..., Result]

NAMES = {
    "methods": ["dense", *METHODS],
    "models": list(MODELS),
    "data": list(DATASETS),
    "suites": suite_names(),
    "experiments": experiment_names(),
}


def test_all_names_as_json(rlr_eval: Command) -> None:
    listed = json.loads(rlr_eval("list", "--json").stdout)
    assert {kind: [entry["name"] for entry in entries] for kind, entries in listed.items()} == NAMES
    assert all(entry["summary"] for entries in listed.values() for entry in entries)
    (condlr,) = [entry for entry in listed["methods"] if entry["name"] == "condlr"]
    assert condlr["options"]["tau"] == 0.1


def test_suites_say_their_attacks_norm_and_budgets(rlr_eval: Command) -> None:
    suites = {entry["name"]: entry for entry in json.loads(rlr_eval("list", "suites", "--json").stdout)["suites"]}
    assert suites["condlr-paper-l2"]["norm"] == "L2"
    assert suites["demo"]["attacks"] == [
        {"name": "fgsm", "attack": "fgsm", "eps": [0.05, 0.1, 0.15]},
        {"name": "pgd-20", "attack": "pgd", "eps": [0.05, 0.1, 0.15]},
    ]
    lines = {line.split()[0]: line for line in rlr_eval("list", "suites").stdout.splitlines()}
    assert "fgsm, pgd-20 at Linf 0.05 to 0.15 (3)" in lines["demo"]
    assert "fgsm at Linf 0.002 to 0.006 (3), torchattacks-jitter at Linf 0.035 to 0.045 (2)" in lines["robustdlrt-paper"]


@pytest.mark.parametrize("kind", NAMES)
def test_one_kind_for_people(rlr_eval: Command, kind: str) -> None:
    result = rlr_eval("list", kind)
    assert result.exit_code == 0
    title, *lines = result.stdout.splitlines()
    assert title.strip() == kind
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == NAMES[kind]
