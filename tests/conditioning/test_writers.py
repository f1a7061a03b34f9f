"""Writers: what they keep, what a kill costs, and what they refuse."""

import importlib.util
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from robust_lowrank import JsonlWriter, MemoryWriter, ParquetWriter, TensorBoardWriter
from robust_lowrank.conditioning.writers import Row
from robust_lowrank.errors import UserError
from robust_lowrank.records import MONITOR

INSTALLED = importlib.util.find_spec("tensorboard") is not None


def row(step: int, **values: object) -> Row:
    plain = dict.fromkeys(MONITOR, 1.5) | {"step": step, "layer": "fc1", "kind": "linear", "factored": True, "rank": 2}
    return plain | {"singular_values": [1.5, 0.5], "rotation_u": math.nan, "cond": math.inf} | values


def lines(path: Path) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_every_line_is_strict_json(tmp_path: Path) -> None:
    writer = JsonlWriter(tmp_path / "deep" / "m.jsonl")
    writer.write([row(1, singular_values=[math.nan, 1.0])])
    (found,) = lines(tmp_path / "deep" / "m.jsonl")  # before it is closed
    assert (found["rotation_u"], found["cond"], found["singular_values"]) == (None, "inf", [None, 1.0])
    writer.close()


def test_a_torn_line_is_dropped_and_the_file_continued(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    first = JsonlWriter(path)
    first.write([row(1), row(2)])
    first.close()
    path.write_text(path.read_text() + '{"step": 3, "la')
    second = JsonlWriter(path)
    second.write([row(3)])
    second.close()
    assert [line["step"] for line in lines(path)] == [1, 2, 3]


@pytest.mark.parametrize("text", ["notes\n", '{"a": 1}\n', "[1]\n"])
def test_somebody_elses_lines_are_left_alone(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match="no monitor wrote"):
        JsonlWriter(path)
    assert path.read_text() == text


def test_a_table_is_written_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    first = ParquetWriter(path)
    first.write([row(1)])
    first.flush()
    first.write([row(2)])
    assert pd.read_parquet(path)["step"].tolist() == [1]
    first.close()
    second = ParquetWriter(path)
    second.rewind(1)
    second.write([row(5, layer="<script>")])
    second.close()
    frame = pd.read_parquet(path)
    assert tuple(frame.columns) == MONITOR
    assert frame[["step", "layer"]].to_numpy().tolist() == [[1, "fc1"], [5, "<script>"]]
    assert frame["cond"].tolist() == [math.inf] * 2
    assert [list(values) for values in frame["singular_values"]] == [[1.5, 0.5]] * 2
    assert [file.name for file in tmp_path.iterdir()] == ["m.parquet"]


def test_another_table_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.raises(UserError, match="is not a table of a monitor"):
        ParquetWriter(path)


def test_an_empty_history_has_all_columns(tmp_path: Path) -> None:
    ParquetWriter(tmp_path / "m.parquet").close()
    assert tuple(pd.read_parquet(tmp_path / "m.parquet").columns) == MONITOR
    assert MemoryWriter().frame().empty


@pytest.mark.skipif(INSTALLED, reason="TensorBoard is installed")
def test_a_missing_tensorboard_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pip install 'robust-lowrank\[tensorboard\]'"):
        TensorBoardWriter(tmp_path)


@pytest.mark.skipif(not INSTALLED, reason="NOT TESTED: needs tensorboard, of the extra of that name")
def test_tensorboard_reads_the_charts(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore

    writer = TensorBoardWriter(tmp_path)
    writer.write([row(10, cond=2.0)])
    writer.write([row(20, cond=3.0)])
    writer.rewind(10)
    writer.write([row(20, cond=4.0)])
    writer.close()
    found = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in found.Scalars("fc1/cond")] == [(10, 2.0), (20, 4.0)]


def test_every_quantity_but_nan_is_charted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in that has the calls of torch's SummaryWriter, as TensorBoard itself need not be installed."""
    made: list[Any] = []

    class Stand:
        def __init__(self, log_dir: str, purge_step: int | None = None) -> None:
            self.log_dir, self.purge_step, self.points, self.closed = log_dir, purge_step, {}, False
            made.append(self)

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            self.points[tag, global_step] = scalar_value

        def close(self) -> None:
            self.closed = True

    module = types.ModuleType("torch.utils.tensorboard.writer")
    module.SummaryWriter = Stand  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.ModuleType("torch.utils.tensorboard"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", module)
    writer = TensorBoardWriter("charts")
    writer.write([row(10, cond=2.0)])
    writer.rewind(10)
    writer.close()
    first, second = made
    assert (first.log_dir, first.purge_step, second.purge_step, second.closed) == ("charts", None, 11, True)
    assert first.points["fc1/cond", 10] == 2.0
    assert {tag for tag, _ in first.points} == {
        f"fc1/{name}" for name in MONITOR if name not in ("step", "layer", "kind", "factored", "singular_values", "rotation_u")
    }


@pytest.mark.parametrize("text", ["hello", '{"mine": 1}', '{"mine": 1}\n{"step'])
def test_the_file_of_somebody_else_is_left_alone(text: str, tmp_path) -> None:
    path = tmp_path / "notes.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no monitor wrote"):
        JsonlWriter(path)
    assert path.read_text() == text
