"""Where an interrupted training goes on: the state at the end of its last complete epoch, beside the files of the run.

    RUN/resume/EPOCH/model.safetensors   the weights
    RUN/resume/EPOCH/state.safetensors   tensors of optimizer, random generators and monitor
    RUN/resume/EPOCH/state.json          all the rest, with a digest of both

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
from torch import nn

from robust_lowrank import checkpoint
from robust_lowrank.errors import UserError
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import RunFiles, RunRecord
from robust_lowrank.training.packing import pack, unpack

TENSORS, VALUES = "state.safetensors", "state.json"
VERSION = 1


class SavedState(NamedTuple):
    """A training at the end of an epoch; `values` holds the states of what takes part, by name."""

    record: RunRecord
    model: nn.Module
    values: dict[str, Any]


def save_state(out: Path, state: SavedState) -> None:
    """Write a state, in the place of that of the epoch before."""
    epoch = state.record.epochs_done
    states = RunFiles(out).resume
    directory, temporary = states / str(epoch), states / f".{epoch}.part"
    for stale in (temporary, directory):
        shutil.rmtree(stale, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = {}
    values = pack(state.values, tensors)
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
    temporary.rename(directory)
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
        text = json.loads((directory / VALUES).read_text(encoding="utf-8"))
        tensors = load_file(directory / TENSORS)
        model = checkpoint.load(network(), RunFiles(directory).weights)
        there = {"version": text["version"], "weights": text["weights"], "tensors": text["tensors"]}
        if there != {"version": VERSION, "weights": checkpoint.digest(model), "tensors": digest_tensors(tensors)}:
            return None
        return SavedState(RunRecord.model_validate(text["record"]), model, unpack(text["values"], tensors))
    except (OSError, SafetensorError, UserError, ValueError, KeyError, TypeError, RuntimeError):
        return None


def drop_states(out: Path) -> None:
    """Remove all states."""
    shutil.rmtree(RunFiles(out).resume, ignore_errors=True)
