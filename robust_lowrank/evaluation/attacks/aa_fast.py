"""A bounded ensemble: the cheapest attacks on every example, and all of `aa-native` on a random sample of what they leave."""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.aa_native import AANative
from robust_lowrank.evaluation.attacks.apgd import TARGETS, apgd, apgd_starts
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.gradients import linearise, probability_margin, runner_up_classes
from robust_lowrank.evaluation.attacks.hyperplane import DUALS
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.threat import KeyedNoise, Threat

TARGETED = 4  # classes that the targeted loss needs
SMALLEST_SLOPE = 1e-300


class AAFast(NativeAttack):
    """APGD on the margin of probabilities and towards the nearest classes, and `aa-native` on a sample of what these leave.

    Nearest are the classes whose boundaries are, where the network is linear around the clean input. What the sample shows
    bounds how many more examples all parts would break (`AccuracyRecord.hidden`). It is not AutoAttack.

    Source: Xie et al. 2024 (arXiv 2411.15210) and Melamed et al. 2024 (arXiv 2407.02240), for the loss and the order of classes.
    """

    attack: Literal["aa-fast"] = "aa-fast"
    turn: ClassVar[int] = 105
    ensemble: ClassVar[bool] = True
    samples: ClassVar[bool] = True
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    targets: Annotated[int, Field(ge=1, le=TARGETS)] = 3
    share: Annotated[float, Field(gt=0, le=1)] = 0.15  # of what the first two leave, in the sample

    def cost(self, classes: int, norm: str) -> int:
        """Return what an example of the sample takes that nothing breaks; those outside it stop before `aa-native`."""
        classes_near = min(TARGETS, classes - 1)
        runs = 1 + (min(self.targets, classes_near) if classes >= TARGETED else 0)
        ranking = 2 + classes_near if classes >= TARGETED else 0
        return 2 * runs * (self.steps + apgd_starts(norm)) + ranking + AANative().cost(classes, norm)

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Try the cheap parts on all examples, and all parts of `aa-native` on a sample of what is left.

        Which examples are in the sample is keyed by the seed, the example and eps, so that it depends neither on batches nor on
        what a sample at another eps has found.
        """
        search = Search(x, y)
        margin = {"noise": noise.named("aa-fast/margin"), "loss": probability_margin, "steps": self.steps}
        search.add(_all(y), apgd(model, x, y, threat, **margin), by="apgd-pm")
        rows = search.open
        if len(rows) and int(model.classes) >= TARGETED:  # pyright: ignore[reportArgumentType]
            order = _nearest_classes(model, search, rows, threat.norm)[:, : self.targets]
            own = noise.of(rows).named("aa-fast/targeted")
            attempt = apgd(model, x[rows], y[rows], threat, noise=own, loss="targeted-dlr", steps=self.steps, targets=order)
            search.add(rows, attempt, by="apgd-t")
        drawn = noise.named(f"aa-fast/sample/{threat.eps!r}").uniform(()) < self.share
        sampled = drawn & ~search.broken & ~search.nonfinite
        AANative().search(search, sampled, model, threat, noise)
        return search.attempt()._replace(sampled=sampled)


def _nearest_classes(model: nn.Module, search: Search, rows: Tensor, norm: str) -> Tensor:
    """Return the classes with the largest logits, those first that are nearest where the network is linear, (K, targets)."""
    x, y = search.x[rows], search.y[rows]
    with torch.no_grad():
        logits = model(x)
    search.count(rows, logits)
    others = runner_up_classes(logits, y, TARGETS)
    linear = linearise(model, x, y, others)
    search.count(rows, linear.logits)
    search.backwards[rows] += others.shape[1]
    search.nonfinite[rows] |= ~linear.finite
    slope = torch.linalg.vector_norm(linear.gradient.double().flatten(2), ord=DUALS[norm], dim=2)
    nearness = linear.gap.double() / slope.clamp(min=SMALLEST_SLOPE)
    return others.gather(1, nearness.argsort(dim=1, descending=True, stable=True))


def _all(y: Tensor) -> Tensor:
    return torch.arange(len(y), device=y.device)
