"""The work of an evaluation: attack by attack and eps by eps, batch by batch, what is stored and what is still to be done."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.audit import Engine, Evidence, Probes, audit, probe
from robust_lowrank.evaluation.clean import Clean, examine, merge
from robust_lowrank.evaluation.findings import Findings
from robust_lowrank.evaluation.inputs import check_examples, check_labels
from robust_lowrank.evaluation.ledger import Ledger
from robust_lowrank.evaluation.memory import in_halves, in_smaller_batches
from robust_lowrank.evaluation.meter import Exhausted, Meter
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.question import Question
from robust_lowrank.evaluation.result import INTERVAL, Evaluation, accuracies, adversarial_inputs, clean_inputs
from robust_lowrank.evaluation.specs import ATTACKS, Attack, JointSpec, NativeSpec, Transfer
from robust_lowrank.evaluation.steady import Steady
from robust_lowrank.evaluation.store import Store, unit_key
from robust_lowrank.evaluation.target import Target
from robust_lowrank.evaluation.threat import Threat, threat
from robust_lowrank.evaluation.verdict import check
from robust_lowrank.provenance import digest_definition, digest_tensors, machine, versions

Progress = Callable[[float, str], None]


class Unit(NamedTuple):
    """One attack at one eps."""

    spec: Attack
    threat: Threat
    name: str
    work: int  # passes for an example that holds, and one for the check of what was found


class Work:
    """One evaluation under way."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        question: Question,
        *,
        sources: Sequence[nn.Module] = (),
        store: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        check_examples(x, y)
        self.model, self.x, self.y, self.question, self.progress = model, x.detach(), y.detach(), question, progress
        self.store = None if store is None else Store(Path(store))
        self.weights = digest_tensors(model.state_dict())
        self.target = Target(model, x)
        check_labels(y, self.target.classes)
        self.steady = Steady(self.target)
        self.sources = [Steady(Target(source.eval(), x)) for source in sources]
        self.specs = self._attacks()
        self.units = [self._unit(spec, eps) for spec in self.specs for eps in self._order(spec)]
        self.batches = torch.arange(len(x)).split(question.batch_size)
        self.ledgers: list[Ledger] = []
        self._keys: dict[tuple[int, int], str] = {}

    def run(self, meter: Meter, *, joint: bool = True) -> None:
        """Do unit after unit, each on what is still open.

        What broke an example within a smaller eps breaks it within a larger one, and the attack is not tried again, unless it is
        one step of length eps by definition: where a longer one finds less, the audit wants to know. An attack that looks for the
        nearest input runs once, at the largest eps, until one lies within the smallest.
        """
        self.clean = self._clean()
        self.steady.meter = meter
        done, total = 0, sum(unit.work for unit in self.units)
        for number, unit in enumerate(self.units):
            ledger = Ledger(unit.name, unit.spec.engine, unit.threat.eps, unit.spec.examples == "correct", self.clean)
            earlier = self._earlier(number, unit)
            for other in (self.ledgers[index] for index in earlier):
                ledger.inherit(other, f"within-eps={other.eps:g}" if other.attack == unit.name else f"by={other.attack}")
            self.ledgers.append(ledger)
            if not joint and (unit.spec.joint or any(self.units[other].spec.joint for other in earlier)):
                continue
            if unit.spec.minimal and any(self.units[other].name == unit.name for other in earlier):
                ledger.unresolved |= self.ledgers[earlier[-1]].unresolved & ~ledger.broken
                ledger.nonfinite |= self.ledgers[earlier[-1]].nonfinite & ~ledger.broken
                continue
            batches = [torch.arange(len(self.x))] if unit.spec.joint else self.batches
            for position, batch in enumerate(batches):
                self._tell((done + unit.work * position / len(batches)) / total, unit, "")
                self._settle(unit, ledger, batch, self._key(number, unit, position, batch, earlier), meter, done / total, total)
            done += unit.work
        self._tell(1.0, None, "done")

    def conclude(self, started: float) -> Evaluation:
        """Count, audit and record."""
        import pandas as pd

        from robust_lowrank.records import ResultRecord, now

        probes = self._probes()
        unchanged = digest_tensors(self.model.state_dict()) == self.weights
        evidence = Evidence(self.clean, self.target.classes, self.ledgers, unchanged, probes, self.question.suite.norm)
        suite, seed = self.question.suite, self.question.seed
        record = ResultRecord(
            suite=suite.name,
            norm=suite.norm,
            eps=sorted({ledger.eps for ledger in self.ledgers}),
            seed=seed,
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
        verdicts = pd.concat([ledger.frame(suite.norm, seed, self.question.first) for ledger in self.ledgers], ignore_index=True)
        first = self.question.first
        return Evaluation(record, verdicts, adversarial_inputs(self.ledgers, self.x, first), clean_inputs(self.x, first))

    def _probes(self) -> Probes | None:
        """Run the audit's own attacks, and those of the suite on examples whose answer is known."""
        if not self.question.gradients:
            return None
        widest = max((unit.threat for unit in self.units), key=lambda budget: budget.eps)
        seed = self.question.seed

        def engine(spec: NativeSpec) -> Engine:
            return lambda model, x, y, threat: spec.attempt(
                model, x, y, threat, KeyedNoise(seed, spec.purpose, torch.arange(len(x), device=x.device))
            )

        steepest = widest.norm != "L1"  # steps along one coordinate need more of them than the planted examples allow
        specs = [spec for spec in self.specs if isinstance(spec, NativeSpec) and spec.gradients]
        engines = {spec.label: engine(spec) for spec in specs if steepest}
        return in_smaller_batches(
            lambda size: probe(self.target, self.x, self.y, widest, seed=seed, batch_size=size, engines=engines),
            self.question.batch_size,
        )

    def hashes(self) -> dict[str, str]:
        """Name what is attacked, on what, and how."""
        return {
            "weights": self.weights,
            "data": digest_tensors({"x": self.x, "y": self.y}),
            "attack": digest_definition(self._definition()),
        }

    def _attacks(self) -> list[Attack]:
        """Return the suite's attacks, cheap ones first, without those that need sources where there are none."""
        specs = [spec for spec in self.question.suite.attacks if self.sources or not isinstance(spec, Transfer)]
        if not specs:
            raise UserError(f"suite {self.question.suite.name!r} has only attacks by transfer: give a source network")
        return sorted(specs, key=lambda spec: list(ATTACKS).index(spec.attack))

    def _order(self, spec: Attack) -> list[float]:
        radii = self.question.suite.radii(spec)
        return sorted(radii, reverse=spec.minimal)

    def _unit(self, spec: Attack, eps: float) -> Unit:
        shape, classes = tuple(self.x.shape[1:]), self.target.classes
        budget = threat(self.question.suite.norm, eps, features=self.x[0].numel())
        label = spec.named(classes, shape, budget) if isinstance(spec, JointSpec) else spec.label
        return Unit(
            spec,
            budget,
            label if spec.examples == "correct" else f"{label}-on-survivors",
            spec.cost(classes, self.question.suite.norm) + 1,
        )

    def _earlier(self, number: int, unit: Unit) -> list[int]:
        """Return the units whose broken examples this one takes over."""

        def counts(other: Unit) -> bool:
            if other.name == unit.name:
                return unit.spec.minimal or (unit.spec.nested and other.threat.eps < unit.threat.eps)
            return unit.spec.examples == "survivors" and other.threat.eps <= unit.threat.eps

        return [index for index, other in enumerate(self.units[:number]) if counts(other)]

    def _clean(self) -> Clean:
        def look(rows: Tensor) -> Clean:
            return examine(self.steady, *self._examples(rows), twice=int(rows[0]) == 0, gradients=self.question.gradients)

        return merge([part for rows in self.batches for part in in_halves(look, rows, self.steady)])

    def _settle(self, unit: Unit, ledger: Ledger, batch: Tensor, key: str, meter: Meter, done: float, total: int) -> None:
        """Enter what is stored of one batch, or find it out and store it; if the budget ends before that, leave it unresolved."""
        rows = batch[torch.isin(batch, ledger.open)]
        if len(rows) == 0:
            return
        found = self.store.get(key) if self.store else None
        if found is None or not torch.equal(found.rows + batch[0], rows):
            if meter.exhausted:
                ledger.leave(rows)
                return
            try:
                found = self._find(unit, rows, meter, lambda part, what: self._tell(done + part * unit.work / total, unit, what))
            except Exhausted:
                ledger.leave(rows)
                return
            if self.store:
                self.store.put(key, found.moved(-int(batch[0])))
        else:
            found = found.moved(int(batch[0]))
        ledger.enter(found)

    def _find(self, unit: Unit, rows: Tensor, meter: Meter, report: Progress) -> Findings:
        spec = unit.spec
        if isinstance(spec, JointSpec):
            size, seed = self.question.batch_size, self.question.seed
            return spec.find(self.target, self.x, self.y, rows, unit.threat, seed=seed, batch_size=size, meter=meter, report=report)
        return Findings.joined(in_halves(lambda part: self._attack(unit, spec, part), rows, self.steady))

    def _attack(self, unit: Unit, spec: NativeSpec, rows: Tensor) -> Findings:
        begun = time.perf_counter()
        x, y = self._examples(rows)
        noise = KeyedNoise(self.question.seed, spec.purpose, (rows + self.question.first).to(self.target.device))
        more: dict[str, Any] = {"within": min(self._order(unit.spec))} if spec.minimal else {}
        if isinstance(spec, Transfer):
            more["sources"] = self.sources
        attempt = spec.attempt(self.steady, x, y, unit.threat, noise, **more)
        return Findings.of(rows, attempt, check(self.steady, x, y, attempt.inputs, unit.threat), time.perf_counter() - begun)

    def _examples(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[rows.to(self.x.device)].to(self.target.device), self.y[rows.to(self.y.device)].to(self.target.device)

    def _key(self, number: int, unit: Unit, position: int, batch: Tensor, earlier: Sequence[int]) -> str:
        taken = [key for (index, place), key in self._keys.items() if index in earlier and (unit.spec.joint or place == position)]
        x, y = self.x[batch.to(self.x.device)], self.y[batch.to(self.y.device)]
        served = [other for other in self.units if other.spec is unit.spec] if unit.spec.minimal else [unit]
        key = unit_key(
            weights=self.weights,
            data=digest_tensors({"x": x, "y": y}),
            first=self.question.first + int(batch[0]),
            attack=self._entry(unit.spec, served) | {"seed": self.question.seed, "norm": unit.threat.norm, "versions": versions()},
            earlier=taken,
        )
        self._keys[number, position] = key
        return key

    def _entry(self, spec: Attack, units: Sequence[Unit]) -> dict[str, Any]:
        """Return one attack of the definition, every parameter explicit."""
        entry = spec.model_dump(mode="json") | {"name": units[0].name, "eps": sorted(unit.threat.eps for unit in units)}
        if isinstance(spec, JointSpec):
            return (
                entry
                | {"batch_size": self.question.batch_size}
                | spec.settings(self.target.classes, tuple(self.x.shape[1:]), units[0].threat)
            )
        if isinstance(spec, Transfer):
            entry["sources"] = [digest_tensors(source.target.model.state_dict()) for source in self.sources]
        details = [spec.details(eps) for eps in entry["eps"]]
        return entry | {f"{name}s": [detail[name] for detail in details] for name in details[0]}

    def _definition(self) -> dict[str, Any]:
        return {
            "suite": self.question.suite.name,
            "description": self.question.suite.description,
            "norm": self.question.suite.norm,
            "seed": self.question.seed,
            "attacks": [self._entry(spec, [unit for unit in self.units if unit.spec is spec]) for spec in self.specs],
        }

    def _tell(self, fraction: float, unit: Unit | None, detail: str) -> None:
        if self.progress:
            budget = f"{detail and f' ({detail})'} at {unit.threat.norm} {unit.threat.eps:.4g}" if unit else detail
            self.progress(fraction, f"{unit.name}{budget}" if unit else budget)
