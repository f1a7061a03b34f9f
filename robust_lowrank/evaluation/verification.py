"""Results are proved again from what is stored, and stored inputs tried on other networks, in one pass."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError, first_line, shown
from robust_lowrank.evaluation.network.fixed_batch import FixedBatch
from robust_lowrank.evaluation.network.memory import observed
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.recorded import name_faults, recorded_units
from robust_lowrank.evaluation.recount import recount
from robust_lowrank.evaluation.result import Adversarial
from robust_lowrank.evaluation.units import earlier_units
from robust_lowrank.evaluation.verdict import margins, predictions
from robust_lowrank.provenance import digest_tensors
from robust_lowrank.records import ResultRecord, unlike
from robust_lowrank.threat import KINDS, NUMBERS, OBSERVED, Threat, frozen_eval, threat

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 1e-4  # within which numbers of another machine are the same


class Proof(NamedTuple):
    """The proofs of one attack's broken examples at one eps."""

    attack: str
    eps: float
    broken: int  # verdicts that say so
    proved: int  # of them: the stored input lies within the threat model, and the network gets it wrong by a strict margin
    failed: tuple[int, ...]  # the examples of the others


class Verification(NamedTuple):
    """The proof of a result, in so far as one can be given."""

    proofs: tuple[Proof, ...]
    faults: tuple[str, ...]  # what does not fit together, in words
    robust: int  # verdicts that only an attack could refute

    @property
    def sound(self) -> bool:
        """True if nothing speaks against the result."""
        return not self.faults and not any(proof.failed for proof in self.proofs)


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
        read = {key: Adversarial(tensors.pop(f"{key}/inputs"), tensors.pop(f"{key}/examples")) for key in sorted(keys)}
    except (OSError, SafetensorError, KeyError, IndexError) as error:
        raise UserError(f"{path} cannot be read as adversarial inputs: {first_line(error)}") from error
    strange = [*tensors, *(key for key, each in read.items() if not _are_of(key, each))]
    if strange:
        raise UserError(f"{path} cannot be read as adversarial inputs: {shown(strange[0])!r:.80} is none of an attack at an eps")
    return read


def _are_of(key: str, found: Adversarial) -> bool:
    """Return whether a key is that of an attack at an eps, and its inputs are as many as the examples that they are of."""
    attack, _, eps = key.rpartition("/")
    try:
        radius = float(eps)
    except ValueError:
        return False
    numbers = found.examples.dtype == torch.int64 and found.examples.shape == found.inputs.shape[:1]
    return bool(attack) and 0 <= radius < math.inf and numbers and found.inputs.is_floating_point()


def verify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    record: ResultRecord,
    verdicts: "pd.DataFrame",
    adversarial: Mapping[str, Adversarial],
    closest: Mapping[str, Adversarial] | None = None,
) -> Verification:
    """Prove a result again: count its figures from its verdicts, and hold these against its inputs, the network and the examples.

    Every broken example's stored input must break it: within eps and [0, 1], finite, wrong by a strict margin. That an example is
    robust nothing proves; `attack_again` tries a share of them. The most harmful inputs that were found of these must have the
    margins and predictions that the verdicts say.

    Example:
        >>> verify(model, x, y, result.record, result.verdicts, result.adversarial).sound
        True

    Raises:
        UserError: the result is stale, that is of another network or of other examples.
    """
    x, y = x.cpu(), y.cpu()
    for name, tensors in (("weights", model.state_dict()), ("data", {"x": x, "y": y})):
        if digest_tensors(tensors) != record.hashes.get(name):
            raise UserError(f"the result of suite {record.suite!r} is stale: it belongs to other {name}; attack again")
    proofs, faults = [], recount(record, verdicts, adversarial)
    if any(entry.total != len(x) for entry in record.accuracies):
        faults.append(f"an accuracy is not one of {len(x)} examples")
    with frozen_eval(model), torch.no_grad():
        network = FixedBatch(Target(model, x))
        if any(len(record.behaviour.get(kind, "").split()) != NUMBERS * min(OBSERVED, len(x)) for kind in KINDS):
            faults.append("it does not say how its network answers, as results have since there are seals")
        elif where := unlike(record.behaviour, observed(network, x[:OBSERVED].to(network.device))):
            faults.append(f"the network answers otherwise than the one that was attacked, {where}")
        faults += _clean_faults(network, x, y, verdicts)
        for _, part in verdicts.groupby(["attack", "eps"], sort=False):
            attack, eps = str(part["attack"].iloc[0]), float(part["eps"].iloc[0])
            budget, offset = threat(record.norm, eps, features=x[0].numel()), int(part["example"].min())
            broken = set(part.loc[part["verdict"] == "broken", "example"])
            found = _found(network, x, y, adversarial.get(f"{attack}/{eps!r}"), budget, offset)
            proved = broken & found.keys()
            proofs.append(Proof(attack, eps, len(broken), len(proved), tuple(sorted(broken - proved))))
            rows = part[part["example"].isin(proved)]
            said = zip(rows["example"], rows["adversarial_prediction"], rows["margin"], rows["distance"], strict=True)
            if other := [number for number, *values in said if not _same(values, found[number])]:
                faults.append(
                    f"{attack} at {eps:g}: prediction, margin or distance of example {other[0]} are not those of its input"
                )
            faults += _closest_faults(network, x, y, part, (closest or {}).get(f"{attack}/{eps!r}"), budget)
        if unknown := sorted((closest or {}).keys() - {f"{proof.attack}/{proof.eps!r}" for proof in proofs}):
            faults.append(f"there are most harmful inputs of {unknown[0]}, which no verdict is of")
        faults += _unit_faults(record, verdicts, tuple(x.shape[1:]), network.classes)
    return Verification(tuple(proofs), tuple(faults), int((verdicts["verdict"] == "robust").sum()))


