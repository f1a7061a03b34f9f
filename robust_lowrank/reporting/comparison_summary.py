"""The summary of a comparison says which method is better, by how much, and how sure that is."""

from collections.abc import Sequence

from robust_lowrank import numbers
from robust_lowrank.errors import UserError
from robust_lowrank.reporting.comparing.beside import beside
from robust_lowrank.reporting.comparing.comparisons import ALPHA, AllTests, correction
from robust_lowrank.reporting.comparing.contrasts import Contrast, contrast
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.comparing.pareto import Fronts
from robust_lowrank.reporting.comparing.remarks import remarks, unfinished
from robust_lowrank.reporting.comparing.spectra import conditioning
from robust_lowrank.reporting.formats.statements import Statement, Summary
from robust_lowrank.reporting.sections.certificates import Certificates, statements
from robust_lowrank.reporting.sections.join import study
from robust_lowrank.statistics import detectable, examples_to_see

_POINT = 0.01


def summarise(evidence: Evidence) -> Summary:
    """Put the first evaluation's outcome at its headline eps into words."""
    entries, evaluations = evidence.entries, evidence.evaluations
    if not evaluations:
        return Summary(
            headline="None of these networks has been attacked: nothing is known about their robustness.",
            evidence="Attack them with 'rlr-eval attack RUN' and make the report again.",
            statements=(*unfinished(entries), *_conditioning(entries)),
        )
    evaluation = evaluations[0]
    eps = evaluation.headline_eps
    ranking = _ranking(evaluation, eps)
    if not ranking:
        return Summary(f"The evaluation with {evaluation.title} holds no worst-case accuracy.", "", remarks(entries, evaluations))
    best, *rest = ranking
    certified = [statement for section in Certificates.find(evidence) for statement in statements(section)]
    if not rest:
        return Summary(
            headline=f"{best} holds {_accuracy(evaluation, best, WORST, eps)} {_conditions(evaluation, eps)}.",
            evidence=f"n = {numbers.count(evaluation.examples)} examples. One method alone: there is nothing to compare it with.",
            statements=(*certified, *_conditioning(entries), *remarks(entries, evaluations)),
        )
    known = [name for name in rest if contrast(evidence.tests(evaluation), eps, best, name)] or rest
    rival = next((name for name in known if _is_dense(evaluation, name)), known[0])
    tests = evidence.tests(evaluation)
    tested = contrast(tests, eps, best, rival)
    front = Fronts(evaluation).describe("parameters")
    headline, certainty = _headline(evaluation, tests, best, rival), _evidence(evaluation, best, rival, tested)
    joined = study(evidence)
    asked = [] if joined is None else [Statement("supported" if tested and tested.better else "open", f"{headline} {certainty}")]
    return Summary(  # of so many methods what goes with robustness was asked, rather than which is best
        headline=headline if joined is None else joined.statement,
        evidence=certainty if joined is None else f"{joined.table.notes[0]}" if joined.table else "",
        statements=(
            *asked,
            *_others(evaluation, tests, ranking, rival),
            *_clean(evaluation, tests, best, rival),
            *_power(evaluation, (best, rival), tested),
            *certified,
            *_size(evaluation, best),
            *([Statement("note", front)] if front else []),
            *_conditioning(entries),
            *remarks(entries, evaluations),
        ),
    )


def _headline(evaluation: Evaluation, tests: AllTests, best: str, rival: str) -> str:
    eps = evaluation.headline_eps
    tested = contrast(tests, eps, best, rival)
    ours, theirs = (_accuracy(evaluation, name, WORST, eps) for name in (best, rival))
    conditions = _conditions(evaluation, eps)
    if tested is None or tested.better_somehow != best:
        return f"{best} and {rival} cannot be told apart: {ours} against {theirs} {conditions}."
    text = f"{best} holds {ours} {conditions}, {_gap(evaluation, best, rival, eps)} more than {rival} ({theirs})"
    text += _and(beside(evaluation, tests, eps, best, rival))
    return f"{text}." if tested.better else f"{text}: supported {tested.basis}."


def _ranking(evaluation: Evaluation, eps: float) -> list[str]:
    means = {name: mean.value for name in evaluation.series if (mean := evaluation.mean(name, WORST, eps))}
    return sorted(means, key=lambda name: means[name], reverse=True)


