"""The comparison in words: which method is better, by how much, and how sure that is."""

from collections.abc import Sequence

from robust_lowrank.reporting import formats
from robust_lowrank.reporting.certificates import find_brackets, findings
from robust_lowrank.reporting.comparison_power import power
from robust_lowrank.reporting.comparison_tables import Tests
from robust_lowrank.reporting.comparisons import Contrast, contrast
from robust_lowrank.reporting.entries import Entry, series_names
from robust_lowrank.reporting.findings import Finding, Summary
from robust_lowrank.reporting.pareto import Fronts, statement
from robust_lowrank.reporting.spectra import conditioning
from robust_lowrank.reporting.trials import CLEAN, WORST, Mean, Trial


def summarise(entries: Sequence[Entry], trials: Sequence[Trial], tests: Tests) -> Summary:
    """Put the first trial's outcome at its headline eps into words; `tests` are its paired tests by eps."""
    if not trials:
        return Summary(
            headline="None of these networks has been attacked: nothing is known about their robustness.",
            evidence="Attack them with 'rlr-eval attack RUN' and make the report again.",
            findings=(*_unfinished(entries), *_conditioning(entries)),
        )
    trial = trials[0]
    eps = trial.headline_eps
    ranking = _ranking(trial, eps)
    if not ranking:
        return Summary(f"The evaluation with {trial.title} holds no worst-case accuracy.", "", _remarks(entries, trials))
    (best, leading), *rest = ranking
    if not rest:
        return Summary(
            headline=f"{best} holds {_accuracy(leading)} {_conditions(trial, eps)}.",
            evidence=f"n = {formats.count(trial.examples)} examples. One method alone: there is nothing to compare it with.",
            findings=(*_certified(trials), *_conditioning(entries), *_remarks(entries, trials)),
        )
    rival, theirs = next((pair for pair in rest if _is_dense(trial, pair[0])), rest[0])
    tested = contrast(tests.get(eps, ()), best, rival)
    return Summary(
        headline=_headline(trial, eps, (best, leading), (rival, theirs), tested),
        evidence=_evidence(trial, _gap(leading, theirs), tested),
        findings=(
            *_others(trial, eps, best, rival, tests),
            *_clean(trial, best, rival, tests),
            *power(trial, (best, rival), tested),
            *_certified(trials),
            *_size(trial, best),
            *_front(trial),
            *_conditioning(entries),
            *_remarks(entries, trials),
        ),
    )


def _headline(trial: Trial, eps: float, first: tuple[str, Mean], second: tuple[str, Mean], tested: Contrast | None) -> str:
    (best, ours), (rival, theirs) = first, second
    if tested is None or tested.better != best:
        return f"{best} and {rival} cannot be told apart: {_accuracy(ours)} against {_accuracy(theirs)} {_conditions(trial, eps)}."
    return (
        f"{best} holds {_accuracy(ours)} {_conditions(trial, eps)}, {_gap(ours, theirs)} more than {rival} ({_accuracy(theirs)})."
    )


def _ranking(trial: Trial, eps: float) -> list[tuple[str, Mean]]:
    means = [(name, mean) for name in trial.series if (mean := trial.mean(name, WORST, eps))]
    return sorted(means, key=lambda pair: pair[1].value, reverse=True)


def _conditions(trial: Trial, eps: float) -> str:
    names = [trial.title_of(name) for name in trial.attacks_at(eps)]
    under = f"under {names[0]}" if len(names) == 1 else f"in the worst case over {formats.listing(names)}"
    return f"{under} at {formats.norm(trial.norm)} eps {formats.budget(eps)}"


def _accuracy(mean: Mean) -> str:
    unresolved = f", {formats.count(mean.unresolved)} unresolved" if mean.unresolved else ""
    seeds = f" on average over {mean.seeds} seeds" if mean.seeds > 1 else ""
    return f"{formats.accuracy(mean.value, mean.most)} % {formats.interval(mean.low, mean.high)}{seeds}{unresolved}"


def _gap(ours: Mean, theirs: Mean) -> str:
    return formats.gap(ours.value - theirs.most, ours.most - theirs.value)


def _evidence(trial: Trial, gap: str, tested: Contrast | None) -> str:
    if tested is None:
        return "No paired test between the two was possible."
    test = f"paired exact McNemar test on the same {formats.count(trial.examples)} examples, {_p(tested)}"
    if tested.better:
        return f"The difference is statistically supported: {test}."
    return f"Their difference of {gap} is not statistically supported: {test}."


def _p(tested: Contrast) -> str:
    corrected = f"Holm-corrected over {tested.family} comparisons" if tested.family > 1 else "the only comparison"
    value = formats.p_value(tested.p)
    joint = f"p {value}" if tested.pairs == 1 else f"largest p {value} of {tested.pairs} pairs of runs"
    return f"{joint} ({corrected})"


def _others(trial: Trial, eps: float, best: str, rival: str, tests: Tests) -> list[Finding]:
    """Whoever the headline leaves out: against the dense network, or the best where there is none; then who equals the best."""
    reference = rival if _is_dense(trial, rival) else best
    ranking = dict(_ranking(trial, eps))
    above, below, open_ = [], [], []
    for name, mean in ranking.items():
        if name in (best, rival):
            continue
        tested = contrast(tests.get(eps, ()), name, reference)
        if tested is None:
            continue
        gap = _gap(mean, ranking[reference])
        if tested.better is None:
            open_.append(f"{name} ({formats.accuracy(mean.value, mean.most)} %, p {formats.p_value(tested.p)})")
        else:
            (above if tested.better == name else below).append(f"{name} ({gap}, p {formats.p_value(tested.p)})")
    findings = []
    if above:
        findings.append(Finding("supported", f"Better than {reference}: {formats.listing(above)}."))
    if below:
        findings.append(Finding("supported", f"Worse than {reference}: {formats.listing(below)}."))
    if open_:
        findings.append(Finding("open", f"Not distinguishable from {reference} on these examples: {formats.listing(open_)}."))
    if reference != best:
        equals = [
            f"{name} (p {formats.p_value(tested.p)})"
            for name in ranking
            if name not in (best, rival) and (tested := contrast(tests.get(eps, ()), best, name)) and tested.better is None
        ]
        if equals:
            findings.append(Finding("open", f"Not distinguishable from {best}: {formats.listing(equals)}."))
    return findings


