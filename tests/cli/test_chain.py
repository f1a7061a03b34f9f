"""Train, attack, condition, report: each command on what the one before wrote."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from robust_lowrank import checkpoint, data, evaluation, records, training

Command = Callable[..., Result]

TRAIN = ("train", "--data", "digits", "--model", "cnn", "--epochs", 1, "--train-examples", 256, "--batch-size", 64)


@pytest.fixture
def run(rlr_eval: Command) -> Path:
    result = rlr_eval(*TRAIN, "--method", "condlr", "--rank", "0.25", "--tau", "0.1", "--seed", 3, "--out", "RUN")
    assert result.exit_code == 0, result.stderr
    return Path("RUN")


def test_train_writes_the_run_that_its_options_say(run: Path) -> None:
    record = records.read_run(run).record
    assert (record.label, record.status, record.seed, record.epochs_done) == ("CondLR τ=0.1", "complete", 3, 1)
    assert record.config["method"]["rank"] == 0.25
    assert record.config["data"]["train_examples"] == 256
    assert record.hashes["weights"] == checkpoint.digest(training.load_network(run))


def test_train_says_its_epochs_on_stderr_and_its_result_on_stdout(rlr_eval: Command) -> None:
    result = rlr_eval(*TRAIN, "--out", "RUN")
    assert "RUN: epoch 1 of 1, loss" in result.stderr
    assert result.stdout.startswith("Dense: test accuracy ")
    assert result.stdout.endswith("\nAttack it with: rlr-eval attack RUN --suite quick\n")


def test_train_prints_its_record_as_json(rlr_eval: Command) -> None:
    result = rlr_eval(*TRAIN, "--out", "RUN", "--json")
    assert json.loads(result.stdout) == json.loads(Path("RUN/run.json").read_text())


def test_train_again_leaves_the_run_and_refuses_another_in_its_place(rlr_eval: Command, run: Path) -> None:
    written = (run / "run.json").stat().st_mtime_ns
    again = rlr_eval(*TRAIN, "--method", "condlr", "--rank", "0.25", "--tau", "0.1", "--seed", 3, "--out", run)
    assert again.exit_code == 0
    other = rlr_eval(*TRAIN, "--method", "condlr", "--rank", "0.25", "--tau", "0.5", "--seed", 3, "--out", run)
    assert other.exit_code == 2
    assert "holds another run" in other.stderr
    assert (run / "run.json").stat().st_mtime_ns == written


def test_options_take_precedence_over_a_file(rlr_eval: Command, here: Path) -> None:
    text = "seed = 7\n[data]\ntrain_examples = 128\n[method]\nname = 'condlr'\ntau = 0.5\n[training]\nepochs = 9\nlr = 0.05\n"
    (here / "one.toml").write_text(text)
    result = rlr_eval("train", "--config", "one.toml", "--epochs", 1, "--tau", "0.2")
    assert result.exit_code == 0, result.stderr
    record = records.read_run(Path("runs/digits-cnn-condlr-tau0.2-rank0.25-seed7")).record
    assert (record.config["training"]["epochs"], record.config["training"]["lr"]) == (1, 0.05)
    assert record.config["method"]["tau"] == 0.2


def test_robust_training_is_an_option_with_a_directory_of_its_own(rlr_eval: Command, here: Path) -> None:
    table = "[training.adversarial]\nattack = 'pgd'\neps = 0.1\nsteps = 2\n"
    (here / "one.toml").write_text("[data]\ntrain_examples = 128\n[training]\nepochs = 1\n" + table)
    result = rlr_eval("train", "--config", "one.toml", "--adversarial-eps", "4/255")
    assert result.exit_code == 0, result.stderr
    record = records.read_run(Path("runs/digits-cnn-dense-pgd-eps0.01569-steps2-seed0")).record
    assert record.label == "Dense, PGD-trained ε=0.01569, steps 2"
    assert record.config["training"]["adversarial"]["step_size"] == pytest.approx(1.25 * 4 / 255)


def test_attack_stores_what_the_library_finds(rlr_eval: Command, run: Path) -> None:
    result = rlr_eval(
        "attack", run, "--suite", "quick", "--eps", "0.1", "--norm", "Linf", "--n", 20, "--executor", "processes", "--json"
    )
    assert result.exit_code == 0, result.stderr
    stored = records.read_run(run).results["quick"].record
    (printed,) = json.loads(result.stdout)
    assert printed["result"] == stored.model_dump()
    digits = data.load("digits")
    network = training.load_network(run)
    expected = evaluation.evaluate(network, digits.test_x[:20], digits.test_y[:20], suite="quick", eps=0.1)
    assert stored.accuracies == expected.record.accuracies
    assert stored.hashes == expected.record.hashes


def test_attack_shows_accuracies_with_intervals(rlr_eval: Command, run: Path) -> None:
    result = rlr_eval("attack", run, "--suite", "quick", "--eps", "0.1", "--n", 20)
    (worst,) = [a for a in records.read_run(run).results["quick"].record.accuracies if a.attack == "worst"]
    (line,) = [line for line in result.stdout.splitlines() if " worst " in line]
    assert line.split() == f"CondLR τ=0.1 worst Linf 0.1 {worst.value:.1%} {worst.low:.1%} to {worst.high:.1%}".split()


def test_attack_keeps_every_result_and_says_what_supersedes_it(rlr_eval: Command, run: Path) -> None:
    def attack(*options: object) -> str:
        result = rlr_eval("attack", run, "--suite", "quick", "--eps", "0.1", "--n", 10, *options)
        assert result.exit_code == 0, result.stderr
        return result.stderr

    def times() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in run.glob("results/*/result.json")}

    attack()
    first = times()
    attack()
    assert times() == first
    said = [attack("--seed", 1), attack("--n", 12), attack("--eps", "0.05")]
    assert set(times()) == {"quick", "quick-2", "quick-3", "quick-4"}
    assert times()["quick"] == first["quick"]
    assert "results/quick, on 10 examples at eps 0.1: kept beside it" in said[0]
    assert "results/quick, on 10 examples at eps 0.1: superseded by results/quick-3, and kept" in said[1]
    assert "results/quick, on 10 examples at eps 0.1: superseded by results/quick-4, and kept" in said[2]  # at both radii
    assert "results/quick-3, on 12 examples at eps 0.1: kept beside it" in said[2]
    shutil.rmtree(run / "results/quick-2")  # a gap is filled by what is new, and hides nothing
    attack("--eps", "0.05")
    assert set(times()) == {"quick", "quick-3", "quick-4"}
    attack("--seed", 1)
    verdicts = (run / "results/quick-3/verdicts.parquet").read_bytes()
    (run / "results/quick-3/result.json").write_text("{")  # of nobody knows which attack, but its verdicts say: not of this one
    attack("--seed", 2)
    assert (run / "results/quick-3/verdicts.parquet").read_bytes() == verdicts and "quick-5" in times()
    attack("--n", 12)
    assert json.loads((run / "results/quick-3/result.json").read_text())["accuracies"][0]["total"] == 12
    shutil.rmtree(run / "results/quick-5")
    (run / "results/quick/verdicts.parquet").unlink()
    attack()
    assert set(times()) == {"quick", "quick-2", "quick-3", "quick-4"} and (run / "results/quick/verdicts.parquet").is_file()


def test_attack_and_certify_refuse_weights_that_the_record_does_not_name(rlr_eval: Command, run: Path) -> None:
    network = training.load_network(run)
    with_other_bias = network.state_dict() | {"fc2.bias": network.state_dict()["fc2.bias"] + 0.1}
    network.load_state_dict(with_other_bias)
    checkpoint.save(network, run / "model.safetensors")
    for command in (("attack", run, "--suite", "quick"), ("certify", run), ("forecast", run)):
        result = rlr_eval(*command)
        assert result.exit_code == 2
        assert "model.safetensors holds other weights" in result.stderr


def test_another_norm_has_its_own_results(rlr_eval: Command, run: Path) -> None:
    for options in (("--norm", "L2", "--eps", "0.5"), ("--norm", "Linf", "--eps", "8/255")):
        assert rlr_eval("attack", run, "--suite", "quick", "--n", 5, *options).exit_code == 0
    results = records.read_run(run).results
    assert {name: (r.record.norm, r.record.eps) for name, r in results.items()} == {
        "quick": ("Linf", [8 / 255]),
        "quick-L2": ("L2", [0.5]),
    }


def test_attack_refuses_a_run_whose_training_stopped(rlr_eval: Command, run: Path) -> None:
    record = records.read_run(run).record.model_copy(update={"status": "running"})
    records.write_record(run / "run.json", record)
    result = rlr_eval("attack", run, "--suite", "quick", "--n", 5)
    assert result.exit_code == 2
    assert "not complete" in result.stderr
    assert not (run / "results").exists()


@pytest.mark.slow
def test_condition_and_report_write_their_pages(rlr_eval: Command, run: Path) -> None:
    assert rlr_eval(*TRAIN, "--out", "DENSE").exit_code == 0
    for path in (run, "DENSE"):
        assert rlr_eval("attack", path, "--suite", "quick", "--eps", "0.1", "--n", 10).exit_code == 0
    condition = rlr_eval("condition", run, "--out", "C", "--json")
    assert condition.exit_code == 0, condition.stderr
    (listed,) = json.loads(condition.stdout)
    factored = {layer["layer"]: layer["cond"] for layer in listed["layers"] if layer["factored"]}
    assert set(factored) == {"conv1", "conv2", "fc1"}
    assert all(1 <= cond <= 1.1 + 1e-4 for cond in factored.values())
    assert {"condition.html", "condition.md", "condition.csv"} <= {path.name for path in Path("C").iterdir()}
    weights = rlr_eval("condition", run / "model.safetensors", "DENSE", "--out", "W", "--json")
    assert weights.exit_code == 0, weights.stderr
    alone, _ = json.loads(weights.stdout)
    assert {layer["layer"]: layer["cond"] for layer in alone["layers"] if layer["factored"]} == factored
    assert "layers as given" in Path("W/condition.md").read_text()
    report = rlr_eval("report", run, "DENSE", "--out", "R", "--title", "Two networks")
    assert report.exit_code == 0, report.stderr
    assert report.stdout.endswith("Report: R/report.html\n")
    assert {"report.html", "report.md", "results.csv", "figures"} <= {path.name for path in Path("R").iterdir()}
    assert "# Two networks" in Path("R/report.md").read_text()


def test_a_monitored_training_shows_its_line_and_writes_its_history(rlr_eval: Command) -> None:
    result = rlr_eval(*TRAIN, "--method", "condlr", "--monitor-every", 2, "--out", "RUN")
    assert "training accuracy" in result.stderr and "%, cond ≤ 1." in result.stderr
    assert sorted(set(records.read_frame(Path("RUN/monitor.parquet"))["step"])) == [2, 4]
    again = rlr_eval(*TRAIN, "--method", "condlr", "--out", "RUN")
    assert again.exit_code == 2
    assert "its monitor is {" in again.stderr
