"""AutoAttack's ensemble runs here by the attacks of this package."""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.apgd import APGD
from robust_lowrank.evaluation.attacks.base import NativeAttack
from robust_lowrank.evaluation.attacks.fab import FAB
from robust_lowrank.evaluation.attacks.search import Search
from robust_lowrank.evaluation.attacks.square import Square
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.threat import KeyedNoise, Threat


class AANative(NativeAttack):
    """APGD-CE, targeted APGD, targeted FAB and Square with the steps, targets, queries and restarts of AutoAttack standard.

    Every part is tried on what those before it left. It is not AutoAttack: noise belongs to the example, and a broken example is
    finished at once. With three classes the DLR loss takes the place of the targeted one, with two there is none.

    Source: Croce and Hein 2020 (arXiv 2003.01690).
    """

    attack: Literal["aa-native"] = "aa-native"
    turn: ClassVar[int] = 110
    ensemble: ClassVar[bool] = True

    @staticmethod
    def parts(classes: int, norm: str) -> tuple[NativeAttack, ...]:
        """Return the attacks in their order."""
        sparse = norm == "L1"  # there the published ensemble has five restarts and five targets
        dlr = {2: (), 3: (APGD(loss="dlr"),)}.get(classes, (APGD(loss="targeted-dlr", targets=5 if sparse else 9),))
        return (APGD(restarts=5 if sparse else 1), *dlr, FAB(), Square())

    def cost(self, classes: int, norm: str) -> int:
        """Return the sum over the parts."""
        return sum(part.cost(classes, norm) for part in self.parts(classes, norm))

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Try one part after the other."""
        search = Search(x, y)
        self.search(search, torch.ones_like(y, dtype=torch.bool), model, threat, noise)
        return search.attempt()

    def search(self, search: Search, chosen: Tensor, model: nn.Module, threat: Threat, noise: KeyedNoise) -> None:
        """Try one part after the other on those of the examples that are chosen, (N,) bool, and open."""
        for part in self.parts(int(model.classes), threat.norm):  # pyright: ignore[reportArgumentType]
            rows = (chosen & ~search.broken).nonzero().squeeze(1)
            if len(rows):
                attempt = part.attempt(model, search.x[rows], search.y[rows], threat, noise.of(rows).named(part.purpose))
                search.add(rows, attempt, by=part.label)