def transferred(model: nn.Module, x: Tensor, y: Tensor, adversarial: Mapping[str, Adversarial]) -> list[Transferred]:
    """Count which adversarial inputs of another network, made from the same examples, break this one.

    Example:
        >>> transferred(dense, x, y, evaluate(low_rank, x, y, suite="quick").adversarial)
        [Transferred(attack='fgsm', eps=0.1, tried=90, fooled=31)]
    """
    return [Transferred(*key, len(each.tried), len(each.fooled)) for key, each in replay(model, x, y, adversarial).items()]


class Replayed(NamedTuple):
    """The examples that a network gets right of those that an attack broke on another one, and those that its inputs break here."""

    tried: Tensor
    fooled: Tensor


def replay(model: nn.Module, x: Tensor, y: Tensor, adversarial: Mapping[str, Adversarial]) -> dict[tuple[str, float], Replayed]:
    """Try adversarial inputs of another network, which were made from the same examples, by attack and eps.

    Example:
        >>> replay(dense, x, y, evaluate(low_rank, x, y, suite="quick").adversarial)["fgsm", 0.1].fooled
        tensor([ 3, 17, 40])

    Raises:
        UserError: they are not of these examples.
    """
    with frozen_eval(model), torch.no_grad():
        network = FixedBatch(Target(model, x))

        def wrong(points: Tensor, labels: Tensor) -> Tensor:
            logits = network(points.to(network.device)).cpu()
            return ~logits.isfinite().all(dim=1) | (margins(logits, labels) < 0)

        right = ~wrong(x, y)
        found = {}
        for key, (inputs, examples) in adversarial.items():
            attack, _, eps = key.rpartition("/")
            if inputs.shape[1:] != x.shape[1:] or not bool(((examples >= 0) & (examples < len(x))).all()):
                raise UserError(f"adversarial inputs of {shown(key)} are of other examples than these: attack that network again")
            tried = right[examples]
            fooled = wrong(inputs[tried], y[examples[tried]])
            found[attack, float(eps)] = Replayed(examples[tried], examples[tried][fooled])
        return found


def _unit_faults(record: ResultRecord, verdicts: "pd.DataFrame", shape: tuple[int, ...], classes: int) -> list[str]:
    """Ask of every attack that it has its own name, and breaks what the units that it goes on from have broken within its eps."""
    try:
        recorded = recorded_units(record, shape, classes)
    except UserError as error:
        return [str(error)]
    faults, units = name_faults(record, recorded), [unit for unit, _ in recorded]
    rows = {(str(part["attack"].iloc[0]), float(part["eps"].iloc[0])): part for _, part in verdicts.groupby(["attack", "eps"])}
    parts = [rows.get((str(entry.get("name")), unit.threat.eps)) for unit, entry in recorded]
    for number, part in enumerate(parts):
        for other in (parts[earlier] for earlier in earlier_units(units, number)):
            if part is None or other is None:
                continue  # which the recount says
            within = other[(other["verdict"] == "broken") & (other["distance"] <= units[number].threat.eps)]["example"]
            if len(lost := set(within) - set(part.loc[part["verdict"] == "broken", "example"])):
                name = f"{part['attack'].iloc[0]} at {units[number].threat.eps:g}"
                faults.append(f"{name}: example {min(lost)} is not broken, and was within {float(other['eps'].iloc[0]):g} already")
    return faults


