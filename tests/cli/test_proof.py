"""`verify` proves stored verdicts again, and `plan` says what an attack will take."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import Result

from robust_lowrank import checkpoint, data, records, training
from robust_lowrank.errors import UserError
from robust_lowrank.jobs.examination import examine

Command = Callable[..., Result]


@pytest.fixture
def attacked(rlr_eval: Command, runs: Path) -> Path:
    result = rlr_eval("attack", "LOW", "--suite", "quick", "--eps", "0.1", "--n", 12)
    assert result.exit_code == 0, result.stderr
    return Path("LOW/results/quick")


def test_verify_proves_every_verdict_until_an_input_is_changed(rlr_eval: Command, attacked: Path) -> None:
    sound = rlr_eval("verify", "LOW")
    assert sound.exit_code == 0, sound.stderr
    assert "Every broken example and every figure is proved" in sound.stdout
    printed = json.loads(rlr_eval("verify", "LOW", "--suite", "quick", "--json").stdout)
    assert printed["sound"] and not printed["faults"]
    (proofs,) = (result["proofs"] for result in printed["results"].values())
    assert [proof["attack"] for proof in proofs] == ["fgsm", "pgd-20"]
    assert all(proof["broken"] == proof["proved"] > 0 for proof in proofs)

    path = attacked / "adversarial.safetensors"
    tensors = load_file(path)
    tensors["pgd-20/0.1/inputs"][0] = 1 - tensors["pgd-20/0.1/inputs"][0]  # still an image, but far beyond the budget
    save_file(tensors, path)
    tampered = rlr_eval("verify", "LOW", "--json")
    assert tampered.exit_code == 1
    printed = json.loads(tampered.stdout)
    assert printed["faults"] == [f"{path} is not as it was written"]
    (proofs,) = (result["proofs"] for result in printed["results"].values())
    assert [proof["failed"] for proof in proofs] == [[], [int(tensors["pgd-20/0.1/examples"][0])]]
    assert "1 verdicts are not proved: move the result and its units away" in rlr_eval("verify", "LOW").stdout


def test_a_share_is_attacked_anew(rlr_eval: Command, attacked: Path) -> None:
    printed = json.loads(rlr_eval("verify", "LOW", "--again", 0.5, "--seed", 5, "--json").stdout)
    (again,) = (result["again"] for result in printed["results"].values())
    assert [(entry["attack"], entry["refuted"]) for entry in again] == [("fgsm", []), ("pgd-20", [])]
    assert all(0 < entry["most"] <= 1 for entry in again)
    drawn = rlr_eval("verify", "LOW", "--again", 0.5)
    assert drawn.exit_code == 0 and "a share of them was attacked anew (--seed " in drawn.stdout
    assert "give --again" in rlr_eval("verify", "LOW", "--seed", 1).stderr
    assert "share of 2" in rlr_eval("verify", "LOW", "--again", 2).stderr


@pytest.mark.slow
def test_any_edited_byte_of_a_run_is_found(rlr_eval: Command, attacked: Path) -> None:
    rlr_eval("certify", "LOW", "--n", 5)
    assert examine(Path("LOW"), None).sound
    generator = random.Random(0)
    files = sorted(path for path in Path("LOW").rglob("*") if path.is_file())
    assert {"run.json", "result.json", "verdicts.parquet", "lipschitz.json"} <= {path.name for path in files}
    for path in files:
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(4))}:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :])
            with suppress(UserError, ValueError):
                assert not examine(Path("LOW"), None).sound, f"{path}, byte {place}"
        path.unlink()
        with suppress(UserError):
            assert not examine(Path("LOW"), None).sound or path.parent.name == "units", f"{path} is gone"
        path.write_bytes(whole)
    assert examine(Path("LOW"), None).sound
    (attacked / "transfer.parquet").write_bytes((attacked / "verdicts.parquet").read_bytes())
    with suppress(UserError):
        assert not examine(Path("LOW"), None).sound, "a file that nobody has sealed"


def test_other_ends_of_lines_break_a_seal(rlr_eval: Command, attacked: Path) -> None:
    record = attacked / "result.json"
    record.write_bytes(record.read_bytes().replace(b"\n", b"\r\n"))
    assert not examine(Path("LOW"), None).sound


def test_a_result_without_its_closest_inputs_is_still_proved_and_the_loss_is_said(rlr_eval: Command, attacked: Path) -> None:
    (attacked / "closest.safetensors").unlink()
    verified = rlr_eval("verify", "LOW")
    assert verified.exit_code == 1
    assert "closest.safetensors is missing" in verified.stderr + verified.stdout


def test_networks_from_elsewhere_are_verified_and_forecast(rlr_eval: Command, runs: Path) -> None:
    digits = data.load("digits")
    save_file({"x": digits.test_x[:30], "y": digits.test_y[:30]}, "images.safetensors")
    Path("mine.py").write_text(
        "import torch\ndef build():\n    torch.manual_seed(3)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    network = ("--model", "mine:build", "--data", "images.safetensors")
    cost = rlr_eval("forecast", *network, "--suite", "quick", "--eps", 0.1, "--json")
    assert cost.exit_code == 0, cost.stderr
    assert json.loads(cost.stdout)["examples"] == 30
    assert rlr_eval("attack", *network, "--suite", "quick", "--eps", 0.1, "--out", "THEIRS").exit_code == 0
    found = rlr_eval("verify", "THEIRS", *network, "--again", 1)
    assert found.exit_code == 0, found.stderr + found.stdout
    assert "give it with --model" in rlr_eval("verify", "THEIRS").stderr
    rlr_eval("attack", "LOW", "--suite", "quick", "--eps", "0.1", "--n", 5)
    assert "leave out --model" in rlr_eval("verify", "LOW", *network).stderr
    Path("other.py").write_text(Path("mine.py").read_text().replace("seed(3)", "seed(4)"))
    other = rlr_eval("verify", "THEIRS", "--model", "other:build", "--data", "images.safetensors")
    assert other.exit_code == 2 and "other weights" in other.stderr


def change_weights(run: Path) -> None:
    network = training.load_network(run)
    network.load_state_dict(network.state_dict() | {"fc2.bias": network.state_dict()["fc2.bias"] + 0.1})
    checkpoint.save(network, run / "model.safetensors")


def change_record(run: Path) -> None:
    path = run / "results/quick/result.json"
    record = records.read_record(path, records.ResultRecord)
    records.write_record(path, record.model_copy(update={"hashes": record.hashes | {"data": "0" * 64}}))


@pytest.mark.parametrize(("change", "said"), [(change_weights, "holds other weights"), (change_record, "stale")])
def test_verify_refuses_a_stale_result(rlr_eval: Command, attacked: Path, change: Callable[[Path], None], said: str) -> None:
    change(Path("LOW"))
    result = rlr_eval("verify", "LOW")
    assert result.exit_code == 2
    assert said in result.stderr
    assert not result.stdout


def test_plan_says_what_an_attack_takes_and_writes_nothing(rlr_eval: Command, runs: Path) -> None:
    before = sorted(runs.rglob("*"))
    options = ("forecast", "LOW", "--suite", "demo", "--n", 20)
    cost = json.loads(rlr_eval(*options, "--json").stdout)
    assert cost["examples"] == 20
    assert [(share["attack"], share["eps"], share["passes"]) for share in cost["shares"]] == [
        (attack, eps, passes) for attack, passes in (("fgsm", 60), ("pgd-20", 840)) for eps in (0.05, 0.1, 0.15)
    ]
    assert cost["passes"] == sum(share["passes"] for share in cost["shares"])
    assert cost["seconds"] > 0
    assert cost["memory"] > 0
    table = rlr_eval(*options)
    assert table.exit_code == 0, table.stderr
    assert [line.split()[:3] for line in table.stdout.splitlines()[1:2]] == [["fgsm", "0.05", "60"]]
    assert "together" in table.stdout
    assert "on 20 examples" in table.stdout
    assert sorted(runs.rglob("*")) == before
