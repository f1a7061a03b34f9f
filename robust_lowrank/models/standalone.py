"""A network is kept as an exported program, which needs none of its code to compute, and can be differentiated, cast and traced."""

import copy
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robust_lowrank.errors import UserError, first_line
from robust_lowrank.models.programs import float_type_of, read_program
from robust_lowrank.records import replacing


def export_program(network: nn.Module, input_shape: tuple[int, ...]) -> Any:
    """Return a network as a `torch.export.ExportedProgram` for batches of any size.

    Example:
        >>> sorted(export_program(nn.Sequential(nn.Linear(2, 2)).eval(), (2,)).state_dict)
        ['0.bias', '0.weight']

    Args:
        network: ordinary layers in evaluation mode, on the CPU.
        input_shape: of one input.

    Raises:
        UserError: it cannot be exported.
    """
    x = torch.zeros(2, *input_shape, dtype=float_type_of(network))
    with _quiet(), torch.enable_grad():
        try:
            return torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
        except Exception as error:  # the network's own, or the exporter's
            raise UserError(f"torch.export cannot make a program of the network: {first_line(error)}") from error


def save_standalone(network: nn.Module, path: Path, input_shape: tuple[int, ...]) -> None:
    """Write a network as a program, at once.

    Raises:
        UserError: as `export_program`.
    """
    program = export_program(network, input_shape)
    with replacing(path) as temporary, _quiet():
        part = temporary.with_suffix(".pt2")  # the only name that torch takes without a warning
        try:
            torch.export.save(program, part)
            part.replace(temporary)
        finally:
            part.unlink(missing_ok=True)


def load_standalone(path: Path, device: torch.device) -> nn.Module:
    """Read what `save_standalone` wrote, as a network in evaluation mode with parameters of its own.

    Raises:
        UserError: as `programs.read_program`.
    """
    program, _ = read_program(path, device)
    return copy.deepcopy(program.module()).eval()  # only a copy has modes


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from printing what it raises as well."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
