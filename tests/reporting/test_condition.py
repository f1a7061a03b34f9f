import re

import numpy as np
import pandas as pd
import pytest

from robust_lowrank.errors import UserError
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
    assert "Its smallest singular value is zero" in text
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
