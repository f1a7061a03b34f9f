"""The network of a run is taken away in another form, and what is written is held against the run."""

from pathlib import Path
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from robust_lowrank import checkpoint, records
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.exporting import PEFT, SUFFIXES, FileForm, Form, export, plain, take_away
from robust_lowrank.exporting.plain import never
from robust_lowrank.exporting.timing import LayerTimes
from robust_lowrank.jobs.chain import Location, moved, stored_job
from robust_lowrank.jobs.subjects import device_of, network, require_factors, trained
from robust_lowrank.models.normalize import Normalize, apart, written
from robust_lowrank.models.onnx_files import input_name, load_onnx
from robust_lowrank.models.programs import load_exported

EXAMPLES = 64  # inputs that layers are timed on, and programs traced with
UNMOVED = Location()
CALIBRATION = 256  # inputs that show the ranges of eight bits


class Exported(NamedTuple):
    """A file, what has chosen the form of its layers, and how its answers differ from the run's on test examples."""

    path: Path
    times: dict[str, LayerTimes]
    examples: int
    difference: float  # the largest of a logit
    flipped: int  # predictions that are others
    usage: tuple[str, ...] = ()  # how it is read again, and what goes into it


def export_run(
    run_dir: Path, to: str, *, out: Path | None = None, images: Location = UNMOVED, trust_code: bool = False
) -> Exported:
    """Write the network of a run directory in another form, and read it again to compare it with the run.

    Weights have the names of the network itself: where it was trained behind a mean and deviation, these are not in the file, but
    programs have them.

    Args:
        to: a form of `rlr.export`.
        out: the file, RUN/exports/FORM with the suffix of its kind if not given; nothing there is replaced.
        images: where they lie now.
        trust_code: as in `training.load_network`.

    Raises:
        UserError: it is not a complete run directory, its data are not there, there is no such form, or the network cannot take it.
    """
    forms = (*get_args(Form), *get_args(FileForm))
    if to not in forms:
        raise unknown_name("form", to, forms)
    path = run_dir / "exports" / f"{to}{SUFFIXES.get(to, '')}" if out is None else out
    if path.exists():
        raise UserError(f"{path} is there already: give another file with --out, or move it away")
    require_factors(run_dir, to)
    if to == PEFT:
        model = network(run_dir, trust_code=trust_code)
        model = apart(model)[1] if _normalises(run_dir) else model
        usage = f"Load it: peft.PeftModel.from_pretrained(network, {str(path)!r})"
        return Exported(export(model, to="peft", path=path), {}, 0, 0.0, 0, (usage,))
    subject = trained(run_dir, moved(stored_job(run_dir, []), images).config.data, trust_code=trust_code)
    device = device_of(subject.model)
    x = subject.first(CALIBRATION if to == "int8" else EXAMPLES).x.to(device)
    before, model = apart(subject.model) if to in get_args(Form) and _normalises(run_dir) else (None, subject.model)
    inputs = x if before is None else before(x)
    taken = take_away(model, to=to, path=path, example_input=inputs)
    ours, theirs = _logits(_read(path, model, device), inputs), _logits(subject.model, x)
    flipped = int((ours.argmax(dim=1) != theirs.argmax(dim=1)).sum())
    return Exported(path, taken.times, len(x), float((ours - theirs).abs().max()), flipped, _usage(path, to, x, before))


def _normalises(run_dir: Path) -> bool:
    """Return whether a run's network was trained behind a mean and deviation that its record gives."""
    config = records.read_run(run_dir, results=False).record.config
    return any(isinstance(table, dict) and table.get("mean") is not None for table in (config, config.get("model")))


def _usage(path: Path, to: str, x: Tensor, before: Normalize | None) -> tuple[str, str]:
    """Return the line that reads a file again, and one that says what goes into the network."""
    file = repr(str(path))
    reading = {
        "dense": f"Load it: network.load_state_dict(safetensors.torch.load_file({file}))",
        "torch-export": f"Run it: torch.export.load({file}).module()(images)",
    }
    if path.suffix == ".onnx":
        reading[to] = f"Run it: onnxruntime.InferenceSession({file}).run(None, {{{input_name(path)!r}: images}})"
    shape = ", ".join(map(str, ("N", *x.shape[1:])))
    images = f"Its inputs: ({shape}) {str(x.dtype).removeprefix('torch.')} in [0, 1]"
    if before is not None:
        mean, std = (written(values.flatten().tolist()) for values in (before.mean, before.std))
        images += f", less mean {mean}, over std {std}"
    return reading.get(to, f"Load it: rlr.load(network, {file}), where network is the dense architecture"), images


def _read(path: Path, model: nn.Module, device: torch.device) -> nn.Module:
    """Return what a file holds: a program, or weights of the dense network."""
    if path.suffix == ".onnx":
        return load_onnx(path)
    if path.suffix == ".pt2":
        return load_exported(path, device, trust_code=True)  # it was written a moment ago
    return checkpoint.load(plain(model, never), path).eval()


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).cpu().float()
