"""The section on conditioning and robustness asks whether better-conditioned networks hold more."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import altair as alt
import numpy as np
import pandas as pd

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.comparing.evaluations import WORST, Evaluation
from robust_lowrank.reporting.comparing.evidence import Evidence
from robust_lowrank.reporting.formats import encodings
from robust_lowrank.reporting.formats.figures import Figure, Panel
from robust_lowrank.reporting.formats.tables import Cell, Table, numeric, words
from robust_lowrank.reporting.sections.section import EvaluationSection
from robust_lowrank.statistics import LEAST_PAIRS, RankCorrelation, holm, rank_correlation

QUANTITIES = {"cond": "Condition number", "sigma_max": "σ max", "rank": "Rank"}
OUTCOMES = {"robust": "Robust accuracy", "margin": "Median margin", "distance": "Median minimal distance"}
_WORST, _OPERATOR, _PRODUCT = "all layers: worst", "all layers: worst as operators", "all layers: product"
_SAME_SIZE = 0.05  # relative difference in parameters up to which networks count as of one size
_LAYERS = 12  # in the table, those with the largest condition numbers
_CAVEAT = (
    "A correlation over a handful of networks, which differ in method, rank and size at once: it says what goes together here, "
    "not what causes what."
)


@dataclass(frozen=True)
class Relation:
    """A quantity of a layer, or of all of them, against an outcome over the runs."""

    layer: str
    quantity: str
    outcome: str
    correlation: RankCorrelation
    adjusted: float  # Holm-corrected p over all relations of the table


@dataclass(frozen=True)
class Join(EvaluationSection):
    """The conditioning and the robustness of an evaluation's runs.

    `networks` has a row a run: series, run, worst and product (of condition numbers), operator (the worst of layers as operators on
    images, NaN where they were not recorded), size (parameters), robust with low and high, margin, distance.
    `margin` is the median over the examples of the smallest margin that the attacks at the headline eps left; `distance` the median
    of the smallest perturbation known to break an example, NaN unless an attack looked for the nearest input. `layers` has a row a
    run and layer: run, layer, cond, sigma_max, rank.
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
        """Join the runs of an evaluation, or None where fewer than two of them have spectra and a worst-case accuracy.

        Distances come from the first of `evaluations` in this norm that all runs were put to, with an attack that looks for the
        nearest input.
        """
        rows, layers = [], []
        names = {entry.name for entry in evaluation.entries}
        nearest = next((e for e in evaluations if e.norm == evaluation.norm and names <= set(e.results) and _seeking(e)), None)
        for entry in evaluation.entries:
            conditioning = spectra.conditioning(entry)
            accuracy = evaluation.accuracy(entry, WORST, evaluation.headline_eps)
            if conditioning is None or accuracy is None:
                continue
            rows.append(
                {
                    "series": entry.series,
                    "run": entry.name,
                    "worst": conditioning.worst,
                    "product": conditioning.product,
                    "operator": spectra.worst_operator(entry),
                    "size": entry.run.record.parameters.inference,
                    "robust": accuracy.value,
                    "low": accuracy.low,
                    "high": accuracy.high,
                    "margin": _median_margin(evaluation, entry),
                    "distance": _median_distance(nearest, entry) if nearest else math.nan,
                }
            )
            layers.append(spectra.final(entry)[["layer", *QUANTITIES]].assign(run=entry.name))
        return cls(evaluation, pd.DataFrame(rows), pd.concat(layers, ignore_index=True)) if len(rows) > 1 else None

    @cached_property
    def relations(self) -> list[Relation]:
        """The rank correlations over the runs, of the layers that all of them have and of all layers together."""
        networks = self.networks.set_index("run")
        overall = {_WORST: "worst", _OPERATOR: "operator", _PRODUCT: "product"}
        predictors = [(title, "cond", networks[field]) for title, field in overall.items() if networks[field].notna().all()]
        for layer in _common_layers(self):
            part = self.layers[self.layers["layer"] == layer].set_index("run").reindex(networks.index)
            predictors += [(layer, quantity, part[quantity]) for quantity in QUANTITIES]
        correlated = [
            (layer, quantity, outcome, correlation)
            for layer, quantity, values in predictors
            for outcome in OUTCOMES
            if (correlation := rank_correlation(values.to_numpy(dtype=float), networks[outcome].to_numpy(dtype=float)))
        ]
        adjusted = holm([correlation.p for *_, correlation in correlated])
        return [Relation(*parts, p) for parts, p in zip(correlated, adjusted, strict=True)]

    @property
    def statement(self) -> str:
        """Say whether robust accuracy and the worst condition number are correlated."""
        count = len(self.networks)
        if count < LEAST_PAIRS:
            return f"Too few networks for a correlation: n = {count}, and it takes {LEAST_PAIRS}."
        main = next((r for r in self.relations if (r.layer, r.outcome) == (_WORST, "robust")), None)
        if main is None:
            return "Robust accuracy or the largest condition number is the same for every network: there is nothing to correlate."
        rho, tau, p = main.correlation.spearman, main.correlation.kendall, numbers.p_value(main.correlation.p)
        coefficients = f"Spearman's ρ {numbers.coefficient(rho)}, Kendall's τ {numbers.coefficient(tau)}"
        if main.correlation.p >= 0.05:
            relation = "no relation of robust accuracy and the largest condition number shows"
            return f"Over {count} networks {relation}: {coefficients}, p {p}.{self._at_equal_size()}"
        direction = "lower" if rho.value < 0 else "higher"
        relation = f"robust accuracy tends to be {direction} where the largest condition number is higher"
        return f"Over {count} networks, {relation}: {coefficients}; p {p} for this pair alone.{self._at_equal_size()}"

    def _at_equal_size(self) -> str:
        """Say the same of the largest group of networks whose sizes are within 5 %, if that is not all of them."""
        alike = same_size(self.networks["size"].to_numpy(dtype=float))
        if len(alike) == len(self.networks):
            return ""
        count = f"{numbers.times(len(alike), 'network')} of one size (within 5 %)"
        part = self.networks.iloc[alike]
        found = None
        if len(alike) >= LEAST_PAIRS:
            found = rank_correlation(part["worst"].to_numpy(dtype=float), part["robust"].to_numpy(dtype=float))
        if found is None:
            return f" At equal size nothing can be said: {count}."
        return f" Among the {count}: ρ {numbers.coefficient(found.spearman)}, p {numbers.p_value(found.p)}."

    @cached_property
    def figure(self) -> Figure | None:
        """Robust accuracy against the largest condition number and against the product, a point a run."""
        evaluation, eps = self.evaluation, numbers.budget(self.evaluation.headline_eps)
        names = [name for name in evaluation.series if name in set(self.networks["series"])]
        titles = {
            "worst": "Worst layer as a matrix",
            "operator": "Worst layer as an operator",
            "product": "Product over the matrices",
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
            f"of a layer and the product over all layers, a point a run, for {numbers.listing(names)}.",
            caption=f"Worst-case accuracy at {evaluation.threat} with {evaluation.interval} "
            f"intervals, a point a run; condition numbers on a logarithmic scale. {self._what_is_bounded()}{_CAVEAT}",
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
        outcomes = [outcome for outcome in OUTCOMES if any(relation.outcome == outcome for relation in relations)]
        cells = {(relation.layer, relation.quantity, relation.outcome): _cell(relation) for relation in relations}
        rows = list(dict.fromkeys((relation.layer, relation.quantity) for relation in relations))
        total = self.layers["layer"].nunique()
        layers = {layer for layer, _ in rows} - {_WORST, _OPERATOR, _PRODUCT}
        return Table(
            name=f"conditioning-robustness-{self.evaluation.slug}",
            caption=f"Rank correlations over {len(self.networks)} networks: Spearman's ρ with 95 % bootstrap intervals over them, "
            "Kendall's τ and its p below.",
            columns=(*words("Layer", "Quantity"), *numeric(*(OUTCOMES[outcome] for outcome in outcomes), group="ρ with")),
            rows=tuple(
                (Cell(layer), Cell(QUANTITIES[key]), *(cells.get((layer, key, outcome), Cell("–")) for outcome in outcomes))
                for layer, key in rows
            ),
            notes=(
                _CAVEAT,
                f"★: p below 5 % after Holm's correction over all {len(relations)} of the table. "
                "The interval of networks in perfect order has no width; that is a weakness of the bootstrap, not certainty.",
                f"Robust accuracy and margin: worst case at {self.evaluation.threat}; margin: of the "
                "right logit over the largest other one. A distance is known only where an attack looked for the nearest one.",
                *((f"The {len(layers)} layers with the largest condition numbers of {total}.",) if len(layers) < total else ()),
            ),
        )


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
    return Cell(
        numbers.coefficient(correlation.spearman),
        f"τ {numbers.decimal(correlation.kendall.value)}, p {numbers.p_value(correlation.p).removeprefix('= ')}",
        leads=relation.adjusted < 0.05,
        value=correlation.spearman.value,
    )


def _scatter(frame: pd.DataFrame, field: str, title: str, names: list[str]) -> alt.LayerChart:
    base = alt.Chart(frame[["series", "run", field, "robust", "low", "high"]].reset_index(drop=True)).encode(
        x=alt.X(
            f"{field}:Q",
            title="Condition number (log scale)" if field != "product" else "Product (log scale)",
            scale=alt.Scale(type="log", padding=14),
            axis=encodings.log_axis(frame[field]),
        ),
        color=encodings.color(names),
        tooltip=[
            *encodings.tooltips(run="Run"),
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
    common = [str(layer) for layer, part in grouped if part["run"].nunique() == len(join.networks)]
    worst = grouped["cond"].max()
    chosen = sorted(common, key=lambda layer: -worst[layer])[:_LAYERS]
    return [layer for layer in dict.fromkeys(join.layers["layer"]) if layer in chosen]


def same_size(sizes: np.ndarray) -> list[int]:
    """Return the places of the largest group of sizes that differ by 5 % at most, of several the one of the smallest.

    Example:
        >>> same_size(np.array([100.0, 50.0, 51.0, 98.0, 52.0]))
        [1, 2, 4]
    """
    groups = [np.flatnonzero((sizes >= size) & (sizes <= size * (1 + _SAME_SIZE))).tolist() for size in np.sort(sizes)]
    return max(groups, key=len, default=[])


def _seeking(evaluation: Evaluation) -> list[str]:
    records = [result.record for result in evaluation.results.values()]
    return [attack for attack in evaluation.attacks if any(record.seeks_nearest(attack) for record in records)]
