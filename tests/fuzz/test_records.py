import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robust_lowrank.records import (
    CERTIFICATE,
    METRICS,
    SPECTRA,
    VERDICTS,
    CertificateRecord,
    ResultRecord,
    RunRecord,
    read_frame,
    read_record,
)
from tests.fuzz import fuzzed
from tests.fuzz.mutating import arbitrary, only_refuses

TIME = "2026-11-24T00:00:00+00:00"
COMMON = {"created": TIME, "versions": {"torch": "2.14"}, "machine": "a machine", "behaviour": {"clean": "1 2.5"}, "seconds": 1.5}
SHARE = {"correct": 7, "total": 10, "value": 0.7, "low": 0.4, "high": 0.9}
RUN = COMMON | {
    "schema_version": 1,
    "label": "CondLR τ=0.1",
    "method": "condlr",
    "model": "mlp",
    "data": "digits",
    "seed": 0,
    "status": "complete",
    "epochs_done": 1,
    "test_accuracy": 0.9,
    "command": "rlr-eval train",
    "config": {"seed": 0, "method": {"name": "condlr", "tau": 0.1}},
    "hashes": {"weights": "aa", "train": "bb", "test": "cc"},
    "parameters": {"total": 10, "dense": 20, "inference": 10, "removed": 0.5, "rank_fraction": 0.5},
    "classes": ["a", "b"],
    "input_shape": [1, 8, 8],
    "kept_dense": {"2": "excluded"},
}
RESULT = COMMON | {
    "schema_version": 1,
    "suite": "quick",
    "norm": "Linf",
    "eps": [0.1],
    "seed": 0,
    "hashes": {"weights": "aa", "data": "bb", "attack": "cc"},
    "interval": "Wilson 95 %",
    "accuracies": [{"attack": "clean", "eps": 0.0, **SHARE}, {"attack": "pgd", "eps": 0.1, "unresolved": 1, **SHARE}],
    "audit": [{"check": "budget", "status": "pass", "message": "all is well"}],
    "definition": {"attacks": [{"name": "pgd", "eps": [0.1], "steps": 20}]},
}
PROOF = COMMON | {
    "schema_version": 1,
    "name": "lipschitz",
    "kind": "lipschitz",
    "hashes": {"weights": "aa", "data": "bb"},
    "parameters": {},
    "assumptions": ["exact arithmetic"],
    "bound": 3.5,
    "layers": [{"layer": "0", "operation": "linear", "constant": 2.0, "bound": None, "note": ""}],
    "interval": "Clopper–Pearson 95 %",
    "curve": [{"radius": 0.1, "certified": 7, "total": 10, "value": 0.7, "low": 0.4, "high": 0.9}],
}
RECORDS: list[tuple[type, dict[str, Any]]] = [(RunRecord, RUN), (ResultRecord, RESULT), (CertificateRecord, PROOF)]
ODD = st.one_of(
    st.sampled_from([None, True, -1, 0, 2**63, 2**64, 1e308, -0.0, math.nan, math.inf, "", "\x00", "\ud800", "../x", "x" * 2000]),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)),
)


@st.composite
def edited(draw: st.DrawFn, values: dict[str, Any]) -> dict[str, Any]:
    """Return nested values of which one to three are others, are gone, or have come."""
    copy = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        there = copy
        while True:
            if isinstance(there, list) and not there:
                break
            key = draw(st.sampled_from(sorted(there) if isinstance(there, dict) else range(len(there)))) if there else ""
            if isinstance(there.get(key) if isinstance(there, dict) else there[key], dict | list) and draw(st.booleans()):
                there = there[key]
                continue
            if isinstance(there, dict) and draw(st.booleans()):
                there.pop(key, None)
                there[draw(st.text(max_size=5))] = draw(ODD)
            else:
                there[key] = draw(ODD)
            break
    return copy