def _clean(trial: Trial, best: str, rival: str, tests: Tests) -> list[Finding]:
    ours, theirs = trial.mean(best, CLEAN), trial.mean(rival, CLEAN)
    tested = contrast(tests.get(0.0, ()), best, rival)
    if ours is None or theirs is None or tested is None:
        return []
    text = f"On clean examples {best} reaches {_accuracy(ours)} and {rival} {_accuracy(theirs)}"
    if tested.better is None:
        return [Finding("open", f"{text}; the test cannot tell these apart: {_p(tested)}.")]
    return [Finding("supported", f"{text}: {tested.better} is better by {_gap(ours, theirs)}, {_p(tested)}.")]


def _certified(trials: Sequence[Trial]) -> list[Finding]:
    return [finding for trial in trials for finding in findings(find_brackets(trial), trial)]


def _size(trial: Trial, best: str) -> list[Finding]:
    parameters = next(entry for entry in trial.entries if entry.series == best).run.record.parameters
    if not parameters.removed:
        return []
    share = formats.percent(parameters.inference / parameters.dense)
    return [
        Finding(
            "note",
            f"{best} stores {formats.count(parameters.inference)} parameters, {share} % of the dense network's "
            f"{formats.count(parameters.dense)}. As trained, with every factor, its compressed layers have "
            f"{formats.percent(parameters.removed)} % fewer weights.",
        )
    ]


def _front(trial: Trial) -> list[Finding]:
    said = statement(Fronts(trial), "parameters")
    return [Finding("note", said)] if said else []


def _conditioning(entries: Sequence[Entry]) -> list[Finding]:
    known = [(entry, found) for entry in entries if (found := conditioning(entry))]
    if not known:
        return [Finding("note", "No spectra were recorded, so nothing is said about conditioning.")]
    worst, theirs = max(known, key=lambda pair: pair[1].worst)
    text = f"The largest condition number of a layer is {formats.quantity(theirs.worst)}: {theirs.worst_layer} of {worst.name}."
    compressed = [(entry, found) for entry, found in known if found.factored_layers]
    if compressed:
        calm, ours = min(compressed, key=lambda pair: pair[1].factored_worst)
        text += f" No compressed layer of {calm.name} exceeds {formats.quantity(ours.factored_worst)}."
    return [Finding("note", text)]


def _remarks(entries: Sequence[Entry], trials: Sequence[Trial]) -> tuple[Finding, ...]:
    return (*_failures(trials), *_unresolved(trials), *_unfinished(entries), *_missing(entries, trials), *_one_seed(trials[0]))


def _failures(trials: Sequence[Trial]) -> list[Finding]:
    findings = []
    for trial in trials:
        statuses = {entry.name: {finding.status for finding in trial.results[entry.name].record.audit} for entry in trial.entries}
        failed = [name for name, found in statuses.items() if "fail" in found]
        warned = [name for name, found in statuses.items() if "warn" in found and "fail" not in found]
        if failed:
            text = f"The audit of {trial.title} failed for {_whom(trial, failed)}: do not quote these numbers."
            findings.append(Finding("warning", text))
        if warned:
            text = f"The audit of {trial.title} has warnings for {_whom(trial, warned)}: read them below."
            findings.append(Finding("warning", text))
    return findings


def _unresolved(trials: Sequence[Trial]) -> list[Finding]:
    return [
        Finding(
            "warning",
            f"The budget of {trial.title} ran out before {formats.count(trial.unresolved)} verdicts: these accuracies are ranges.",
        )
        for trial in trials
        if trial.unresolved
    ]


def _whom(trial: Trial, names: list[str]) -> str:
    return "every network" if len(names) == len(trial.entries) > 1 else formats.listing(names)


def _unfinished(entries: Sequence[Entry]) -> list[Finding]:
    names = [entry.name for entry in entries if entry.run.record.status != "complete"]
    return [Finding("warning", f"Training was not finished: {formats.listing(names)}.")] if names else []


def _missing(entries: Sequence[Entry], trials: Sequence[Trial]) -> list[Finding]:
    attacked = {entry.name for trial in trials for entry in trial.entries}
    names = [entry.name for entry in entries if entry.name not in attacked]
    findings = [Finding("warning", f"Not attacked: {formats.listing(names)}.")] if names else []
    if len(trials) > 1:
        others = formats.listing([trial.title for trial in trials[1:]])
        text = f"This summary speaks of {trials[0].title} alone; further below: {others}."
        findings.append(Finding("note", f"{text} Different suites or examples are never compared with each other."))
    return findings


def _one_seed(trial: Trial) -> list[Finding]:
    if len(trial.series) > 1 and len(trial.entries) == len(series_names(trial.entries)):
        text = (
            "One training run a method: the tests speak of these networks on examples like these, "
            "not of how a method varies from seed to seed."
        )
        return [Finding("note", text)]
    return []


def _is_dense(trial: Trial, series: str) -> bool:
    return any(entry.run.record.method == "dense" for entry in trial.entries if entry.series == series)
