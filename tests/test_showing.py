"""What results say in a terminal and in a notebook."""

import pytest
from torch import nn

from robust_lowrank import compress
from robust_lowrank.showing import LONGEST, Showable, Shown
from robust_lowrank.statistics import wilson


class Table(Showable):
    def __init__(self, rows: list[list[str]], notes: list[str] | None = None) -> None:
        self.rows, self.notes = rows, notes or []

    def shown(self) -> Shown:
        return Shown("<b>title</b>", ["name", "size"], self.rows, self.notes)


def test_columns_stand_below_one_another():
    assert str(Table([["a", "1.0"], ["longer", "12.0"]], ["end"])) == "<b>title</b>\nname    size\na        1.0\nlonger  12.0\nend"
    assert str(Table([])) == "<b>title</b>"


def test_long_tables_end_with_a_count():
    lines = str(Table([[str(row), "1"] for row in range(LONGEST + 5)])).splitlines()
    assert len(lines) == LONGEST + 3
    assert lines[-1] == "and 5 more"


def test_notebooks_escape_what_they_show():
    page = Table([["<script>", "&"]], ["<i>"])._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<b>" not in page
    assert "<i>" not in page


def test_a_compression_prints_its_layers_and_why_others_stay():
    net = nn.Sequential(nn.Linear(40, 30), nn.LSTM(30, 30), nn.Linear(30, 3))
    report = compress(net, rank=0.25, exclude=["2"])
    text = str(report)
    assert text.startswith(f"3 layers in factors: {report.parameters.inference:,} parameters for inference, ")
    assert f"{100 * report.parameters.inference / report.parameters.dense:.1f} % of {report.parameters.dense:,}" in text
    assert "2 stays dense: excluded by '2'" in text
    assert "1.weight_ih_l0 is merged in every pass: " in text
    again = nn.Sequential(nn.Linear(40, 30))
    assert compress(again, rank=0.25, init="gaussian").shown().rows[0] == ["0", "8", "new"]


@pytest.mark.parametrize("value", [0, 37, 100])
def test_an_interval_prints_in_percent(value: int):
    shown = wilson(value, 100)
    assert str(shown) == f"{value:.1f} % [{100 * shown.low:.1f}, {100 * shown.high:.1f}]"
    assert f"{float(shown):.2f}" == f"{value / 100:.2f}"
    assert repr(shown).startswith("Interval(value=")
