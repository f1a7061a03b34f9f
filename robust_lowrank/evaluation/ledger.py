"""A ledger is one attack's account at one eps."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robust_lowrank.evaluation.clean import Clean
from robust_lowrank.evaluation.unit_result import HELD, IMPLIED, UnitResult

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Ledger:
    """The state of every example under one attack at one eps; `enter` and `inherit` add to it."""

    attack: str
    engine: str
    eps: float
    independent: bool  # tried on all examples that the clean model gets right, whatever other attacks found
    clean: Clean
    kind: str = ""  # which attack it is, whatever its name; unknown where it is empty

    def __post_init__(self) -> None:
        count = len(self.clean.labels)
        self.broken: Tensor = torch.zeros(count, dtype=torch.bool)
        self.nonfinite: Tensor = ~self.clean.finite | (self.clean.correct & ~self.clean.gradient_finite)
        self.unresolved: Tensor = torch.zeros(count, dtype=torch.bool)  # the budget ended before the attack did
        self.prediction: Tensor = self.clean.prediction.clone()
        self.margin: Tensor = self.clean.margin.clone()
        self.distance: Tensor = torch.full((count,), torch.nan, dtype=torch.float64)
        self.forwards: Tensor = torch.zeros(count, dtype=torch.int64)
        self.backwards: Tensor = torch.zeros(count, dtype=torch.int64)
        self.computed: Tensor = torch.zeros(count, dtype=torch.float64)  # passes, with a share of padding and what was in vain
        self.seconds: Tensor = torch.zeros(count, dtype=torch.float64)
        self.flags: list[list[str]] = [[] for _ in range(count)]
        self.inputs: dict[int, Tensor] = {}  # what broke an example, by its number
        self.closest: dict[int, Tensor] = {}  # the most harmful input found of one that nothing broke
        numbers = torch.arange(count)
        self._flag(numbers[~self.clean.finite], "nonfinite-logits")
        self._flag(numbers[self.clean.finite & ~self.clean.gradient_finite], "nonfinite-gradient")
        self._flag(numbers[self.clean.gradient_zero], "zero-gradient")

    @property
    def robust(self) -> Tensor:
        """The examples that are still right: neither misclassified, broken, non-finite nor unresolved."""
        return self.clean.correct & ~self.broken & ~self.nonfinite & ~self.unresolved

    @property
    def undecided(self) -> Tensor:
        """The examples that the budget left unresolved."""
        return self.clean.correct & self.unresolved & ~self.broken & ~self.nonfinite

    @property
    def open(self) -> Tensor:
        """The numbers of the examples that this attack has yet to be tried on."""
        return (self.clean.correct & ~self.broken).nonzero().squeeze(1)

    def inherit(self, earlier: "Ledger", remark: str) -> None:
        """Take over what broke an example, where it lies within the budget."""
        within = earlier.broken & (earlier.distance <= self.eps)
        rows = (within & ~self.broken).nonzero().squeeze(1)
        for name in ("broken", "prediction", "margin", "distance"):
            getattr(self, name)[rows] = getattr(earlier, name)[rows]
        for row in rows.tolist():
            self.inputs[row] = earlier.inputs[row]
            self.flags[row].append(remark)

    def follow(self, search: "Ledger") -> None:
        """Take over from the search that served a larger eps what it left undecided, and what its end says of this eps."""
        self.unresolved |= search.unresolved & ~self.broken
        self.nonfinite |= search.nonfinite & ~self.broken
        for row in self.robust.nonzero().squeeze(1).tolist():
            held = next((float(flag.removeprefix(HELD)) for flag in search.flags[row] if flag.startswith(HELD)), 0.0)
            if held > self.eps:
                self.flags[row].append(f"{IMPLIED}{held!r}")

    def enter(self, result: UnitResult) -> None:
        """Enter what an attack found on some examples."""
        rows, broken = result.rows, result.broken
        self.broken[rows] = broken
        self.nonfinite[rows] |= result.nonfinite
        for name in ("prediction", "margin"):
            getattr(self, name)[rows] = getattr(result, name)
        self.distance[rows[broken]] = result.distance[broken]
        for name in ("forwards", "backwards", "computed", "seconds"):
            getattr(self, name)[rows] += getattr(result, name)
        self._flag(rows[result.nonfinite], "nonfinite-under-attack")
        self._flag(rows[result.rejected], "claim-rejected")
        for row, remark in zip(rows.tolist(), result.remarks, strict=True):
            if remark:
                self.flags[row] += remark.split(",")
        self.inputs |= dict(zip(rows[broken].tolist(), result.inputs, strict=True))
        self.closest |= dict(zip(rows[~broken].tolist(), result.closest, strict=True))

    def frame(self, norm: str, seed: int, offset: int = 0) -> "pd.DataFrame":
        """Return the account as rows of `records.VERDICTS`, the examples numbered from `offset`."""
        import pandas as pd

        nonfinite = self.nonfinite & ~self.broken
        verdict = pd.Series("robust", index=range(len(self.flags)))
        verdict[(~self.clean.correct).numpy()] = "misclassified"
        verdict[self.undecided.numpy()] = "unresolved"
        verdict[nonfinite.numpy()] = "nonfinite"
        verdict[self.broken.numpy()] = "broken"
        return pd.DataFrame(
            {
                "example": range(offset, offset + len(self.flags)),
                "label": self.clean.labels.numpy(),
                "clean_prediction": self.clean.prediction.numpy(),
                "attack": self.attack,
                "norm": norm,
                "eps": self.eps,
                "verdict": verdict,
                "adversarial_prediction": self.prediction.numpy(),
                "margin": self.margin.masked_fill(nonfinite, torch.nan).numpy(),
                "distance": self.distance.numpy(),
                "forwards": self.forwards.numpy(),
                "backwards": self.backwards.numpy(),
                "seconds": self.seconds.numpy(),
                "engine": self.engine,
                "seed": seed,
                "flags": [",".join(flags) for flags in self.flags],
            }
        )

    def _flag(self, rows: Tensor, remark: str) -> None:
        for row in rows.tolist():
            self.flags[row].append(remark)