def _conditions(evaluation: Evaluation, eps: float) -> str:
    names = [evaluation.title_of(name) for name in evaluation.attacks_at(eps)]
    under = f"under {names[0]}" if len(names) == 1 else f"in the worst case over {numbers.listing(names)}"
    return f"{under} at {numbers.norm(evaluation.norm)} eps {numbers.budget(eps)}"


def _accuracy(evaluation: Evaluation, series: str, attack: str, eps: float = 0.0) -> str:
    mean, interval = evaluation.mean(series, attack, eps), evaluation.interval_of(series, attack, eps)
    if mean is None or interval is None:
        return "–"
    unresolved = f", {numbers.count(mean.unresolved)} unresolved" if mean.unresolved else ""
    seeds = f" on average over {mean.seeds} seeds" if mean.seeds > 1 else ""
    return f"{numbers.accuracy(mean.value, mean.most)} % {numbers.interval(interval.low, interval.high)}{seeds}{unresolved}"


def _gap(evaluation: Evaluation, one: str, other: str, eps: float) -> str:
    ours, theirs = (evaluation.mean(name, WORST if eps else CLEAN, eps) for name in (one, other))
    return numbers.gap(ours.value - theirs.most, ours.most - theirs.value) if ours and theirs else "–"


def _and(beside: str) -> str:
    return f", {beside}" if beside else ""


def _evidence(evaluation: Evaluation, best: str, rival: str, tested: Contrast | None) -> str:
    if tested is None:
        return "No paired test between the two was possible."
    gap = _gap(evaluation, best, rival, evaluation.headline_eps)
    test = f"paired exact McNemar test on the same {numbers.count(evaluation.examples)} examples, {_p(tested)}"
    if tested.over_seeds is None:
        supported, basis = tested.better == best, ""
    else:
        supported, basis = tested.better_somehow == best, f" {tested.basis}"
    if supported:
        text = f"The difference is statistically supported{basis}: {test}."
    elif basis:
        text = f"Their difference of {gap} is statistically supported{basis}: {test}."
    else:
        text = f"Their difference of {gap} is not statistically supported: {test}."
    repeated = any((mean := evaluation.mean(name, CLEAN)) and mean.seeds > 1 for name in (best, rival))
    return f"{text} Averages over seeds have 95 % t-intervals." if repeated else text


def _p(tested: Contrast) -> str:
    value = numbers.p_value(tested.p)
    joint = f"p {value}" if tested.pairs == 1 else f"largest p {value} of {tested.pairs} pairs of runs"
    seeds = tested.over_seeds
    over_seeds = f"; {seeds.title}, p {numbers.p_value(seeds.adjusted)}" if seeds else ""
    return f"{joint}{over_seeds} ({correction(tested.family)})"


def _others(evaluation: Evaluation, tests: AllTests, ranking: list[str], rival: str) -> list[Statement]:
    """Compare the others with the dense network, or the best where there is none; then say who equals the best."""
    eps, best = evaluation.headline_eps, ranking[0]
    reference = rival if _is_dense(evaluation, rival) else best
    others = [name for name in ranking if name not in (best, rival)]
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}  # what is said of a name and beside it
    for name in others:
        tested = contrast(tests, eps, name, reference)
        if tested is None:
            continue
        p = _p_of(tested)
        if tested.better_somehow is None:
            mean = evaluation.mean(name, WORST, eps)
            accuracy = numbers.accuracy(mean.value, mean.most) if mean else "–"
            groups.setdefault(("", ""), []).append((f"{name} ({accuracy} %, {p}", ""))
        else:
            key = "Better" if tested.better_somehow == name else "Worse", tested.basis if not tested.better else ""
            said = f"{name} ({_gap(evaluation, name, reference, eps)}, {p}"
            groups.setdefault(key, []).append((said, beside(evaluation, tests, eps, name, reference)))
    order = sorted(groups, key=lambda key: (key[0] == "", key[1] != "", key[0]))
    found = [_group(reference, *key, groups[key]) for key in order]
    equal = [
        f"{name} ({_p_of(tested)})"
        for name in (others if reference != best else ())
        if (tested := contrast(tests, eps, best, name)) and tested.better_somehow is None
    ]
    return [*found, *([Statement("open", f"Not distinguishable from {best}: {numbers.listing(equal)}.")] if equal else [])]


