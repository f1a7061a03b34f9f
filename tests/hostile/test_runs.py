import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import robust_lowrank as rlr
from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.unit_result import UnitResult
from robust_lowrank.jobs.attack import Attack
from robust_lowrank.jobs.chain import attack_run, stored_job
from robust_lowrank.jobs.events import quiet
from robust_lowrank.jobs.examination import examine
from robust_lowrank.jobs.overview import overview
from robust_lowrank.jobs.subjects import network
from tests.hostile.runs import MAKERS, SUITE

READ = {  # what is data all the same, and is shown escaped or refused where it is used
    "label_of_controls",
    "large_input",
    "download",
    "images_elsewhere",
    "function_of_the_system",
    "function_in_the_run",
    "function_of_a_loop",
    *(name for name in MAKERS if name.startswith(("unit_", "inputs_"))),
}
USED = {  # by their messages, those of them that fail where the network or its inputs are used
    "large_input": "far too small for the network",
    "download": "does not exist; point --data-dir",
    "images_elsewhere": "/etc",
    "function_of_the_system": "names the function os:abort",
    "function_in_the_run": "names the function evil:net",
    "function_of_a_loop": "names the function shutil:rmtree",
    "inputs_under_other_names": "cannot be read as adversarial inputs",
    "inputs_of_other_types": "cannot be read as adversarial inputs",
    "inputs_of_a_huge_head": "cannot be read as adversarial inputs",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run, attacked."""
    run = tmp_path_factory.mktemp("sound") / "run"
    images, training = {"train_examples": 512}, {"epochs": 4, "device": "cpu"}
    rlr.train({"data": images, "model": {"name": "mlp"}, "training": training}, run)
    attack = Attack.settle(SUITE, examples=12)
    attack_run(stored_job(run, [attack]), attack, quiet)
    return run


@pytest.fixture
def run(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(sound, tmp_path / "run"))


def _contents(folder: Path) -> dict[str, str]:
    """Return what lies in a directory: where links lead, and hashes of files."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def _refusal(call: Callable[[], object]) -> str:
    """Return what a call is refused with, in one to three lines; nothing where it is not."""
    try:
        call()
    except UserError as error:
        text = str(error)
        assert 1 <= len(text.splitlines()) <= 3, text
        assert len(text) < 1500
        assert all(char.isprintable() or char == "\n" for char in text)
        return text
    return ""


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_hostile_run_is_refused_or_read_as_data(name: str, run: Path) -> None:
    if name == "pipe" and not hasattr(os, "mkfifo"):
        pytest.skip("there are no named pipes here")
    MAKERS[name](run)
    before = _contents(run.parent)
    assert bool(_refusal(lambda: records.read_run(run))) == (name not in READ)
    _refusal(lambda: overview(run))
    if name in USED:
        assert USED[name] in _refusal(lambda: examine(run, None))
    assert _contents(run.parent) == before


def test_a_message_names_fields_and_values_of_all_that_is_wrong(run: Path) -> None:
    MAKERS["many_wrong_fields"](run)
    lines = _refusal(lambda: records.read_run(run)).splitlines()
    assert "run.json cannot be read: " in lines[0]
    assert "seed = 'x' should be a valid integer" in lines[0]
    assert lines[1] == "epochs_done = -3 should be greater than or equal to 0"
    assert lines[2] == "and 5 more"


@pytest.mark.parametrize("name", [name for name in sorted(MAKERS) if name.startswith("unit_")])
def test_a_damaged_unit_is_as_good_as_none(name: str, run: Path) -> None:
    units = records.RunFiles(run).result(SUITE).units
    assert all(UnitResult.from_file(path) for path in units.iterdir())
    MAKERS[name](run)
    kept = records.read_run(run).results[SUITE]
    records.RunFiles(run).result(SUITE).record.unlink()
    attack = Attack.settle(SUITE, examples=12)
    made = attack_run(stored_job(run, [attack]), attack, quiet)
    again = records.read_run(run).results[made]
    assert again.record.accuracies == kept.record.accuracies
    assert again.verdicts.drop(columns="seconds").equals(kept.verdicts.drop(columns="seconds"))


def test_a_function_below_the_current_directory_needs_no_trust(run: Path, tmp_path: Path) -> None:
    source = (
        "from torch import nn\ndef small(input_shape, num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    (tmp_path / "hostile_nets.py").write_text(source)
    (tmp_path / "hostile_nets_more.py").write_text("from os import abort\nfrom hostile_nets import small\n")
    config = {"data": {"train_examples": 64}, "model": {"name": "hostile_nets:small"}, "training": {"epochs": 1, "device": "cpu"}}
    own = rlr.train(config, tmp_path / "own").path
    network(own)
    for name in ("hostile_nets_more:abort", "hostile_nets_more:small", "hostile_nets:nn"):
        path = records.RunFiles(own).record
        path.write_text(path.read_text().replace("hostile_nets:small", name))
        assert f"names the function {name}" in _refusal(lambda: network(own))
        path.write_text(path.read_text().replace(name, "hostile_nets:small"))
    moved = Path(shutil.move(tmp_path / "hostile_nets.py", own / "hostile_nets.py"))
    assert "names the function" in _refusal(lambda: network(own))
    shutil.move(moved, tmp_path / "hostile_nets.py")
    (tmp_path / "elsewhere").mkdir()
    os.chdir(tmp_path / "elsewhere")
    assert "names the function" in _refusal(lambda: network(own))
    network(own, trust_code=True)