@pytest.mark.parametrize(("kind", "values"), RECORDS, ids=["run", "result", "certificate"])
def test_the_records_here_are_valid(kind: type, values: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    record = read_record(path, kind)
    assert kind.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(("kind", "values"), RECORDS, ids=["run", "result", "certificate"])
def test_bytes_are_a_record_or_refused(kind: type, values: dict[str, Any], tmp_path: Path) -> None:
    @fuzzed
    @given(arbitrary(json.dumps(values).encode(), json.dumps(values, ensure_ascii=False).encode("utf-16")))
    def case(content: bytes) -> None:
        (tmp_path / "record.json").write_bytes(content)
        only_refuses(lambda: read_record(tmp_path / "record.json", kind))

    case()


@pytest.mark.parametrize(("kind", "values"), RECORDS, ids=["run", "result", "certificate"])
def test_what_is_read_of_odd_values_can_be_written_and_read_again(kind: type, values: dict[str, Any], tmp_path: Path) -> None:
    @fuzzed
    @given(edited(values))
    def case(content: dict[str, Any]) -> None:
        path = tmp_path / "record.json"
        path.write_text(json.dumps(content), encoding="utf-8")

        def read() -> None:
            record = read_record(path, kind)
            path.write_text(record.model_dump_json(), encoding="utf-8")
            assert read_record(path, kind) == record

        only_refuses(read)

    case()


def _verdicts() -> pd.DataFrame:
    numbers = dict.fromkeys(("label", "clean_prediction", "adversarial_prediction", "forwards", "backwards", "seed"), 1)
    texts = {"attack": "pgd", "norm": "Linf", "verdict": "broken", "engine": "native", "flags": ""}
    reals = {"eps": 0.1, "margin": -1.0, "distance": 0.1, "seconds": 0.0}
    return pd.DataFrame({"example": range(4), **numbers, **texts, **reals})[list(VERDICTS)]


def _spectra() -> pd.DataFrame:
    whole = dict.fromkeys(("epoch", "rows", "columns", "rank", "params", "params_dense"), 2)
    reals = dict.fromkeys(("sigma_max", "sigma_min", "cond", "stable_rank", "orthonormality"), 1.0)
    frame = pd.DataFrame({**whole, **reals, "layer": ["0", "1"], "kind": "linear", "factored": True})
    return frame.assign(singular_values=[[2.0, 1.0], [1.0]])[list(SPECTRA)]


FRAMES = [
    (VERDICTS, _verdicts()),
    (SPECTRA, _spectra()),
    (METRICS, pd.DataFrame({name: [1.0, math.nan] if name != "epoch" else [1, 2] for name in METRICS})),
    (CERTIFICATE, pd.DataFrame({name: [1, 2] if name != "abstained" else [True, False] for name in CERTIFICATE})),
]
IDS = ["verdicts", "spectra", "metrics", "certificate"]
COLUMNS: list[Callable[[int], pa.Array]] = [
    lambda n: pa.nulls(n),
    lambda n: pa.array([None] * n, pa.string()),
    lambda n: pa.array([-1] * n),
    lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
    lambda n: pa.array([math.inf] * n),
    lambda n: pa.array(np.full(n, 0.5, dtype=np.float16)),
    lambda n: pa.array(["x" * 2000] * n),
    lambda n: pa.array(["\x1b[31m\u202e"] * n).dictionary_encode(),
    lambda n: pa.array([b"\xff"] * n),
    lambda n: pa.array([[[1.0]]] * n),
    lambda n: pa.array([{"a": 1}] * n),
    lambda n: pa.array([[1.0, None]] * n),
    lambda n: pa.array([0] * n, pa.timestamp("ns")),
    lambda n: pa.array([True] * n),
]


@pytest.mark.parametrize(("columns", "frame"), FRAMES, ids=IDS)
def test_bytes_are_a_table_or_refused(columns: tuple[str, ...], frame: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    frame.to_parquet(path, index=False)
    pd.testing.assert_frame_equal(read_frame(path, columns), pd.read_parquet(path))

    @fuzzed
    @given(arbitrary(path.read_bytes()))
    def case(content: bytes) -> None:
        path.write_bytes(content)
        only_refuses(lambda: read_frame(path, columns))

    case()


@pytest.mark.parametrize(("columns", "frame"), FRAMES, ids=IDS)
def test_tables_of_odd_columns_are_refused_or_of_the_due_kinds(
    columns: tuple[str, ...], frame: pd.DataFrame, tmp_path: Path
) -> None:
    table, path = pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "table.parquet"

    @fuzzed
    @given(st.sampled_from(columns), st.sampled_from(COLUMNS))
    def case(column: str, make: Callable[[int], pa.Array]) -> None:
        odd = table.set_column(table.schema.get_field_index(column), column, make(len(table)))
        pq.write_table(odd, path)

        def read() -> None:
            for name, dtype in read_frame(path, columns).dtypes.items():
                due = pd.read_parquet(path).dtypes[name] if name != column else None
                assert due is None or dtype == due

        only_refuses(read)

    case()
