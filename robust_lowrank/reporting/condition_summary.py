"""The condition-number report in words."""

import math
from collections.abc import Sequence

import pandas as pd

from robust_lowrank.reporting.comparing import spectra
from robust_lowrank.reporting.comparing.entries import Entry
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.formats.statements import Statement, Summary
from robust_lowrank.reporting.sections import operator_norms

ILL_CONDITIONED = 1e4
NOT_ORTHONORMAL = 1e-4


def summarise(entries: Sequence[Entry]) -> Summary:
    """Say what the spectra show: the worst layer first, then each run's course and its warnings."""
    worst = spectra.table(entries).iloc[0]
    of_run = f" of {worst['run']}" if len(entries) > 1 else ""
    headline = f"The worst-conditioned layer is {worst['layer']}{of_run}: condition number {numbers.quantity(worst['cond'])}."
    return Summary(
        headline=headline,
        evidence=_meaning(worst),
        statements=tuple(statement for entry in entries for statement in _run(entry)),
    )


def _meaning(worst: pd.Series) -> str:
    if worst["sigma_min"] == 0:
        return f"Its smallest singular value is zero: of {worst['rank']} directions it maps one or more to nothing."
    return (
        f"It stretches one direction by {numbers.quantity(worst['sigma_max'])} and another by only "
        f"{numbers.quantity(worst['sigma_min'])}; a perfectly conditioned layer stretches all {worst['rank']} alike."
    )


def _run(entry: Entry) -> list[Statement]:
    layers = spectra.final(entry)
    conditioning = spectra.conditioning(entry)
    if conditioning is None:
        return [Statement("note", f"{entry.name}: no spectra were recorded.")]
    worst = f"{numbers.quantity(conditioning.worst)} ({conditioning.worst_layer})"
    text = f"{entry.name}: largest condition number {worst}, {_course(entry)}"
    if conditioning.factored_layers and conditioning.factored_layers < conditioning.layers:
        text += f"; {numbers.quantity(conditioning.factored_worst)} over its {conditioning.factored_layers} compressed layers"
    statements = [Statement("note", text + ".")]
    ill = layers.loc[layers["cond"] > ILL_CONDITIONED, "layer"]
    if len(ill):
        text = f"{entry.name}: condition number above {numbers.quantity(ILL_CONDITIONED)} in {numbers.listing(list(ill))}."
        statements.append(Statement("warning", text))
    loose = layers.loc[layers["orthonormality"] > NOT_ORTHONORMAL]
    if len(loose):
        defect = numbers.quantity(float(loose["orthonormality"].max()))
        text = (
            f"{entry.name}: the bases of {numbers.listing(list(loose['layer']))} are not orthonormal (defect up to {defect}), "
            "so the core's singular values may not be the weight's."
        )
        statements.append(Statement("warning", text))
    return statements + operator_norms.statements(entry)


def _course(entry: Entry) -> str:
    worst = entry.run.spectra.groupby("epoch")["cond"].max()
    first, last = float(worst.iloc[0]), float(worst.iloc[-1])
    if len(worst) == 1:
        return f"epoch {worst.index[0]} alone recorded" if entry.run.record.epochs_done else spectra.moment([entry])
    epochs = f"epoch {worst.index[0]} to {worst.index[-1]}"
    peak = "" if worst.max() <= 1.05 * max(first, last) else f", {numbers.quantity(worst.max())} after epoch {worst.idxmax()}"
    if math.isclose(first, last, rel_tol=0.05):
        return f"{'steady' if not peak else 'the same'} from {epochs}{peak}"
    return f"{'up' if last > first else 'down'} from {numbers.quantity(first)} ({epochs}{peak})"
