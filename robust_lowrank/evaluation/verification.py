"""Stored inputs prove verdicts again, and are tried on other networks, in one pass."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.result import Adversarial
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import ResultRecord
from robust_lowrank.threat import Threat, frozen_eval, threat

if TYPE_CHECKING:
    import pandas as pd


class Proof(NamedTuple):
    """The proofs of one attack's broken examples at one eps."""

    attack: str
    eps: float
    broken: int  # verdicts that say so
    proved: int  # of them: the stored input lies within the threat model, and the network gets it wrong by a strict margin
    failed: tuple[int, ...]  # the examples of the others


class Transferred(NamedTuple):
    """The count of inputs, broken on one network by an attack at one eps, that break another one as well."""

    attack: str
    eps: float
    tried: int  # examples that the other network gets right
    fooled: int  # of them, those that it gets wrong by a strict margin on the source's input


def read_adversarial(path: Path) -> dict[str, Adversarial]:
    """Read the inputs that broke examples, by attack and eps as in `Evaluation.adversarial`.

    Raises:
        UserError: the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        keys = {name.rsplit("/", 1)[0] for name in tensors}
        return {key: Adversarial(tensors[f"{key}/inputs"], tensors[f"{key}/examples"]) for key in sorted(keys)}
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise UserError(f"{path} cannot be read as adversarial inputs: {str(error).splitlines()[0]}") from error


def verify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    record: ResultRecord,
    verdicts: "pd.DataFrame",
    adversarial: Mapping[str, Adversarial],
) -> list[Proof]:
    """Check for every broken example that its stored input breaks it: within eps and [0, 1], finite, wrong by a strict margin.

    Example:
        >>> proofs = verify(model, x, y, result.record, result.verdicts, result.adversarial)
        >>> all(proof.broken == proof.proved for proof in proofs)

    Raises:
        UserError: the result is stale, that is of another network or of other examples.
    """
    for name, tensors in (("weights", model.state_dict()), ("data", {"x": x, "y": y})):
        if digest_tensors(tensors) != record.hashes[name]:
            raise UserError(f"the result of suite {record.suite!r} is stale: it belongs to other {name}; attack again")
    proofs = []
    with frozen_eval(model), torch.no_grad():
        network = FixedBatch(Target(model, x))
        for _, part in verdicts.groupby(["attack", "eps"], sort=False):
            attack, eps = str(part["attack"].iloc[0]), float(part["eps"].iloc[0])
            budget, offset = threat(record.norm, eps, features=x[0].numel()), int(part["example"].min())
            broken = set(part.loc[part["verdict"] == "broken", "example"])
            proved = broken & _numbers_that_break(network, x, y, adversarial.get(f"{attack}/{eps!r}"), budget, offset)
            proofs.append(Proof(attack, eps, len(broken), len(proved), tuple(sorted(broken - proved))))
    return proofs


def transferred(model: nn.Module, x: Tensor, y: Tensor, adversarial: Mapping[str, Adversarial]) -> list[Transferred]:
    """Try adversarial inputs of another network, which were made from the same examples.

    Example:
        >>> transferred(dense, x, y, evaluate(low_rank, x, y, suite="quick").adversarial)
        [Transferred(attack='fgsm', eps=0.1, tried=90, fooled=31)]
    """
    with frozen_eval(model), torch.no_grad():
        network = FixedBatch(Target(model, x))

        def wrong(points: Tensor, labels: Tensor) -> Tensor:
            logits = network(points.to(network.device)).cpu()
            return ~logits.isfinite().all(dim=1) | (margins(logits, labels) < 0)

        right = ~wrong(x, y)
        entries = []
        for key, (inputs, examples) in adversarial.items():
            attack, _, eps = key.rpartition("/")
            tried = right[examples]
            fooled = wrong(inputs[tried], y[examples[tried]])
            entries.append(Transferred(attack, float(eps), int(tried.sum()), int(fooled.sum())))
        return entries


def _numbers_that_break(
    network: FixedBatch, x: Tensor, y: Tensor, adversarial: Adversarial | None, budget: Threat, offset: int
) -> set[int]:
    """Return the numbers, from `offset`, of the examples that the stored inputs break."""
    numbers: set[int] = set()
    if adversarial is None or adversarial.inputs.shape[1:] != x.shape[1:] or adversarial.inputs.dtype != x.dtype:
        return numbers
    rows = adversarial.examples - offset
    inside = (rows >= 0) & (rows < len(x))
    rows, inputs = rows[inside], adversarial.inputs[inside]
    for part, points in zip(rows.split(network.piece), inputs.split(network.piece), strict=True):
        logits = network(points.to(network.device)).cpu()
        wrong = logits.isfinite().all(dim=1) & (margins(logits, y[part]) < 0)
        numbers |= set((part[wrong & budget.contains(x[part], points)] + offset).tolist())
    return numbers
