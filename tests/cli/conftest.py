"""Running the command in this process, in an empty directory."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from robust_lowrank.cli.app import app

Command = Callable[..., Result]

EXPERIMENT = """
name = "tiny"
[data]
name = "digits"
train_examples = 256
[model]
name = "cnn"
[training]
epochs = 1
batch_size = 64
[[methods]]
name = "dense"
[[methods]]
name = "condlr"
[[attacks]]
suite = "quick"
eps = 0.1
examples = 10
"""


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
    path.write_text(EXPERIMENT)
    return path