def _group(reference: str, direction: str, basis: str, members: list[tuple[str, str]]) -> Statement:
    """Say of several methods how they compare with one, and what else sets them apart once if it is the same for all."""
    if not direction:
        listed = numbers.listing([f"{said})" for said, _ in members])
        return Statement("open", f"Not distinguishable from {reference} on these examples: {listed}.")
    shared = members[0][1] if len(members) > 1 and len({also for _, also in members}) == 1 else ""
    listed = numbers.listing([f"{said})" if shared or not also else f"{said}, {also})" for said, also in members])
    text = f"{direction} than {reference}{f' {basis}' if basis else ''}{f', each {shared}' if shared else ''}: {listed}."
    return Statement("open" if basis else "supported", text)


def _p_of(tested: Contrast) -> str:
    seeds = f", over seeds p {numbers.p_value(tested.over_seeds.adjusted)}" if tested.over_seeds else ""
    return f"p {numbers.p_value(tested.p)}{seeds}"


def _clean(evaluation: Evaluation, tests: AllTests, best: str, rival: str) -> list[Statement]:
    tested = contrast(tests, 0.0, best, rival)
    if tested is None:
        return []
    ours, theirs = (_accuracy(evaluation, name, CLEAN) for name in (best, rival))
    text = f"On clean examples {best} reaches {ours} and {rival} {theirs}"
    better = tested.better_somehow
    if better is None:
        return [Statement("open", f"{text}; the tests cannot tell these apart: {_p(tested)}.")]
    basis = f", supported {tested.basis}" if tested.basis else ""
    also = _and(beside(evaluation, tests, 0.0, better, rival if better == best else best, "the other's"))
    text = f"{text}: {better} is better by {_gap(evaluation, best, rival, 0.0)}{also}{basis}; {_p(tested)}."
    return [Statement("supported" if tested.better else "open", text)]


def _power(evaluation: Evaluation, pair: tuple[str, str], tested: Contrast | None) -> list[Statement]:
    """Say which differences the evaluation's examples can show between networks that differ as often as this pair does.

    Counted at the strictest level of Holm's correction, so that it holds for every test of the report. A smaller difference may be
    supported all the same, for 80 % is not the least chance to find one: the power therefore comes first.
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
        f"With power 80 %, {examples} examples show differences from {numbers.points(smallest)} on, and 1 point takes {needed} "
        f"examples (p corrected, for two networks that disagree on {numbers.percent(tested.discordance)} % of the examples, "
        f"as {pair[0]} and {pair[1]} do)."
    )
    return [Statement("note", text)]


def _size(evaluation: Evaluation, best: str) -> list[Statement]:
    parameters = next(entry for entry in evaluation.entries if entry.series == best).run.record.parameters
    if not parameters.saved:
        return []
    text = (
        f"{best} stores {numbers.count(parameters.inference)} parameters for inference, "
        f"{numbers.percent(parameters.saved)} % fewer than the dense network's {numbers.count(parameters.dense)}."
    )
    return [Statement("note", text)]


def _conditioning(entries: Sequence[Entry]) -> list[Statement]:
    measured = [(entry, layers) for entry in entries if (layers := conditioning(entry))]
    if not measured:
        return [Statement("note", "No spectra were recorded, so nothing is said about conditioning.")]
    worst, theirs = max(measured, key=lambda pair: pair[1].worst)
    text = f"The largest condition number of a layer is {numbers.cond(theirs.worst)}: {theirs.worst_layer} of {worst.name}."
    compressed = [(entry, layers) for entry, layers in measured if layers.factored_layers]
    if compressed:
        calm, ours = min(compressed, key=lambda pair: pair[1].factored_worst)
        text += f" No compressed layer of {calm.name} exceeds {numbers.quantity(ours.factored_worst)}."
    return [Statement("note", text)]


def _is_dense(evaluation: Evaluation, series: str) -> bool:
    return any(entry.run.record.method == "dense" for entry in evaluation.entries if entry.series == series)
