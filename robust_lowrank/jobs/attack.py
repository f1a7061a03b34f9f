"""An attack on runs is a suite with its budgets settled, on some test examples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from robust_lowrank import evaluation
from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.evaluation import Suite
from robust_lowrank.evaluation.attacks.pgd import Stepwise
from robust_lowrank.evaluation.attacks.registry import AnyAttack
from robust_lowrank.evaluation.attacks.square import Square
from robust_lowrank.evaluation.attacks.transfer import Transfer
from robust_lowrank.jobs.forms import FORMS
from robust_lowrank.jobs.subjects import stored_config
from robust_lowrank.ranges import COUNTS
from robust_lowrank.records import BLACK_BOX

QUERIES = 1000  # of Square on a form without gradients


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
    forms: tuple[str, ...] = ()  # of deployment, that are attacked as well
    trust_code: bool = False  # call functions that records of runs name, as `training.load_network` has it
    form_examples: int | None = None  # the first of the test set for these; None: as many as for the run

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
        forms: Sequence[str] = (),
        trust_code: bool = False,
        complete: bool = False,
    ) -> "Attack":
        """Read a suite by name or file and give it other budgets or another norm, which then shows in the directory's name.

        With `complete` the whole of an ensemble follows what the suite tries on a sample alone.

        Raises:
            UserError: the suite, a budget, the norm, the number of examples, a source or a form is not one.
        """
        for form in forms:
            if form not in FORMS:
                raise unknown_name("form", form, FORMS)
        chosen = evaluation.load_suite(suite)
        if complete:
            chosen = evaluation.completed(chosen)
        evaluation.Meter(max_passes=max_passes, max_seconds=max_seconds)
        COUNTS.require("n", examples)
        config = evaluation.EvalConfig.resolve(chosen, eps=eps or None, norm=norm, seed=seed, batch_size=batch_size)
        if sources and not any(kind.transfers for kind in chosen.attacks):
            raise UserError(
                f"suite {chosen.name!r} has no attack by transfer, which a source is for: take 'blackbox', or no --source"
            )
        for source in sources:
            stored_config(source)
        directory = chosen.name if norm in (None, chosen.norm) else f"{chosen.name}-{norm}"
        chosen_forms = tuple(dict.fromkeys(forms))
        places = tuple(sources)
        return cls(config.suite, directory, examples, seed, batch_size, places, max_passes, max_seconds, chosen_forms, trust_code)

    def without_gradients(self, source: Path) -> "Attack":
        """Return the attack for a network without gradients that computes what a run does, which has some.

        In the place of attacks that need gradients stands what PGD finds on the run, and Square on what that leaves.
        """
        blind = [attack for attack in self.suite.attacks if not attack.gradients]
        lengths = [attack.steps for attack in self.suite.attacks if isinstance(attack, Stepwise)]
        added: list[AnyAttack] = []
        if not any(attack.transfers for attack in blind):
            added.append(Transfer(steps=max([Transfer().steps, *lengths])))
        if not any(isinstance(attack, Square) for attack in blind):
            added.append(Square(queries=QUERIES, examples="survivors"))
        name = f"{self.suite.name}{BLACK_BOX}"
        radii = tuple(sorted({eps for attack in self.suite.attacks for eps in self.suite.radii(attack)}))
        attacks = tuple(sorted((*blind, *added), key=lambda attack: attack.turn))
        suite = Suite(name=name, norm=self.suite.norm, eps=radii, attacks=attacks)
        directory = f"{self.directory}{BLACK_BOX}"
        return replace(self, suite=suite, directory=directory, sources=(*self.sources, source), forms=())

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
