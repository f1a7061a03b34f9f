"""A run takes an evaluation through its units: what is stored is entered, everything else is found out and stored."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank import numbers
from robust_lowrank.evaluation.attacks.base import JointAttack, JointTask, NativeAttack
from robust_lowrank.evaluation.audit import Engine, Evidence, Probes, probe
from robust_lowrank.evaluation.audit import audit as audit_evidence
from robust_lowrank.evaluation.clean import Clean, examine, merge
from robust_lowrank.evaluation.identity import Identity
from robust_lowrank.evaluation.ledger import Ledger
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.inputs import outside_inference
from robust_lowrank.evaluation.network.memory import in_halves, in_smaller_batches, observed
from robust_lowrank.evaluation.network.meter import Exhausted, Meter
from robust_lowrank.evaluation.network.searching import network_to_search
from robust_lowrank.evaluation.network.target import Target, checked_target
from robust_lowrank.evaluation.result import INTERVAL, Evaluation, accuracies, adversarial_inputs, clean_inputs, closest_inputs
from robust_lowrank.evaluation.store import Store
from robust_lowrank.evaluation.suite import BATCH, EvalConfig
from robust_lowrank.evaluation.unit_result import UnitResult
from robust_lowrank.evaluation.units import Unit, earlier_units, list_units
from robust_lowrank.evaluation.verdict import check, unlike_at
from robust_lowrank.provenance import digest_tensors, machine, versions
from robust_lowrank.records import AuditFinding, ResultRecord, now
from robust_lowrank.threat import OBSERVED, KeyedNoise, per_example

Progress = Callable[[float, str], None]
POOL = 2 * BATCH  # examples of several batches that are attacked together, and lost together if the process is killed


class _Part(NamedTuple):
    """What has to be found out of one batch."""

    key: str
    first: int  # example of the batch
    rows: Tensor  # the examples that are open


class Run:
    """One evaluation under way."""

    x: Tensor
    y: Tensor
    config: EvalConfig
    progress: Progress | None
    clean: Clean

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        config: EvalConfig,
        *,
        sources: Sequence[nn.Module] = (),
        store: str | Path | None = None,
        progress: Progress | None = None,
        numbers: Tensor | None = None,
    ) -> None:
        """Look at the network and the examples; `numbers` are theirs in a larger set, by default those from `config.offset` on."""
        weights = digest_tensors(model.state_dict())
        self.target: Target = checked_target(model, x, y)
        self.x, self.y = outside_inference(x), outside_inference(y)
        self.config, self.progress = config, progress
        self.store: Store | None = None if store is None else Store(Path(store))
        self.network: FixedBatch = FixedBatch(self.target)
        self.network.differentiated = config.batch_size
        self.sources: list[FixedBatch] = [FixedBatch(Target(source.eval(), x)) for source in sources]
        shape, classes = tuple(x.shape[1:]), self.target.classes
        self.units: list[Unit] = list_units(config.suite, shape, classes, with_sources=bool(sources))
        self.identity: Identity = Identity(weights, self.x, self.y, config, self.units, classes=classes, sources=sources)
        self.numbers: Tensor = torch.arange(config.offset, config.offset + len(x)) if numbers is None else numbers
        self.batches: tuple[Tensor, ...] = torch.arange(len(x)).split(config.batch_size)
        self.ledgers: list[Ledger] = []
        self._searched: FixedBatch | None = None
        self._behaviours: dict[int, dict[str, str]] = {}

    def behaviour(self, first: int = 0) -> dict[str, str]:
        """Return how the network answers to keyed inputs around the examples from `first` on."""
        if first not in self._behaviours:
            self._behaviours[first] = observed(
                FixedBatch(self.target), self._examples(torch.arange(first, len(self.x))[:OBSERVED])[0]
            )
        return self._behaviours[first]

    def execute(self, meter: Meter, *, joint: bool = True) -> None:
        """Do unit after unit, each on what is still open, but without `joint` none that is given all examples at once."""
        self.clean = self._clean()
        self.network.meter = meter
        done, total = 0, sum(unit.work for unit in self.units)
        keys: dict[tuple[int, int], str] = {}  # by the numbers of unit and batch
        for number, unit in enumerate(self.units):
            attack, earlier = unit.attack, earlier_units(self.units, number)
            ledger = Ledger(unit.name, attack.package, unit.threat.eps, attack.examples == "correct", self.clean, attack.kind)
            self.ledgers.append(ledger)
            before = [other for other in earlier if self.units[other].name == unit.name]
            searches = attack.at_once and not before
            self._inherit(ledger, unit, [index for index in earlier if not searches or self._within_all(index, unit)])
            if not joint and (attack.joint or any(self.units[other].attack.joint for other in earlier)):
                continue
            if attack.at_once and not searches:
                ledger.follow(self.ledgers[before[0]])
                continue
            batches = [torch.arange(len(self.x))] if attack.joint else self.batches
            waiting: list[_Part] = []
            self._tell(done / total, unit, "")
            for position, batch in enumerate(batches):
                taken = [key for (index, place), key in keys.items() if index in earlier and (attack.joint or place == position)]
                keys[number, position] = self.identity.unit_key(unit, batch, taken)
                part = self._unknown(unit, ledger, batch, keys[number, position])
                if part is not None:
                    if sum(len(other.rows) for other in waiting) + len(part.rows) > self._pool(meter):
                        self._settle(unit, ledger, waiting, meter, done / total, total)
                        waiting = []
                    waiting.append(part)
            self._settle(unit, ledger, waiting, meter, done / total, total)
            if searches:
                self._inherit(ledger, unit, earlier)
            done += unit.work
        self._tell(1.0, None, "done")

    def _inherit(self, ledger: Ledger, unit: Unit, earlier: Sequence[int]) -> None:
        """Take over what earlier units broke."""
        for other in (self.ledgers[index] for index in earlier):
            ledger.inherit(other, f"within-eps={other.eps:g}" if other.attack == unit.name else f"by={other.attack}")

    def _within_all(self, index: int, unit: Unit) -> bool:
        """Return whether what an earlier unit broke is broken within all radii of an attack, so that no nearer input is wanted."""
        return self.units[index].threat.eps <= min(self.config.suite.radii(unit.attack))

    def conclude(self, started: float, *, audit: bool = True) -> Evaluation:
        """Count, audit and record."""
        import pandas as pd

        suite, seed, offset = self.config.suite, self.config.seed, self.config.offset
        record = ResultRecord(
            suite=suite.name,
            norm=suite.norm,
            eps=sorted({ledger.eps for ledger in self.ledgers}),
            seed=seed,
            created=now(),
            versions=versions(),
            machine=machine(self.target.device),
            hashes=self.identity.hashes(),
            behaviour=self.behaviour(),
            interval=INTERVAL,
            accuracies=accuracies(self.clean, self.ledgers),
            audit=self._audit() if audit else [],
            definition=self.identity.described(),
            passes=float(sum(ledger.computed.sum() for ledger in self.ledgers)),
            seconds=time.perf_counter() - started,
        )
        verdicts = pd.concat([ledger.frame(suite.norm, seed, offset) for ledger in self.ledgers], ignore_index=True)
        broken, closest = (gather(self.ledgers, self.x, offset) for gather in (adversarial_inputs, closest_inputs))
        return Evaluation(record, verdicts, broken, closest, clean_inputs(self.x, offset))

    def find(self, unit: Unit, rows: Tensor, meter: Meter, report: Progress) -> UnitResult:
        """Attack the examples `rows`, in parts where memory does not suffice."""
        attack = unit.attack
        if isinstance(attack, JointAttack):
            x, y = self.x[rows.to(self.x.device)], self.y[rows.to(self.y.device)]
            size, seed = self.config.batch_size, self.config.seed
            return attack.find(JointTask(self.target, x, y, rows, unit.threat, seed, size, meter, report))
        assert isinstance(attack, NativeAttack)
        with meter.telling(report, unit.work * len(rows)):
            return UnitResult.join(in_halves(lambda part: self._attack(unit, attack, part), rows, self._network_to_search()))

    def _clean(self) -> Clean:
        def look(rows: Tensor) -> Clean:
            return examine(self.network, *self._examples(rows), twice=int(rows[0]) == 0, gradients=self.config.gradients)

        return merge([part for rows in self.batches for part in in_halves(look, rows, self.network)])

    def _unknown(self, unit: Unit, ledger: Ledger, batch: Tensor, key: str) -> "_Part | None":
        """Enter what is stored of one batch, or return what has to be found out."""
        rows = batch[torch.isin(batch, ledger.open)]
        if len(rows) == 0:
            return None
        first = int(batch[0])
        stored = self.store.get(key, self.behaviour(first)) if self.store else None
        if stored is not None and self._is_of(stored.shift(first), rows, unit):
            ledger.enter(stored.shift(first))
            return None
        return _Part(key, first, rows)

    def _pool(self, meter: Meter) -> int:
        """Return how many examples of several batches are attacked together; where there is a budget, one batch at a time."""
        return 0 if meter.limited else min(POOL, self.network.room)

    def _settle(self, unit: Unit, ledger: Ledger, parts: Sequence["_Part"], meter: Meter, done: float, total: int) -> None:
        """Find out what is unknown of some batches, store and enter it; if the budget ends before that, leave it unresolved."""
        if not parts:
            return
        rows, before = torch.cat([part.rows for part in parts]), meter.computed
        first, end = (self._share(unit, place) for place in (parts[0].first, parts[-1].first + self.config.batch_size))

        def report(part: float, what: str) -> None:
            self._tell(done + (first + part * (end - first)) * unit.work / total, unit, what)

        try:
            if meter.exhausted:
                raise Exhausted
            result = self.find(unit, rows, meter, report)
        except Exhausted:
            ledger.unresolved[rows] = True
            return
        result = result.computing(meter.computed - before)
        for part, found in zip(parts, result.split([len(part.rows) for part in parts]), strict=True):
            if self.store:
                self.store.put(part.key, found.shift(-part.first), self.behaviour(part.first))
            ledger.enter(found)

    def _share(self, unit: Unit, example: int) -> float:
        """Return which part of a unit's examples comes before one; an attack that is given all at once has no such parts."""
        return float(example > 0) if unit.attack.joint else min(example / len(self.x), 1.0)

    def _is_of(self, stored: UnitResult, rows: Tensor, unit: Unit) -> bool:
        """Return whether a stored unit is of these examples, and every input of it that broke one does so now."""
        alike = stored.inputs.shape[1:] == self.x.shape[1:] and stored.inputs.dtype == self.x.dtype
        return alike and torch.equal(stored.rows, rows) and self._still_breaks(stored, unit)

    def _still_breaks(self, stored: UnitResult, unit: Unit) -> bool:
        """Return whether every input of a stored unit that broke an example does so now."""
        rows = stored.rows[stored.broken]
        if not len(rows):
            return True
        network = FixedBatch(self.target)

        def breaks(part: Tensor) -> bool:
            x, y = self._examples(rows[part])
            return bool(check(network, x, y, stored.inputs[part].to(x.device), unit.threat).broken.all())

        return all(all(in_halves(breaks, part, network)) for part in torch.arange(len(rows)).split(self.config.batch_size))

    def _attack(self, unit: Unit, attack: NativeAttack, rows: Tensor) -> UnitResult:
        started = time.perf_counter()
        x, y = self._examples(rows)
        noise = KeyedNoise(self.config.seed, attack.purpose, self.numbers[rows].to(self.target.device))
        options: dict[str, Any] = {"radii": self.config.suite.radii(attack)} if attack.at_once else {}
        if attack.transfers:
            options["sources"] = self.sources
        searched = self._network_to_search()
        attempt = attack.attempt(searched, x, y, unit.threat, noise, **options)
        self.network.piece = min(self.network.piece, searched.piece)  # where memory did not suffice
        found = check(self.network, x, y, attempt.inputs, unit.threat)
        if searched is not self.network:
            apart = unlike_at(searched, found, y, ~found.broken)
            if attempt.held is not None:  # at smaller radii too, on the way to what broke at the largest
                way = per_example(attempt.held / unit.threat.eps, x).to(x.dtype) * (found.inputs - x)
                apart |= unlike_at(searched, check(self.network, x, y, x + way, unit.threat), y, attempt.held > 0)
            again = ((attempt.claimed & ~found.broken) | attempt.nonfinite | apart).nonzero().squeeze(1)
            if len(again):
                slow = attack.attempt(self.network, x[again], y[again], unit.threat, noise.of(again), **options)
                attempt = attempt.searched_again(again, slow)
                found = check(self.network, x, y, attempt.inputs, unit.threat)
        return UnitResult.of(rows, attempt, found, time.perf_counter() - started)

    def _network_to_search(self) -> FixedBatch:
        """Return what native attacks search on, which is made when it is first needed."""
        if self._searched is None:
            self._searched = network_to_search(self.network, self.x) if self.config.fold else self.network
        self._searched.meter = self.network.meter
        return self._searched

    def _examples(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.x[rows.to(self.x.device)].to(self.target.device), self.y[rows.to(self.y.device)].to(self.target.device)

    def _audit(self) -> list[AuditFinding]:
        probes = self._probes()
        unchanged = digest_tensors(self.target.model.state_dict()) == self.identity.weights
        return audit_evidence(Evidence(self.clean, self.target.classes, self.ledgers, unchanged, probes, self.config.suite.norm))

    def _probes(self) -> Probes | None:
        """Run the audit's own attacks, and those of the suite on examples whose answer is known."""
        if not self.config.gradients:
            return None
        widest = max((unit.threat for unit in self.units), key=lambda budget: budget.eps)
        seed = self.config.seed

        def engine(attack: NativeAttack) -> Engine:
            return lambda model, x, y, threat: attack.attempt(
                model, x, y, threat, KeyedNoise(seed, attack.purpose, torch.arange(len(x), device=x.device))
            )

        attacks = [unit.attack for unit in self.units if isinstance(unit.attack, NativeAttack) and unit.attack.gradients]
        engines = {attack.label: engine(attack) for attack in attacks}
        return in_smaller_batches(
            lambda size: probe(self.target, self.x, self.y, widest, seed=seed, batch_size=size, engines=engines),
            self.config.batch_size,
        )

    def _tell(self, fraction: float, unit: Unit | None, detail: str) -> None:
        if self.progress:
            what = detail
            if unit:
                at = f"{unit.threat.norm} {numbers.budget(unit.threat.eps)}"
                what = f"{unit.name}{detail and f' ({detail})'} at {at}, {len(self.ledgers[-1].open)} of {len(self.x)} hold"
            self.progress(fraction, what)
