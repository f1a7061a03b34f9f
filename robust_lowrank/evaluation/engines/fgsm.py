"""FGSM: one step of length eps."""

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.engines.slope import slope
from robust_lowrank.evaluation.threat import Threat


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