def _clean_faults(network: FixedBatch, x: Tensor, y: Tensor, verdicts: "pd.DataFrame") -> list[str]:
    """Hold labels and clean predictions against the examples and the network."""
    rows = verdicts.drop_duplicates("example").sort_values("example")
    if len(rows) != len(x):
        return [f"there are verdicts of {len(rows)} examples, and {len(x)} examples"]
    faults = []
    if rows["label"].tolist() != y.tolist():
        faults.append("a label is not that of its example")
    logits = torch.cat([network(part.to(network.device)).cpu() for part in x.split(network.piece)])
    sure = margins(logits, logits.argmax(dim=1)) > MARGIN * logits.abs().amax(dim=1)  # a tie may fall otherwise elsewhere
    sure |= ~logits.isfinite().all(dim=1)
    if ((predictions(logits) != torch.tensor(rows["clean_prediction"].to_numpy())) & sure).any():
        faults.append("a clean prediction is not the network's")
    return faults


def _closest_faults(
    network: FixedBatch, x: Tensor, y: Tensor, part: "pd.DataFrame", closest: Adversarial | None, budget: Threat
) -> list[str]:
    """Hold what the verdicts say of the most harmful inputs of robust examples against these."""
    where, engine = f"{part['attack'].iloc[0]} at {budget.eps:g}", part["engine"].iloc[0]
    robust, offset = part[part["verdict"] == "robust"], int(part["example"].min())
    if len(bad := robust[robust["margin"] < 0]):
        return [f"{where}: example {int(bad['example'].iloc[0])} counts as robust, and its margin is negative"]
    if closest is None:
        return []
    said = dict(zip(robust["example"], zip(robust["adversarial_prediction"], robust["margin"], strict=True), strict=True))
    if closest.inputs.shape[1:] != x.shape[1:] or closest.inputs.dtype != x.dtype:
        return [f"{where}: the most harmful inputs are not of the shape and type of the examples"]
    for numbers, points in zip(closest.examples.split(network.piece), closest.inputs.split(network.piece), strict=True):
        rows = numbers - offset
        if not bool(((rows >= 0) & (rows < len(x))).all()):
            return [f"{where}: a most harmful input is of no example"]
        logits = network(points.to(network.device)).cpu()
        margin, inside = margins(logits, y[rows]).double().tolist(), budget.contains(x[rows], points).tolist()
        for number, prediction, value, within in zip(numbers.tolist(), predictions(logits).tolist(), margin, inside, strict=True):
            if number not in said:
                continue  # of an example without finite logits or gradients
            untold = (
                math.isnan(said[number][1]) and engine != "native"
            )  # other packages' attacks say no margin of what they break not
            near = untold or math.isclose(said[number][1], value, rel_tol=MARGIN, abs_tol=MARGIN)
            same = near and said[number][0] == prediction
            if not within or not same:
                return [f"{where}: the most harmful input of example {number} is not what its verdict says"]
    return []


class _Broken(NamedTuple):
    prediction: int
    margin: float
    distance: float


def _same(said: Sequence[float], found: _Broken) -> bool:
    """Return whether numbers agree but for the rounding of another machine."""
    return said[0] == found.prediction and all(
        math.isclose(a, b, rel_tol=MARGIN, abs_tol=MARGIN) for a, b in zip(said[1:], found[1:], strict=True)
    )


def _found(
    network: FixedBatch, x: Tensor, y: Tensor, adversarial: Adversarial | None, budget: Threat, offset: int
) -> dict[int, _Broken]:
    """Return the examples that the stored inputs break, by their numbers from `offset`."""
    found: dict[int, _Broken] = {}
    if adversarial is None or adversarial.inputs.shape[1:] != x.shape[1:] or adversarial.inputs.dtype != x.dtype:
        return found
    rows = adversarial.examples - offset
    inside = (rows >= 0) & (rows < len(x))
    rows, inputs = rows[inside], adversarial.inputs[inside]
    for part, points in zip(rows.split(network.piece), inputs.split(network.piece), strict=True):
        logits = network(points.to(network.device)).cpu()
        margin = margins(logits, y[part]).double()
        held = logits.isfinite().all(dim=1) & (margin < 0) & budget.contains(x[part], points)
        columns = (part + offset, predictions(logits), margin, budget.distance(x[part], points))
        for number, *values in zip(*(column[held].tolist() for column in columns), strict=True):
            found[number] = _Broken(*values)
    return found
