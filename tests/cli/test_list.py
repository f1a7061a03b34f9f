"""`list`: every name that the other commands take."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from robust_lowrank.data import DATASETS
from robust_lowrank.evaluation import suite_names
from robust_lowrank.methods import METHODS
from robust_lowrank.models import MODELS

Command = Callable[..., Result]

NAMES = {
    "methods": ["dense", *METHODS],
    "models": list(MODELS),
    "data": list(DATASETS),
    "suites": suite_names(),
}


def test_all_names_as_json(rlr_eval: Command) -> None:
    listed = json.loads(rlr_eval("list", "--json").stdout)
    assert {kind: [entry["name"] for entry in entries] for kind, entries in listed.items()} == NAMES
    assert all(entry["summary"] for entries in listed.values() for entry in entries)
    (condlr,) = [entry for entry in listed["methods"] if entry["name"] == "condlr"]
    assert condlr["options"]["tau"] == 0.1


@pytest.mark.parametrize("kind", NAMES)
def test_one_kind_for_people(rlr_eval: Command, kind: str) -> None:
    result = rlr_eval("list", kind)
    assert result.exit_code == 0
    title, *lines = result.stdout.splitlines()
    assert title.strip() == kind
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == NAMES[kind]
