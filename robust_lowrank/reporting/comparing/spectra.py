"""Spectra and operator norms of layers are read from the records: after training, and on the way there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from robust_lowrank.records import OPERATORS, applied
from robust_lowrank.reporting.comparing.entries import Entry

MEASURED = ("operator_norm", "operator_bound", "folded_bound", "circular_cond")  # those of OPERATORS that a report's rows carry
MATRIX_NOTE = (
    "A layer's condition number is that of its weight matrix; for a convolution this is the matricised kernel "
    "(filters × channels·height·width), not the convolution operator."
)
CERTIFICATE_NOTE = (
    "The product over the layers is a certificate quantity: it bounds a network's relative sensitivity only where every "
    "layer is injective on the inputs it receives, and leaves out activations, biases, normalisation, pooling and "
    "residual branches. It is not the condition number of the network."
)


@dataclass(frozen=True)
class Conditioning:
    """Condition numbers of a network's layers after training; `factored` restricts them to the compressed layers."""

    worst: float
    worst_layer: str
    product: float
    layers: int
    factored_worst: float  # NaN without factored layers
    factored_product: float
    factored_layers: int


def moment(entries: Sequence[Entry]) -> str:
    """Return when the last spectra were taken, in words: networks from elsewhere were not trained before our eyes."""
    return "after training" if any(entry.run.record.epochs_done for entry in entries) else "as given"


def final(entry: Entry) -> pd.DataFrame:
    """Return the spectra after the last recorded epoch, in the order of the layers."""
    spectra = entry.run.spectra
    return spectra[spectra["epoch"] == spectra["epoch"].max()]


def conditioning(entry: Entry) -> Conditioning | None:
    """Return a run's condition numbers after training, or None where no spectra were recorded."""
    layers = final(entry)
    if layers.empty:
        return None
    factored = layers[layers["factored"].astype(bool)]
    worst = layers.sort_values("cond", ascending=False, kind="stable").iloc[0]
    return Conditioning(
        worst=float(worst["cond"]),
        worst_layer=str(worst["layer"]),
        product=product(_applied(layers)),
        layers=len(layers),
        factored_worst=float(factored["cond"].max()) if len(factored) else math.nan,
        factored_product=product(_applied(layers, of=factored)) if len(factored) else math.nan,
        factored_layers=len(factored),
    )


def product(layers: pd.DataFrame) -> float:
    """Return the product of layers' condition numbers; infinite beyond the range of float64."""
    with np.errstate(over="ignore"):
        return float(np.prod(layers["cond"].to_numpy(dtype=np.float64)))


def _applied(layers: pd.DataFrame, of: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the rows of the layers that a network applies, or those of them that are among `of`."""
    chosen = layers if of is None else of
    return chosen[chosen["layer"].isin(applied(layers["layer"]))]


def table(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the layers of all runs after training, worst condition number first."""
    frames = [_named(final(entry), entry) for entry in entries]
    return pd.concat(frames, ignore_index=True).sort_values("cond", ascending=False, kind="stable", ignore_index=True)


def history(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the layers of all runs at every recorded epoch."""
    return pd.concat([_named(entry.run.spectra, entry) for entry in entries], ignore_index=True)


def product_history(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return every run's product of condition numbers by epoch: columns series, run, epoch, product."""
    rows = [
        {"series": entry.series, "run": entry.name, "epoch": epoch, "product": product(_applied(layers))}
        for entry in entries
        for epoch, layers in entry.run.spectra.groupby("epoch")
    ]
    return pd.DataFrame(rows, columns=["series", "run", "epoch", "product"])


def values(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the singular values after training, a row each: series, run, layer, index (from 1), sigma, relative."""
    rows = []
    for entry in entries:
        for layer in final(entry).itertuples():
            sigma = np.asarray(layer.singular_values, dtype=np.float64)
            relative = sigma / sigma[0] if sigma.size and sigma[0] > 0 else sigma
            rows += [
                {"series": entry.series, "run": entry.name, "layer": layer.layer, "index": i, "sigma": s, "relative": r}
                for i, (s, r) in enumerate(zip(sigma, relative, strict=True), start=1)
            ]
    return pd.DataFrame(rows, columns=["series", "run", "layer", "index", "sigma", "relative"])


def worst_layers(entries: Sequence[Entry], limit: int) -> list[str]:
    """Return the names of the layers with the largest condition numbers in any run, in the order of the network."""
    frame = table(entries)
    chosen = set(frame.drop_duplicates("layer")["layer"].head(limit))
    ordered = dict.fromkeys(layer for entry in entries for layer in final(entry)["layer"])
    return [layer for layer in ordered if layer in chosen]


def operators(entry: Entry) -> pd.DataFrame:
    """Return a run's OPERATORS; empty where none are recorded."""
    frame = entry.run.operators
    return pd.DataFrame(columns=list(OPERATORS)) if frame is None else frame


def worst_operator(entry: Entry) -> float:
    """Return the largest condition number of a run's layers as operators on images; NaN without recorded convolutions.

    That of a linear layer, which is applied once, is its matrix's.
    """
    recorded = operators(entry)
    convolutions = recorded[recorded["kind"] != "linear"]
    if convolutions.empty:
        return math.nan
    others = final(entry)[~final(entry)["layer"].isin(convolutions["layer"])]
    return float(pd.concat([convolutions["circular_cond"].astype("float64"), others["cond"].astype("float64")]).max())


def norm_product(entry: Entry) -> float:
    """Return the product of the upper bounds of a run's layers as operators, batch normalisation included; NaN without any."""
    bounds = operators(entry)["folded_bound"].to_numpy(dtype=np.float64)
    with np.errstate(over="ignore"):
        return float(np.prod(bounds)) if len(bounds) else math.nan


def operator_norms(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the recorded operator norms, a row a run and layer: series, run, and OPERATORS; empty where none are recorded."""
    frames = [_named(entry.run.operators, entry) for entry in entries if entry.run.operators is not None]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*OPERATORS, "series", "run"])


def _named(frame: pd.DataFrame, entry: Entry) -> pd.DataFrame:
    return frame.assign(series=entry.series, run=entry.name)
