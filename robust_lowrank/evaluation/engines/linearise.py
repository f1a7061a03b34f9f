"""Logit differences as linear functions of the input."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Linear(NamedTuple):
    """Around each input, the logits of K classes less that of the label; where something is not finite, gap and gradient are 0."""

    logits: Tensor  # (N, classes)
    gap: Tensor  # (N, K)
    gradient: Tensor  # (N, K, ...)
    finite: Tensor  # (N,) bool: all logits and all of the gradients are finite


def linearise(model: nn.Module, x: Tensor, y: Tensor, classes: Tensor) -> Linear:
    """Return values and input gradients of `classes`, (N, K) int64, against the labels: one forward and K backward passes."""
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
    known = finite.reshape(-1, *[1] * (gradient.dim() - 1))
    return Linear(logits, torch.where(finite[:, None], gap, 0.0), torch.where(known, gradient, 0.0), finite)


def rivals(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """Return up to `count` classes other than the label, those of largest logits first, (N, K) int64."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.argsort(dim=1, descending=True, stable=True)[:, : min(count, logits.shape[1] - 1)]
