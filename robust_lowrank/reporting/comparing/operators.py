"""Operator norms of layers, on the images that reach them, are read from the records."""

from collections.abc import Sequence

import pandas as pd

from robust_lowrank.records import OPERATORS
from robust_lowrank.reporting.comparing.entries import Entry

MEASURED = ("operator_norm", "operator_bound", "folded_bound", "circular_cond")  # those of OPERATORS that a report's rows carry


def recorded(entry: Entry) -> pd.DataFrame:
    """Return a run's OPERATORS; empty where none are recorded."""
    frame = entry.run.operators
    return pd.DataFrame(columns=list(OPERATORS)) if frame is None else frame


def has_convolutions(entry: Entry) -> bool:
    """Return whether a convolution is among a run's recorded layers."""
    frame = recorded(entry)
    return bool((frame["height"] * frame["width"] > 1).any())


def norms(entries: Sequence[Entry]) -> pd.DataFrame:
    """Return the recorded operator norms, a row a run and layer: series, run, and OPERATORS; empty where none are recorded."""
    frames = [recorded(entry).assign(series=entry.series, run=entry.name) for entry in entries if entry.run.operators is not None]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=[*OPERATORS, "series", "run"])
