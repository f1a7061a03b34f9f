"""Results of attacks are shown on the terminal: accuracies, transfer matrix, deployed forms, and the audit's remarks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from robust_lowrank.cli import console
from robust_lowrank.numbers import budget as shown_budget
from robust_lowrank.records import AccuracyRecord, Deployed, ResultRecord

if TYPE_CHECKING:
    import pandas as pd

FLIPS = 8  # numbers of examples that a line names


def say_results(labels: Sequence[str], results: Sequence[ResultRecord]) -> None:
    """Print a row an accuracy, then for each network how its audit went and what it remarks."""
    table = Table("network", "attack", "eps", "accuracy", "interval", box=None, pad_edge=False)
    for label, result in zip(labels, results, strict=True):
        for entry in result.accuracies:
            budget = f"{result.norm} {shown_budget(entry.eps)}" if entry.eps else ""
            rest = f" to {entry.most:.1%}, {entry.unresolved} unresolved" if entry.unresolved else ""
            rest += in_full(entry) + by_larger(entry)
            table.add_row(escape(label), entry.attack, budget, f"{entry.value:.1%}{rest}", f"{entry.low:.1%} to {entry.high:.1%}")
    console.print_table(table)
    for label, result in zip(labels, results, strict=True):
        passed = sum(finding.status == "pass" for finding in result.audit)
        console.say(f"{label}, audit: {passed} of {len(result.audit)} checks pass")
        for finding in result.audit:
            if finding.status != "pass":
                remedy = f" {finding.remedy}" if finding.remedy else ""
                console.say(f"{label}, audit {finding.status}: {finding.check}: {finding.message}{remedy}")


def in_full(entry: AccuracyRecord) -> str:
    """Return in words what the whole ensemble would leave, where an attack tried it on a sample; nothing elsewhere."""
    return "" if entry.least is None else f"; in full at least {entry.least:.1%}, with 95 % confidence"


def by_larger(entry: AccuracyRecord) -> str:
    """Return in words how many examples were not attacked at this eps, but in vain at a larger one; nothing elsewhere."""
    return f"; {entry.implied} of {entry.correct} implied by a larger eps" if entry.implied else ""


def say_matrix(transfer: "pd.DataFrame") -> None:
    """Print for each attack and eps how many of the inputs that break one network break another."""
    for _, part in transfer.groupby(["attack", "eps"], sort=False):
        targets = list(dict.fromkeys(part["target"]))
        first = part.iloc[0]
        table = Table(f"{first['attack']} at {shown_budget(first['eps'])}, made on", *targets, box=None, pad_edge=False)
        for source, rows in part.groupby("source", sort=False):
            shares = {row["target"]: f"{row['fooled']} of {row['tried']}" for row in rows.to_dict("records")}
            table.add_row(str(source), *(shares.get(target, "") for target in targets))
        console.print_table(table)


def say_rounding(labels: Sequence[str], found: Sequence["pd.DataFrame"]) -> None:
    """Print for each network and way how many of its verdicts change with rounding, and on which examples."""
    table = Table("network", "computed", "verdicts", "changed", "share", "examples", box=None, pad_edge=False)
    for label, frame in zip(labels, found, strict=True):
        for way, part in frame.groupby("way", sort=False):
            tried, changed = int(part["tried"].sum()), sum(map(len, part["changed"]))
            numbers = sorted({int(example) for examples in part["changed"] for example in examples})
            shown = ", ".join(map(str, numbers[:FLIPS])) + (", ..." if len(numbers) > FLIPS else "")
            table.add_row(escape(label), str(way), f"{tried:,}", f"{changed:,}", f"{changed / tried:.2%}", shown)
    console.print_table(table)


def say_forms(deployed: Sequence[Sequence["Deployed"]]) -> None:
    """Print for each form and eps its accuracy, and how many examples have another verdict than the trained network's."""
    rows = list_forms(deployed)
    if not rows:
        return
    table = Table("form", "eps", "accuracy", "trained", "lost", "gained", "attacked", box=None, pad_edge=False)
    for row in rows:
        accuracies = (f"{row['accuracy']:.1%}", f"{row['trained']:.1%}")
        flips = (str(len(row["lost"])), str(len(row["gained"])))
        table.add_row(escape(row["label"]), shown_budget(row["eps"]), *accuracies, *flips, row["attacked"])
    console.print_table(table)
    for row in rows:
        if flipped := [*row["lost"], *row["gained"]]:
            shown = ", ".join(map(str, flipped[:FLIPS])) + (", ..." if len(flipped) > FLIPS else "")
            console.say(f"{row['label']} at {shown_budget(row['eps'])}: other verdicts on examples {shown}")
    if any(row["lost"] or row["gained"] for row in rows):
        console.say("'rlr-eval report RUN' shows the pictures of examples whose verdicts differ")


def list_forms(deployed: Sequence[Sequence["Deployed"]]) -> list[dict[str, Any]]:
    """Return a row a form and eps, clean images at eps 0: accuracies, and the examples that the form alone lost or gained."""
    rows = []
    for form in (each for forms in deployed for each in forms):
        for eps in (0.0, *form.trained.record.eps):
            held = form.held(eps)
            rows.append(
                {
                    "label": form.run.record.label,
                    "eps": eps,
                    "accuracy": float(held["form"].mean()),
                    "trained": float(held["trained"].mean()),
                    "lost": form.lost(eps),
                    "gained": form.gained(eps),
                    "attacked": form.attacked,
                }
            )
    return rows
