"""A result has accuracies with intervals, verdicts, audit and adversarial inputs, and writes their files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from robust_lowrank import records
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.clean import Clean
from robust_lowrank.evaluation.ledger import Ledger
from robust_lowrank.evaluation.sample import Account, hidden_by, hidden_in_worst, implied_of
from robust_lowrank.numbers import accuracy, budget, interval, percent
from robust_lowrank.records import AccuracyRecord, AuditFinding, ResultFiles, ResultRecord, replacing
from robust_lowrank.showing import Showable, Shown
from robust_lowrank.statistics import Interval, bounded

if TYPE_CHECKING:
    import pandas as pd

INTERVAL = "Wilson 95 %"
KEPT_EXAMPLES, KEPT_BYTES = 64, 2**20  # of the clean examples, at most
CLOSEST_BYTES = 2**28  # of the most harmful inputs of what is not broken, at most
CLEAN, WORST = "clean", "worst"


class Adversarial(NamedTuple):
    """Inputs with their examples' numbers, such as those that broke examples under one attack at one eps."""

    inputs: Tensor  # (K, ...)
    examples: Tensor  # (K,) int64, their numbers within the evaluated set


@dataclass(frozen=True, repr=False)
class Evaluation(Showable):
    """Output of `evaluate`; it prints as its accuracies.

    Example:
        >>> result = evaluate(model, x, y, suite="quick", eps="8/255")
        >>> float(result.robust_accuracy), result.robust_accuracy.low, result.robust_accuracy.high
    """

    record: ResultRecord
    verdicts: "pd.DataFrame"  # a row an example, attack and eps; columns `records.VERDICTS`
    adversarial: dict[str, Adversarial]  # by "ATTACK/EPS", such as "pgd-20/0.1"
    closest: dict[str, Adversarial]  # by the same keys: the most harmful inputs found of examples that were tried and not broken
    clean: Adversarial  # the first examples as they are, to set beside those

    @property
    def clean_accuracy(self) -> Interval:
        """The accuracy on the inputs as they are, with its interval."""
        return self.accuracy(CLEAN)

    @property
    def robust_accuracy(self) -> Interval:
        """The worst case over the suite at its largest eps, with its interval; non-finite examples do not count as robust."""
        return self.accuracy(WORST, max(self.record.eps))

    @property
    def audit(self) -> list[AuditFinding]:
        """The audit's findings on these numbers."""
        return self.record.audit

    def accuracy(self, attack: str, eps: float = 0.0) -> Interval:
        """Return the accuracy under one attack ("clean", a name in the verdicts, or "worst") at one eps.

        Raises:
            UserError: there is no such attack at that eps.
        """
        for entry in self.record.accuracies:
            if (entry.attack, entry.eps) == (attack, eps):
                return Interval(entry.value, entry.low, entry.high)
        known = ", ".join(f"{entry.attack} at {entry.eps:g}" for entry in self.record.accuracies)
        raise UserError(f"no accuracy under {attack!r} at eps {eps:g}; known: {known}")

    def shown(self) -> Shown:
        """Return the accuracies in percent with their intervals, attacks by budgets, and what the audit found."""
        record = self.record
        by_eps = {(entry.attack, entry.eps): entry for entry in record.accuracies}
        attacks = dict.fromkeys(entry.attack for entry in record.accuracies if entry.attack != CLEAN)
        cells = [[attack, *(_cell(by_eps.get((attack, eps))) for eps in record.eps)] for attack in attacks]
        clean = by_eps[CLEAN, 0.0]
        title = f"{record.suite}, {record.norm}, {clean.total:,} examples, seed {record.seed}: clean {_cell(clean)} %"
        odd = [f"{found.status}: {found.check}: {found.message}" for found in record.audit if found.status != "pass"]
        passed = [f"audit: {len(record.audit) - len(odd)} of {len(record.audit)} checks pass"] if record.audit else []
        return Shown(title, ["robust, %", *(f"eps {budget(eps)}" for eps in record.eps)], cells, [*passed, *odd])

    def save(self, directory: str | Path) -> ResultRecord:
        """Write result.json, verdicts.parquet and the inputs into a directory such as RUN/results/SUITE; return the sealed record.

        The record comes last, with the digests of the files that belong to it.
        """
        from safetensors.torch import save_file

        files = ResultFiles(Path(directory))
        for path, found in ((files.adversarial, self.adversarial), (files.closest, self.closest)):
            tensors = {
                f"{key}/{name}": tensor.contiguous() for key, part in found.items() for name, tensor in part._asdict().items()
            }
            with replacing(path) as temporary:
                save_file(tensors, temporary)
        with replacing(files.clean) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.clean._asdict().items()}, temporary)
        records.write_frame(files.verdicts, self.verdicts)
        for path in (files.transfer, files.rounding):
            path.unlink(missing_ok=True)  # of an earlier result
        return records.write_sealed(files.record, self.record, files.beside)


