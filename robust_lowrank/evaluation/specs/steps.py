"""Attacks of steps whose length is fixed beforehand."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from torch import Tensor, nn

from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.specs.spec import Count, NativeSpec, Positive
from robust_lowrank.evaluation.threat import Threat


class FGSM(NativeSpec):
    """One step of length eps."""

    attack: Literal["fgsm"] = "fgsm"
    nested: ClassVar[bool] = False  # one step of length eps by definition; where a longer one finds less, the audit wants to know

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or "fgsm"

    def cost(self, classes: int, norm: str) -> int:
        """Return 2."""
        return 2

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the step."""
        from robust_lowrank.evaluation.engines.fgsm import fgsm

        return fgsm(model, x, y, threat)


class Stepwise(NativeSpec):
    """Steps of length `relative_step * eps / steps` from `restarts` starts."""

    steps: Count = 20
    relative_step: Positive = 2.5
    restarts: Count = 1
    random_start: bool = True

    def cost(self, classes: int, norm: str) -> int:
        """Return what all steps of all restarts take, and the evaluation of the last point."""
        return self.restarts * (2 * self.steps + 1)

    def step_size(self, eps: float) -> float:
        """Return the length of a step."""
        return self.relative_step * eps / self.steps

    def details(self, eps: float) -> dict[str, Any]:
        """Return the length of a step."""
        return {"step_size": self.step_size(eps)}

    @model_validator(mode="after")
    def _restarts_differ(self) -> "Stepwise":
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts without random_start repeat the same attack: set random_start or restarts = 1")
        return self

    def starts(self, x: Tensor, threat: Threat, noise: KeyedNoise) -> Iterator[Tensor]:
        """Yield where each restart begins."""
        for restart in range(self.restarts):
            yield threat.random_start(x, noise.at(restart=restart)) if self.random_start else x


class PGD(Stepwise):
    """`steps` steps on the cross-entropy, from `restarts` starts."""

    attack: Literal["pgd"] = "pgd"

    @property
    def label(self) -> str:
        """The name in results, such as pgd-20 or pgd-20x5 with five restarts."""
        return self.name or f"pgd-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the steps."""
        from robust_lowrank.evaluation.engines.pgd import pgd

        starts = self.starts(x, threat, noise)
        return pgd(model, x, y, threat, starts=starts, steps=self.steps, step_size=self.step_size(threat.eps))


class MomentumPGD(Stepwise):
    """PGD along a running sum of normalised gradients, each new one added to `momentum` times the sum (MI-FGSM)."""

    attack: Literal["momentum-pgd"] = "momentum-pgd"
    momentum: Positive = 1.0

    @property
    def label(self) -> str:
        """The name in results, such as momentum-pgd-20."""
        return self.name or f"momentum-pgd-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Take the steps."""
        from robust_lowrank.evaluation.engines.pgd import pgd

        starts, step_size = self.starts(x, threat, noise), self.step_size(threat.eps)
        return pgd(model, x, y, threat, starts=starts, steps=self.steps, step_size=step_size, momentum=self.momentum)
