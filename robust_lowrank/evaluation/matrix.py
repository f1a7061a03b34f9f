"""What breaks one network, tried on others."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.hygiene import left_as_found
from robust_lowrank.evaluation.result import Adversarial
from robust_lowrank.evaluation.steady import Steady
from robust_lowrank.evaluation.target import Target
from robust_lowrank.evaluation.verdict import margins


class Transferred(NamedTuple):
    """How many inputs that break the network `source` under one attack at one eps break another one as well."""

    attack: str
    eps: float
    tried: int  # examples that the other network gets right
    fooled: int  # of them, those that it gets wrong by a strict margin on the source's input


@torch.no_grad()
def transferred(model: nn.Module, x: Tensor, y: Tensor, adversarial: Mapping[str, Adversarial]) -> list[Transferred]:
    """Try adversarial inputs of another network, which were made from the same examples.

    Example:
        >>> transferred(dense, x, y, evaluate(low_rank, x, y, suite="quick").adversarial)
        [Transferred(attack='fgsm', eps=0.1, tried=90, fooled=31)]
    """
    with left_as_found(model):
        steady = Steady(Target(model, x))

        def wrong(points: Tensor, labels: Tensor) -> Tensor:
            logits = steady(points.to(steady.device)).cpu()
            return ~logits.isfinite().all(dim=1) | (margins(logits, labels) < 0)

        right = ~wrong(x, y)
        entries = []
        for key, found in adversarial.items():
            attack, _, eps = key.rpartition("/")
            tried = right[found.examples]
            fooled = wrong(found.inputs[tried], y[found.examples[tried]])
            entries.append(Transferred(attack, float(eps), int(tried.sum()), int(fooled.sum())))
        return entries
