"""What the examples of a comparison can show at all, and how many more it would take."""

from robust_lowrank.errors import UserError
from robust_lowrank.reporting import formats
from robust_lowrank.reporting.comparisons import ALPHA, Contrast
from robust_lowrank.reporting.findings import Finding
from robust_lowrank.reporting.trials import Trial
from robust_lowrank.statistics import detectable, examples_to_see

_POINT = 0.01


def power(trial: Trial, pair: tuple[str, str], tested: Contrast | None) -> tuple[Finding, ...]:
    """Put into words which differences the trial's examples can show between networks that differ as often as this pair does.

    Counted at the strictest level of Holm's correction, so that it holds for every comparison of the budget.
    """
    if tested is None:
        return ()
    examples, alpha = formats.count(trial.examples), ALPHA / tested.family
    try:
        smallest = detectable(trial.examples, discordance=tested.discordance, alpha=alpha)
    except UserError:
        return (Finding("note", f"{examples} examples are too few to show any difference, however large."),)
    needed = formats.count(examples_to_see(_POINT, discordance=tested.discordance, alpha=alpha))
    text = (
        f"{examples} examples can show differences from {formats.points(smallest)} on; to see 1 point you need {needed} examples "
        f"(power 80 %, p corrected, for networks that disagree on {formats.percent(tested.discordance)} % of the examples, "
        f"as {pair[0]} and {pair[1]} do)."
    )
    return (Finding("note", text),)
