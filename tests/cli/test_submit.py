"""`submit` makes a bundle that proves a run's results anywhere, and `report` makes a board of bundles."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import Result

from robust_lowrank import data, records
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.bundles import opened, submit
from robust_lowrank.records import RunFiles

Command = Callable[..., Result]


@pytest.fixture
def attacked(rlr_eval: Command, runs: Path) -> Path:
    result = rlr_eval("attack", "LOW", "--suite", "quick", "--eps", "0.1", "--n", 12)
    assert result.exit_code == 0, result.stderr
    return Path("LOW")


def edit(run: Path, **changes: object) -> None:
    """Change a run's record and seal it again, as whoever wants to deceive would."""
    files = RunFiles(run)
    record = records.read_record(files.record, records.RunRecord)
    records.write_sealed(files.record, record.model_copy(update=changes), files.beside)


def test_a_bundle_proves_a_run_where_nothing_else_is(rlr_eval: Command, attacked: Path) -> None:
    made = rlr_eval("submit", "LOW")
    assert made.exit_code == 0, made.stderr
    assert "Bundle: LOW.zip" in made.stdout and "with 12 examples" in made.stdout
    again = json.loads(rlr_eval("submit", "LOW", "--out", "twice.zip", "--json").stdout)
    assert Path("twice.zip").read_bytes() == Path("LOW.zip").read_bytes(), "the same run makes the same bytes"
    assert again["sound"] and again["examples"] == 12
    shutil.rmtree("LOW")
    proved = rlr_eval("verify", "LOW.zip", "--again", 0.5)
    assert proved.exit_code == 0, proved.stderr
    assert "Every broken example and every figure is proved" in proved.stdout
    assert "holds them against a data set" in proved.stdout
    assert rlr_eval("verify", "LOW.zip", "--data", "digits").exit_code == 0
    digits = data.load("digits")
    save_file({"x": digits.train_x[:50], "y": digits.train_y[:50]}, "others.safetensors")
    other = rlr_eval("verify", "LOW.zip", "--data", "others.safetensors")
    assert other.exit_code == 1
    assert "its 12 examples are not the first ones to test on of others.safetensors" in other.stdout
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["DENSE", "LOW.zip", "others.safetensors", "twice.zip"]


def test_what_is_not_proved_makes_no_bundle(rlr_eval: Command, attacked: Path) -> None:
    path = attacked / "results/quick/adversarial.safetensors"
    tensors = load_file(path)
    tensors["pgd-20/0.1/inputs"][0] = 1 - tensors["pgd-20/0.1/inputs"][0]
    save_file(tensors, path)
    result = rlr_eval("submit", "LOW")
    assert result.exit_code == 1
    assert "No bundle was written" in result.stdout
    assert not Path("LOW.zip").exists()


def test_wrong_uses_are_named(rlr_eval: Command, attacked: Path) -> None:
    Path("there.zip").write_text("mine")
    taken = rlr_eval("submit", "LOW", "--out", "there.zip")
    assert taken.exit_code == 2 and "is there already" in taken.stderr
    assert Path("there.zip").read_text() == "mine"
    assert "has no results: attack it first" in rlr_eval("submit", "DENSE").stderr
    rlr_eval("submit", "LOW")
    assert "leave out --model" in rlr_eval("verify", "LOW.zip", "--model", "x:y", "--data", "digits").stderr
    assert "give --data as well" in rlr_eval("verify", "LOW.zip", "--channels", 1).stderr
    rlr_eval("attack", "LOW", "--suite", "quick", "--eps", "0.1", "--n", 12, "--form", "bf16")
    form = rlr_eval("submit", "LOW/forms/bf16")
    assert form.exit_code == 2 and "submit that run" in form.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"inference": 100}, "has 100 for inference of its parameters"),
        ({"dense": 10**6}, "has 1,000,000 for dense of its parameters"),
    ],
)
def test_a_run_that_lies_about_its_size_is_found(rlr_eval: Command, attacked: Path, changes: dict[str, int], said: str) -> None:
    parameters = records.read_run(attacked).record.parameters
    edit(attacked, parameters=parameters.model_copy(update=changes))
    for result in (rlr_eval("verify", "LOW"), rlr_eval("submit", "LOW")):
        assert result.exit_code == 1
        assert said in result.stdout


def test_a_run_that_lies_about_its_condition_numbers_is_found(rlr_eval: Command, attacked: Path) -> None:
    files = RunFiles(attacked)
    spectra = records.read_run(attacked).spectra
    spectra.at[spectra.index[-1], "singular_values"] = [1.0] * len(spectra["singular_values"].iloc[-1])
    records.write_frame(files.spectra, spectra)
    edit(attacked)
    result = rlr_eval("verify", "LOW")
    assert result.exit_code == 1
    assert "the singular values of" in result.stdout and "are not the network's" in result.stdout


@pytest.mark.parametrize(("column", "value"), [("cond", 1.0), ("rank", 1), ("params", 3), ("sigma_max", 0.5)])
def test_a_column_that_lies_beside_true_singular_values_is_found(
    rlr_eval: Command, attacked: Path, column: str, value: float
) -> None:
    spectra = records.read_run(attacked).spectra
    spectra.loc[spectra.index[-1], column] = value
    records.write_frame(RunFiles(attacked).spectra, spectra)
    edit(attacked)
    result = rlr_eval("verify", "LOW")
    assert result.exit_code == 1
    assert f"spectra.parquet: {column} is not that of the network's layers" in result.stdout


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).eval()


