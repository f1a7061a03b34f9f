"""Running the command in this process, in an empty directory."""

import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from robust_lowrank import training
from robust_lowrank.cli.app import app
from tests.experiments import TINY

Command = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Typer's runner makes every command of an application anew each time that it runs one, which takes 40 ms here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(typer.main.get_command))
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def rlr_eval(here: Path) -> Command:
    def run(*args: object) -> Result:
        return CliRunner().invoke(app, [str(arg) for arg in args])

    return run


@pytest.fixture
def experiment(here: Path) -> Path:
    path = here / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small networks, a directory each: LOW, of low rank, and DENSE."""
    place = tmp_path_factory.mktemp("trained")
    common = {"data": {"name": "digits"}, "model": {"name": "cnn"}, "training": {"epochs": 2, "batch_size": 64}}
    for name, method in {"LOW": {"name": "condlr", "rank": 0.25, "tau": 0.1}, "DENSE": {"name": "dense"}}.items():
        training.train(training.TrainConfig.model_validate(common | {"method": method}), place / name)
    return place


@pytest.fixture
def runs(here: Path, trained: Path) -> Path:
    """An empty directory with copies of the networks, in which the command runs."""
    for run in trained.iterdir():
        shutil.copytree(run, here / run.name)
    return here
