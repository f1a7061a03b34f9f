"""The losses that attacks climb, one value an example and larger for a more harmful input, and their input gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.verdict import margins

SMALLEST_SPREAD = 1e-12


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy, (N,) float64: where float32 rounds a confident model's gradient to 0, float64 still has one.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([0.6931], dtype=torch.float64)
    """
    return functional.cross_entropy(logits.double(), y, reduction="none")


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Return the difference of logits ratio, (N,) float64: minus the margin over the first logit less the third largest.

    It keeps its value if the logits are shifted or scaled, so that their scale cannot hide the gradient. Positive is wrong.
    Where those logits tie, the difference counts as 1e-12: the value is finite and the gradient points along the margin's.

    Example:
        >>> dlr(torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0]))
        tensor([-0.5000], dtype=torch.float64)

    Raises:
        UserError: there are fewer than three classes.

    Source: Croce and Hein 2020 (arXiv 2003.01690), equation (6).
    """
    _need(3, logits, "the difference of logits ratio", "take the loss 'ce'")
    first, _, third = logits.double().topk(3, dim=1).values.unbind(dim=1)
    return -margins(logits.double(), y) / (first - third).clamp(min=SMALLEST_SPREAD)


def targeted_dlr(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Return the targeted difference of logits ratio, (N,) float64: it rises as the target's logit passes the label's.

    Ties of the largest with the third and fourth logit are taken as in `dlr`.

    Example:
        >>> targeted_dlr(torch.tensor([[3.0, 1.0, -1.0, -1.0]]), torch.tensor([0]), torch.tensor([1]))
        tensor([-0.5000], dtype=torch.float64)

    Raises:
        UserError: there are fewer than four classes.

    Source: Croce and Hein 2020 (arXiv 2003.01690), equation (7).
    """
    _need(4, logits, "the targeted difference of logits ratio", "take the loss 'dlr' for three classes, 'ce' for two")
    values = logits.double()
    first, _, third, fourth = values.topk(4, dim=1).values.unbind(dim=1)
    rise = values.gather(1, target[:, None]) - values.gather(1, y[:, None])
    return rise.squeeze(1) / (first - (third + fourth) / 2).clamp(min=SMALLEST_SPREAD)


class Ascent(NamedTuple):
    """What one evaluation says of where to go."""

    logits: Tensor
    loss: Tensor  # (N,)
    gradient: Tensor  # of each example's own loss with respect to its input, (N, ...)
    finite: Tensor  # (N,) bool: all logits and all of the gradient are finite


def ascent(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> Ascent:
    """Return logits, loss and the input gradient of each example's own loss; `loss` takes the logits and returns (N,) values.

    Example:
        >>> y = torch.tensor([0])
        >>> ascent(torch.nn.Linear(2, 2), torch.zeros(1, 2), lambda logits: cross_entropy(logits, y)).gradient.shape
        torch.Size([1, 2])
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf)
        values = loss(logits)
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    logits = logits.detach()
    finite = logits.isfinite().all(dim=1) & gradient.isfinite().flatten(1).all(dim=1)
    return Ascent(logits, values.detach(), gradient, finite)


def _need(classes: int, logits: Tensor, what: str, remedy: str) -> None:
    if logits.shape[1] < classes:
        raise UserError(f"{what} needs {classes} classes or more, this model has {logits.shape[1]}: {remedy}")
