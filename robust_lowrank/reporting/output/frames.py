"""The tidy tables behind the reports: full precision, one observation a row."""

import math
from collections.abc import Sequence

import pandas as pd

from robust_lowrank.records import CertificateRecord, CurvePoint, ResultRecord
from robust_lowrank.reporting.comparing import operators, spectra
from robust_lowrank.reporting.comparing.entries import Entry


def results_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return every recorded accuracy: a row a run, suite, attack and eps; a run without any has one row without them.

    What is certified has the suite "certify" and the certificate's name as its attack: the accuracy is proved, from below.
    """
    rows = []
    for entry in entries:
        common = _common(entry)
        measured = [
            {**common, **_measured(result.record, i)}
            for result in entry.run.results.values()
            for i in range(len(result.record.accuracies))
        ]
        certified = [
            {**common, **_certified(certificate.record, point)}
            for certificate in entry.run.certificates.values()
            for point in certificate.record.curve
        ]
        rows += measured + certified or [common]
    columns = [*_common(entries[0]), *_MEASURED]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(_COUNTS, "Int64") | dict.fromkeys(_FRACTIONS, "float64"))


def layers_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the recorded spectra of all epochs: a row a run, epoch and layer; singular values separated by spaces.

    Rows of the last epoch have the layers' norms as operators too, where these are recorded.
    """
    history = spectra.history(entries)
    norms = operators.norms(entries)[["run", "layer", *operators.MEASURED]]
    frame = history.merge(norms, how="left", on=["run", "layer"]).astype(dict.fromkeys(operators.MEASURED, "float64"))
    earlier = frame["epoch"] < frame.groupby("run")["epoch"].transform("max")
    frame.loc[earlier, list(operators.MEASURED)] = math.nan
    joined = [" ".join(repr(float(value)) for value in sigma) for sigma in frame["singular_values"].tolist()]
    first = ["run", "series"]
    return frame.assign(singular_values=joined)[first + [c for c in frame.columns if c not in first]]


_MEASURED = (
    "suite",
    "norm",
    "attack",
    "eps",
    "correct",
    "total",
    "unresolved",
    "accuracy",
    "low",
    "high",
    "interval",
    "suite_seed",
    "data_hash",
    "attack_hash",
)

# What a run may lack keeps its type.
_COUNTS = ("correct", "total", "unresolved", "suite_seed")
_FRACTIONS = (
    "test_accuracy",
    "condition_worst",
    "condition_product",
    "condition_worst_compressed",
    "condition_product_compressed",
    "eps",
    "accuracy",
    "low",
    "high",
)


def _measured(record: ResultRecord, index: int) -> dict[str, object]:
    accuracy = record.accuracies[index]
    values = (
        record.suite,
        record.norm,
        accuracy.attack,
        accuracy.eps,
        accuracy.correct,
        accuracy.total,
        accuracy.unresolved,
        accuracy.value,
        accuracy.low,
        accuracy.high,
        record.interval,
        record.seed,
        record.hashes["data"],
        record.hashes["attack"],
    )
    return dict(zip(_MEASURED, values, strict=True))


def _certified(record: CertificateRecord, point: CurvePoint) -> dict[str, object]:
    return {
        "suite": "certify",
        "norm": record.norm,
        "attack": record.name,
        "eps": point.radius,
        "correct": point.certified,
        "total": point.total,
        "unresolved": 0,
        "accuracy": point.value,
        "low": point.low,
        "high": point.high,
        "interval": record.interval,
        "suite_seed": record.parameters.get("seed"),
        "data_hash": record.hashes["data"],
    }


def _common(entry: Entry) -> dict[str, object]:
    record = entry.run.record
    conditioning = spectra.conditioning(entry)
    return {
        "run": entry.name,
        "series": entry.series,
        "label": record.label,
        "method": record.method,
        "model": record.model,
        "data": record.data,
        "seed": record.seed,
        "status": record.status,
        "test_accuracy": record.test_accuracy,
        "parameters_total": record.parameters.total,
        "parameters_dense": record.parameters.dense,
        "parameters_inference": record.parameters.inference,
        "removed": record.parameters.removed,
        "rank_fraction": record.parameters.rank_fraction,
        "condition_worst": conditioning.worst if conditioning else None,
        "condition_product": conditioning.product if conditioning else None,
        "condition_worst_compressed": conditioning.factored_worst if conditioning else None,
        "condition_product_compressed": conditioning.factored_product if conditioning else None,
        "weights_hash": record.hashes.get("weights"),
    }
