"""What the examples of a comparison can show at all, and how many more it would take."""

from robust_lowrank.errors import UserError
from robust_lowrank.reporting.comparing.comparisons import ALPHA, Contrast
from robust_lowrank.reporting.comparing.evaluations import Evaluation
from robust_lowrank.reporting.formats import numbers
from robust_lowrank.reporting.formats.statements import Statement
from robust_lowrank.statistics import detectable, examples_to_see

_POINT = 0.01


def power(evaluation: Evaluation, pair: tuple[str, str], tested: Contrast | None) -> tuple[Statement, ...]:
    """Put into words which differences the evaluation's examples can show between networks that differ as often as this pair does.

    Counted at the strictest level of Holm's correction, so that it holds for every comparison of the budget.
    """
    if tested is None:
        return ()
    examples, alpha = numbers.count(evaluation.examples), ALPHA / tested.family
    try:
        smallest = detectable(evaluation.examples, discordance=tested.discordance, alpha=alpha)
    except UserError:
        return (Statement("note", f"{examples} examples are too few to show any difference, however large."),)
    needed = numbers.count(examples_to_see(_POINT, discordance=tested.discordance, alpha=alpha))
    text = (
        f"{examples} examples can show differences from {numbers.points(smallest)} on; to see 1 point you need {needed} examples "
        f"(power 80 %, p corrected, for networks that disagree on {numbers.percent(tested.discordance)} % of the examples, "
        f"as {pair[0]} and {pair[1]} do)."
    )
    return (Statement("note", text),)
