"""What no input proves, that an example is robust, is tried again on a random share of the examples."""

import json
import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.registry import ATTACKS
from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.run import Progress, Run
from robust_lowrank.evaluation.suite import BATCH, EvalConfig, Suite
from robust_lowrank.records import ResultRecord
from robust_lowrank.statistics import clopper_pearson
from robust_lowrank.threat import frozen_eval

if TYPE_CHECKING:
    import pandas as pd


class Again(NamedTuple):
    """One attack at one eps, tried anew on examples that count as robust under it."""

    attack: str
    eps: float
    tried: int
    refuted: tuple[int, ...]  # the examples that it breaks now
    same_noise: bool  # the attack is the one of then to the last draw, so that nothing but another result refutes anything

    @property
    def most(self) -> float:
        """The share of all robust verdicts that are refutable like this is at most that, by the 95 % Clopper–Pearson interval."""
        return clopper_pearson(len(self.refuted), self.tried).high if self.tried else 1.0


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
    names, suite = _suite(record)
    config = EvalConfig(suite, record.seed, batch_size, gradients)
    with frozen_eval(model):
        run = Run(model, x[chosen], y[chosen], config, numbers=chosen + offset, progress=progress)
        run.execute(Meter())
    found = []
    for unit, ledger in zip(run.units, run.ledgers, strict=True):
        name, eps = names[unit.attack.label], unit.threat.eps
        part = verdicts[(verdicts["attack"] == name) & (verdicts["eps"] == eps) & (verdicts["verdict"] == "robust")]
        robust = torch.isin(run.numbers, torch.tensor(part["example"].to_numpy()))
        refuted = tuple(run.numbers[robust & ledger.broken].tolist())
        found.append(Again(name, eps, int(robust.sum()), refuted, isinstance(unit.attack, NativeAttack)))
    return found


def _suite(record: ResultRecord) -> tuple[dict[str, str], Suite]:
    """Return the suite that a result is of, its attacks under other names, and by these names those of the result."""
    names, attacks = {}, []
    for number, entry in enumerate(record.definition["attacks"]):
        kind = ATTACKS.get(entry.get("attack", ""))
        if kind is None:
            raise UserError(f"the result of suite {record.suite!r} has an attack {entry.get('attack')!r}, which this version lacks")
        if kind.transfers:
            continue
        values = {name: value for name, value in entry.items() if name in kind.model_fields and name != "name"}
        if "name" in kind.model_fields:
            values["name"] = f"attack{number}"
        attack = kind.model_validate_json(json.dumps(values))
        names[attack.label] = entry["name"]
        attacks.append(attack)
    if not attacks:
        raise UserError(f"the result of suite {record.suite!r} has only attacks by transfer: attack it again with --source")
    return names, Suite(name=record.suite, norm=record.norm, eps=tuple(record.eps), attacks=tuple(attacks))