def _cell(entry: AccuracyRecord | None) -> str:
    """Return an accuracy in percent with its interval, and what a sample says is left of it at least."""
    if entry is None:
        return "–"
    least = "" if entry.hidden is None else f", in full at least {percent((entry.correct - entry.hidden) / entry.total)}"
    return f"{accuracy(entry.value, (entry.correct + entry.unresolved) / entry.total)} {interval(entry.low, entry.high)}{least}"


def accuracies(clean: Clean, ledgers: Sequence[Ledger]) -> list[AccuracyRecord]:
    """Return the accuracies of a suite: clean, under each attack at each eps, and in the worst case over attacks at each eps."""
    entries = [_entry(CLEAN, 0.0, clean.correct, torch.zeros_like(clean.correct))]
    for ledger in ledgers:
        account = _account(ledger)
        entry = _entry(ledger.attack, ledger.eps, ledger.robust, ledger.undecided, hidden_by(account), implied_of([account]))
        entries.append(entry)
    for eps in sorted({ledger.eps for ledger in ledgers}):
        here = [ledger for ledger in ledgers if ledger.eps == eps]
        held = torch.stack([ledger.robust for ledger in here]).all(dim=0)
        lost = torch.stack([~ledger.robust & ~ledger.undecided for ledger in here]).any(dim=0)
        accounts = [_account(ledger) for ledger in here]
        hidden = hidden_in_worst(int(held.sum()), accounts)
        entries.append(_entry(WORST, eps, held, ~held & ~lost, hidden, implied_of(accounts)))
    return entries


def adversarial_inputs(ledgers: Sequence[Ledger], x: Tensor, offset: int) -> dict[str, Adversarial]:
    """Return what broke an example, by attack and eps, the examples numbered from `offset`."""
    return {_key(ledger): _numbered(ledger.inputs, sorted(ledger.inputs), x, offset) for ledger in ledgers}


def closest_inputs(ledgers: Sequence[Ledger], x: Tensor, offset: int) -> dict[str, Adversarial]:
    """Return the most harmful inputs of what is not broken, by attack and eps: as many as fit in `CLOSEST_BYTES`."""
    most = CLOSEST_BYTES // (x[0].numel() * x.element_size() * max(len(ledgers), 1))
    kept = {_key(ledger): sorted(row for row in ledger.closest if not ledger.broken[row])[:most] for ledger in ledgers}
    return {_key(ledger): _numbered(ledger.closest, kept[_key(ledger)], x, offset) for ledger in ledgers}


def _key(ledger: Ledger) -> str:
    return f"{ledger.attack}/{ledger.eps!r}"


def _numbered(found: Mapping[int, Tensor], examples: list[int], x: Tensor, offset: int) -> Adversarial:
    inputs = torch.stack([found[row] for row in examples]) if examples else x[:0].cpu()
    return Adversarial(inputs, torch.tensor(examples, dtype=torch.int64) + offset)


def clean_inputs(x: Tensor, offset: int) -> Adversarial:
    """Return the first examples, so many as are kept, numbered from `offset`."""
    count = min(len(x), KEPT_EXAMPLES, max(1, KEPT_BYTES // (x[0].numel() * x.element_size())))
    return Adversarial(x[:count].cpu().clone(), torch.arange(offset, offset + count))


def _account(ledger: Ledger) -> Account:
    return Account(ledger.kind, ledger.robust.tolist(), ledger.flags, int(ledger.undecided.sum()))


def _entry(
    attack: str, eps: float, correct: Tensor, undecided: Tensor, hidden: int | None = None, implied: int = 0
) -> AccuracyRecord:
    count, unresolved, total = int(correct.sum()), int(undecided.sum()), len(correct)
    interval = bounded(count, unresolved, total)._asdict()
    return AccuracyRecord(
        attack=attack, eps=eps, correct=count, total=total, unresolved=unresolved, implied=implied, hidden=hidden, **interval
    )
