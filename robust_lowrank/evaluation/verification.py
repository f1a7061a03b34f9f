"""Stored inputs prove verdicts again, and are tried on other networks, in one pass."""

from collections.abc import Iterator, Mapping
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
from robust_lowrank.threat import frozen_eval, threat

if TYPE_CHECKING:
    import pandas as pd

    from robust_lowrank.records import ResultRecord


class Proof(NamedTuple):
    """What became of the broken examples of one attack at one eps."""

    attack: str
    eps: float
    broken: int  # verdicts that say so
    proved: int  # of them: the stored input lies within the threat model, and the network gets it wrong by a strict margin
    failed: tuple[int, ...]  # the examples of the others


class Transferred(NamedTuple):
    """How many inputs that break the network `source` under one attack at one eps break another one as well."""

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
    record: "ResultRecord",
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
    with frozen_eval(model):
        network = FixedBatch(Target(model, x))
        return [
            _prove(network, x, y, part, adversarial.get(f"{attack}/{eps!r}"), record.norm, attack, eps)
            for attack, eps, part in _parts(verdicts)
        ]


@torch.no_grad()
def transferred(model: nn.Module, x: Tensor, y: Tensor, adversarial: Mapping[str, Adversarial]) -> list[Transferred]:
    """Try adversarial inputs of another network, which were made from the same examples.

    Example:
        >>> transferred(dense, x, y, evaluate(low_rank, x, y, suite="quick").adversarial)
        [Transferred(attack='fgsm', eps=0.1, tried=90, fooled=31)]
    """
    with frozen_eval(model):
        network = FixedBatch(Target(model, x))

        def wrong(points: Tensor, labels: Tensor) -> Tensor:
            logits = network(points.to(network.device)).cpu()
            return ~logits.isfinite().all(dim=1) | (margins(logits, labels) < 0)

        right = ~wrong(x, y)
        entries = []
        for key, found in adversarial.items():
            attack, _, eps = key.rpartition("/")
            tried = right[found.examples]
            fooled = wrong(found.inputs[tried], y[found.examples[tried]])
            entries.append(Transferred(attack, float(eps), int(tried.sum()), int(fooled.sum())))
        return entries


def _parts(verdicts: "pd.DataFrame") -> Iterator[tuple[str, float, "pd.DataFrame"]]:
    for _, part in verdicts.groupby(["attack", "eps"], sort=False):
        yield str(part["attack"].iloc[0]), float(part["eps"].iloc[0]), part


@torch.no_grad()
def _prove(
    network: FixedBatch,
    x: Tensor,
    y: Tensor,
    verdicts: "pd.DataFrame",
    found: Adversarial | None,
    norm: str,
    attack: str,
    eps: float,
) -> Proof:
    offset = int(verdicts["example"].min())
    broken = set(verdicts.loc[verdicts["verdict"] == "broken", "example"])
    budget = threat(norm, eps, features=x[0].numel())
    proved: set[int] = set()
    if found is not None and found.inputs.shape[1:] == x.shape[1:] and found.inputs.dtype == x.dtype:
        for rows in torch.arange(len(found.examples)).split(network.piece):
            numbers = found.examples[rows] - offset
            known = (numbers >= 0) & (numbers < len(x))
            rows, numbers = rows[known], numbers[known]
            clean, points = x[numbers], found.inputs[rows]
            logits = network(points.to(network.device)).cpu()
            wrong = logits.isfinite().all(dim=1) & (margins(logits, y[numbers]) < 0)
            proved |= set((found.examples[rows][wrong & budget.contains(clean, points)]).tolist())
    return Proof(attack, eps, len(broken), len(broken & proved), tuple(sorted(broken - proved)))
