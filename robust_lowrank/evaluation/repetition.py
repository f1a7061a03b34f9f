"""What no input proves, that an example is robust, is tried again on a random share of the examples."""

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.recorded import recorded_suite
from robust_lowrank.evaluation.run import Progress, Run
from robust_lowrank.evaluation.suite import BATCH, EvalConfig
from robust_lowrank.evaluation.units import earlier_units
from robust_lowrank.provenance import versions
from robust_lowrank.records import ResultRecord
from robust_lowrank.statistics import clopper_pearson
from robust_lowrank.threat import frozen_eval

if TYPE_CHECKING:
    import pandas as pd

CHANCE = 0.02  # of robust verdicts, that other noise may refute: AutoAttack's restarts differ by far less


class Again(NamedTuple):
    """One attack at one eps, tried anew on examples that count as robust under it."""

    attack: str
    eps: float
    tried: int
    refuted: tuple[int, ...]  # the examples that it breaks now
    same_noise: bool  # the attack is the one of then to the last draw and version, so that nothing is refuted by chance

    @property
    def most(self) -> float:
        """The share of all robust verdicts that are refutable like this is at most that, by the 95 % Clopper–Pearson interval."""
        return clopper_pearson(len(self.refuted), self.tried).high if self.tried else 1.0

    @property
    def disproved(self) -> bool:
        """True if more is refuted than chance explains: anything by the noise of then, by other noise surely above CHANCE."""
        if not self.refuted:
            return False
        return self.same_noise or clopper_pearson(len(self.refuted), self.tried).low > CHANCE


def attack_again(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    record: ResultRecord,
    verdicts: "pd.DataFrame",
    *,
    share: float,
    seed: int,
    batch_size: int = BATCH,
    gradients: bool = True,
    progress: Progress | None = None,
) -> list[Again]:
    """Put a result's attacks once more on a random share of its examples, with the noise that they had.

    Attacks by transfer are left out, whose source is not stored.

    Args:
        x: all examples of the result.
        seed: which examples are chosen.

    Example:
        >>> again = attack_again(model, x, y, result.record, result.verdicts, share=0.05, seed=7)
        >>> max(entry.most for entry in again)
        0.06

    Raises:
        UserError: the share is not above 0 and at most 1, or this version does not know an attack.
    """
    if not 0 < share <= 1:
        raise UserError(f"a share of {share:g} of the examples cannot be attacked again: give one above 0 and at most 1")
    offset = int(verdicts["example"].min())
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: math.ceil(share * len(x))].sort().values
    suite = recorded_suite(record)
    entries = {attack.label: entry for attack, entry in zip(suite.attacks, record.definition["attacks"], strict=True)}
    if all(attack.transfers for attack in suite.attacks):
        return []
    config = EvalConfig(suite, record.seed, batch_size, gradients)
    with frozen_eval(model):
        run = Run(model, x[chosen], y[chosen], config, numbers=chosen + offset, progress=progress)
        run.execute(Meter())
    found = []
    for number, (unit, ledger) in enumerate(zip(run.units, run.ledgers, strict=True)):
        name, eps = str(entries[unit.attack.label]["name"]), unit.threat.eps
        part = verdicts[(verdicts["attack"] == name) & (verdicts["eps"] == eps) & (verdicts["verdict"] == "robust")]
        robust = torch.isin(run.numbers, torch.tensor(part["example"].to_numpy()))
        refuted = tuple(run.numbers[robust & ledger.broken].tolist())
        found.append(Again(name, eps, int(robust.sum()), refuted, _has_same_noise(run, number, record)))
    return found


def _has_same_noise(run: Run, number: int, record: ResultRecord) -> bool:
    """Return whether a unit, and all that it goes on from, is what it was then: native, and of the same versions."""
    attacks = [run.units[other].attack for other in (number, *earlier_units(run.units, number))]
    return record.versions == versions() and all(isinstance(attack, NativeAttack) for attack in attacks)
