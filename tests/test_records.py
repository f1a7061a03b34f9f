import contextlib
import json
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robust_lowrank.errors import UserError
from robust_lowrank.records import (
    VERDICT,
    AccuracyRecord,
    RunRecord,
    read_frame,
    read_json,
    read_record,
    require_plain,
    write_frame,
)
from robust_lowrank.records.footer import declared_size
from robust_lowrank.records.values import file_name


def test_an_accuracy_written_before_examples_could_stay_unresolved_is_still_read():
    old = {"attack": "fgsm", "eps": 0.1, "correct": 72, "total": 100, "value": 0.72, "low": 0.62, "high": 0.8}
    record = AccuracyRecord.model_validate(old)
    assert record.unresolved == 0
    assert record.most == record.value


def test_unresolved_examples_raise_what_an_accuracy_can_be():
    record = AccuracyRecord(attack="fgsm", eps=0.1, correct=720, total=1000, value=0.72, low=0.69, high=0.78, unresolved=35)
    assert record.most == pytest.approx(0.755)
    assert AccuracyRecord.model_validate_json(record.model_dump_json()) == record
    assert "unresolved" in VERDICT


def test_a_configuration_written_under_earlier_names_is_still_read():
    method = {"name": "dlrt", "start": "kaiming", "integration": "amortised", "tol": 0.1, "max_rank": 8}
    early = {"method": method | {"rank": {"init": 0.5, "tol": None, "min": None, "max": 8, "overrides": {"fc": 4}}}, "seed": 3}
    named = {"label": "DLRT", "method": "dlrt", "model": "cnn", "data": "digits", "command": ""}
    fields = named | {"seed": 3, "created": "2026-11-24T00:00:00+00:00"}
    parameters = {"total": 4, "dense": 4, "inference": 4, "removed": 0.0, "rank_fraction": 1.0}
    record = RunRecord.model_validate(
        fields | {"config": early, "versions": {}, "machine": "", "hashes": {}, "parameters": parameters}
    )
    present = {"name": "dlrt", "init": "kaiming", "step": "amortised", "tol": 0.1, "max_rank": 8}
    assert record.config == {"method": present | {"rank": {"default": 0.5, "overrides": {"fc": 4}}}, "seed": 3}
    assert RunRecord.model_validate_json(record.model_dump_json()) == record


def test_texts_of_records_are_shown_in_one_line_without_controls():
    accuracy = AccuracyRecord(attack="a\x1b[31m\nb\u202e", eps=0.1, correct=1, total=2, value=0.5, low=0.1, high=0.9)
    assert accuracy.attack == "a\\x1b[31m\\nb\\u202e"
    assert AccuracyRecord.model_validate_json(accuracy.model_dump_json()) == accuracy


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"correct": 101}, "more than total = 100"),
        ({"correct": 90, "unresolved": 11}, "more than total = 100"),
        ({"total": 0}, "total = 0 should be greater than or equal to 1"),
        ({"low": 0.8}, "should lie between low = 0.8 and high = 0.8"),
        ({"value": float("inf")}, "too large"),
        ({"high": 7}, "high = 7 should be less than or equal to 1"),
        ({"eps": -1, "low": -1}, "eps = -1 should be greater than or equal to 0\nlow = -1 should be"),
        ({"attack": "x" * 1001}, "should have at most 1000 characters"),
        ({"\x1b": 1}, r"\x1b is no field of it"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_field(wrong, reason, tmp_path):
    fields = {"attack": "fgsm", "eps": 0.1, "correct": 72, "total": 100, "value": 0.72, "low": 0.62, "high": 0.8}
    path = tmp_path / "record.json"
    path.write_text(json.dumps(fields | wrong).replace("Infinity", "1e999"))
    with pytest.raises(UserError) as error:
        read_record(path, AccuracyRecord)
    assert str(error.value).startswith(f"{path} cannot be read: ")
    assert reason in str(error.value)


def test_rounding_of_an_interval_is_no_fault():
    AccuracyRecord(attack="clean", eps=0, correct=10, total=10, value=1.0, low=0.7, high=1 - 1e-12)


def test_what_is_written_by_a_newer_version_says_so(tmp_path):
    path = tmp_path / "run.json"
    path.write_text('{"schema_version": 2, "unknown": 1}')
    with pytest.raises(UserError, match=r"newer version of robust-lowrank \(schema 2, this one knows 1\): upgrade"):
        read_record(path, RunRecord)


def test_only_regular_files_are_read(tmp_path):
    with pytest.raises(UserError, match="is missing"):
        read_json(tmp_path / "none.json")
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(UserError, match="where a file is due"):
            read_json(path)
        with pytest.raises(UserError, match="where a file is due"):
            read_frame(path)


def test_links_within_a_run_directory_are_its_own(tmp_path):
    run = tmp_path / "run"
    (run / "results").mkdir(parents=True)
    (run / "results" / "again").symlink_to(run / "results")
    require_plain(run)
    (tmp_path / "linked").symlink_to(run)
    require_plain(tmp_path / "linked")
    (run / "results" / "out").symlink_to(tmp_path)
    with pytest.raises(UserError, match="out of the run directory"):
        require_plain(run)


def test_texts_of_tables_are_shown_in_one_line_without_controls(tmp_path):
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({"layer": ["0", "two\nlines\u202e", "0"], "epoch": [0, 1, 2]})
    write_frame(path, frame)
    assert read_frame(path, ("layer", "epoch"))["layer"].tolist() == ["0", "two\\nlines\\u202e", "0"]


def test_a_small_file_does_not_become_a_large_table(tmp_path):
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"flags": pa.array(["x" * 1000] * 300_000).dictionary_encode().dictionary_decode()}), path)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match="column 'flags' holds texts of more than 1000 characters, or far too many"):
        read_frame(path)


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "", "a\\b", "c:x", "a\nb", "x" * 256])
def test_a_record_is_sealed_with_files_beside_it_alone(name):
    with pytest.raises(ValueError, match="name of a file beside the record"):
        file_name(name)


@pytest.mark.parametrize("codec", ["snappy", "zstd", "none"])
def test_a_footer_says_what_pyarrow_says_of_it(tmp_path, codec):
    path = tmp_path / "table.parquet"
    frame = pd.DataFrame({"number": range(1000), "text": ["word"] * 1000, "list": [[1.0, 2.0]] * 1000, "half": [None, 0.5] * 500})
    pq.write_table(pa.Table.from_pandas(frame), path, compression=codec, row_group_size=300)
    metadata = pq.ParquetFile(path).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    expected = sum(max(8 * chunk.num_values, chunk.total_uncompressed_size) for chunk in chunks)
    assert declared_size(path, path.stat().st_size) == max(expected, 8 * metadata.num_rows * metadata.num_columns)


def test_a_footer_that_contradicts_itself_does_not_end_the_process(tmp_path):
    path = tmp_path / "table.parquet"
    pd.DataFrame({"number": range(10)}).to_parquet(path)
    content = path.read_bytes()
    for place in range(len(content) - 400, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with contextlib.suppress(UserError):
            read_frame(path)
