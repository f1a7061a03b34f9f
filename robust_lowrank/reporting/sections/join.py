"""The section on conditioning and robustness asks whether better-conditioned networks hold more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import altair as alt
import numpy as np
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.comparisons import MANY
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import CLEAN, WORST, Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.tables import Cell, Table, numeric, words
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import (
    LEAST_PAIRS,
    PartialCorrelation,
    RankCorrelation,
    holm,
    partial_rank_correlation,
    rank_correlation,
)

QUANTITIES = {"cond": "Condition number", "sigma_max": "σ max", "rank": "Rank"}  # of a layer
OVERALL = {  # of a network: the field of `Join.networks`, with the titles of its row
    "worst": ("all layers: worst", "Condition number"),
    "operator": ("all layers: worst as operators", "Condition number"),
    "product": ("all layers: product", "Condition number"),
    "norms": ("all layers: product as operators", "Norm"),
    "clean_margin": ("network", "Median margin on clean inputs"),
    "radius": ("network", "Median proved radius"),
}
OUTCOMES = {"robust": "Robust accuracy", "margin": "Median margin", "distance": "Median minimal distance"}
_GIVEN = ("clean", "size")
_GEOMETRIC = ("worst", "product", "operator", "norms")
_SUPPORTED = 0.05
_LAYERS = 12  # in the table, those with the largest condition numbers
_CAVEAT = (
    "A correlation over a handful of networks, which differ in method, rank and size at once: it says what goes together here, "
    "not what causes what."
)
_EQUAL = "At equal clean accuracy and size: of ranks, less what the ranks of clean accuracy and of parameters explain."


@dataclass(frozen=True)
class Relation:
    """A quantity of a layer, or of all of them, against an outcome over the methods."""

    layer: str
    quantity: str
    outcome: str
    correlation: RankCorrelation | PartialCorrelation
    equal: bool  # among networks of equal clean accuracy and size
    adjusted: float = math.nan  # Holm-corrected p over all relations of the table


@dataclass(frozen=True)
class Join(EvaluationSection):
    """The conditioning and the robustness of an evaluation's methods, each the mean over its seeds: these are not independent.

    `networks` has a row a method: series; worst and product (of condition numbers), operator (the worst of layers as operators on
    images) and norms (the product of the proved bounds of their norms), NaN where they were not recorded; clean_margin and radius
    (medians over the examples of a certificate, NaN without one); size (parameters), clean (accuracy), robust with low and high,
    margin, distance. Means of condition numbers, norms and ranks are geometric. `margin` is the median over the examples of the
    smallest margin that the attacks at the headline eps left; `distance` the median of the smallest perturbation known to break an
    example, NaN unless an attack looked for the nearest input. `layers` has a row a method and layer: series, layer, QUANTITIES.
    """

    networks: pd.DataFrame
    layers: pd.DataFrame
    report = "comparison"
    place = 15
    slug = "join"
    heading = "Conditioning and robustness"

    @classmethod
    def find(cls, evidence: Evidence) -> list[Self]:
        """Return the first evaluation that can be joined."""
        evaluations = evidence.evaluations
        return next(([joined] for evaluation in evaluations if (joined := cls.join(evaluation, evaluations))), [])

    @classmethod
    def join(cls, evaluation: Evaluation, evaluations: Sequence[Evaluation]) -> Self | None:
        """Join the methods of an evaluation, or None where fewer than two of them have spectra and a worst-case accuracy.

        Distances come from the first of `evaluations` in this norm that all runs were put to, with an attack that looks for the
        nearest input.
        """
        names = {entry.name for entry in evaluation.entries}
        nearest = next((e for e in evaluations if e.norm == evaluation.norm and names <= set(e.results) and _seeking(e)), None)
        rows, layers = [], []
        for series in evaluation.series:
            entries = [entry for entry in evaluation.entries if entry.series == series and len(entry.run.spectra)]
            interval = evaluation.interval_of(series, WORST, evaluation.headline_eps)
            clean = evaluation.mean(series, CLEAN)
            if not entries or interval is None or clean is None:
                continue
            seeds = pd.DataFrame([_measure(entry, evaluation, nearest) for entry in entries])
            row = seeds.drop(columns=[*_GEOMETRIC]).mean(skipna=False)
            accuracy = {"clean": clean.value, "robust": interval.value, "low": interval.low, "high": interval.high}
            rows.append({"series": series, **row, **_geometric_mean(seeds[[*_GEOMETRIC]]), **accuracy})
            of_seeds = pd.concat([spectra.final(entry)[["layer", *QUANTITIES]] for entry in entries])
            means = of_seeds.groupby("layer", sort=False)[list(QUANTITIES)].apply(_geometric_mean)
            layers.append(means.reset_index().assign(series=series))
        return cls(evaluation, pd.DataFrame(rows), pd.concat(layers, ignore_index=True)) if len(rows) > 1 else None

    @cached_property
    def relations(self) -> list[Relation]:
        """The rank correlations over the methods: of all layers together, at equal clean accuracy and size too, and of each layer.

        Layers are those that all networks have.
        """
        networks = self.networks.set_index("series")
        given = [networks[field].to_numpy(dtype=float) for field in _GIVEN]
        predictors = [(*OVERALL[field], networks[field]) for field in OVERALL if networks[field].notna().all()]
        overall = len(predictors)
        for layer in _common_layers(self):
            part = self.layers[self.layers["layer"] == layer].set_index("series").reindex(networks.index)
            predictors += [(layer, title, part[quantity]) for quantity, title in QUANTITIES.items()]
        found = []
        for place, (layer, quantity, values) in enumerate(predictors):
            x = values.to_numpy(dtype=float)
            for outcome in OUTCOMES:
                y = networks[outcome].to_numpy(dtype=float)
                if (correlation := rank_correlation(x, y)) is not None:
                    found.append(Relation(layer, quantity, outcome, correlation, equal=False))
                if place < overall and (partial := partial_rank_correlation(x, y, given)) is not None:
                    found.append(Relation(layer, quantity, outcome, partial, equal=True))
        adjusted = holm([relation.correlation.p for relation in found])
        return [replace(relation, adjusted=p) for relation, p in zip(found, adjusted, strict=True)]

    @property
    def statement(self) -> str:
        """Say whether robust accuracy and the worst condition number are correlated."""
        count = len(self.networks)
        if count < LEAST_PAIRS:
            return f"Too few networks for a correlation: n = {count}, and it takes {LEAST_PAIRS}."
        main = self._main(equal=False)
        if main is None or not isinstance(main.correlation, RankCorrelation):
            return "Robust accuracy or the largest condition number is the same for every network: there is nothing to correlate."
        rho, tau, p = main.correlation.spearman, main.correlation.kendall, numbers.p_value(main.correlation.p)
        coefficients = f"Spearman's ρ {numbers.coefficient(rho)}, Kendall's τ {numbers.coefficient(tau)}"
        if main.correlation.p >= _SUPPORTED:
            relation = "no relation of robust accuracy and the largest condition number shows"
            return f"Over {self._points} {relation}: {coefficients}, p {p}.{self._at_equality()}{self._strongest()}"
        direction = "lower" if rho.value < 0 else "higher"
        relation = f"robust accuracy tends to be {direction} where the largest condition number is higher"
        return (
            f"Over {self._points}, {relation}: {coefficients}; p {p} for this pair alone.{self._at_equality()}{self._strongest()}"
        )

    @property
    def _points(self) -> str:
        count = len(self.networks)
        return f"{count} methods (means over their seeds)" if self.evaluation.repeated else f"{count} networks"

    def _main(self, *, equal: bool) -> Relation | None:
        key = (*OVERALL["worst"], "robust", equal)
        return next((r for r in self.relations if (r.layer, r.quantity, r.outcome, r.equal) == key), None)

    def _at_equality(self) -> str:
        """Say the same at equal clean accuracy and size."""
        main = self._main(equal=True)
        if main is None:
            return " At equal clean accuracy and size nothing can be said of so few."
        rho, p = numbers.coefficient(main.correlation.spearman), numbers.p_value(main.correlation.p)
        return f" At equal clean accuracy and size: ρ {rho}, p {p}."

    def _strongest(self) -> str:
        """Say which other quantity of the whole network goes with robust accuracy most, if one is supported after correction."""
        parts = []
        for equal in (False, True):
            known = [
                r
                for r in self.relations
                if (r.layer, r.quantity) in OVERALL.values() and r.outcome == "robust" and r.equal is equal
            ]
            most = max(known, key=lambda r: abs(r.correlation.spearman.value), default=None)
            if most is not None and most.adjusted < _SUPPORTED and (most.layer, most.quantity) != OVERALL["worst"]:
                said = f"{most.quantity.lower()} ({most.layer}), ρ {numbers.coefficient(most.correlation.spearman)}"
                parts.append(f"at equal clean accuracy and size {said}" if equal else said)
        return f" Most goes with it: {'; '.join(parts)}." if parts else ""

    @cached_property
    def figure(self) -> Figure | None:
        """Robust accuracy against the largest condition number and against the products, a point a method."""
        evaluation, eps = self.evaluation, numbers.budget(self.evaluation.headline_eps)
        spans = "95 % t-intervals over the seeds of each" if evaluation.repeated else f"{evaluation.interval} intervals"
        names = [name for name in evaluation.series if name in set(self.networks["series"])]
        titles = {
            "worst": "Worst layer as a matrix",
            "operator": "Worst layer as an operator",
            "product": "Product over the matrices",
            "norms": "Product of operator norms",
        }
        panels = [
            Panel(_scatter(frame, field, title, names), title)
            for field, title in titles.items()
            if len(frame := self.networks[np.isfinite(self.networks[field])]) > 1
        ]
        if not panels:
            return None
        return Figure(
            name=f"conditioning-robustness-{evaluation.slug}",
            title="Robustness against conditioning",
            description=f"Worst-case accuracy at eps {eps} against the largest condition number "
            f"of a layer and the products over all layers, a point a method, for {numbers.listing(names)}.",
            caption=f"Worst-case accuracy at {evaluation.threat} with {spans}, a point a method; logarithmic scales. "
            f"{self._what_is_bounded()}{_CAVEAT}",
            series=tuple(names),
            panels=tuple(panels),
            height=200,
        )

    def _what_is_bounded(self) -> str:
        """Say what a bound on condition numbers is about, where layers were recorded as operators too."""
        largest = self.networks["operator"].max()
        if not np.isfinite(largest):
            return ""
        return (
            "What methods bound is the matrix of filters; the same layer as an operator on whole images overlaps its windows, and "
            f"nothing bounds its condition number (here up to {numbers.quantity(largest)}). "
        )

    @cached_property
    def table(self) -> Table | None:
        """The rank correlations: a row a layer and quantity, a column an outcome; none where there are none."""
        relations = self.relations
        if not relations:
            return None
        columns = [
            (o, equal) for equal in (False, True) for o in OUTCOMES if any((r.outcome, r.equal) == (o, equal) for r in relations)
        ]
        cells = {(r.layer, r.quantity, r.outcome, r.equal): _cell(r) for r in relations}
        rows = list(dict.fromkeys((relation.layer, relation.quantity) for relation in relations))
        total = self.layers["layer"].nunique()
        layers = {layer for layer, _ in rows} - {layer for layer, _ in OVERALL.values()}
        plain, equal = ([OUTCOMES[outcome] for outcome, given in columns if given is wanted] for wanted in (False, True))
        return Table(
            name=f"conditioning-robustness-{self.evaluation.slug}",
            caption=f"Rank correlations over {self._points}: Spearman's ρ with 95 % bootstrap intervals over them; below, "
            "Kendall's τ and its p, at equal clean accuracy and size the p of a partial correlation.",
            columns=(
                *words("Layer", "Quantity"),
                *numeric(*plain, group="ρ with"),
                *numeric(*equal, group="ρ at equal clean accuracy and size"),
            ),
            rows=tuple(
                (Cell(layer), Cell(key), *(cells.get((layer, key, *of), Cell("–")) for of in columns)) for layer, key in rows
            ),
            notes=(
                _CAVEAT,
                f"★: p below 5 % after Holm's correction over all {len(relations)} of the table. "
                "The interval of networks in perfect order has no width; that is a weakness of the bootstrap, not certainty.",
                f"Robust accuracy and margin: worst case at {self.evaluation.threat}; margin: of the "
                "right logit over the largest other one. A distance is known only where an attack looked for the nearest one.",
                *((_EQUAL,) if equal else ()),
                *((f"The {len(layers)} layers with the largest condition numbers of {total}.",) if len(layers) < total else ()),
            ),
        )


def study(evidence: Evidence) -> Join | None:
    """Return what a report of many methods is about: what goes with robustness over them; None where few show their layers."""
    joined = next(iter(Join.find(evidence)), None)
    return joined if joined is not None and len(joined.networks) > MANY else None


def _measure(entry: Entry, evaluation: Evaluation, nearest: Evaluation | None) -> dict[str, float]:
    """Return what is measured of a run; see `Join`."""
    measured = spectra.conditioning(entry)
    margin, radius = _proved(entry)
    return {
        "worst": measured.worst if measured else math.nan,
        "product": measured.product if measured else math.nan,
        "operator": spectra.worst_operator(entry),
        "norms": spectra.norm_product(entry),
        "clean_margin": margin,
        "radius": radius,
        "size": float(entry.run.record.parameters.inference or math.nan),
        "margin": _median_margin(evaluation, entry),
        "distance": _median_distance(nearest, entry) if nearest else math.nan,
    }


def _geometric_mean(frame: pd.DataFrame) -> pd.Series:
    if len(frame) == 1:
        return frame.iloc[0]
    with np.errstate(divide="ignore"):
        return pd.Series(np.exp(np.log(frame.to_numpy(dtype=np.float64)).mean(axis=0)), index=frame.columns)


def _proved(entry: Entry) -> tuple[float, float]:
    """Return the median margin on the clean inputs of a run's Lipschitz certificate, and the median radius; NaN without one."""
    tables = [each.table for each in entry.run.certificates.values() if each.record.kind == "lipschitz"]
    return (float(tables[0]["margin"].median()), float(tables[0]["radius"].median())) if tables else (math.nan, math.nan)


