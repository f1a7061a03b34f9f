import pytest

from robust_lowrank.records import VERDICT, AccuracyRecord, RunRecord


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
