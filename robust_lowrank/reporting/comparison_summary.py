"""The summary of a comparison says which method is better, by how much, and how sure that is."""

from collections.abc import Sequence

from robust_lowrank import numbers
from robust_lowrank.errors import UserError
from robust_lowrank.reporting.comparing.comparisons import ALPHA, Tests, correction
from robust_lowrank.reporting.comparing.contrasts import Contrast, contrast
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation, Mean
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.comparing.pareto import Fronts
from robust_lowrank.reporting.comparing.spectra import conditioning
from robust_lowrank.reporting.formats.statements import Statement, Summary
from robust_lowrank.reporting.sections.certificates import Certificates, statements
from robust_lowrank.statistics import detectable, examples_to_see

_POINT = 0.01


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
    certified = [statement for section in Certificates.find(evidence) for statement in statements(section)]
    if not rest:
        return Summary(
            headline=f"{best} holds {_accuracy(leading)} {_conditions(evaluation, eps)}.",
            evidence=f"n = {numbers.count(evaluation.examples)} examples. One method alone: there is nothing to compare it with.",
            statements=(*certified, *_conditioning(entries), *_remarks(entries, evaluations)),
        )
    rival, theirs = next((pair for pair in rest if _is_dense(evaluation, pair[0])), rest[0])
    tests = evidence.tests(evaluation)
    tested = contrast(tests, eps, best, rival)
    front = Fronts(evaluation).describe("parameters")
    return Summary(
        headline=_headline(evaluation, eps, (best, leading), (rival, theirs), tested),
        evidence=_evidence(evaluation, _gap(leading, theirs), tested),
        statements=(
            *_others(evaluation, eps, best, rival, tests),
            *_clean(evaluation, best, rival, tests),
            *_power(evaluation, (best, rival), tested),
            *certified,
            *_size(evaluation, best),
            *([Statement("note", front)] if front else []),
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
    value = numbers.p_value(tested.p)
    joint = f"p {value}" if tested.pairs == 1 else f"largest p {value} of {tested.pairs} pairs of runs"
    return f"{joint} ({correction(tested.family)})"


def _others(evaluation: Evaluation, eps: float, best: str, rival: str, tests: Tests) -> list[Statement]:
    """Compare the others with the dense network, or the best where there is none; then say who equals the best."""
    reference = rival if _is_dense(evaluation, rival) else best
    means = dict(_ranking(evaluation, eps))
    others = [name for name in means if name not in (best, rival)]
    above, below, open_ = [], [], []
    for name in others:
        tested = contrast(tests, eps, name, reference)
        if tested is None:
            continue
        p = numbers.p_value(tested.p)
        if tested.better is None:
            open_.append(f"{name} ({numbers.accuracy(means[name].value, means[name].most)} %, p {p})")
        else:
            (above if tested.better == name else below).append(f"{name} ({_gap(means[name], means[reference])}, p {p})")
    equal = [
        f"{name} (p {numbers.p_value(tested.p)})"
        for name in (others if reference != best else ())
        if (tested := contrast(tests, eps, best, name)) and tested.better is None
    ]
    groups = (
        Statement("supported", f"Better than {reference}: {numbers.listing(above)}.") if above else None,
        Statement("supported", f"Worse than {reference}: {numbers.listing(below)}.") if below else None,
        Statement("open", f"Not distinguishable from {reference} on these examples: {numbers.listing(open_)}.") if open_ else None,
        Statement("open", f"Not distinguishable from {best}: {numbers.listing(equal)}.") if equal else None,
    )
    return [statement for statement in groups if statement]


def _clean(evaluation: Evaluation, best: str, rival: str, tests: Tests) -> list[Statement]:
    ours, theirs = evaluation.mean(best, CLEAN), evaluation.mean(rival, CLEAN)
    tested = contrast(tests, 0.0, best, rival)
    if ours is None or theirs is None or tested is None:
        return []
    text = f"On clean examples {best} reaches {_accuracy(ours)} and {rival} {_accuracy(theirs)}"
    if tested.better is None:
        return [Statement("open", f"{text}; the test cannot tell these apart: {_p(tested)}.")]
    return [Statement("supported", f"{text}: {tested.better} is better by {_gap(ours, theirs)}, {_p(tested)}.")]


def _power(evaluation: Evaluation, pair: tuple[str, str], tested: Contrast | None) -> list[Statement]:
    """Say which differences the evaluation's examples can show between networks that differ as often as this pair does.

    Counted at the strictest level of Holm's correction, so that it holds for every test of the report.
    """
    if tested is None:
        return []
    examples, alpha = numbers.count(evaluation.examples), ALPHA / tested.family
    try:
        smallest = detectable(evaluation.examples, discordance=tested.discordance, alpha=alpha)
    except UserError:
        return [Statement("note", f"{examples} examples are too few to show any difference, however large.")]
    needed = numbers.count(examples_to_see(_POINT, discordance=tested.discordance, alpha=alpha))
    text = (
        f"{examples} examples can show differences from {numbers.points(smallest)} on; to see 1 point you need {needed} examples "
        f"(power 80 %, p corrected, for networks that disagree on {numbers.percent(tested.discordance)} % of the examples, "
        f"as {pair[0]} and {pair[1]} do)."
    )
    return [Statement("note", text)]


def _size(evaluation: Evaluation, best: str) -> list[Statement]:
    parameters = next(entry for entry in evaluation.entries if entry.series == best).run.record.parameters
    if not parameters.removed:
        return []
    share = numbers.percent(parameters.inference / parameters.dense)
    text = (
        f"{best} stores {numbers.count(parameters.inference)} parameters, {share} % of the dense network's "
        f"{numbers.count(parameters.dense)}. As trained, with every factor, its compressed layers have "
        f"{numbers.percent(parameters.removed)} % fewer weights."
    )
    return [Statement("note", text)]


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
        *_slower(entries),
        *_unresolved(evaluations),
        *_sampled(evaluations),
        *_unfinished(entries),
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
    if len(evaluation.series) > 1 and not evaluation.repeated:
        text = (
            "One training run a method: the tests speak of these networks on examples like these, "
            "not of how a method varies from seed to seed."
        )
        return [Statement("note", text)]
    return []


def _is_dense(evaluation: Evaluation, series: str) -> bool:
    return any(entry.run.record.method == "dense" for entry in evaluation.entries if entry.series == series)
