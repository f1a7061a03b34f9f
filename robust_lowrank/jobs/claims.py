"""What a run's record says of its network's size and layers is held against the network."""

import math
from collections.abc import Iterator

import numpy as np
from torch import nn

from robust_lowrank import conditioning, records, training
from robust_lowrank.compression import count_parameters

SAME = 1e-3  # relative difference up to which another machine has found the same
_ROUNDING = 1e-6  # of the largest singular value: below it the small ones are rounding
_COUNTED = ("factored", "rows", "columns", "rank", "params", "params_dense")


def is_whole(run: records.Run) -> bool:
    """Return whether a run's network shows its layers as trained: of a loop of one's own it may be a program of merged ones."""
    config = run.record.config
    return not training.is_recorded(config) or config.get("source") is not None


def size_faults(run: records.Run, network: nn.Module) -> Iterator[str]:
    """Yield in words what of the parameter counts and the last spectra in a run's files is not so of its network.

    Of a network that `is_whole`; the sizes that a record names decide what a report compares.
    """
    said, found = run.record.parameters.model_dump(), count_parameters(network).model_dump()
    for name, value in found.items():
        if not math.isclose(said[name], value, rel_tol=1e-9, abs_tol=1e-9):
            yield f"run.json says that the network has {said[name]:,} for {name} of its parameters, and it has {value:,}"
    if run.spectra.empty:
        return
    last = run.spectra[run.spectra["epoch"] == run.spectra["epoch"].max()].set_index("layer")
    now = conditioning.spectra(network).set_index("layer")
    if list(last.index) != list(now.index):
        yield "spectra.parquet is of other layers than the network's"
        return
    for column in _COUNTED:
        if list(last[column]) != list(now[column]):
            yield f"spectra.parquet: {column} is not that of the network's layers"
    for column in ("sigma_max", "stable_rank"):
        if not np.allclose(last[column].to_numpy(dtype=float), now[column].to_numpy(dtype=float), rtol=SAME, atol=0):
            yield f"spectra.parquet: {column} is not that of the network's layers"
    with np.errstate(divide="ignore"):
        theirs, ours = (1 / frame["cond"].to_numpy(dtype=float) for frame in (last, now))
    if not np.allclose(theirs, ours, rtol=SAME, atol=_ROUNDING):
        yield "spectra.parquet: cond is not that of the network's layers"
    for layer in now.index:
        theirs, ours = (np.asarray(frame.loc[layer, "singular_values"], dtype=np.float64) for frame in (last, now))
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=SAME, atol=_ROUNDING * ours.max(initial=0.0)):
            yield f"spectra.parquet: the singular values of {layer} are not the network's"
