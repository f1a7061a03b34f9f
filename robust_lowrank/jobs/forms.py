"""A form is what becomes of a run's network where it is deployed: other arithmetic, and perhaps other answers."""

from pathlib import Path

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.exporting import export
from robust_lowrank.exporting.programs import require_onnx
from robust_lowrank.models.onnx_files import load_onnx
from robust_lowrank.records import FORM, RunFiles, RunRecord, read_record

FORMS: dict[str, str] = {  # with what they are
    "merged": "factors merged into ordinary layers",
    "factors": "chains of thin ordinary layers",
    "bf16": "thin or merged layers, whichever are fewer numbers, in bfloat16",
    "onnx": "a program for ONNX Runtime, of the faster form of each layer",
    "int8": "such a program in eight bits",
}
PROGRAMS = ("onnx", "int8")  # which are files, and have no gradients


def form_network(network: nn.Module, form: str, program: Path) -> nn.Module:
    """Return a form of a run's network; `program` is the file of those that are one.

    Raises:
        UserError: there is no such file, or its packages are not installed.
    """
    if form in PROGRAMS:
        return load_onnx(program)
    if form == "bf16":
        return export(network, to="auto").to(torch.bfloat16).eval()
    return export(network, to="dense" if form == "merged" else "factors").eval()


def write_form(network: nn.Module, form: str, program: Path, examples: Tensor) -> None:
    """Write the program of a form that is one; `examples` are typical inputs, by which eight bits choose their ranges.

    Raises:
        UserError: its packages are not installed, or the network cannot be written so.
    """
    if form in PROGRAMS:
        require_onnx()
        export(network, to="int8" if form == "int8" else "onnx", path=program, example_input=examples)


def form_of(record: RunRecord) -> str | None:
    """Return the form in which a record says that it has the network of another run; None if it is a network of its own."""
    return None if FORM not in record.config else str(record.config[FORM])


def owner(run_dir: Path) -> Path:
    """Return the run directory whose lock covers another: the run that it is a form of, or itself."""
    return origin(run_dir) or run_dir


def origin(run_dir: Path) -> Path | None:
    """Return the run that a directory holds a form of; None if it holds a network of its own.

    Raises:
        UserError: the form does not lie in its run any more.
    """
    files = RunFiles(run_dir)
    if not files.record.is_file() or form_of(read_record(files.record, RunRecord)) is None:
        return None
    parent = run_dir.absolute().parent.parent
    if RunFiles(parent).form(run_dir.absolute().name).root != run_dir.absolute() or not RunFiles(parent).record.is_file():
        raise UserError(f"{run_dir} is a form of a run that it does not lie in any more: put it back to RUN/forms/FORM")
    return parent
