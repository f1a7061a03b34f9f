"""Remarks say what a reader of a report has to know of its runs and evaluations."""

from collections.abc import Sequence

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import FLOOR, WORST, Evaluation
from robust_lowrank.reporting.formats.statements import Statement


def remarks(entries: Sequence[Entry], evaluations: Sequence[Evaluation]) -> tuple[Statement, ...]:
    """Say what else a reader has to know of these runs and evaluations, failures first."""
    return (
        *_failures(evaluations),
        *_passed_over(evaluations[0]),
        *_slower(entries),
        *_unresolved(evaluations),
        *_sampled(evaluations),
        *unfinished(entries),
        *_missing(entries, evaluations),
        *_one_seed(evaluations[0]),
    )


def _failures(evaluations: Sequence[Evaluation]) -> list[Statement]:
    texts = []
    for evaluation in evaluations:
        records = {entry.name: evaluation.results[entry.name].record for entry in evaluation.entries}
        statuses = {name: {finding.status for finding in record.audit} for name, record in records.items()}
        failed = [name for name in statuses if "fail" in statuses[name]]
        warned = [name for name in statuses if "warn" in statuses[name] and name not in failed]
        audit = f"The audit of {evaluation.title}"
        if failed:
            texts.append(f"{audit} failed for {evaluation.listing(failed)}: do not quote these numbers.")
        if warned:
            texts.append(f"{audit} has warnings for {evaluation.listing(warned)}: read them below.")
    return [Statement("warning", text) for text in texts]


def _passed_over(evaluation: Evaluation) -> list[Statement]:
    """Say at which budgets nothing is left that could tell networks apart."""
    if not evaluation.at_the_floor:
        return []
    budgets = numbers.listing([numbers.budget(eps) for eps in evaluation.at_the_floor])
    text = (
        f"At eps {budgets} no network holds more than {100 * FLOOR:g} %: "
        f"this summary speaks of eps {numbers.budget(evaluation.headline_eps)}, the next below."
    )
    return [Statement("note", text)]


def _slower(entries: Sequence[Entry]) -> list[Statement]:
    """Name the networks that take longer than the dense one in three of four passes, at some size of a batch."""
    texts = []
    for entry in entries:
        latencies = entry.run.record.costs.latencies if entry.run.record.costs and entry.run.record.method != "dense" else []
        slow = [latency for latency in latencies if latency.ratio_low is not None and latency.ratio_low > 1]
        if slow:
            times = [f"{numbers.quantity(each.relative or 1)} for {_batch(each.batch)}" for each in slow]
            texts.append(f"{entry.name} ({numbers.listing(times)})")
    if not texts:
        return []
    return [Statement("warning", f"Slower than the dense network in inference, by the factors given: {numbers.listing(texts)}.")]


def _batch(size: int) -> str:
    return "one example" if size == 1 else f"a batch of {size}"


def _unresolved(evaluations: Sequence[Evaluation]) -> list[Statement]:
    return [
        Statement(
            "warning",
            f"The budget of {evaluation.title} ran out before {numbers.count(evaluation.unresolved)} verdicts: "
            "these accuracies are ranges.",
        )
        for evaluation in evaluations
        if evaluation.unresolved
    ]


def _sampled(evaluations: Sequence[Evaluation]) -> list[Statement]:
    """Say what all of an ensemble would leave, where it was tried on a sample."""
    texts = []
    for evaluation in (each for each in evaluations if each.sampled):
        eps = evaluation.headline_eps
        worst = {entry.name: evaluation.accuracy(entry, WORST, eps) for entry in evaluation.entries}
        least = [f"{name} {numbers.percent(each.least)} %" for name, each in worst.items() if each and each.least is not None]
        if least:
            texts.append(
                f"Under {evaluation.title} all of aa-native ran on a random sample alone. At eps {numbers.budget(eps)} it "
                f"would leave at least {numbers.listing(least)}, each with 95 % confidence."
            )
    return [Statement("note", text) for text in texts]


def unfinished(entries: Sequence[Entry]) -> list[Statement]:
    """Name the runs whose training was not finished."""
    names = [entry.name for entry in entries if entry.run.record.status != "complete"]
    return [Statement("warning", f"Training was not finished: {numbers.listing(names)}.")] if names else []


def _missing(entries: Sequence[Entry], evaluations: Sequence[Evaluation]) -> list[Statement]:
    attacked = {entry.name for evaluation in evaluations for entry in evaluation.entries}
    names = [entry.name for entry in entries if entry.name not in attacked]
    statements = [Statement("warning", f"Not attacked: {numbers.listing(names)}.")] if names else []
    if len(evaluations) > 1:
        others = numbers.listing([evaluation.title for evaluation in evaluations[1:]])
        text = f"This summary speaks of {evaluations[0].title} alone; further below: {others}."
        statements.append(Statement("note", f"{text} Different suites or examples are never compared with each other."))
    return statements


def _one_seed(evaluation: Evaluation) -> list[Statement]:
    """Say of whom there is one training alone, for which no test over seeds can be made."""
    series = [entry.series for entry in evaluation.entries]
    once = [name for name in evaluation.series if series.count(name) == 1]
    if len(evaluation.series) == 1 or not once:
        return []
    whose = f"of {numbers.listing(once)}" if evaluation.repeated else "a method"
    text = (
        f"One training run {whose}: the tests speak of these networks on examples like these, "
        "not of how a method varies from seed to seed."
    )
    return [Statement("note", text)]
