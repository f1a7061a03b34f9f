"""What lies in a run directory is named for what it is, with what makes it again."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robust_lowrank import records, training
from robust_lowrank.cli.app import app
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.inventory import Item, inventory
from robust_lowrank.records import RunFiles


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two results of one suite, a certificate and a form."""
    run = tmp_path_factory.mktemp("inventory") / "run"
    options = {"data": {"name": "digits", "train_examples": 200}, "model": {"name": "mlp"}, "method": {"name": "condlr"}}
    training.train(training.TrainConfig.model_validate(options | {"training": {"epochs": 1}}), run)
    for args in (
        ["attack", run, "--suite", "quick", "--eps", "0.1", "--n", "5"],
        ["attack", run, "--suite", "quick", "--eps", "0.1", "--n", "8", "--form", "merged"],
        ["certify", run, "--n", "5"],
    ):
        assert CliRunner().invoke(app, [str(arg) for arg in args]).exit_code == 0
    return run


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def item(run: Path, name: str) -> Item:
    (found,) = [item for item in inventory(run) if item.name == name]
    return found


def test_a_run_as_it_was_written_is_whole(run: Path) -> None:
    items = inventory(run)
    assert {item.name for item in items} >= {"run.json", "model.safetensors", "results/quick-2", "certificates/lipschitz"}
    assert {item.name for item in items if item.state != "whole"} == {"results/quick"}
    assert item(run, "results/quick").state == "stale"
    assert item(run, "results/quick-2").seconds == pytest.approx(records.read_run(run).results["quick-2"].record.seconds)


def test_a_form_that_was_stopped_as_it_was_made_is_unfinished(run: Path) -> None:
    (run / "forms" / "merged" / "run.json").unlink()
    found = item(run, "forms/merged")
    assert (found.state, found.remedy) == ("unfinished", MERGED.replace("RUN", str(run)))


def test_a_file_that_its_record_is_not_sealed_with_yet_is_unfinished(run: Path) -> None:
    result = RunFiles(run / "forms" / "merged").result("quick")
    record = records.read_record(result.record, records.ResultRecord)
    records.write_sealed(result.record, record, [path for path in result.beside if path != result.replayed])
    assert item(run, "forms/merged/results/quick").state == "unfinished"


QUICK = "rlr-eval attack RUN --suite quick"
MERGED = "rlr-eval attack RUN --form merged"


@pytest.mark.parametrize(
    ("path", "name", "remedy"),
    [
        ("model.safetensors", "model.safetensors", "train it again"),
        ("metrics.parquet", "metrics.parquet", "train it again"),
        ("results/quick-2/verdicts.parquet", "results/quick-2", f"{QUICK} --norm Linf --eps 0.1 --n 8"),
        ("certificates/lipschitz.json", "certificates/lipschitz", "rlr-eval certify RUN"),
        ("certificates/lipschitz.parquet", "certificates/lipschitz", "rlr-eval certify RUN"),
        ("forms/merged/spectra.parquet", "forms/merged/spectra.parquet", MERGED),
    ],
)
@pytest.mark.parametrize("damage", ["lost", "cut", "changed"])
def test_what_is_damaged_is_named_with_what_makes_it_again(run: Path, path: str, name: str, remedy: str, damage: str) -> None:
    content = (run / path).read_bytes()
    if damage == "lost":
        (run / path).unlink()
    else:
        (run / path).write_bytes(content[: len(content) // 2] if damage == "cut" else content + b" ")
    (damaged,) = [item for item in inventory(run) if item.state == "damaged"]
    assert damaged.name == name
    assert remedy.replace("RUN", str(run)) in damaged.remedy


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_result_without_a_whole_record_is_made_again(run: Path, damage: str) -> None:
    path = run / "results" / "quick-2" / "result.json"
    path.unlink() if damage == "lost" else path.write_bytes(path.read_bytes()[:100])
    found = item(run, "results/quick-2")
    assert found.state == ("unfinished" if damage == "lost" else "damaged")
    assert found.remedy == QUICK.replace("RUN", str(run))


def test_what_is_of_another_network_or_of_no_run_is_foreign(run: Path, whole: Path) -> None:
    files = RunFiles(run)
    record = records.read_record(files.result("quick-2").record, records.ResultRecord)
    other = record.model_copy(update={"hashes": record.hashes | {"weights": "0" * 64}})
    records.write_sealed(files.result("quick-2").record, other, files.result("quick-2").beside)
    (run / "thesis.txt").touch()
    (run / "monitor.parquet").write_bytes((run / "metrics.parquet").read_bytes())
    assert [item(run, name).state for name in ("results/quick-2", "thesis.txt", "monitor.parquet")] == ["foreign"] * 3


def test_what_is_half_done_is_unfinished_or_left_over(run: Path) -> None:
    (run / ".run.json.x.rlr-part").touch()
    (run / "resume" / "1").mkdir(parents=True)
    for name in ("result.json", "verdicts.parquet", "adversarial.safetensors", "closest.safetensors", "clean.safetensors"):
        (run / "results" / "quick-2" / name).unlink()
    shutil.copytree(run / "results" / "quick" / "units", run / "results" / "quick-2" / "units")
    assert [item(run, name).state for name in (".run.json.x.rlr-part", "resume")] == ["leftover"] * 2
    assert item(run, "results/quick-2/units").state == "unfinished"
    record = records.read_record(RunFiles(run).record, records.RunRecord)
    records.write_record(RunFiles(run).record, record.model_copy(update={"status": "running", "epochs_done": 0}))
    assert item(run, "run.json").state == "unfinished"


def test_the_command_exits_with_1_where_something_is_damaged(run: Path) -> None:
    assert CliRunner().invoke(app, ["doctor", str(run)]).exit_code == 0
    (run / "spectra.parquet").unlink()
    result = CliRunner().invoke(app, ["doctor", str(run)])
    assert result.exit_code == 1
    assert "damaged  spectra.parquet" in result.stdout


def test_what_is_no_run_has_no_inventory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        inventory(tmp_path)
