"""A network of ordinary layers is traced into a program that takes batches of any size."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from robust_lowrank.errors import UserError, first_line

CLOSE = 1e-4  # largest difference of a program's answers from the network's, relative to 1 + their size


def run(model: nn.Module, example_input: Any) -> Any:
    """Return what a network answers to a tensor, a tuple of positional arguments, or a mapping of named ones.

    Raises:
        UserError: it does not run on them.
    """
    arguments, named = arguments_of(example_input)
    try:
        return model(*arguments, **named)
    except Exception as error:  # of whatever the network does
        raise UserError(f"the network does not run on example_input: {first_line(error)}") from error


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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters from printing what they warn of, and what they raise as well: what they make is tried instead."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def require_close(found: Any, due: Any, what: str) -> None:
    """Require answers that are those of the network but for rounding.

    Raises:
        UserError: they are others.
    """
    pairs = list(zip(tensors(found), tensors(due), strict=False))
    if not pairs or any(ours.shape != theirs.shape for ours, theirs in pairs):
        raise UserError(f"{what} answers in another form than the network: take to='dense' or 'factors', which keep its code")
    ours, theirs = (torch.cat([each.detach().cpu().double().flatten() for each in side]) for side in zip(*pairs, strict=True))
    wide = (ours - theirs).abs() > CLOSE * (1 + theirs.abs())
    if bool(wide.any()) or not bool(torch.isfinite(ours).all()):
        largest = float((ours - theirs).abs().nan_to_num(torch.inf).max())
        raise UserError(
            f"{what} computes something else than the network, by {largest:.2g}, and was not written: "
            "a network that draws at random, or asks for the batch it was traced with, is kept by to='dense' or 'factors' alone"
        )


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors within inputs or answers, in their order."""
    yield from (each for each in pytree.tree_leaves(_unpacked(value)) if isinstance(each, Tensor))


def _unpacked(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def arguments_of(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional arguments and the named ones that an example stands for."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return (example_input if isinstance(example_input, tuple) else (example_input,)), {}


def _at_least_two(example_input: Any) -> Any:
    """Return the example twice where its batch is one, which torch.export would take for a constant."""
    given = list(tensors(example_input))
    if not all(each.dim() and len(each) == 1 for each in given):
        return _unpacked(example_input)
    return pytree.tree_map(lambda each: torch.cat([each, each]) if isinstance(each, Tensor) else each, _unpacked(example_input))


def _inputs(program: ExportedProgram) -> list[Any]:
    names = program.graph_signature.user_inputs
    return [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