def _median_margin(evaluation: Evaluation, entry: Entry) -> float:
    """Return the median over the examples of the smallest margin at the headline eps, in units of logits; NaN without any."""
    verdicts = evaluation.results[entry.name].verdicts
    here = verdicts[(verdicts["eps"] == evaluation.headline_eps) & verdicts["margin"].notna()]
    return float(here.groupby("example")["margin"].min().median()) if len(here) else math.nan


def _median_distance(evaluation: Evaluation, entry: Entry) -> float:
    """Return the median, over the examples that are right when clean, of the smallest distance at which one was broken.

    Infinite where more than half are never broken; NaN where no attack of the evaluation looks for the nearest input.
    """
    verdicts = evaluation.results[entry.name].verdicts
    tried = verdicts[verdicts["attack"].isin(_seeking(evaluation)) & (verdicts["verdict"] != "misclassified")]
    if tried.empty:
        return math.nan
    return float(np.median(tried.assign(distance=tried["distance"].fillna(np.inf)).groupby("example")["distance"].min()))


def _cell(relation: Relation) -> Cell:
    correlation = relation.correlation
    tau = f"τ {numbers.decimal(correlation.kendall.value)}, " if isinstance(correlation, RankCorrelation) else ""
    return Cell(
        numbers.coefficient(correlation.spearman),
        f"{tau}p {numbers.p_value(correlation.p).removeprefix('= ')}",
        leads=relation.adjusted < _SUPPORTED,
        value=correlation.spearman.value,
    )


