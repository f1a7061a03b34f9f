"""A network of ordinary layers is traced into a program that takes batches of any size."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from robust_lowrank.answers import arguments_of, quiet, run, tensors, unpacked
from robust_lowrank.errors import UserError, first_line


@torch.no_grad()
def trace(model: nn.Module, example_input: Any) -> ExportedProgram:
    """Return the program of a network in evaluation mode, for batches of any size where all inputs begin with the batch.

    A network that only takes batches of the example's size makes a program of that size (`fixed_batch`).

    Raises:
        UserError: the network does not run on the example, or torch.export cannot trace it.
    """
    model = model.eval()
    run(model, example_input)
    example = _at_least_two(example_input)
    arguments, named = arguments_of(example)
    varying = len({len(each) for each in tensors(example) if each.dim()}) == 1
    dims = pytree.tree_map(lambda each: {0: Dim.AUTO} if varying and isinstance(each, Tensor) and each.dim() else None, example)
    dynamic = dict(dims) if isinstance(example, Mapping) else dims if isinstance(example, tuple) else (dims,)
    with quiet():
        try:
            return torch.export.export(model, arguments, named, dynamic_shapes=dynamic, strict=False)
        except Exception as error:  # of whatever the network does while it is traced
            raise UserError(f"torch.export cannot trace the network: {first_line(error)}") from error


def fixed_batch(program: ExportedProgram) -> int | None:
    """Return the only size of a batch that a program takes; None if it takes any."""
    sizes = [str(node.meta["val"].shape[0]) for node in _inputs(program) if node.meta["val"].dim()]
    return next((int(size) for size in sizes if size.isdecimal()), None)  # others are symbols


def _at_least_two(example_input: Any) -> Any:
    """Return a copy of the example, twice where its batch is one, which torch.export would take for a constant.

    A program keeps its example, and of a slice of a data set all that the slice is of.
    """
    single = all(each.dim() and len(each) == 1 for each in tensors(example_input))

    def copied(each: Any) -> Any:
        return each if not isinstance(each, Tensor) else torch.cat([each, each]) if single else each.clone()

    return pytree.tree_map(copied, unpacked(example_input))


def _inputs(program: ExportedProgram) -> list[Any]:
    names = program.graph_signature.user_inputs
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
