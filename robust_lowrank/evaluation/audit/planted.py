"""Planted examples have a known answer, and show that an attack works on this device, shape, norm and eps."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.search import Attempt
from robust_lowrank.evaluation.verdict import check
from robust_lowrank.threat import Threat

Engine = Callable[[nn.Module, Tensor, Tensor, Threat], Attempt]

_BREAKABLE = (0.2, 0.4, 0.6)  # margins, over what the threat model can move them
_SAFE = (1.05, 1.1, 1.2)
_LARGEST = 0.4  # of the diameter: beyond that, the cube has no room for the examples that are safe
_ROUNDINGS = 100  # of the inputs' type, over the diameter: within that, margins are lost in rounding


class Planted(NamedTuple):
    """An attack's counts on planted examples."""

    attack: str
    breakable: int
    broken: int  # of the breakable ones
    safe: int
    claimed: int  # of the safe ones, "broken" in contradiction to the arithmetic


def plant(attack: str, engine: Engine, like: Tensor, classes: int, threat: Threat) -> Planted:
    """Attack a linear classifier whose robustness is known from arithmetic, on inputs of the shape, type and device of `like`.

    The logits of classes 0 and 1 are `s` and `-s`, where `s` is the mean of the features' distances from 1/2, counted negative
    in one half of them; those of all others are -1. The threat model moves `s` by eps over the diameter of the cube and no
    further, so examples with a smaller `|s|` break and those with a larger one cannot.

    Example:
        >>> plant("fgsm", fgsm, x, 10, Linf(0.1))
        Planted(attack='fgsm', breakable=6, broken=6, safe=6, claimed=0)
    """
    shape, features = like.shape[1:], like[0].numel()
    diameter = threat.diameter(features)
    least = _ROUNDINGS * torch.finfo(like.dtype).eps
    budget = replace(threat, eps=min(max(threat.eps, least * diameter), _LARGEST * diameter))
    signs = torch.where(torch.arange(features, device=like.device) < features // 2, -1.0, 1.0).to(like.dtype)
    model = _Halves(signs, classes)
    margins = torch.tensor([*_BREAKABLE, *_SAFE], dtype=like.dtype, device=like.device) * budget.eps / diameter
    shifts = torch.cat([margins, -margins])
    x = (0.5 + shifts[:, None] * signs).reshape(-1, *shape)
    y = (shifts < 0).long()
    breakable = (torch.arange(len(y), device=like.device) % len(margins)) < len(_BREAKABLE)
    attempt = engine(model, x, y, budget)
    broken = check(model, x, y, attempt.inputs, budget).broken
    return Planted(
        attack=attack,
        breakable=int(breakable.sum()),
        broken=int((broken & breakable).sum()),
        safe=int((~breakable).sum()),
        claimed=int(((broken | attempt.claimed) & ~breakable).sum()),
    )


class _Halves(nn.Module):
    """Tells apart whether the second half of the features is brighter than the first."""

    signs: Tensor

    def __init__(self, signs: Tensor, classes: int) -> None:
        super().__init__()
        self.register_buffer("signs", signs)
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, classes)."""
        score = ((x.flatten(1) - 0.5) * self.signs).mean(dim=1, keepdim=True)
        return torch.cat([score, -score, score.new_full((len(x), self.classes - 2), -1.0)], dim=1)
