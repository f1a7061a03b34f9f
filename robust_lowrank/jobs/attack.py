"""An attack on runs is a suite with its budgets settled, on some test examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robust_lowrank import evaluation
from robust_lowrank.errors import UserError
from robust_lowrank.evaluation import Suite
from robust_lowrank.jobs.subjects import stored_config


@dataclass(frozen=True)
class Attack:
    """One evaluation: a suite with its norm and budgets settled, and on which test examples."""

    suite: Suite
    directory: str  # its name below RUN/results
    examples: int | None = None  # the first of the test set; None: all
    seed: int = 0
    batch_size: int = evaluation.BATCH
    sources: tuple[Path, ...] = ()  # runs on which inputs for attacks by transfer are made
    max_passes: int | None = None
    max_seconds: float | None = None

    @classmethod
    def settle(
        cls,
        suite: str | Path,
        *,
        eps: Sequence[float | str] | None = None,
        norm: str | None = None,
        examples: int | None = None,
        seed: int = 0,
        batch_size: int = evaluation.BATCH,
        sources: Sequence[Path] = (),
        max_passes: int | None = None,
        max_seconds: float | None = None,
    ) -> "Attack":
        """Read a suite by name or file and give it other budgets or another norm, which then shows in the directory's name.

        Raises:
            UserError: the suite, a budget, the norm, the number of examples or a source is not one.
        """
        chosen = evaluation.load_suite(suite)
        evaluation.Meter(max_passes=max_passes, max_seconds=max_seconds)
        if examples is not None and examples < 1:
            raise UserError(f"{examples} examples are none: attack at least one")
        config = evaluation.EvalConfig.resolve(chosen, eps=eps or None, norm=norm, seed=seed, batch_size=batch_size)
        if sources and not any(kind.transfers for kind in chosen.attacks):
            raise UserError(
                f"suite {chosen.name!r} has no attack by transfer, which a source is for: take 'blackbox', or no --source"
            )
        for source in sources:
            stored_config(source)
        directory = chosen.name if norm in (None, chosen.norm) else f"{chosen.name}-{norm}"
        return cls(config.suite, directory, examples, seed, batch_size, tuple(sources), max_passes, max_seconds)

    @property
    def limited(self) -> bool:
        """True if a budget of passes or time may end it early."""
        return self.max_passes is not None or self.max_seconds is not None

    def check_budgets(self, input_shape: Sequence[int]) -> None:
        """Require budgets that mean something for images of this shape.

        Raises:
            UserError: one is not above 0 and within the diameter of all images.
        """
        for spec in self.suite.attacks:
            for eps in self.suite.radii(spec):
                evaluation.threat(self.suite.norm, eps, features=math.prod(input_shape))
