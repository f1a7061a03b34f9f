"""The table `[training.adversarial]` says which inputs a network is trained to withstand."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from robust_lowrank.errors import UserError
from robust_lowrank.ranges import Factor, Tries
from robust_lowrank.tables import Table
from robust_lowrank.threat import radius

DEFAULT_STEPS = 10
PGD_PATH = 2.5  # eps: the length of all steps together, as in Madry et al. 2018, section 5
TRADES_PATH = 2.25  # eps: 10 steps of 0.007 at eps 0.031, Zhang et al. 2019, section 5
DEFAULT_BETA = 6.0

_MISPLACED = {
    "random_start": "random_start is an option of fgsm: {attack} always has a start of its own, so leave it out",
    "steps": "{attack} makes one step: leave steps out, or choose attack = 'pgd'",
    "step_size": "{attack} steps by eps, or 1.25 eps with random_start: leave step_size out, or choose attack = 'pgd'",
    "mix": "{attack} trains on every image, clean and perturbed: leave mix out, or choose attack = 'pgd'",
    "beta": "beta is the weight of the divergence in trades: leave it out, or choose attack = 'trades'",
}


class AdversarialConfig(Table):
    """Perturbation of the inputs of a training step.

    Example:
        >>> AdversarialConfig(attack="pgd", eps=8 / 255).complete().steps
        10

    A key that the attack has no use for is refused. `eps` and `step_size` are in pixels of [0, 1].

    Source: Goodfellow et al. 2015 (arXiv 1412.6572) for FGSM, with Wong et al. 2020 (arXiv 2001.03994) for its random start;
    Madry et al. 2018 (arXiv 1706.06083) for PGD; Zhang et al. 2019 (arXiv 1901.08573) for TRADES.
    """

    attack: Literal["fgsm", "pgd", "trades"]
    eps: Annotated[float, BeforeValidator(radius)]  # a number, or a fraction as text: "8/255"
    norm: Literal["Linf", "L2"] = "Linf"
    random_start: bool | None = None  # fgsm: False
    steps: Tries | None = None  # pgd, trades: 10
    step_size: Factor | None = None  # pgd: 2.5 eps / steps; trades: 2.25 eps / steps
    mix: float | None = Field(default=None, gt=0, le=1)  # fgsm, pgd: the perturbed fraction of a batch, 1
    beta: Factor | None = None  # trades: 6

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.norm == "Linf" and self.eps > 1:
            raise UserError(f"eps = {self.eps:g} is above 1, the range of a pixel: 8/255 is usual")
        defaults = self._defaults()
        for key, reason in _MISPLACED.items():
            if key not in defaults and getattr(self, key) is not None:
                raise UserError(reason.format(attack=self.attack))
        return self

    def complete(self) -> Self:
        """Return the table with the defaults of its attack filled in; what the attack has no use for stays None."""
        return self.model_copy(update={key: value for key, value in self._defaults().items() if getattr(self, key) is None})

    def _defaults(self) -> dict[str, Any]:
        """Return the keys that only some attacks have, of those that this one has, with their defaults."""
        steps = self.steps or DEFAULT_STEPS
        match self.attack:
            case "fgsm":
                return {"random_start": False, "mix": 1.0}
            case "pgd":
                return {"steps": steps, "step_size": PGD_PATH * self.eps / steps, "mix": 1.0}
            case "trades":
                return {"steps": steps, "step_size": TRADES_PATH * self.eps / steps, "beta": DEFAULT_BETA}
