"""The account of one attack at one eps over all examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from robust_lowrank.evaluation.clean import Clean
from robust_lowrank.evaluation.verdict import Check

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Ledger:
    """What is known of every example under one attack at one eps; `enter` and `inherit` add to it."""

    attack: str
    engine: str
    eps: float
    independent: bool  # tried on all examples that the clean model gets right, whatever other attacks found
    clean: Clean
    broken: Tensor = field(init=False)
    nonfinite: Tensor = field(init=False)
    prediction: Tensor = field(init=False)
    margin: Tensor = field(init=False)
    distance: Tensor = field(init=False)
    forwards: Tensor = field(init=False)
    backwards: Tensor = field(init=False)
    seconds: Tensor = field(init=False)
    flags: list[list[str]] = field(init=False)
    inputs: dict[int, Tensor] = field(init=False, default_factory=dict)  # what broke an example, by its number

    def __post_init__(self) -> None:
        count = len(self.clean.labels)
        self.broken = torch.zeros(count, dtype=torch.bool)
        self.nonfinite = ~self.clean.finite | (self.clean.correct & ~self.clean.gradient_finite)
        self.prediction, self.margin = self.clean.prediction.clone(), self.clean.margin.clone()
        self.distance = torch.full((count,), torch.nan, dtype=torch.float64)
        self.forwards, self.backwards = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        self.seconds = torch.zeros(count, dtype=torch.float64)
        self.flags = [[] for _ in range(count)]
        self._flag(~self.clean.finite, "nonfinite-logits")
        self._flag(self.clean.finite & ~self.clean.gradient_finite, "nonfinite-gradient")
        self._flag(self.clean.gradient_zero, "zero-gradient")

    @property
    def robust(self) -> Tensor:
        """Which examples the model still gets right: neither misclassified, broken nor non-finite."""
        return self.clean.correct & ~self.broken & ~self.nonfinite

    @property
    def open(self) -> Tensor:
        """The numbers of the examples that this attack has yet to be tried on."""
        return (self.clean.correct & ~self.broken).nonzero().squeeze(1)

    def inherit(self, earlier: "Ledger", remark: str) -> None:
        """Take over what broke an example within a smaller or equal budget."""
        rows = (earlier.broken & ~self.broken).nonzero().squeeze(1)
        for name in ("broken", "prediction", "margin", "distance"):
            getattr(self, name)[rows] = getattr(earlier, name)[rows]
        for row in rows.tolist():
            self.inputs[row] = earlier.inputs[row]
            self.flags[row].append(remark)

    def enter(
        self, rows: Tensor, check: Check, *, nonfinite: Tensor, rejected: Tensor, forwards: Tensor, backwards: Tensor
    ) -> None:
        """Enter what an attack found on the examples `rows`; all tensors have a row for each of these."""
        broken = check.broken.cpu()
        self.broken[rows] = broken
        met = nonfinite.cpu() | ~check.finite.cpu()
        self.nonfinite[rows] |= met
        self.prediction[rows] = check.prediction.cpu()
        self.margin[rows] = check.margin.cpu()
        self.distance[rows[broken]] = check.distance.cpu()[broken]
        self.forwards[rows] += forwards.cpu()
        self.backwards[rows] += backwards.cpu()
        self._flag_rows(rows[met], "nonfinite-under-attack")
        self._flag_rows(rows[rejected.cpu()], "claim-rejected")
        for row, point in zip(rows[broken].tolist(), check.inputs.cpu()[broken], strict=True):
            self.inputs[row] = point

    def remark(self, rows: Tensor, remarks: Sequence[str]) -> None:
        """Add to the flags of examples."""
        for remark in remarks:
            self._flag_rows(rows, remark)

    def frame(self, norm: str, seed: int) -> "pd.DataFrame":
        """Return the account as rows of `records.VERDICTS`."""
        import pandas as pd

        nonfinite = self.nonfinite & ~self.broken
        verdict = pd.Series("robust", index=range(len(self.flags)))
        verdict[(~self.clean.correct).numpy()] = "misclassified"
        verdict[nonfinite.numpy()] = "nonfinite"
        verdict[self.broken.numpy()] = "broken"
        return pd.DataFrame(
            {
                "example": range(len(self.flags)),
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

    def _flag(self, mask: Tensor, remark: str) -> None:
        self._flag_rows(mask.nonzero().squeeze(1), remark)

    def _flag_rows(self, rows: Tensor, remark: str) -> None:
        for row in rows.tolist():
            self.flags[row].append(remark)
