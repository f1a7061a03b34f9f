"""Attacks of other packages, which attack examples together: their verdicts can depend on the batches."""

import time
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from robust_lowrank.evaluation.findings import Findings
from robust_lowrank.evaluation.meter import Meter
from robust_lowrank.evaluation.specs.adaptive import STEPS, TARGETS, apgd_starts
from robust_lowrank.evaluation.specs.blackbox import QUERIES
from robust_lowrank.evaluation.specs.spec import RESERVED, AttackSpec, NamedSpec
from robust_lowrank.evaluation.target import Target
from robust_lowrank.evaluation.threat import Threat
from robust_lowrank.evaluation.verdict import check

EOT = 20  # draws that version rand averages over
AROUND = 5  # passes, about, that upstream spends before and after each run

Report = Callable[[float, str], None]


class JointSpec(AttackSpec):
    """An attack that is given all examples at once, and batches them by itself."""

    joint: ClassVar[bool] = True

    def named(self, classes: int, shape: tuple[int, ...], threat: Threat) -> str:
        """Return the name in results for such a network."""
        return self.label

    def settings(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
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
    """AutoAttack as published: APGD-CE, targeted APGD, targeted FAB and Square with upstream's iteration counts.

    Version `plus` has more parts and restarts; `rand`, for randomised networks, averages gradients over several draws.
    """

    attack: Literal["autoattack"] = "autoattack"
    engine: Literal["pyautoattack"] = "pyautoattack"
    version: Literal["standard", "plus", "rand"] = "standard"

    @property
    def label(self) -> str:
        """The name in results, where the model has classes enough for the standard targets."""
        return RESERVED if self.version == "standard" else f"{RESERVED}-{self.version}"

    def named(self, classes: int, shape: tuple[int, ...], threat: Threat) -> str:
        """Return a name of its own for what is not the standard."""
        from robust_lowrank.evaluation.engines.autoattack import plan

        return plan(classes, shape, threat, self.version).name

    def cost(self, classes: int, norm: str) -> int:
        """Return the passes of all parts."""
        sparse = norm == "L1"  # five restarts, and five targets for APGD
        targets, run = min(TARGETS, classes - 1), 2 * (STEPS + apgd_starts(norm))
        runs = 5 + min(5, targets) if sparse else 1 + targets
        standard = run * runs + 3 * STEPS * targets + QUERIES + AROUND * (runs + targets)
        plus = 4 * run + 5 * run + 5 * (2 + classes) * STEPS  # five restarts of APGD-CE and DLR, and of untargeted FAB
        return {"standard": standard, "plus": standard + plus, "rand": 2 * EOT * run}[self.version]

    def settings(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
        """Return what upstream itself has."""
        from robust_lowrank.evaluation.engines.autoattack import parameters, plan

        return parameters(plan(classes, shape, threat, self.version))

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
            version=self.version,
            meter=meter,
            progress=report,
        )
        seen, remarks = outcome.check, plan(target.classes, tuple(x.shape[1:]), threat, self.version).remarks
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


class Torchattack(JointSpec, NamedSpec):
    """Any attack of torchattacks by its class, such as MIFGSM; what `parameters` leaves out has that package's default."""

    attack: Literal["torchattacks"] = "torchattacks"
    engine: Literal["torchattacks"] = "torchattacks"
    algorithm: str
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """The name in results, such as torchattacks-mifgsm."""
        return self.name or f"torchattacks-{self.algorithm.lower()}"

    def cost(self, classes: int, norm: str) -> int:
        """Return a forward and a backward for each of the attack's steps, where it says how many they are."""
        return 2 * int(self.parameters.get("steps", 10))

    def settings(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
        """Return every parameter of the attack."""
        from importlib import metadata

        from robust_lowrank.evaluation.engines.foreign_torchattacks import complete_parameters

        complete = complete_parameters(self.algorithm, self.parameters, threat, classes=classes)
        return {"parameters": complete, "version": f"torchattacks {metadata.version('torchattacks')}"}

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
        """Run the attack."""
        from robust_lowrank.evaluation.engines.foreign_torchattacks import torchattack

        begun = time.perf_counter()
        clean, labels = x[rows.to(x.device)].to(target.device), y[rows.to(y.device)].to(target.device)
        attempt = torchattack(
            target,
            clean,
            labels,
            threat,
            name=self.algorithm,
            parameters=self.parameters,
            seed=seed,
            batch_size=batch_size,
            meter=meter,
        )
        return Findings.of(rows, attempt, check(target, clean, labels, attempt.inputs, threat), time.perf_counter() - begun)
