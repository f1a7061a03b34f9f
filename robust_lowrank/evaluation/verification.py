"""Prove stored verdicts again: one forward pass over the inputs that broke an example."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.hygiene import left_as_found
from robust_lowrank.evaluation.result import Adversarial
from robust_lowrank.evaluation.steady import Steady
from robust_lowrank.evaluation.target import Target
from robust_lowrank.evaluation.threat import threat
from robust_lowrank.evaluation.verdict import margins
from robust_lowrank.provenance import digest_tensors

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
    with left_as_found(model):
        steady = Steady(Target(model, x))
        return [
            _prove(steady, x, y, part, adversarial.get(f"{attack}/{eps!r}"), record.norm, attack, eps)
            for attack, eps, part in _parts(verdicts)
        ]


def _parts(verdicts: "pd.DataFrame") -> Iterator[tuple[str, float, "pd.DataFrame"]]:
    for _, part in verdicts.groupby(["attack", "eps"], sort=False):
        yield str(part["attack"].iloc[0]), float(part["eps"].iloc[0]), part


@torch.no_grad()
def _prove(
    steady: Steady,
    x: Tensor,
    y: Tensor,
    verdicts: "pd.DataFrame",
    found: Adversarial | None,
    norm: str,
    attack: str,
    eps: float,
) -> Proof:
    first = int(verdicts["example"].min())
    broken = set(verdicts.loc[verdicts["verdict"] == "broken", "example"])
    budget = threat(norm, eps, features=x[0].numel())
    proved: set[int] = set()
    if found is not None and found.inputs.shape[1:] == x.shape[1:] and found.inputs.dtype == x.dtype:
        for rows in torch.arange(len(found.examples)).split(steady.piece):
            numbers = found.examples[rows] - first
            known = (numbers >= 0) & (numbers < len(x))
            rows, numbers = rows[known], numbers[known]
            clean, points = x[numbers], found.inputs[rows]
            logits = steady(points.to(steady.device)).cpu()
            wrong = logits.isfinite().all(dim=1) & (margins(logits, y[numbers]) < 0)
            proved |= set((found.examples[rows][wrong & budget.contains(clean, points)]).tolist())
    return Proof(attack, eps, len(broken), len(broken & proved), tuple(sorted(broken - proved)))
