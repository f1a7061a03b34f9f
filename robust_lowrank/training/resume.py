"""An interrupted training goes on from the state at the end of its last complete epoch, beside the files of the run.

    RUN/resume/EPOCH/model.safetensors   the weights
    RUN/resume/EPOCH/state.safetensors   tensors of optimizer, random generators and monitor
    RUN/resume/EPOCH/state.json          all the rest, with a digest of both; no pickle

A state is a directory that is written under another name and renamed, so that it is whole or not there. It depends on no other
file of the run but for the histories, of which it says how long they were.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robust_lowrank import checkpoint, records
from robust_lowrank.bounds import read_bounded
from robust_lowrank.errors import UserError
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import RunFiles, RunRecord, replacing_directory

TENSORS, VALUES = "state.safetensors", "state.json"
VERSION = 1
LARGEST = 2**28  # bytes of the values
PLAIN = (str, int, float, bool, type(None))


class SavedState(NamedTuple):
    """A training at the end of an epoch; `values` holds the states of what takes part, by name."""

    record: RunRecord
    model: nn.Module
    values: dict[str, Any]


def save_state(out: Path, state: SavedState) -> None:
    """Write a state, in the place of that of the epoch before."""
    epoch = state.record.epochs_done
    states = RunFiles(out).resume
    directory = states / str(epoch)
    tensors: dict[str, Tensor] = {}
    values = pack(state.values, tensors)
    with replacing_directory(directory) as temporary:
        checkpoint.save(state.model, RunFiles(temporary).weights)
        save_file(tensors, temporary / TENSORS)
        text = {
            "version": VERSION,
            "weights": checkpoint.digest(state.model),
            "tensors": digest_tensors(tensors),
            "record": state.record.model_dump(),
            "values": values,
        }
        (temporary / VALUES).write_text(json.dumps(text), encoding="utf-8")
    for other in states.iterdir():
        if other != directory:
            shutil.rmtree(other, ignore_errors=True)


def load_state(out: Path, network: Callable[[], nn.Module]) -> SavedState | None:
    """Return the latest state in a run directory, in a new network, or None if there is none or it is not sound."""
    directories = [entry for entry in RunFiles(out).resume.glob("*") if entry.name.isdecimal()]
    if not directories:
        return None
    directory = max(directories, key=lambda entry: int(entry.name))
    try:
        records.require_plain(directory)
        text = json.loads(read_bounded(directory / VALUES, most=LARGEST))
        tensors = load_file(directory / TENSORS)
        model = checkpoint.load(network(), RunFiles(directory).weights)
        digests = checkpoint.digest(model), digest_tensors(tensors)
        if (text["version"], text["weights"], text["tensors"]) != (VERSION, *digests):
            return None
        return SavedState(RunRecord.model_validate(text["record"]), model, unpack(text["values"], tensors))
    except (OSError, SafetensorError, UserError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, MemoryError):
        return None  # it was damaged in one of many ways


def drop_states(out: Path) -> None:
    """Remove all states."""
    shutil.rmtree(RunFiles(out).resume, ignore_errors=True)


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON can hold it, its tensors put into `tensors` and named in their places.

    Example:
        >>> tensors = {}
        >>> pack({0: (torch.zeros(2), 1.5)}, tensors), list(tensors)
        ({'dict': [[0, {'tuple': [{'tensor': '0', 'stride': [1]}, 1.5]}]]}, ['0'])

    Strides are kept, as the last bit of a product may depend on them.

    Raises:
        TypeError: there is something else than tables, lists, tuples, tensors, numbers and texts.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name, "stride": list(value.stride())}
    if isinstance(value, dict):
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if isinstance(value, PLAIN):
        return value
    raise TypeError(f"a {type(value).__name__} is nothing that a file of numbers and texts can hold")


def unpack(packed: Any, tensors: dict[str, Tensor]) -> Any:
    """Return what `pack` was given, its tensors on the CPU.

    Raises:
        ValueError, LookupError, AttributeError, TypeError, RuntimeError: `pack` did not make it.
    """
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        tensor = tensors[packed["tensor"]]
        if list(tensor.stride()) == packed["stride"]:
            return tensor
        return torch.empty_strided(tensor.shape, packed["stride"], dtype=tensor.dtype).copy_(tensor)
    if "tuple" in packed:
        return tuple(unpack(item, tensors) for item in packed["tuple"])
    return {unpack(key, tensors): unpack(item, tensors) for key, item in packed["dict"]}
