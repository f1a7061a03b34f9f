"""The comparison in words: which method is better, by how much, and how sure that is."""

from collections.abc import Sequence

from robust_lowrank.reporting.comparing.comparisons import Contrast, Tests, contrast
from robust_lowrank.reporting.comparing.entries import Entry, series_names
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation, Mean
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.comparing.pareto import Fronts
from robust_lowrank.reporting.comparing.spectra import conditioning
from robust_lowrank.reporting.comparison_power import power
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.formats.statements import Statement, Summary
from robust_lowrank.reporting.sections import certificates


def summarise(evidence: Evidence) -> Summary:
    """Put the first evaluation's outcome at its headline eps into words."""
    entries, evaluations = evidence.entries, evidence.evaluations
    if not evaluations:
        return Summary(
            headline="None of these networks has been attacked: nothing is known about their robustness.",
            evidence="Attack them with 'rlr-eval attack RUN' and make the report again.",
            statements=(*_unfinished(entries), *_conditioning(entries)),
        )
    evaluation = evaluations[0]
    eps = evaluation.headline_eps
    ranking = _ranking(evaluation, eps)
    if not ranking:
        return Summary(f"The evaluation with {evaluation.title} holds no worst-case accuracy.", "", _remarks(entries, evaluations))
    (best, leading), *rest = ranking
    if not rest:
        return Summary(
            headline=f"{best} holds {_accuracy(leading)} {_conditions(evaluation, eps)}.",
            evidence=f"n = {numbers.count(evaluation.examples)} examples. One method alone: there is nothing to compare it with.",
            statements=(*_certified(evidence), *_conditioning(entries), *_remarks(entries, evaluations)),
        )
    rival, theirs = next((pair for pair in rest if _is_dense(evaluation, pair[0])), rest[0])
    tests = evidence.tests(evaluation)
    tested = contrast(tests.get(eps, ()), best, rival)
    return Summary(
        headline=_headline(evaluation, eps, (best, leading), (rival, theirs), tested),
        evidence=_evidence(evaluation, _gap(leading, theirs), tested),
        statements=(
            *_others(evaluation, eps, best, rival, tests),
            *_clean(evaluation, best, rival, tests),
            *power(evaluation, (best, rival), tested),
            *_certified(evidence),
            *_size(evaluation, best),
            *_front(evaluation),
            *_conditioning(entries),
            *_remarks(entries, evaluations),
        ),
    )


def _headline(
    evaluation: Evaluation, eps: float, first: tuple[str, Mean], second: tuple[str, Mean], tested: Contrast | None
) -> str:
    (best, ours), (rival, theirs) = first, second
    conditions = _conditions(evaluation, eps)
    if tested is None or tested.better != best:
        return f"{best} and {rival} cannot be told apart: {_accuracy(ours)} against {_accuracy(theirs)} {conditions}."
    return f"{best} holds {_accuracy(ours)} {conditions}, {_gap(ours, theirs)} more than {rival} ({_accuracy(theirs)})."


def _ranking(evaluation: Evaluation, eps: float) -> list[tuple[str, Mean]]:
    means = [(name, mean) for name in evaluation.series if (mean := evaluation.mean(name, WORST, eps))]
    return sorted(means, key=lambda pair: pair[1].value, reverse=True)


def _conditions(evaluation: Evaluation, eps: float) -> str:
    names = [evaluation.title_of(name) for name in evaluation.attacks_at(eps)]
    under = f"under {names[0]}" if len(names) == 1 else f"in the worst case over {numbers.listing(names)}"
    return f"{under} at {numbers.norm(evaluation.norm)} eps {numbers.budget(eps)}"


def _accuracy(mean: Mean) -> str:
    unresolved = f", {numbers.count(mean.unresolved)} unresolved" if mean.unresolved else ""
    seeds = f" on average over {mean.seeds} seeds" if mean.seeds > 1 else ""
    return f"{numbers.accuracy(mean.value, mean.most)} % {numbers.interval(mean.low, mean.high)}{seeds}{unresolved}"


def _gap(ours: Mean, theirs: Mean) -> str:
    return numbers.gap(ours.value - theirs.most, ours.most - theirs.value)


def _evidence(evaluation: Evaluation, gap: str, tested: Contrast | None) -> str:
    if tested is None:
        return "No paired test between the two was possible."
    test = f"paired exact McNemar test on the same {numbers.count(evaluation.examples)} examples, {_p(tested)}"
    if tested.better:
        return f"The difference is statistically supported: {test}."
    return f"Their difference of {gap} is not statistically supported: {test}."


def _p(tested: Contrast) -> str:
    corrected = f"Holm-corrected over {tested.family} comparisons" if tested.family > 1 else "the only comparison"
    value = numbers.p_value(tested.p)
    joint = f"p {value}" if tested.pairs == 1 else f"largest p {value} of {tested.pairs} pairs of runs"
    return f"{joint} ({corrected})"


