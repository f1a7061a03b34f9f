"""What a network answers to an example is had in one way, and is compared with what another one answers."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from robust_lowrank.errors import UserError, first_line

CLOSE = 1e-4  # largest difference of two answers that are the same but for rounding, relative to 1 + their size


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


def arguments_of(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional arguments and the named ones that an example stands for."""
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    return (example_input if isinstance(example_input, tuple) else (example_input,)), {}


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors within inputs or answers, in their order."""
    yield from (each for each in pytree.tree_leaves(unpacked(value)) if isinstance(each, Tensor))


def unpacked(value: Any) -> Any:
    """Return an example with a plain dictionary in the place of any other mapping."""
    return dict(value) if isinstance(value, Mapping) else value


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
