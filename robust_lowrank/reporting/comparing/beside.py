"""Beside every difference in robustness stands what else sets two networks apart: sizes, and clean accuracy."""

from robust_lowrank import numbers
from robust_lowrank.reporting.comparing.comparisons import AllTests, Comparison
from robust_lowrank.reporting.comparing.contrasts import contrast
from robust_lowrank.reporting.comparing.evaluations import CLEAN, Evaluation

_ALIKE = 0.05  # sizes within so much of each other are not worth a word


def beside(evaluation: Evaluation, tests: AllTests, eps: float, one: str, other: str, whose: str = "its") -> str:
    """Return how else one series differs from the other, as `with 28.0 % of its parameters and 3.1 points less clean accuracy`.

    Empty where their sizes are alike and no test supports that their clean accuracies differ. At `eps` 0, where clean accuracy is
    what was compared, it speaks of sizes alone.
    """
    clean = contrast(tests, 0.0, one, other) if eps else None
    ours, theirs = evaluation.mean(one, CLEAN), evaluation.mean(other, CLEAN)
    gap = ours.value - theirs.value if ours and theirs and clean and clean.better_somehow else 0.0
    return _worded(evaluation.parameters(one), evaluation.parameters(other), gap, whose)


def beside_runs(tests: AllTests, compared: Comparison) -> str:
    """Return how else the better one of two runs differs from the other, as `beside`; empty where neither is better."""
    if compared.better is None:
        return ""
    one, other = compared.first, compared.second
    clean = next((test for test in tests.at(0.0) if (test.first, test.second) == (one, other)), None) if compared.eps else None
    gap = clean.difference.value if clean and clean.supported else 0.0
    first, second = (entry.run.record.parameters.inference for entry in (one, other))
    whose = "the other's"
    return _worded(first, second, gap, whose) if compared.better is one else _worded(second, first, -gap, whose)


def _worded(ours: float | None, theirs: float | None, clean: float, whose: str) -> str:
    parts = []
    if ours and theirs and abs(ours / theirs - 1) > _ALIKE:
        ratio = ours / theirs
        parts.append(f"{f'{ratio:.1f} times' if ratio >= 2 else f'{numbers.percent(ratio)} % of'} {whose} parameters")
    if clean:
        parts.append(f"{numbers.points(clean)} {'more' if clean > 0 else 'less'} clean accuracy")
    return f"with {numbers.listing(parts)}" if parts else ""
