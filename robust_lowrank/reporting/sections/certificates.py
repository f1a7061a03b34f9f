"""The section on certificates shows proved lower bounds and attacks' upper bounds on one curve."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import altair as alt

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.brackets import Bracket, find_brackets, of_networks, spoken_eps
from robust_lowrank.reporting.comparing.comparisons import Comparison, correction
from robust_lowrank.reporting.comparing.entries import CROWD
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.statements import Statement
from robust_lowrank.reporting.formats.tables import Cell, Column, Table, quantity_cell
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import clopper_pearson

_SMOOTHED = (
    " A smoothing certificate speaks of the smoothed network, which is another classifier than the attacked one: "
    "it is no lower bound of the attacked network's accuracy."
)


@dataclass(frozen=True)
class Certificates(EvaluationSection):
    """The proved accuracies of an evaluation's runs, beside what its attacks left."""

    brackets: tuple[Bracket, ...]
    slug: str
    tests: tuple[Comparison, ...] = ()
    report = "comparison"
    place = 70
    heading = "Proved and attacked"

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation, tests: tuple[Comparison, ...] = ()) -> Self | None:
        """Return what is proved of an evaluation's runs, or None where none has certificates of the attacked examples."""
        brackets = find_brackets(evaluation)
        return cls(evaluation, brackets, f"certified-{evaluation.slug}", tests) if brackets else None

    @classmethod
    def find(cls, evidence: Evidence) -> list[Self]:
        """Return what is proved of every evaluation in L2."""
        found = (cls.from_evaluation(evaluation, evidence.tests(evaluation).proved) for evaluation in evidence.evaluations)
        return [section for section in found if section]

    @property
    def proved(self) -> tuple[Bracket, ...]:
        """The brackets that are true bounds."""
        return tuple(bracket for bracket in self.brackets if bracket.bounds)

    @property
    def statement(self) -> str:
        """Say between which bounds each network's accuracy lies at the eps that the summary speaks of."""
        eps = self.evaluation.headline_eps
        parts = []
        for bracket in self.proved:
            least, most = (numbers.percent(value) for value in bracket.between(eps))
            parts.append(f"{bracket.entry.name} between {least} and {most} %")
        return f"True accuracy at L2 eps {numbers.budget(eps)}: {'; '.join(parts)}." if parts else ""

    @cached_property
    def table(self) -> Table | None:
        """Lipschitz bound and, at every eps, the bounds of the accuracy, a row a run; none where nothing is proved."""
        evaluation = self.evaluation
        rows = tuple(
            (
                Cell(bracket.entry.name, f"n = {numbers.count(bracket.examples)}", series=bracket.entry.series),
                quantity_cell(math.nan if bracket.certificate.record.bound is None else bracket.certificate.record.bound),
                *(_bounds_cell(bracket, eps) for eps in evaluation.eps),
            )
            for bracket in self.proved
        )
        if not rows:
            return None
        return Table(
            name=self.slug,
            caption=f"Proved and attacked, {evaluation.title}: the accuracy on these examples is not lower than the first number "
            "and not higher than the second.",
            columns=(
                Column("Method", numeric=False),
                Column("Lipschitz bound"),
                *(Column(numbers.budget(eps), "Accuracy, %, at L2 eps") for eps in evaluation.eps),
            ),
            rows=rows,
            notes=(
                "Below: 95 % limits of the accuracy on examples like these, from the lower Clopper–Pearson limit of what is proved "
                f"to the upper one of what {evaluation.coverage} left.",
            ),
        )

    @cached_property
    def figure(self) -> Figure | None:
        """Certified lower bound and attack's upper bound against the radius, a panel a run and certificate; none of a crowd."""
        evaluation, brackets = self.evaluation, self.brackets
        if len(brackets) > CROWD:
            return None
        names = list(dict.fromkeys(bracket.entry.series for bracket in brackets))
        smoothed = any(not bracket.bounds for bracket in brackets)
        counts = {bracket.examples for bracket in brackets}
        examples = f"n = {numbers.count(brackets[0].examples)} examples" if len(counts) == 1 else "The examples that were"
        several = len({bracket.certificate.record.name for bracket in brackets}) > 1
        return Figure(
            name=self.slug,
            title="Proved and attacked: between which bounds the accuracy lies",
            description=f"Certified accuracy and accuracy under {evaluation.coverage} against the L2 radius "
            f"for {numbers.listing(names)}. {self.statement}",
            caption=f"{examples} certified and attacked. Solid: proved, the true accuracy is not lower. "
            f"Dashed: what {evaluation.coverage} left, the true accuracy is not higher. It lies in the tinted area between."
            + (_SMOOTHED if smoothed else ""),
            series=tuple(names),
            panels=tuple(
                Panel(_panel(bracket, names, max(evaluation.eps)), _panel_title(bracket, several=several, counted=len(counts) > 1))
                for bracket in brackets
            ),
            height=200,
        )