def _others(evaluation: Evaluation, eps: float, best: str, rival: str, tests: Tests) -> list[Statement]:
    """Whoever the headline leaves out: against the dense network, or the best where there is none; then who equals the best."""
    reference = rival if _is_dense(evaluation, rival) else best
    ranking = dict(_ranking(evaluation, eps))
    above, below, open_ = [], [], []
    for name, mean in ranking.items():
        if name in (best, rival):
            continue
        tested = contrast(tests.get(eps, ()), name, reference)
        if tested is None:
            continue
        gap = _gap(mean, ranking[reference])
        if tested.better is None:
            open_.append(f"{name} ({numbers.accuracy(mean.value, mean.most)} %, p {numbers.p_value(tested.p)})")
        else:
            (above if tested.better == name else below).append(f"{name} ({gap}, p {numbers.p_value(tested.p)})")
    statements = []
    if above:
        statements.append(Statement("supported", f"Better than {reference}: {numbers.listing(above)}."))
    if below:
        statements.append(Statement("supported", f"Worse than {reference}: {numbers.listing(below)}."))
    if open_:
        statements.append(Statement("open", f"Not distinguishable from {reference} on these examples: {numbers.listing(open_)}."))
    if reference != best:
        equals = [
            f"{name} (p {numbers.p_value(tested.p)})"
            for name in ranking
            if name not in (best, rival) and (tested := contrast(tests.get(eps, ()), best, name)) and tested.better is None
        ]
        if equals:
            statements.append(Statement("open", f"Not distinguishable from {best}: {numbers.listing(equals)}."))
    return statements


def _clean(evaluation: Evaluation, best: str, rival: str, tests: Tests) -> list[Statement]:
    ours, theirs = evaluation.mean(best, CLEAN), evaluation.mean(rival, CLEAN)
    tested = contrast(tests.get(0.0, ()), best, rival)
    if ours is None or theirs is None or tested is None:
        return []
    text = f"On clean examples {best} reaches {_accuracy(ours)} and {rival} {_accuracy(theirs)}"
    if tested.better is None:
        return [Statement("open", f"{text}; the test cannot tell these apart: {_p(tested)}.")]
    return [Statement("supported", f"{text}: {tested.better} is better by {_gap(ours, theirs)}, {_p(tested)}.")]


def _certified(evidence: Evidence) -> list[Statement]:
    return [statement for section in certificates.Certificates.find(evidence) for statement in certificates.statements(section)]


def _size(evaluation: Evaluation, best: str) -> list[Statement]:
    parameters = next(entry for entry in evaluation.entries if entry.series == best).run.record.parameters
    if not parameters.removed:
        return []
    share = numbers.percent(parameters.inference / parameters.dense)
    return [
        Statement(
            "note",
            f"{best} stores {numbers.count(parameters.inference)} parameters, {share} % of the dense network's "
            f"{numbers.count(parameters.dense)}. As trained, with every factor, its compressed layers have "
            f"{numbers.percent(parameters.removed)} % fewer weights.",
        )
    ]


def _front(evaluation: Evaluation) -> list[Statement]:
    text = Fronts(evaluation).describe("parameters")
    return [Statement("note", text)] if text else []


def _conditioning(entries: Sequence[Entry]) -> list[Statement]:
    measured = [(entry, layers) for entry in entries if (layers := conditioning(entry))]
    if not measured:
        return [Statement("note", "No spectra were recorded, so nothing is said about conditioning.")]
    worst, theirs = max(measured, key=lambda pair: pair[1].worst)
    text = f"The largest condition number of a layer is {numbers.quantity(theirs.worst)}: {theirs.worst_layer} of {worst.name}."
    compressed = [(entry, layers) for entry, layers in measured if layers.factored_layers]
    if compressed:
        calm, ours = min(compressed, key=lambda pair: pair[1].factored_worst)
        text += f" No compressed layer of {calm.name} exceeds {numbers.quantity(ours.factored_worst)}."
    return [Statement("note", text)]


def _remarks(entries: Sequence[Entry], evaluations: Sequence[Evaluation]) -> tuple[Statement, ...]:
    return (
        *_failures(evaluations),
        *_unresolved(evaluations),
        *_unfinished(entries),
        *_missing(entries, evaluations),
        *_one_seed(evaluations[0]),
    )


def _failures(evaluations: Sequence[Evaluation]) -> list[Statement]:
    statements = []
    for evaluation in evaluations:
        statuses = {
            entry.name: {finding.status for finding in evaluation.results[entry.name].record.audit} for entry in evaluation.entries
        }
        failed = [name for name, found in statuses.items() if "fail" in found]
        warned = [name for name, found in statuses.items() if "warn" in found and "fail" not in found]
        if failed:
            text = f"The audit of {evaluation.title} failed for {evaluation.listing(failed)}: do not quote these numbers."
            statements.append(Statement("warning", text))
        if warned:
            text = f"The audit of {evaluation.title} has warnings for {evaluation.listing(warned)}: read them below."
            statements.append(Statement("warning", text))
    return statements


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


def _unfinished(entries: Sequence[Entry]) -> list[Statement]:
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
    if len(evaluation.series) > 1 and len(evaluation.entries) == len(series_names(evaluation.entries)):
        text = (
            "One training run a method: the tests speak of these networks on examples like these, "
            "not of how a method varies from seed to seed."
        )
        return [Statement("note", text)]
    return []


def _is_dense(evaluation: Evaluation, series: str) -> bool:
    return any(entry.run.record.method == "dense" for entry in evaluation.entries if entry.series == series)
