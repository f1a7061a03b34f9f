"""FGSM takes one step of eps."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.threat import KeyedNoise, Threat


class FGSM(NativeAttack):
    """One step of length eps."""

    attack: Literal["fgsm"] = "fgsm"
    turn: ClassVar[int] = 10
    maskable: ClassVar[bool] = True
    title: ClassVar[str | None] = "FGSM"
    revised: ClassVar[tuple[str, ...]] = ("L1",)
    nested: ClassVar[bool] = False  # one step of length eps by definition; where a longer one finds less, the audit wants to know

    def cost(self, classes: int, norm: str) -> int:
        """Return 2."""
        return 2

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the step."""
        return fgsm(model, x, y, threat)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> Attempt:
    """Move each input once, by eps along the steepest direction of the loss, and into [0, 1].

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> fgsm(model, torch.full((1, 2), 0.5), torch.tensor([0]), Linf(0.1)).inputs.shape
        torch.Size([1, 2])

    Source: Goodfellow et al. 2015 (arXiv 1412.6572), methods (29); with `L2` the step is along the normalised gradient,
    with `L1` it takes the steepest features to 0 or 1.
    """
    clean = input_gradient(model, x, y)
    moved = threat.project(x, threat.ascend(x, clean.gradient, threat.eps))
    once = torch.ones_like(y)
    return Attempt(moved, torch.zeros_like(clean.finite), ~clean.finite, once, once.clone())
