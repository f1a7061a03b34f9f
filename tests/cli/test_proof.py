"""`verify` proves stored verdicts again, and `plan` says what an attack will take."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import Result

from robust_lowrank import checkpoint, records, training

Command = Callable[..., Result]


@pytest.fixture
def attacked(rlr_eval: Command, runs: Path) -> Path:
    result = rlr_eval("attack", "LOW", "--suite", "quick", "--eps", "0.1", "--n", 12)
    assert result.exit_code == 0, result.stderr
    return Path("LOW/results/quick")


def test_verify_proves_every_verdict_until_an_input_is_changed(rlr_eval: Command, attacked: Path) -> None:
    sound = rlr_eval("verify", "LOW")
    assert sound.exit_code == 0, sound.stderr
    assert "every broken example is proved" in sound.stdout
    (proofs,) = json.loads(rlr_eval("verify", "LOW", "--suite", "quick", "--json").stdout).values()
    assert [proof["attack"] for proof in proofs] == ["fgsm", "pgd-20"]
    assert all(proof["broken"] == proof["proved"] > 0 for proof in proofs)

    path = attacked / "adversarial.safetensors"
    tensors = load_file(path)
    tensors["pgd-20/0.1/inputs"][0] = 1 - tensors["pgd-20/0.1/inputs"][0]  # still an image, but far beyond the budget
    save_file(tensors, path)
    tampered = rlr_eval("verify", "LOW", "--json")
    assert tampered.exit_code == 1
    (proofs,) = json.loads(tampered.stdout).values()
    assert [proof["failed"] for proof in proofs] == [[], [int(tensors["pgd-20/0.1/examples"][0])]]
    assert "1 verdicts are not proved: attack again" in rlr_eval("verify", "LOW").stdout


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