def _scatter(frame: pd.DataFrame, field: str, title: str, names: list[str]) -> alt.LayerChart:
    base = alt.Chart(frame[["series", field, "robust", "low", "high"]].reset_index(drop=True)).encode(
        x=alt.X(
            f"{field}:Q",
            title="Condition number (log scale)" if field in ("worst", "operator") else "Product (log scale)",
            scale=alt.Scale(type="log", padding=14),
            axis=encodings.log_axis(frame[field]),
        ),
        color=encodings.color(names),
        tooltip=[
            *encodings.tooltips(series="Method"),
            *encodings.tooltips(".4~g", **{field: title}),
            *encodings.accuracy_tooltips("Robust accuracy", "robust"),
        ],
    )
    y = alt.Y("low:Q", title="Robust accuracy", axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=False, padding=10))
    return alt.LayerChart(
        layer=[
            base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(y=y, y2="high:Q"),
            base.mark_point(filled=True, size=80, opacity=1).encode(y="robust:Q", shape=encodings.shape(names)),
        ]
    )


def _common_layers(join: Join) -> list[str]:
    grouped = join.layers.groupby("layer")
    common = [str(layer) for layer, part in grouped if len(part) == len(join.networks)]
    worst = grouped["cond"].max()
    chosen = sorted(common, key=lambda layer: -worst[layer])[:_LAYERS]
    return [layer for layer in dict.fromkeys(join.layers["layer"]) if layer in chosen]


def _seeking(evaluation: Evaluation) -> list[str]:
    records = [result.record for result in evaluation.results.values()]
    return [attack for attack in evaluation.attacks if any(record.seeks_nearest(attack) for record in records)]
