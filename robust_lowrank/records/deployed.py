"""The verdicts on a run's deployed forms are held against those on the network that was trained."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robust_lowrank.records.belonging import strangers
from robust_lowrank.records.layout import BLACK_BOX
from robust_lowrank.records.run import Result, Run, read_forms

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Deployed:
    """A form with its result, beside that of the run's own network within the same budgets.

    Attributes:
        form: its name.
        run: its run directory.
        result: of the form.
        trained: of the run's own network, on as many examples or more.
    """

    form: str
    run: Run
    result: Result
    trained: Result

    @property
    def attacked(self) -> str:
        """How the form was attacked: as the trained network was, or without gradients."""
        return "without gradients" if self.result.record.suite.endswith(BLACK_BOX) else "likewise"

    def held(self, eps: float) -> "pd.DataFrame":
        """Return by example whether the `trained` network and the `form` were right at `eps`, as `held_by_both`."""
        return held_by_both(self.trained.verdicts, self.result.verdicts, self.result.replayed, eps)

    def lost(self, eps: float) -> list[int]:
        """Return the examples that the trained network alone is right on."""
        held = self.held(eps)
        return held.index[held["trained"] & ~held["form"]].tolist()

    def gained(self, eps: float) -> list[int]:
        """Return the examples that the form alone is right on."""
        held = self.held(eps)
        return held.index[~held["trained"] & held["form"]].tolist()


def deployed_forms(run: Run, result: Result) -> Iterator[Deployed]:
    """Yield the forms of a run that were put to the attack of one of its results, those of other weights left out.

    A form without gradients counts where it was attacked without them within the same budgets.
    """
    own = result.record
    for name, form in read_forms(run).items():
        if form.record.config.get("weights") != run.record.hashes.get("weights") or next(strangers(form), None):
            continue
        for theirs in form.results.values():
            other = theirs.record
            same = (other.norm, other.seed) == (own.norm, own.seed) and form.record.hashes.get("test") == run.record.hashes.get(
                "test"
            )
            same &= other.accuracies[0].total <= own.accuracies[0].total  # both are of the first test examples
            alike = other.hashes["attack"] == own.hashes["attack"] or other.suite == f"{own.suite}{BLACK_BOX}"
            if same and alike and set(other.eps) >= set(own.eps):
                yield Deployed(name, form, theirs, result)
                break


def held_by_both(trained: "pd.DataFrame", form: "pd.DataFrame", replayed: "pd.DataFrame | None", eps: float) -> "pd.DataFrame":
    """Return by example whether the `trained` network and the `form` were right, clean at 0 and otherwise under all inputs found.

    That is those that attacks found on either within `eps`. Unresolved examples count as lost.

    Args:
        trained: the verdicts on one.
        form: those on the other.
        replayed: which inputs of the one break the other (`records.REPLAYED`).
    """
    import pandas as pd

    held = pd.concat({"trained": _held(trained, eps), "form": _held(form, eps)}, axis=1, join="inner")
    if eps and replayed is not None:
        for side in ("trained", "form"):
            fooled = replayed[(replayed["on"] == side) & (replayed["eps"] <= eps)]["example"]
            held.loc[held.index.isin(fooled), side] = False
    return held


def flipped(trained: "pd.DataFrame", form: "pd.DataFrame", replayed: "pd.DataFrame") -> list[int]:
    """Return the examples that one alone was right on, clean or at any eps; arguments as of `held_by_both`."""
    budgets = (0.0, *sorted(set(trained["eps"]) & set(form["eps"])))
    held = [held_by_both(trained, form, replayed, eps) for eps in budgets]
    return sorted({int(example) for both in held for example in both.index[both["trained"] != both["form"]].tolist()})


def _held(verdicts: "pd.DataFrame", eps: float) -> "pd.Series":
    if eps == 0:
        right = verdicts["clean_prediction"] == verdicts["label"]
    else:
        verdicts = verdicts[verdicts["eps"] == eps]
        right = verdicts["verdict"] == "robust"
    return right.groupby(verdicts["example"]).all()
