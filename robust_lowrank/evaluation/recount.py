"""A result's figures are counted again from its verdicts, and its verdicts held against its inputs and its attacks."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from robust_lowrank.evaluation.result import CLEAN, INTERVAL, WORST, Adversarial
from robust_lowrank.evaluation.sample import Account, hidden_by, hidden_in_worst, implied_of
from robust_lowrank.provenance import digest_definition
from robust_lowrank.records import ResultRecord
from robust_lowrank.statistics import bounded

if TYPE_CHECKING:
    import pandas as pd

UNHASHED = ("title", "minimal")  # what a definition says to reports alone
SETTLED = {"misclassified", "robust", "broken", "nonfinite", "unresolved"}


def recount(record: ResultRecord, verdicts: "pd.DataFrame", adversarial: Mapping[str, Adversarial]) -> list[str]:
    """Return in words what does not fit together in a result, without its network: a row or an input too many or too few, an
    accuracy or an interval that its verdicts do not give, attacks other than those of its hash.

    Example:
        >>> recount(result.record, result.verdicts, result.adversarial)
        []
    """
    return [
        *_of_attacks(record),
        *_of_rows(record, verdicts),
        *_of_accuracies(record, verdicts),
        *_of_inputs(verdicts, adversarial),
    ]


def _of_attacks(record: ResultRecord) -> list[str]:
    """Hold a record against the definition of its attacks, and that against its hash."""
    definition = record.definition
    hashed = [{name: value for name, value in entry.items() if name not in UNHASHED} for entry in definition.get("attacks", [])]
    faults = []
    if digest_definition(definition | {"attacks": hashed}) != record.hashes.get("attack"):
        faults.append("the definition of its attacks is not the one of its hash")
    for name in ("suite", "norm", "seed"):
        if definition.get(name) != getattr(record, name):
            faults.append(f"its {name} is {getattr(record, name)!r}, and {definition.get(name)!r} in the definition of its attacks")
    if record.eps != sorted({float(eps) for entry in hashed for eps in entry.get("eps", [])}):
        faults.append("its eps are not those of its attacks")
    return faults


def _of_rows(record: ResultRecord, verdicts: "pd.DataFrame") -> list[str]:
    """Ask for one row for each example, attack and eps, which says the same of the example everywhere."""
    total = record.accuracies[0].total if record.accuracies else 0
    expected = {(str(entry.get("name")), eps) for entry in record.definition.get("attacks", []) for eps in entry.get("eps", [])}
    found = _units(verdicts).keys()
    faults = [f"no verdicts of {attack} at {eps:g}" for attack, eps in sorted(expected - found)]
    faults += [f"verdicts of {attack} at {eps:g}, which is none of its attacks" for attack, eps in sorted(found - expected)]
    first = int(verdicts["example"].min()) if len(verdicts) else 0
    numbers = list(range(first, first + total))
    for (attack, eps), part in _units(verdicts).items():
        if sorted(part["example"]) != numbers:
            faults.append(f"{attack} at {eps:g} has not one verdict for each of {total} examples")
    for column, value in (("norm", record.norm), ("seed", record.seed)):
        if (verdicts[column] != value).any():
            faults.append(f"a verdict has another {column} than {value}")
    for column in ("label", "clean_prediction"):
        if (verdicts.groupby("example")[column].nunique(dropna=False) > 1).any():
            faults.append(f"an example has more than one {column.replace('_', ' ')}")
    if unknown := set(verdicts["verdict"]) - SETTLED:
        faults.append(f"{min(map(str, unknown))!r} is no verdict")
    wrong = verdicts["clean_prediction"] != verdicts["label"]
    if (wrong & ~verdicts["verdict"].isin(["misclassified", "nonfinite"])).any() or (
        ~wrong & (verdicts["verdict"] == "misclassified")
    ).any():
        faults.append("an example counts as misclassified and is not, or is and does not count so")
    broken = verdicts["verdict"] == "broken"
    if (broken & ~(verdicts["margin"] < 0)).any() or (broken & (verdicts["adversarial_prediction"] == verdicts["label"])).any():
        faults.append("an example counts as broken and is answered right")
    if (broken != verdicts["distance"].notna()).any():
        faults.append("a distance of what is not broken, or none of what is")
    return faults


def _of_accuracies(record: ResultRecord, verdicts: "pd.DataFrame") -> list[str]:
    """Count again."""
    kinds = {str(entry.get("name")): str(entry.get("attack")) for entry in record.definition.get("attacks", [])}
    faults, seen = [] if record.interval == INTERVAL else [f"its intervals are {INTERVAL}, not {record.interval}"], []
    units = _units(verdicts)
    accounts = {key: _account(kinds.get(key[0], ""), part) for key, part in units.items()}
    for entry in record.accuracies:
        seen.append((entry.attack, entry.eps))
        if entry.attack == CLEAN:
            part = verdicts.drop_duplicates("example")
            held, open_ = part["clean_prediction"] == part["label"], part["label"] != part["label"]
        elif entry.attack == WORST:
            part = verdicts[verdicts["eps"] == entry.eps]
            by_example = part["verdict"].groupby(part["example"])
            held = by_example.agg(lambda all_of_it: (all_of_it == "robust").all())
            open_ = ~held & by_example.agg(lambda all_of_it: all_of_it.isin(["robust", "unresolved"]).all())
        elif (entry.attack, entry.eps) in units:
            verdict = units[entry.attack, entry.eps]["verdict"]
            held, open_ = verdict == "robust", verdict == "unresolved"
        else:
            faults.append(f"an accuracy under {entry.attack} at {entry.eps:g}, of which there are no verdicts")
            continue
        counted = (int(held.sum()), int(open_.sum()), len(held))
        if counted != (entry.correct, entry.unresolved, entry.total):
            given = f"{counted[0]} right of {counted[2]}, not {entry.correct} of {entry.total}"
            faults.append(f"{entry.attack} at {entry.eps:g}: the verdicts give {given}")
            continue
        interval = bounded(*counted)
        if max(abs(a - b) for a, b in zip(interval, (entry.value, entry.low, entry.high), strict=True)) > 1e-12:
            faults.append(f"{entry.attack} at {entry.eps:g}: the interval is not that of {counted[0]} right of {counted[2]}")
        if entry.attack == CLEAN:
            here, hidden = [], None
        elif entry.attack == WORST:
            here = [account for (_, eps), account in accounts.items() if eps == entry.eps]
            hidden = hidden_in_worst(entry.correct, here)
        else:
            here = [accounts[entry.attack, entry.eps]]
            hidden = hidden_by(here[0])
        if (implied := implied_of(here)) != entry.implied:
            faults.append(f"{entry.attack} at {entry.eps:g}: a larger eps implies {implied} by the verdicts, not {entry.implied}")
        if hidden != entry.hidden:
            faults.append(f"{entry.attack} at {entry.eps:g}: the sample gives a limit of {hidden} more, not {entry.hidden}")
    expected = [(CLEAN, 0.0), *units, *((WORST, eps) for eps in sorted({eps for _, eps in units}))]
    if sorted(seen) != sorted(expected):
        faults.append("an accuracy is missing, or stands there twice")
    return faults


def _of_inputs(verdicts: "pd.DataFrame", adversarial: Mapping[str, Adversarial]) -> list[str]:
    """Ask for one input for each broken example."""
    faults, units = [], _units(verdicts)
    for (attack, eps), part in units.items():
        broken = sorted(part.loc[part["verdict"] == "broken", "example"])
        found = adversarial.get(f"{attack}/{eps!r}")
        if found is None or sorted(found.examples.tolist()) != broken:
            faults.append(f"{attack} at {eps:g}: the stored inputs are not those of its broken examples")
    if adversarial.keys() - {f"{attack}/{eps!r}" for attack, eps in units}:
        faults.append("inputs of an attack that has no verdicts")
    return faults


def _account(kind: str, part: "pd.DataFrame") -> Account:
    part = part.sort_values("example")
    flags = [str(text).split(",") for text in part["flags"]]
    return Account(kind, (part["verdict"] == "robust").tolist(), flags, int((part["verdict"] == "unresolved").sum()))


def _units(verdicts: "pd.DataFrame") -> dict[tuple[str, float], "pd.DataFrame"]:
    """Return the verdicts by attack and eps."""
    groups = verdicts.groupby(["attack", "eps"], sort=False)
    return {(str(part["attack"].iloc[0]), float(part["eps"].iloc[0])): part for _, part in groups}
