"""Attacks of other packages, which attack examples together: their verdicts can depend on the batches."""

import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from robust_lowrank.evaluation.findings import Findings
from robust_lowrank.evaluation.meter import Meter
from robust_lowrank.evaluation.specs.adaptive import STEPS, TARGETS
from robust_lowrank.evaluation.specs.blackbox import QUERIES
from robust_lowrank.evaluation.specs.spec import RESERVED, AttackSpec
from robust_lowrank.evaluation.target import Target
from robust_lowrank.evaluation.threat import Threat

Report = Callable[[float, str], None]


class JointSpec(AttackSpec):
    """An attack that is given all examples at once, and batches them by itself."""

    joint: ClassVar[bool] = True

    def named(self, classes: int, shape: tuple[int, ...], threat: Threat) -> str:
        """Return the name in results for such a network."""
        return self.label

    def parameters(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
        """Return every parameter that the other package uses, for the record."""
        raise NotImplementedError

    def find(
        self,
        target: Target,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        threat: Threat,
        *,
        seed: int,
        batch_size: int,
        meter: Meter,
        report: Report,
    ) -> Findings:
        """Attack the examples `rows` of x and y."""
        raise NotImplementedError


class AutoAttack(JointSpec):
    """AutoAttack as published: APGD-CE, targeted APGD, targeted FAB and Square with upstream's iteration counts."""

    attack: Literal["autoattack"] = "autoattack"
    engine: Literal["pyautoattack"] = "pyautoattack"
    version: Literal["standard"] = "standard"

    @property
    def label(self) -> str:
        """The name in results, where the model has classes enough for the standard targets."""
        return RESERVED

    def named(self, classes: int, shape: tuple[int, ...], threat: Threat) -> str:
        """Return a name of its own for what is not the standard."""
        from robust_lowrank.evaluation.engines.autoattack import plan

        return plan(classes, shape, threat).name

    def cost(self, classes: int) -> int:
        """Return the passes of all parts."""
        targets = min(TARGETS, classes - 1)
        return 2 * (STEPS + 1) * (1 + targets) + 3 * STEPS * targets + QUERIES

    def parameters(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
        """Return what upstream itself has."""
        from robust_lowrank.evaluation.engines.autoattack import parameters, plan

        return parameters(plan(classes, shape, threat))

    def find(
        self,
        target: Target,
        x: Tensor,
        y: Tensor,
        rows: Tensor,
        threat: Threat,
        *,
        seed: int,
        batch_size: int,
        meter: Meter,
        report: Report,
    ) -> Findings:
        """Run upstream's parts."""
        from robust_lowrank.evaluation.engines.autoattack import autoattack, plan

        begun = time.perf_counter()
        outcome = autoattack(
            target,
            x[rows.to(x.device)],
            y[rows.to(y.device)],
            threat,
            seed=seed,
            batch_size=batch_size,
            meter=meter,
            progress=report,
        )
        seen, remarks = outcome.check, plan(target.classes, tuple(x.shape[1:]), threat).remarks
        return Findings(
            rows=rows,
            inputs=seen.inputs[seen.broken],
            broken=seen.broken,
            nonfinite=outcome.nonfinite | ~seen.finite,
            rejected=outcome.rejected,
            prediction=seen.prediction,
            margin=seen.margin,
            distance=seen.distance,
            forwards=outcome.forwards,
            backwards=outcome.backwards,
            seconds=torch.full((len(rows),), (time.perf_counter() - begun) / len(rows), dtype=torch.float64),
            remarks=tuple(",".join([*remarks, *([f"by={part}"] if part else [])]) for part in outcome.by),
        )
