"""Attacks climb losses, one value an example and larger for a more harmful input, along their input gradients."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.network.fixed_batch import differentiated
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.threat import per_example

Loss = Callable[[Tensor, Tensor], Tensor]  # of logits and labels, one value an example
SMALLEST_SPREAD = 1e-12


def own_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy in the type of the logits, (N,)."""
    return functional.cross_entropy(logits, y, reduction="none")


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy, (N,) float64: where float32 rounds a confident model's gradient to 0, float64 still has one.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([0.6931], dtype=torch.float64)
    """
    return functional.cross_entropy(logits.double(), y, reduction="none")


def margin_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other logit less that of the label, (N,) float64: positive is wrong.

    Example:
        >>> margin_loss(torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([1]))
        tensor([1.], dtype=torch.float64)

    Source: Carlini and Wagner 2017 (arXiv 1608.04644), the sixth of the objectives in section IV.A, untargeted.
    """
    return -margins(logits.double(), y)


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Return the largest other probability less that of the label, (N,) float64: positive is wrong.

    Example:
        >>> probability_margin(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))
        tensor([0.], dtype=torch.float64)

    Source: Xie et al. 2024 (arXiv 2411.15210).
    """
    return -margins(logits.double().softmax(dim=1), y)


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


class InputGradient(NamedTuple):
    """Logits, loss and input gradient."""

    logits: Tensor
    loss: Tensor  # (N,)
    gradient: Tensor  # of each example's own loss with respect to its input, (N, ...)
    finite: Tensor  # (N,) bool: all logits and all of the gradient are finite


def input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss = own_cross_entropy) -> InputGradient:
    """Return logits, loss and the input gradient of each example's own loss; `loss` takes the logits and `y`.

    Example:
        >>> input_gradient(torch.nn.Linear(2, 2), torch.zeros(1, 2), torch.tensor([0])).gradient.shape
        torch.Size([1, 2])
    """
    size = differentiated(model, x)
    each = [_input_gradient(model, *part, loss) for part in zip(x.split(size), y.split(size), strict=True)]
    return InputGradient(*map(torch.cat, zip(*each, strict=True)))


def _input_gradient(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> InputGradient:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf)
        values = loss(logits, y)
        if values.shape != logits.shape[:1]:
            raise UserError(f"a loss gives each of {len(logits)} examples a number, not {tuple(values.shape)}")
        (gradient,) = torch.autograd.grad(values.sum(), leaf)
    logits = logits.detach()
    finite = logits.isfinite().all(dim=1) & gradient.isfinite().flatten(1).all(dim=1)
    return InputGradient(logits, values.detach(), gradient, finite)


class Linear(NamedTuple):
    """Around each input, the logits of K classes less that of the label; where something is not finite, gap and gradient are 0."""

    logits: Tensor  # (N, classes)
    gap: Tensor  # (N, K)
    gradient: Tensor  # (N, K, ...)
    finite: Tensor  # (N,) bool: all logits and all of the gradients are finite


def linearise(model: nn.Module, x: Tensor, y: Tensor, classes: Tensor) -> Linear:
    """Return values and input gradients of `classes`, (N, K) int64, against the labels: one forward and K backward passes."""
    size = differentiated(model, x)
    each = [_linearise(model, *part) for part in zip(x.split(size), y.split(size), classes.split(size), strict=True)]
    return Linear(*map(torch.cat, zip(*each, strict=True)))


def _linearise(model: nn.Module, x: Tensor, y: Tensor, classes: Tensor) -> Linear:
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf)
        gap = logits.gather(1, classes) - logits.gather(1, y[:, None])
        last = classes.shape[1] - 1
        gradient = torch.stack(
            [torch.autograd.grad(gap[:, k].sum(), leaf, retain_graph=k < last)[0] for k in range(classes.shape[1])], dim=1
        )
    logits, gap = logits.detach(), gap.detach()
    finite = torch.cat([logits, gap], dim=1).isfinite().all(dim=1) & gradient.isfinite().flatten(1).all(dim=1)
    usable = per_example(finite, gradient)
    return Linear(logits, torch.where(finite[:, None], gap, 0.0), torch.where(usable, gradient, 0.0), finite)


def runner_up_classes(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """Return up to `count` classes other than the label, those of largest logits first, (N, K) int64.

    Example:
        >>> runner_up_classes(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([1]), 9)
        tensor([[2, 0]])
    """
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]


def _need(classes: int, logits: Tensor, what: str, remedy: str) -> None:
    if logits.shape[1] < classes:
        raise UserError(f"{what} needs {classes} classes or more, this model has {logits.shape[1]}: {remedy}")
