"""Transfer: adversarial inputs that were made for one model, tried on another."""

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.engines.search import Attempt, Search
from robust_lowrank.evaluation.threat import Threat


def transfer(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, candidates: Tensor) -> Attempt:
    """Try each candidate, brought into the threat model, once on its example; one that is not finite becomes the clean input.

    Example:
        >>> made = pgd(substitute, x, y, threat, starts=[x], steps=20, step_size=threat.eps / 4).inputs
        >>> transfer(model, x, y, threat, made)

    Raises:
        UserError: there is not one candidate of the right shape an example.

    Source: Papernot et al. 2016 (arXiv 1605.07277).
    """
    if candidates.shape != x.shape:
        raise UserError(
            f"candidates of shape {tuple(candidates.shape)} do not fit inputs of shape {tuple(x.shape)}: give one for each example"
        )
    usable = candidates.isfinite().flatten(1).all(dim=1).reshape(-1, *[1] * (x.dim() - 1))
    points = threat.project(x, torch.where(usable, candidates.to(x), x))
    search = Search(x, y)
    with torch.no_grad():
        search.see(search.open, points, model(points))
    return search.attempt()
