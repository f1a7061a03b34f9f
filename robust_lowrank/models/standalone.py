"""A network that is kept as a program needs none of its code to compute, and can be differentiated, cast and traced."""

import copy
from pathlib import Path

import torch
from torch import nn

from robust_lowrank.models.programs import read_program


def load_standalone(path: Path, device: torch.device) -> nn.Module:
    """Read what `export(to="torch-export")` wrote, as a network in evaluation mode with parameters of its own.

    Raises:
        UserError: as `programs.read_program`.
    """
    module, _ = read_program(path, device)
    return copy.deepcopy(module).eval()  # only a copy has modes
