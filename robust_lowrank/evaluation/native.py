"""FGSM and PGD as pure functions of a model, inputs, labels and a threat model."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_lowrank.evaluation.threat import Threat
from robust_lowrank.evaluation.verdict import margins


class Attempt(NamedTuple):
    """What an attack proposes; every field has a row an example."""

    inputs: Tensor  # the most harmful input found, (N, ...)
    claimed: Tensor  # bool: the attack itself saw this input break the example
    nonfinite: Tensor  # bool: logits or gradients were not finite somewhere on the way
    forwards: Tensor  # int64, evaluations of the model spent on this example
    backwards: Tensor  # int64


class Slope(NamedTuple):
    """Logits and the gradient of the cross-entropy with respect to the input."""

    logits: Tensor
    gradient: Tensor
    finite: Tensor  # (N,) bool: all logits and all of the gradient are finite


def slope(model: nn.Module, x: Tensor, y: Tensor) -> Slope:
    """Return logits and the input gradient of each example's own cross-entropy."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        logits = model(leaf)
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, y, reduction="sum"), leaf)
    logits = logits.detach()
    return Slope(logits, gradient, logits.isfinite().all(dim=1) & gradient.isfinite().flatten(1).all(dim=1))


def fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Attempt:
    """Move each input once, by eps along the steepest direction of the loss, and into [0, 1].

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> fgsm(model, torch.full((1, 2), 0.5), torch.tensor([0]), Linf(0.1)).inputs.shape
        torch.Size([1, 2])

    Source: Goodfellow et al. 2015 (arXiv 1412.6572), methods (29); with `L2` the step is along the normalised gradient.
    """
    _, gradient, finite = slope(model, x, y)
    moved = threat.project(x, x + threat.eps * threat.steepest(gradient))
    once = torch.ones_like(y)
    return Attempt(moved, torch.zeros_like(finite), ~finite, once, once.clone())


def pgd(
    model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, starts: Iterable[Tensor], steps: int, step_size: float
) -> Attempt:
    """Climb the loss by steps of fixed length along the steepest direction, projecting after each.

    Every element of `starts`, an (N, ...) tensor, is a restart. An example is finished at the first input that breaks it: it then
    leaves the batch, at the cost of one synchronisation with the device a step. For one that nothing breaks, the input with the
    smallest margin is returned.

    Example:
        >>> noise = KeyedNoise(0, "pgd", torch.arange(len(x)))
        >>> starts = (threat.random_start(x, noise.at(restart=r)) for r in range(5))
        >>> pgd(model, x, y, threat, starts=starts, steps=20, step_size=2.5 * threat.eps / 20)

    Source: Madry et al. 2018 (arXiv 1706.06083), methods (30) and (31).
    """
    best, best_margin = x.clone(), torch.full(y.shape, torch.inf, dtype=torch.float64, device=y.device)
    broken, nonfinite = torch.zeros_like(y, dtype=torch.bool), torch.zeros_like(y, dtype=torch.bool)
    forwards, backwards = torch.zeros_like(y), torch.zeros_like(y)
    for start in starts:
        rows = (~broken).nonzero().squeeze(1)
        if len(rows) == 0:
            break
        point = threat.project(x[rows], start[rows])
        for step in range(steps + 1):
            here, labels = x[rows], y[rows]
            if step < steps:
                logits, gradient, finite = slope(model, point, labels)
                backwards[rows] += 1
            else:
                with torch.no_grad():
                    logits, gradient = model(point), None
                finite = logits.isfinite().all(dim=1)
            forwards[rows] += 1
            nonfinite[rows] |= ~finite
            margin = torch.where(logits.isfinite().all(dim=1), margins(logits, labels).double(), torch.inf)
            better = margin < best_margin[rows]
            best[rows] = torch.where(better.reshape(-1, *[1] * (x.dim() - 1)), point, best[rows])
            best_margin[rows] = torch.where(better, margin, best_margin[rows])
            broken[rows] |= margin < 0
            if gradient is None:
                break
            stays = finite & (margin >= 0)
            moved = threat.project(here, point + step_size * threat.steepest(gradient))
            rows, point = rows[stays], moved[stays]
            if len(rows) == 0:
                break
    return Attempt(best, broken, nonfinite, forwards, backwards)
