import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from robust_lowrank import numbers
from robust_lowrank.conditioning import operators
from robust_lowrank.errors import UserError
from robust_lowrank.records import Certificate, CertificateRecord, CurvePoint, LayerBound
from robust_lowrank.reporting import condition_report


@pytest.fixture(scope="module")
def report(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("condition")
    assert condition_report(trained, out, title="Conditioning", command="rlr-eval condition runs/*") == out / "condition.html"
    return out


def test_all_files_are_there(report):
    assert {path.name for path in report.iterdir()} == {
        *(f"condition.{suffix}" for suffix in ("html", "md", "tex", "csv", "parquet", "json")),
        "figures",
    }
    names = {path.stem for path in (report / "figures").iterdir()}
    assert names == {
        f"condition-{name}" for name in ("condition-by-layer", "condition-over-training", "spectra", "product-over-training")
    }


def test_the_summary_names_the_worst_layer(report, trained):
    last = pd.concat(
        [run.spectra[run.spectra["epoch"] == run.spectra["epoch"].max()].assign(run=run.record.label) for run in trained]
    )
    worst = last.sort_values("cond").iloc[-1]
    text = (report / "condition.md").read_text(encoding="utf-8")
    assert f"The worst-conditioned layer is {worst['layer']} of {worst['run']}: condition number {worst['cond']:.1f}." in text


def test_layers_stand_worst_first(report):
    text = (report / "condition.md").read_text(encoding="utf-8")
    block = text[text.index("Dense: layers after epoch") :].split("\n\n")[1]
    numbers = [float(line.split("|")[5]) for line in block.splitlines()[2:]]
    assert len(numbers) == 3
    assert numbers == sorted(numbers, reverse=True)


def test_the_caveats_stand_beside_the_numbers(report):
    for name in ("condition.md", "condition.html"):
        text = (report / name).read_text(encoding="utf-8")
        assert "not the convolution operator" in text
        assert "It is not the condition number of the network" in text


def test_the_csv_holds_the_recorded_spectra(report, trained):
    frame = pd.read_csv(report / "condition.csv")
    assert len(frame) == sum(len(run.spectra) for run in trained)
    dense = frame[frame["run"] == "Dense"].reset_index(drop=True)
    recorded = trained[-1].spectra.reset_index(drop=True)
    np.testing.assert_array_equal(dense["cond"], recorded["cond"])
    for text, values in zip(dense["singular_values"], recorded["singular_values"], strict=True):
        np.testing.assert_array_equal([float(value) for value in text.split()], values)


def test_warnings_for_bad_layers(make_run, tmp_path):
    run = make_run("a", weights={"flat": np.diag([1.0, 0.9]), "steep": np.diag([1.0, 1e-6]), "gone": np.diag([1.0, 0.0])})
    run.spectra.loc[0, "orthonormality"] = 0.01
    condition_report([run], tmp_path, title="t", command="x")
    text = (tmp_path / "condition.md").read_text(encoding="utf-8")
    assert "The worst-conditioned layer is gone: condition number ∞." in text
    assert "It is numerically rank-deficient: of 2 directions it maps one to nothing" in text
    assert re.search(r"condition number above 10000 in gone and steep|condition number above 10000 in steep and gone", text)
    assert "the bases of flat are not orthonormal (defect up to 0.0100)" in text
    assert "Not drawn: 1 infinite" in text


def test_ranks_are_drawn_where_they_change(make_run, tmp_path):
    run = make_run("DLRT", method="dlrt", weights={"one": np.diag([4.0, 2.0, 1.0])}, ranks={"one": 3})
    later = run.spectra.assign(epoch=1, rank=2)
    history = pd.concat([run.spectra, later], ignore_index=True)
    condition_report([type(run)(run.path, run.record, run.metrics, history, {})], tmp_path, title="t", command="x")
    assert (tmp_path / "figures" / "condition-rank-over-training.svg").is_file()


def test_no_spectra_is_an_error(make_run, tmp_path):
    with pytest.raises(UserError, match="shows no layers, or was not trained"):
        condition_report([make_run("a")], tmp_path / "out", title="t", command="x")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def convolutional(make_run):
    """Runs of a convolutional network whose operators are recorded, and of one where they are not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)).eval()
    weights = {"0": net[0].weight.detach().flatten(1).numpy(), "4": net[4].weight.detach().numpy()}
    run = make_run("Conv", method="dense", weights=weights)
    return [replace(run, operators=operators(net, (1, 8, 8))), make_run("Older", method="condlr", weights=weights)]


def test_operator_norms_stand_beside_the_matrices(convolutional, tmp_path):
    condition_report(convolutional, tmp_path, title="t", command="x")
    recorded = convolutional[0].operators.set_index("layer")
    text = (tmp_path / "condition.md").read_text(encoding="utf-8")
    block = text[text.index("Conv: layers as operators, largest bound with batch normalisation first.") :].split("\n\n")[1]
    assert f"| {numbers.quantity(recorded.loc['0', 'operator_bound'])} |" in block
    assert "Older: layers as operators" not in text
    assert "as an operator on 8 × 8 images 0 stretches by up to" in text
    assert "Layers as operators" in (tmp_path / "condition.html").read_text(encoding="utf-8")
    assert "layers as operators" in (tmp_path / "condition.tex").read_text(encoding="ascii")
    assert (tmp_path / "figures" / "condition-operator-norms.svg").is_file()


def test_rows_of_the_last_epoch_carry_operator_norms(convolutional, tmp_path):
    run = convolutional[0]
    run = replace(run, spectra=pd.concat([run.spectra, run.spectra.assign(epoch=1)], ignore_index=True))
    condition_report([run, convolutional[1]], tmp_path, title="t", command="x")
    frame = pd.read_csv(tmp_path / "condition.csv").astype({"layer": str}).set_index(["run", "epoch", "layer"])
    assert len(frame) == 6
    for layer, row in run.operators.set_index("layer").iterrows():
        assert frame.loc[("Conv", 1, layer), "operator_bound"] == row["operator_bound"]
    assert frame["operator_bound"].notna().sum() == 2
    assert frame["folded_bound"].dtype == "float64"


def test_what_a_certificate_proves_is_told(convolutional, tmp_path):
    layers = [LayerBound(layer="0", operation="conv2d", constant=2.0, bound=2.0, note="")]
    record = CertificateRecord(
        name="lipschitz",
        kind="lipschitz",
        created="2026-01-01T00:00:00+00:00",
        versions={},
        machine="",
        hashes={"weights": "aa", "data": "dd"},
        parameters={},
        assumptions=[],
        bound=12.345,
        layers=layers,
        interval="",
        curve=[CurvePoint(radius=r, certified=c, total=40, value=c / 40, low=0, high=1) for r, c in ((0.0, 40), (0.1, 30))],
        seconds=0.0,
    )
    nothing = record.model_copy(update={"bound": None, "reasons": ["attention has none"]})
    others = record.model_copy(update={"hashes": {"weights": "dead" * 16}})
    run = replace(convolutional[0], certificates={"lipschitz": Certificate(others, pd.DataFrame())})
    with pytest.raises(UserError, match=r"other weights \(deaddeaddead\)"):
        condition_report([run], tmp_path, title="t", command="x")
    for found, told in (
        (record, "provably moves the logits by at most 12.3 δ; 75.0 % of 40 examples are certified at radius 0.1"),
        (nothing, "no Lipschitz bound is known: attention has none"),
    ):
        run = replace(convolutional[0], certificates={"lipschitz": Certificate(found, pd.DataFrame())})
        condition_report([run], tmp_path, title="t", command="x")
        assert told in (tmp_path / "condition.md").read_text(encoding="utf-8")
