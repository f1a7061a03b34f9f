"""What is asked of a network: a suite, with everything else that its verdicts can depend on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.suite import Suite, load_suite

BATCH = 256


class Question(NamedTuple):
    """A suite with its budgets settled, and how its verdicts are found."""

    suite: Suite
    seed: int = 0
    batch_size: int = BATCH
    gradients: bool = True  # False: the network has none, and only attacks that need none are run
    first: int = 0  # the number of the first example, where these are a part of a larger set


def ask(
    suite: str | Path | Suite,
    *,
    eps: float | str | Sequence[float | str] | None = None,
    norm: str | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
    gradients: bool = True,
    first: int = 0,
) -> Question:
    """Return a question with its suite read, and its budgets and norm settled.

    Raises:
        UserError: one of them is not what it should be.
    """
    chosen = (suite if isinstance(suite, Suite) else load_suite(suite)).replaced(eps=eps, norm=norm)
    if batch_size < 1:
        raise UserError(f"batch_size is at least 1, not {batch_size}")
    if not gradients and (needing := [spec.label for spec in chosen.attacks if spec.gradients]):
        raise UserError(f"the network has no gradients, which {', '.join(needing)} needs: take the suite 'blackbox'")
    return Question(chosen, seed, batch_size, gradients, first)
