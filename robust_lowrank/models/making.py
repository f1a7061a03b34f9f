"""A dense network that is to be trained is made by its name, and tried on a batch before anything depends on it."""

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from robust_lowrank.errors import UserError, first_line
from robust_lowrank.models.architectures import architecture
from robust_lowrank.models.normalize import normalised
from robust_lowrank.models.programs import float_type_of
from robust_lowrank.threat import frozen_eval

BATCH = 4


def make(
    source: str,
    *,
    input_shape: tuple[int, ...],
    num_classes: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Return a dense network with fresh weights: images in [0, 1] go in, logits come out.

    Example:
        >>> make("torchvision:resnet18", input_shape=(3, 32, 32), num_classes=10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    A network that this package does not have is tried on a batch, in both modes. What a function returns is copied, so that one
    which returns the same object each time is called as if it made a new one.

    Args:
        source: one of `MODELS`, `torchvision:NAME`, `timm:NAME`, or `module:function` of a function that takes no arguments, or
            `input_shape` and `num_classes`. Its module is looked for in the current directory too.
        mean: to subtract from each channel, for networks that expect normalised images. None: they normalise by themselves.
        std: to divide each channel by; given with `mean`.

    Raises:
        UserError: nothing bears this name, or what does makes no network, or one for other images or classes.
    """
    made = architecture(source, input_shape=input_shape, num_classes=num_classes)
    if made.normalises:
        return normalised(made.model, input_shape, mean, std, own=True)[0]
    if any(map(is_lazy, made.model.parameters())):
        with torch.no_grad():
            _answer(source, made.model.eval(), _batch(made.model, input_shape))  # which draws their weights
        made.model.train()
    network, _ = normalised(copy.deepcopy(made.model), input_shape, mean, std)
    _try(source, network, input_shape, num_classes)
    return network


def _try(source: str, network: nn.Module, input_shape: tuple[int, ...], num_classes: int) -> None:
    """Require logits (N, classes) of a batch in evaluation mode, and in training mode, which changes a copy."""
    x = _batch(network, input_shape)
    with frozen_eval(network), torch.no_grad():
        _require_logits(source, _answer(source, network, x), num_classes)
        _require_logits(source, _answer(source, copy.deepcopy(network).train(), x), num_classes, " in training mode")


def _batch(network: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    return torch.rand(BATCH, *input_shape, generator=torch.Generator().manual_seed(0)).to(float_type_of(network))


def _answer(source: str, network: nn.Module, x: Tensor) -> Any:
    try:
        return network(x)
    except Exception as error:  # of whatever the network does
        raise UserError(
            f"{source}: its network cannot take a batch of shape {tuple(x.shape)}: {type(error).__name__}: {first_line(error)}\n"
            "Let the function make one for these images; it is told their shape if it has a parameter input_shape"
        ) from error


def _require_logits(source: str, logits: Any, num_classes: int, mode: str = "") -> None:
    where = f"{source}: its network returned"
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != BATCH or not logits.is_floating_point():
        shape = f"a {type(logits).__name__}"
        with suppress(AttributeError):
            shape = f"a tensor of shape {tuple(logits.shape)}"
        raise UserError(
            f"{where} {shape} for {BATCH} images{mode}, where one tensor of logits ({BATCH}, {num_classes}) is due\n"
            "Let the function return a network whose forward returns the logits alone"
        )
    if logits.shape[1] != num_classes:
        raise UserError(
            f"{where} logits of {logits.shape[1]} classes{mode}, and the data have {num_classes}\n"
            "Let the function make one with these classes; it is told how many if it has a parameter num_classes"
        )
    if not bool(torch.isfinite(logits).all()):
        raise UserError(f"{where} logits that are not finite{mode}: look at how the function draws its weights")
    if bool((logits >= 0).all()) and bool((logits.sum(dim=1) - 1).abs().max() < 1e-4):
        raise UserError(f"{where} probabilities{mode}, not logits: leave out the softmax at its end, which the loss takes itself")
