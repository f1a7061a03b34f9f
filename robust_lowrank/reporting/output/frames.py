"""Frames are the tidy tables behind the reports: full precision, one observation a row."""

import math
from collections.abc import Sequence

import pandas as pd

from robust_lowrank.records import AccuracyRecord, CertificateRecord, CurvePoint, ResultRecord
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import Entry


def results_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return every recorded accuracy: a row a run, suite, attack and eps; a run without any has one row without them.

    What is certified has the suite "certify" and the certificate's name as its attack: the accuracy is proved, from below.
    """
    rows = []
    for entry in entries:
        common = _common(entry)
        results = [(result.record, False) for result in entry.run.results.values()]
        results += [(result.record, True) for result, _ in entry.superseded.values()]
        certificates = [certificate.record for certificate in entry.run.certificates.values()]
        measured = [_measured(record, accuracy) | {"superseded": old} for record, old in results for accuracy in record.accuracies]
        certified = [_certified(record, point) for record in certificates for point in record.curve]
        rows += [common | row for row in (measured + certified or [{}])]
    columns = [*_common(entries[0]), *_MEASURED, "data_hash", "attack_hash"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.astype(dict.fromkeys(_COUNTS, "Int64") | dict.fromkeys(_FRACTIONS, "float64"))


def layers_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the recorded spectra of all epochs: a row a run, epoch and layer; singular values separated by spaces.

    Rows of the last epoch have the layers' norms as operators too, where these are recorded.
    """
    history = spectra.history(entries)
    norms = spectra.operator_norms(entries)[["run", "layer", *spectra.MEASURED]]
    frame = history.merge(norms, how="left", on=["run", "layer"]).astype(dict.fromkeys(spectra.MEASURED, "float64"))
    earlier = frame["epoch"] < frame.groupby("run")["epoch"].transform("max")
    frame.loc[earlier, list(spectra.MEASURED)] = math.nan
    joined = [" ".join(repr(float(value)) for value in sigma) for sigma in frame["singular_values"].tolist()]
    first = ["run", "series"]
    return frame.assign(singular_values=joined)[first + [c for c in frame.columns if c not in first]]


# What a run may lack keeps its type.
_COUNTS = ("correct", "n", "unresolved", "implied", "suite_seed")
_VALUES = ("accuracy", "low", "high", "least")
_MEASURED = ("suite", "norm", "attack", "eps", *_COUNTS[:4], *_VALUES, "interval", *_COUNTS[4:], "superseded")
_CONDITION = ("condition_worst", "condition_product", "condition_worst_compressed", "condition_product_compressed")
_FRACTIONS = ("test_accuracy", *_CONDITION, "eps", *_VALUES)


def _measured(record: ResultRecord, accuracy: AccuracyRecord) -> dict[str, object]:
    counted = accuracy.model_dump(include={"attack", "eps", "correct", "unresolved", "implied", "low", "high"})
    return counted | {
        "least": accuracy.least,
        "n": accuracy.total,
        "suite": record.suite,
        "norm": record.norm,
        "accuracy": accuracy.value,
        "interval": record.interval,
        "suite_seed": record.seed,
        "data_hash": record.hashes["data"],
        "attack_hash": record.hashes["attack"],
    }


def _certified(record: CertificateRecord, point: CurvePoint) -> dict[str, object]:
    return point.model_dump(include={"low", "high"}) | {
        "n": point.total,
        "suite": "certify",
        "superseded": False,
        "norm": record.norm,
        "attack": record.name,
        "eps": point.radius,
        "correct": point.certified,
        "unresolved": 0,
        "accuracy": point.value,
        "interval": record.interval,
        "suite_seed": record.parameters.get("seed"),
        "data_hash": record.hashes["data"],
    }


def _common(entry: Entry) -> dict[str, object]:
    record = entry.run.record
    layers = spectra.conditioning(entry)
    conditions = (layers.worst, layers.product, layers.factored_worst, layers.factored_product) if layers else (None,) * 4
    return {
        "run": entry.name,
        "series": entry.series,
        **record.model_dump(include={"label", "method", "model", "data", "seed", "status", "test_accuracy"}),
        "parameters_total": record.parameters.total,
        "parameters_dense": record.parameters.dense,
        "parameters_inference": record.parameters.inference,
        "removed": record.parameters.saved,
        "rank_fraction": record.parameters.rank_fraction,
        **dict(zip(_CONDITION, conditions, strict=True)),
        "weights_hash": record.hashes.get("weights"),
    }
