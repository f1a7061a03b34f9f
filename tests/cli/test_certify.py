"""`certify` proves radii and stores them; what is there is kept, what is stale is refused, bad input exits with 2."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import Result

from robust_lowrank import checkpoint, conditioning, data, evaluation, records, training
from tests.trees import stamps

Command = Callable[..., Result]


def test_a_lipschitz_certificate_is_stored_and_kept(rlr_eval: Command, runs: Path) -> None:
    result = rlr_eval("certify", "LOW", "DENSE", "--n", 50, "--radius", 0.002, "--radius", 0.1, "--json")
    assert result.exit_code == 0, result.stderr
    low, dense = json.loads(result.stdout)
    assert [low["run"], dense["run"]] == ["LOW", "DENSE"]
    assert [point["radius"] for point in low["certificate"]["curve"]] == [0.0, 0.002, 0.1]
    run = records.read_run(Path("LOW"))
    stored = run.certificates["lipschitz"]
    assert stored.record.model_dump() == low["certificate"]
    assert tuple(stored.table.columns) == records.CERTIFICATE
    digits, network = data.load("digits"), training.load_network("LOW")
    bound = conditioning.lipschitz(network, (1, 8, 8))
    assert stored.record.bound == pytest.approx(bound.bound)
    assert [layer.layer for layer in stored.record.layers] == ["conv1", "conv2", "fc1", "fc2"]
    radii = conditioning.certify(network, digits.test_x[:50], digits.test_y[:50], bound=bound)["radius"]
    assert stored.table["radius"].tolist() == pytest.approx(radii.tolist())
    assert stored.record.curve[1].certified == (radii >= 0.002).sum() > 0

    before = Path("LOW/certificates/lipschitz.parquet").stat().st_mtime_ns
    again = rlr_eval("certify", "LOW", "--n", 50)
    assert "lipschitz is there already" in again.stderr
    assert Path("LOW/certificates/lipschitz.parquet").stat().st_mtime_ns == before
    assert len(records.read_run(Path("LOW")).certificates["lipschitz"].record.curve) == 10
    assert "CondLR τ=0.1  0.05" in again.stdout
    assert "Lipschitz bound" in again.stdout
    fewer = rlr_eval("certify", "LOW", "--n", 20, "--radius", 0.002, "--json")
    assert "there already" in fewer.stderr
    (found,) = json.loads(fewer.stdout)
    assert found["certificate"]["curve"][1]["total"] == 20
    assert found["certificate"]["curve"][1]["certified"] == (radii[:20] >= 0.002).sum()
    assert len(records.read_run(Path("LOW")).certificates["lipschitz"].table) == 50
    place = Path("LOW/certificates/lipschitz.json")
    stored = json.loads(place.read_text())
    place.write_text(json.dumps(stored | {"hashes": stored["hashes"] | {"data": "0" * 64}}))
    assert "there already" not in rlr_eval("certify", "LOW", "--n", 50).stderr
    more = rlr_eval("certify", "LOW", "--n", 60, "--radius", 0)
    assert "there already" not in more.stderr
    assert "of 60 examples certified at radius 0" in more.stderr


def test_a_smoothed_network_is_certified_with_its_parameters(rlr_eval: Command, runs: Path) -> None:
    options = ("--method", "smoothing", "--sigma", 0.2, "--samples", 100, "--n", 4)
    assert rlr_eval("certify", "LOW", *options).exit_code == 0
    stored = records.read_run(Path("LOW")).certificates["smoothing-0.2-100"]
    assert stored.record.parameters == {"sigma": 0.2, "n0": 100, "n": 100, "alpha": 0.001, "seed": 0}
    assert stored.record.bound is None
    assert any("smoothed network" in line for line in stored.record.assumptions)
    assert len(stored.table) == 4
    assert "there already" in rlr_eval("certify", "LOW", *options).stderr
    assert "there already" not in rlr_eval("certify", "LOW", *options, "--seed", 1).stderr


WRONG = {
    "no run": (("none",), "none is not a run directory"),
    "a method": (("LOW", "--method", "margin"), "'margin' is not one of"),
    "a radius": (("LOW", "--radius", "-1"), "--radius -1 is no radius"),
    "sigma": (("LOW", "--method", "smoothing", "--sigma", "0"), "sigma > 0"),
    "samples": (("LOW", "--method", "smoothing", "--samples", "0"), "samples = 0 must lie between"),
    "alpha": (("LOW", "--method", "smoothing", "--alpha", "0.7"), "alpha in (0, 0.5)"),
    "sigma for nothing": (("LOW", "--sigma", "0.5"), "--sigma belongs to --method smoothing"),
    "no examples": (("LOW", "--n", "0"), "0 cannot be taken"),
    "too many": (("LOW", "--n", "9999"), "9999 cannot be taken"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_use_is_refused_and_nothing_written(what: str, rlr_eval: Command, runs: Path) -> None:
    arguments, said = WRONG[what]
    before = stamps(runs)
    result = rlr_eval("certify", *arguments)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert 1 <= len(result.stderr.strip().splitlines()) <= 3
    assert stamps(runs) == before


def other_weights(run: Path) -> None:
    network = training.load_network(run)
    network.load_state_dict(network.state_dict() | {"fc2.bias": network.state_dict()["fc2.bias"] + 0.1})
    checkpoint.save(network, run / "model.safetensors")


def other_images(run: Path) -> None:
    path = run / "run.json"
    record = records.read_record(path, records.RunRecord)
    records.write_record(path, record.model_copy(update={"hashes": record.hashes | {"test": "0" * 64}}))


@pytest.mark.parametrize(("change", "said"), [(other_weights, "other weights"), (other_images, "are not those of LOW")])
def test_weights_or_images_that_the_record_does_not_name_are_refused(
    change: Callable[[Path], None], said: str, rlr_eval: Command, runs: Path
) -> None:
    change(Path("LOW"))
    before = stamps(runs)
    result = rlr_eval("certify", "DENSE", "LOW")
    assert result.exit_code == 2
    assert said in result.stderr
    assert stamps(runs) == before


def test_a_certificate_of_earlier_weights_is_done_again(rlr_eval: Command, runs: Path) -> None:
    rlr_eval("certify", "LOW", "--n", 5)
    other_weights(Path("LOW"))
    path = Path("LOW/run.json")
    record = records.read_record(path, records.RunRecord)
    network = training.load_network("LOW")
    answers = evaluation.behaviour(network, data.load("digits").test_x)
    hashes = record.hashes | {"weights": checkpoint.digest(network)}
    records.write_record(path, record.model_copy(update={"hashes": hashes, "behaviour": answers}))
    result = rlr_eval("certify", "LOW", "--n", 5)
    assert result.exit_code == 0
    assert "there already" not in result.stderr


@pytest.mark.slow
def test_a_lost_or_damaged_file_of_a_certificate_is_made_again(rlr_eval: Command, runs: Path) -> None:
    rlr_eval("certify", "LOW", "--n", 10)
    table, record = Path("LOW/certificates/lipschitz.parquet"), Path("LOW/certificates/lipschitz.json")
    whole = table.read_bytes()
    for damage in (table.unlink, lambda: table.write_bytes(whole[:50]), lambda: record.write_text("{}")):
        damage()
        again = rlr_eval("certify", "LOW", "--n", 10)
        assert again.exit_code == 0 and "there already" not in again.stderr
        assert table.read_bytes() == whole
    assert rlr_eval("verify", "LOW").exit_code == 0


def test_a_smoothed_radius_beyond_what_its_samples_prove_is_found(rlr_eval: Command, runs: Path) -> None:
    rlr_eval("certify", "LOW", "--method", "smoothing", "--sigma", 0.2, "--samples", 100, "--n", 4)
    (name, certificate) = next(iter(records.read_run(Path("LOW")).certificates.items()))
    verified = rlr_eval("verify", "LOW")
    assert verified.exit_code == 0 and "not drawn again" in verified.stderr + verified.stdout
    place = Path(f"LOW/certificates/{name}.json")
    records.write_frame(place.with_suffix(".parquet"), certificate.table.assign(radius=9.0))
    records.write_sealed(place, certificate.record, [place.with_suffix(".parquet")])
    verified = rlr_eval("verify", "LOW")
    assert verified.exit_code == 1 and "the most that so many samples can prove" in verified.stderr + verified.stdout


@pytest.mark.slow
def test_a_certificate_that_was_sealed_again_is_held_against_the_network(rlr_eval: Command, runs: Path) -> None:
    rlr_eval("certify", "LOW", "--n", 10)
    place = Path("LOW/certificates/lipschitz.json")
    stored = records.read_run(Path("LOW")).certificates["lipschitz"]
    table = place.with_suffix(".parquet")

    def sealed(frame: pd.DataFrame, **changes: object) -> str:
        records.write_frame(table, frame)
        records.write_sealed(place, stored.record.model_copy(update=changes), [table])
        verified = rlr_eval("verify", "LOW")
        assert verified.exit_code == 1
        return verified.stderr + verified.stdout

    assert "the radius of example 3" in sealed(
        stored.table.assign(radius=stored.table["radius"].where(stored.table.index != 3, 9.0))
    )
    curve = [point.model_copy(update={"certified": point.certified + 1}) for point in stored.record.curve]
    assert "certified accuracies are not those of its table" in sealed(stored.table, curve=curve)
    assert "its bound is not the network's" in sealed(stored.table, bound=0.1)
    assert "version 1 of the bound" in sealed(stored.table, version=1)
