"""Run a suite against a model: every attack at every eps, ascending, on the examples that are still worth attacking."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.audit import Evidence, audit
from robust_lowrank.evaluation.clean import Clean, examine, merge
from robust_lowrank.evaluation.engines.autoattack import Plan, autoattack, parameters, plan
from robust_lowrank.evaluation.engines.fgsm import fgsm
from robust_lowrank.evaluation.engines.pgd import pgd
from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.hygiene import left_as_found
from robust_lowrank.evaluation.inputs import check_examples, check_labels
from robust_lowrank.evaluation.ledger import Ledger
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.result import INTERVAL, Evaluation, accuracies, adversarial_inputs
from robust_lowrank.evaluation.suite import ATTACKS, FGSM, PGD, AttackSpec, AutoAttack, Suite, load_suite
from robust_lowrank.evaluation.target import Target
from robust_lowrank.evaluation.threat import Threat, threat
from robust_lowrank.evaluation.verdict import check
from robust_lowrank.provenance import digest_definition, digest_tensors, machine, versions

Progress = Callable[[float, str], None]


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    suite: str | Path | Suite = "standard",
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | None = None,
    seed: int = 0,
    batch_size: int = 250,
    progress: Progress | None = None,
) -> Evaluation:
    """Attack a model with a suite and return its accuracies with intervals, a verdict for every example, and an audit.

    Example:
        >>> result = evaluate(model, x, y, suite="standard", eps=8 / 255, norm="Linf")
        >>> float(result.clean_accuracy), float(result.robust_accuracy)

    The model is attacked in evaluation mode on its own device; afterwards its modes, gradients and flags and all random states
    are as they were. Robust accuracy is still-correct ÷ all, in the worst case over the attacks for every example.

    Args:
        model: returns logits (N, classes) for inputs in [0, 1]; normalisation belongs into it.
        x: inputs (N, ...) in [0, 1], float32 or float64.
        y: labels (N,), int64.
        suite: a name (`suite_names()`), a TOML file, or a `Suite`.
        eps: one budget or several for all attacks, such as `0.1` or `"8/255"`; without it, those of the suite.
        norm: "Linf" or "L2"; without it, that of the suite.
        seed: of all noise.
        batch_size: examples at a time. Verdicts of the native attacks do not depend on it; AutoAttack draws its noise by batch.
        progress: called with the finished fraction of the work and what is being done.

    Raises:
        UserError: something about the suite, the examples or the model's outputs is wrong; nothing was changed.
    """
    started = time.perf_counter()
    with left_as_found(model):
        runner = _runner(model, x, y, suite, eps, norm, seed, batch_size, progress)
        runner.run()
        return runner.conclude(started)


def fingerprint(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    suite: str | Path | Suite = "standard",
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | None = None,
    seed: int = 0,
    batch_size: int = 250,
) -> dict[str, str]:
    """Return the hashes of weights, data and attack that `evaluate` would record, without attacking.

    Example:
        >>> stored.record.hashes == fingerprint(model, x, y, suite="quick")  # otherwise the stored result is stale

    Raises:
        UserError: as `evaluate`.
    """
    with left_as_found(model):
        return _runner(model, x, y, suite, eps, norm, seed, batch_size, None).hashes()


def _runner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    suite: str | Path | Suite,
    eps: float | str | Sequence[float | str] | None,
    norm: str | None,
    seed: int,
    batch_size: int,
    progress: Progress | None,
) -> "_Runner":
    chosen = (suite if isinstance(suite, Suite) else load_suite(suite)).replaced(eps=eps, norm=norm)
    check_examples(x, y)
    if batch_size < 1:
        raise UserError(f"batch_size is at least 1, not {batch_size}")
    return _Runner(model, x.detach(), y.detach(), chosen, seed, batch_size, progress)


class _Runner:
    """One evaluation under way."""

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, suite: Suite, seed: int, batch_size: int, progress: Progress | None
    ) -> None:
        self.model, self.x, self.y, self.suite = model, x, y, suite
        self.seed, self.batch_size, self.progress = seed, batch_size, progress
        specs = sorted(suite.attacks, key=lambda spec: list(ATTACKS).index(spec.attack))
        self.units = [(spec, threat(suite.norm, eps, features=x[0].numel())) for spec in specs for eps in suite.radii(spec)]
        self.weights = digest_tensors(model.state_dict())
        self.target = Target(model, x)
        check_labels(y, self.target.classes)
        self.ledgers: list[Ledger] = []

    def run(self) -> None:
        """Try every attack at every eps.

        What broke an example within a smaller eps breaks it within a larger one, and the attack is not tried again. FGSM is: it is
        one step of length eps by definition, and where it finds less with a longer one, the audit wants to know.
        """
        self.clean = self._clean()
        for number, (spec, budget) in enumerate(self.units):
            name = self._name(spec, budget)
            ledger = Ledger(name, spec.engine, budget.eps, spec.examples == "correct", self.clean)
            for earlier in self.ledgers:
                if earlier.eps < budget.eps and earlier.attack == name and not isinstance(spec, FGSM):
                    ledger.inherit(earlier, f"within-eps={earlier.eps:g}")
                elif earlier.eps <= budget.eps and spec.examples == "survivors":
                    ledger.inherit(earlier, f"by={earlier.attack}")
            self.ledgers.append(ledger)
            rows = ledger.open
            begun = time.perf_counter()
            if len(rows):
                self._attack(spec, budget, ledger, rows, number)
                ledger.seconds[rows] = (time.perf_counter() - begun) / len(rows)
        if self.progress:
            self.progress(1.0, "done")

    def conclude(self, started: float) -> Evaluation:
        """Count, audit and record."""
        import pandas as pd

        from robust_lowrank.records import ResultRecord, now

        evidence = Evidence(self.clean, self.target.classes, self.ledgers, digest_tensors(self.model.state_dict()) == self.weights)
        record = ResultRecord(
            suite=self.suite.name,
            norm=self.suite.norm,
            eps=sorted({ledger.eps for ledger in self.ledgers}),
            seed=self.seed,
            created=now(),
            versions=versions(),
            machine=machine(self.target.device),
            hashes=self.hashes(),
            interval=INTERVAL,
            accuracies=accuracies(self.clean, self.ledgers),
            audit=audit(evidence),
            definition=self._definition(),
            seconds=time.perf_counter() - started,
        )
        verdicts = pd.concat([ledger.frame(self.suite.norm, self.seed) for ledger in self.ledgers], ignore_index=True)
        return Evaluation(record, verdicts, adversarial_inputs(self.ledgers, self.x))

    def hashes(self) -> dict[str, str]:
        """Name what is attacked, on what, and how."""
        return {
            "weights": self.weights,
            "data": digest_tensors({"x": self.x, "y": self.y}),
            "attack": digest_definition(self._definition()),
        }

    def _clean(self) -> Clean:
        batches: list[Clean] = []
        for x, y in zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True):
            batches.append(examine(self.target, x.to(self.target.device), y.to(self.target.device), twice=not batches))
        return merge(batches)

    def _attack(self, spec: AttackSpec, budget: Threat, ledger: Ledger, rows: Tensor, number: int) -> None:
        def report(fraction: float, detail: str = "") -> None:
            if self.progress:
                what = f"{ledger.attack}{detail and f' ({detail})'} at {budget.norm} {budget.eps:.4g}"
                self.progress((number + fraction) / len(self.units), what)

        if isinstance(spec, AutoAttack):
            outcome = autoattack(
                self.target,
                self.x[rows.to(self.x.device)],
                self.y[rows.to(self.y.device)],
                budget,
                seed=self.seed,
                batch_size=self.batch_size,
                version=spec.version,
                progress=report,
            )
            ledger.enter(
                rows,
                outcome.check,
                nonfinite=outcome.nonfinite,
                rejected=outcome.rejected,
                forwards=outcome.forwards,
                backwards=outcome.backwards,
            )
            ledger.remark(rows, self._plan(spec, budget).remarks)
            for row, part in zip(rows.tolist(), outcome.by, strict=True):
                if part:
                    ledger.flags[row].append(f"by={part}")
            return
        for batch in rows.split(self.batch_size):
            report(float(batch[0]) / len(self.x))
            clean = self.x[batch.to(self.x.device)].to(self.target.device)
            labels = self.y[batch.to(self.y.device)].to(self.target.device)
            attempt = self._attempt(spec, budget, clean, labels, batch.to(self.target.device))
            seen = check(self.target, clean, labels, attempt.inputs, budget)
            ledger.enter(
                batch,
                seen,
                nonfinite=attempt.nonfinite,
                rejected=attempt.claimed & ~seen.broken,
                forwards=attempt.forwards,
                backwards=attempt.backwards,
            )

    def _attempt(self, spec: AttackSpec, budget: Threat, x: Tensor, y: Tensor, examples: Tensor) -> Attempt:
        if isinstance(spec, FGSM):
            return fgsm(self.target, x, y, budget)
        if not isinstance(spec, PGD):
            raise TypeError(f"no engine for {type(spec).__name__}")
        noise = KeyedNoise(self.seed, spec.attack, examples)
        starts = (budget.random_start(x, noise.at(restart=restart)) if spec.random_start else x for restart in range(spec.restarts))
        return pgd(self.target, x, y, budget, starts=starts, steps=spec.steps, step_size=spec.step_size(budget.eps))

    def _name(self, spec: Any, budget: Threat) -> str:
        label = self._plan(spec, budget).name if isinstance(spec, AutoAttack) else spec.label
        return label if spec.examples == "correct" else f"{label}-on-survivors"

    def _plan(self, spec: AutoAttack, budget: Threat) -> Plan:
        return plan(self.target.classes, tuple(self.x.shape[1:]), budget, spec.version)

    def _definition(self) -> dict[str, Any]:
        attacks = []
        for spec in dict.fromkeys(spec for spec, _ in self.units):
            budgets = [budget for other, budget in self.units if other == spec]
            entry = spec.model_dump(mode="json") | {"name": self._name(spec, budgets[0]), "eps": [b.eps for b in budgets]}
            if isinstance(spec, PGD):
                entry["step_sizes"] = [spec.step_size(budget.eps) for budget in budgets]
            if isinstance(spec, AutoAttack):
                entry |= {"batch_size": self.batch_size} | parameters(self._plan(spec, budgets[0]))
            attacks.append(entry)
        return {
            "suite": self.suite.name,
            "description": self.suite.description,
            "norm": self.suite.norm,
            "seed": self.seed,
            "attacks": attacks,
        }
