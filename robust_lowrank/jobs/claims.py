"""What a run's record says of its network's size and layers is held against the network."""

import math
from collections.abc import Iterator

import numpy as np
from torch import nn

from robust_lowrank import conditioning, records, training
from robust_lowrank.compression import count_parameters

SAME = 1e-3  # relative difference of singular values, to the largest, up to which another machine has found the same


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
    for layer in now.index:
        theirs, ours = (np.asarray(frame.loc[layer, "singular_values"], dtype=np.float64) for frame in (last, now))
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=0, atol=SAME * ours.max(initial=0.0)):
            yield f"spectra.parquet: the singular values of {layer} are not the network's"
