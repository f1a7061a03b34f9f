"""Attacks of gradient steps that adapt to the network: Auto-PGD, and the minimal-norm attacks FAB and DeepFool."""

from typing import ClassVar, Literal

from torch import Tensor, nn

from robust_lowrank.evaluation.engines.nearest import REFINEMENTS
from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.specs.spec import Count, NativeSpec, Positive, named
from robust_lowrank.evaluation.threat import Threat

STEPS, TARGETS = 100, 9  # of AutoAttack standard


def apgd_starts(norm: str) -> int:
    """Return how often a run of APGD begins: for L1 within three budgets, one after the other."""
    return 3 if norm == "L1" else 1


class APGD(NativeSpec):
    """PGD whose steps shorten by themselves (Auto-PGD), on the cross-entropy, the DLR loss, or the targeted DLR loss."""

    attack: Literal["apgd"] = "apgd"
    loss: Literal["ce", "dlr", "targeted-dlr"] = "ce"
    steps: Count = STEPS
    restarts: Count = 1
    targets: Count = TARGETS  # of the targeted loss, at most one less than there are classes

    @property
    def label(self) -> str:
        """The name in results, such as apgd-ce, or apgd-t with targets."""
        return self.name or named(
            "apgd-t" if self.loss == "targeted-dlr" else f"apgd-{self.loss}", self.steps, STEPS, self.restarts
        )

    @property
    def purpose(self) -> str:
        """The attack and its loss."""
        return f"apgd-{self.loss}"

    def cost(self, classes: int, norm: str) -> int:
        """Return two passes a step and a start, for every target and restart, and one to find the targets."""
        targeted = self.loss == "targeted-dlr"
        runs = self.restarts * (min(self.targets, classes - 1) if targeted else 1)
        return 2 * runs * (self.steps + apgd_starts(norm)) + targeted

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the steps."""
        from robust_lowrank.evaluation.engines.apgd import apgd

        return apgd(
            model, x, y, threat, noise=noise, loss=self.loss, steps=self.steps, restarts=self.restarts, targets=self.targets
        )


class FAB(NativeSpec):
    """The nearest input of another class, sought by projecting onto linearised class boundaries, target by target."""

    attack: Literal["fab"] = "fab"
    steps: Count = STEPS
    restarts: Count = 1
    targets: Count = TARGETS
    minimal: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """The name in results, such as fab-t."""
        return self.name or named("fab-t", self.steps, STEPS, self.restarts)

    def cost(self, classes: int, norm: str) -> int:
        """Return two forwards and a backward a step, for every target and restart, one on the clean input, and a final search."""
        return 1 + 3 * min(self.targets, classes - 1) * self.restarts * self.steps + REFINEMENTS

    def attempt(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise, within: float | None = None
    ) -> Attempt:
        """Take the steps, until an input is as near as `within`, without it the radius of the threat model."""
        from robust_lowrank.evaluation.engines.fab import fab

        return fab(model, x, y, threat, noise=noise, steps=self.steps, restarts=self.restarts, targets=self.targets, within=within)


class DeepFool(NativeSpec):
    """The nearest input of another class, sought by steps to the nearest linearised class boundary."""

    attack: Literal["deepfool"] = "deepfool"
    steps: Count = 50
    overshoot: Positive = 0.02
    candidates: Count = 10
    minimal: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or "deepfool"

    def cost(self, classes: int, norm: str) -> int:
        """Return a forward and a backward for each rival class a step, one on both ends, and a final search."""
        return self.steps * min(self.candidates, classes) + 2 + REFINEMENTS

    def attempt(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise, within: float | None = None
    ) -> Attempt:
        """Take the steps, until an input is as near as `within`, without it the radius of the threat model."""
        from robust_lowrank.evaluation.engines.deepfool import deepfool

        return deepfool(model, x, y, threat, steps=self.steps, overshoot=self.overshoot, candidates=self.candidates, within=within)