def statements(certificates: Certificates) -> list[Statement]:
    """Say of whom most is proved, beside the dense network or else the next.

    The eps is the one that the summary speaks of, or the largest below it at which anything is proved.
    """
    evaluation, proved = certificates.evaluation, of_networks(certificates.brackets)
    if not proved:
        return []
    eps = spoken_eps(evaluation, certificates.brackets)
    if eps is None:
        smallest = numbers.budget(evaluation.eps[0])
        return [Statement("note", f"Nothing is proved at L2 eps {smallest}: the Lipschitz bounds are too large.")]
    ranked = sorted(proved, key=lambda name: proved[name].between(eps)[0], reverse=True)
    best, *rest = ranked
    most = f"{best} is right on {_proved(proved[best], eps)} of {numbers.count(proved[best].examples)} examples whatever the attack"
    text = f"Proved at L2 eps {numbers.budget(eps)}: {most}"
    rival = next((name for name in rest if proved[name].entry.run.record.method == "dense"), rest[0] if rest else None)
    if rival is None:
        return [Statement("note", f"{text}.")]
    tested = next((test for test in certificates.tests if {test.first.name, test.second.name} == {best, rival}), None)
    text += f", {rival} on {_proved(proved[rival], eps)}"
    if tested is None:
        return [Statement("note", f"{text}; they were not certified on the same examples.")]
    test = f"(exact McNemar, p {numbers.p_value(tested.adjusted)}, {correction(tested.family)})"
    if tested.supported:
        return [Statement("supported", f"{text} {test}.")]
    return [Statement("open", f"{text}; the test cannot tell these apart {test}.")]


def _panel_title(bracket: Bracket, *, several: bool, counted: bool) -> str:
    record, parts = bracket.certificate.record, [bracket.entry.name]
    if not bracket.bounds:
        sigma, n, alpha = (record.parameters[name] for name in ("sigma", "n", "alpha"))
        parts.append(f"smoothed network, σ = {sigma:g}, {numbers.count(int(n))} samples, α = {alpha:g}")
    elif several:
        parts.append("certified")
    if counted:
        parts.append(f"n = {numbers.count(bracket.examples)}")
    return ", ".join(parts)


def _panel(bracket: Bracket, names: list[str], widest: float) -> alt.LayerChart:
    curve = bracket.curve.assign(series=bracket.entry.series)
    base = alt.Chart(curve[curve["radius"] <= widest].reset_index(drop=True)).encode(
        x=alt.X("radius:Q", title="L2 radius", axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(domain=[0, widest])),
        color=encodings.color(names),
        tooltip=[
            *encodings.tooltips(series="Method"),
            *encodings.tooltips(".3~g", radius="Radius"),
            *encodings.tooltips(".1%", certified="Certified", attacked="Under attack"),
        ],
    )
    y = alt.Y("certified:Q", title="Accuracy", axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1]))
    lines = [
        base.mark_line(interpolate="step-after", strokeWidth=2).encode(y=y),
        base.mark_line(interpolate="step-after", strokeWidth=2, strokeDash=[5, 3]).encode(y="attacked:Q"),
    ]
    if bracket.bounds:
        lines.insert(0, base.mark_area(opacity=0.12, interpolate="step-after").encode(y=y, y2="attacked:Q"))
    return alt.LayerChart(layer=lines)


def _proved(bracket: Bracket, eps: float) -> str:
    share = clopper_pearson(int(bracket.held(eps).sum()), bracket.examples)
    return f"{numbers.percent(share.value)} % {numbers.interval(share.low, share.high)}"


def _bounds_cell(bracket: Bracket, eps: float) -> Cell:
    least, most = bracket.between(eps)
    low = clopper_pearson(round(least * bracket.examples), bracket.examples).low
    high = clopper_pearson(round(most * bracket.examples), bracket.examples).high
    return Cell(f"{numbers.percent(least)} to {numbers.percent(most)}", numbers.interval(low, high), value=least)
