"""Attacks search on the form of a network in which it is fast; what they find is judged on the network itself."""

import torch
from torch import Tensor

from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.folding import fastest_exact

COMPARED, MOVED = 8, (0.01, 0.1)  # examples on which the form is held against the network, and how far they are moved for it too


def network_to_search(network: FixedBatch, x: Tensor) -> FixedBatch:
    """Return a target's fast form (`folding.fastest_exact`) behind the same interface, or the same again if it has none.

    Example:
        >>> fixed = FixedBatch(Target(model, x))
        >>> network_to_search(fixed, x)(x).sub(fixed(x)).abs().max()  # rounding
    """
    target = network.target
    if target.alone:
        return network
    example = x[:COMPARED].to(target.device)
    form = fastest_exact(target.model, target.typed(_around(example)))
    if form is target.model:
        return network
    searched = FixedBatch(Target(form, example), network.meter)
    searched.differentiated = network.differentiated
    return searched


def _around(x: Tensor) -> Tensor:
    """Return inputs as they are and moved at random, less and more, at which the form is held against the network."""
    generator = torch.Generator().manual_seed(0)
    moves = (size * (2 * torch.rand(x.shape, generator=generator) - 1).to(x) for size in MOVED)
    return torch.cat([x, *((x + move).clamp(0, 1) for move in moves)])