def test_a_program_from_elsewhere_goes_in_whole_and_code_does_not(rlr_eval: Command, runs: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=4096)
    exported = torch.export.export(network(), (torch.rand(2, 1, 8, 8),), dynamic_shapes=({0: batch},))
    torch.export.save(exported, "theirs.pt2")
    theirs = ("--model", "theirs.pt2", "--data", "digits")
    assert rlr_eval("attack", *theirs, "--suite", "quick", "--eps", 0.1, "--n", 9, "--out", "THEIRS").exit_code == 0
    assert "give it with --model" in rlr_eval("submit", "THEIRS").stderr
    made = rlr_eval("submit", "THEIRS", *theirs)
    assert made.exit_code == 0, made.stderr + made.stdout
    Path("theirs.pt2").unlink()
    assert rlr_eval("verify", "THEIRS.zip").exit_code == 0

    Path("mine.py").write_text(
        "import torch\ndef build():\n    torch.manual_seed(3)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    mine = ("--model", "mine:build", "--data", "digits")
    assert rlr_eval("attack", *mine, "--suite", "quick", "--eps", 0.1, "--n", 9, "--out", "MINE").exit_code == 0
    refused = rlr_eval("submit", "MINE", *mine)
    assert refused.exit_code == 2
    assert "is code, which nobody should have to run" in refused.stderr


def test_weights_of_an_architecture_go_in(rlr_eval: Command, attacked: Path) -> None:
    exported = rlr_eval("export", "DENSE", "--to", "dense", "--out", "w.safetensors")
    assert exported.exit_code == 0, exported.stderr
    theirs = ("--model", "cnn", "--weights", "w.safetensors", "--data", "digits", "--classes", 10)
    assert rlr_eval("attack", *theirs, "--suite", "quick", "--eps", 0.1, "--n", 9, "--out", "THEIRS").exit_code == 0
    made = rlr_eval("submit", "THEIRS", *theirs)
    assert made.exit_code == 0, made.stderr + made.stdout
    Path("w.safetensors").unlink()
    assert rlr_eval("verify", "THEIRS.zip").exit_code == 0
    with opened(Path("THEIRS.zip")) as bundle:
        assert bundle.run.record.model == "cnn"
        assert bundle.prove().sound


def test_a_board_is_made_of_bundles_that_are_proved_first(rlr_eval: Command, attacked: Path) -> None:
    rlr_eval("attack", "DENSE", "--suite", "quick", "--eps", "0.1", "--n", 12)
    for name in ("LOW", "DENSE"):
        assert rlr_eval("submit", name).exit_code == 0
        shutil.rmtree(name)
    board = rlr_eval("report", "LOW.zip", "DENSE.zip", "--out", "board", "--title", "Board")
    assert board.exit_code == 0, board.stderr
    text = Path("board/report.md").read_text(encoding="utf-8")
    assert "was proved by the input that breaks it" in text
    rows = [line for line in text.splitlines() if ".zip |" in line]
    assert len(rows) == 2 and all("| 12 |" in row and row.endswith("| proved |") for row in rows)
    assert "rlr-bundle-" not in text, "where a bundle was opened is nobody's business"

    whole = Path("LOW.zip").read_bytes()
    with records.unpacked(Path("LOW.zip")) as files:
        path = files.run / "results/quick/adversarial.safetensors"
        tensors = load_file(path)
        tensors["pgd-20/0.1/inputs"][0] = 1 - tensors["pgd-20/0.1/inputs"][0]
        save_file(tensors, path)
        records.pack(files.root, Path("LOW.zip"))
    assert Path("LOW.zip").read_bytes() != whole
    unsound = rlr_eval("report", "LOW.zip", "DENSE.zip", "--out", "other")
    assert unsound.exit_code == 2
    assert "LOW.zip is not proved, and no report was written" in unsound.stderr
    assert not Path("other").exists()


def test_a_loop_of_ones_own_is_submitted_and_its_size_is_said_to_be_as_told(rlr_eval: Command, here: Path) -> None:
    import robust_lowrank as rlr

    digits = data.load("digits")
    rlr.compress(model := network(), method="condlr", rank=4)
    optimizer = rlr.optim.LowRankOptimizer(model, torch.optim.SGD, lr=0.1)
    with rlr.record("OWN", model, optimizer, data=(digits.test_x[:40], digits.test_y[:40])) as run:
        run.epoch(loss=1.0)
    assert rlr_eval("attack", "OWN", "--suite", "quick", "--eps", 0.1, "--n", 9).exit_code == 0
    made = submit(Path("OWN"), Path("own.zip"))
    assert made.path == Path("own.zip") and made.examination.sound
    verified = rlr_eval("verify", "own.zip")
    assert verified.exit_code == 0
    assert "Parameters and condition numbers stand in run.json alone" in verified.stdout


def test_names_that_could_not_be_read_again_are_not_packed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "bundle.json").write_text("{}")
    (root / "a b").write_text("x")
    with pytest.raises(UserError, match="cannot stand in a bundle"):
        records.pack(root, tmp_path / "x.zip")
    assert not (tmp_path / "x.zip").exists()
