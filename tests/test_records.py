import pytest

from robust_lowrank.records import VERDICT, AccuracyRecord


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
