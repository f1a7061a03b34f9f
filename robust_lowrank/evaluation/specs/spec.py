"""What every attack of a suite says: its parameters, its name in results, what it costs, and how it is run."""

from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.threat import Threat

RESERVED = "autoattack"


def radius(value: float | str) -> float:
    """Return an eps given as a number or as a text such as "8/255".

    Raises:
        UserError: it is not a positive, finite number.
    """
    try:
        number = float(Fraction(value)) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
        raise UserError(f'eps {value!r} is not a number: write 0.1 or "8/255"') from error
    if isinstance(value, bool) or not 0 < number < float("inf"):
        raise UserError(f"eps {value!r} is not above 0 and finite")
    return number


def listed(value: Any) -> Any:
    """Return a list of one for one value."""
    return [value] if isinstance(value, (int, float, str)) else value


Radii = Annotated[tuple[Annotated[float, BeforeValidator(radius)], ...], Field(min_length=1, strict=False), BeforeValidator(listed)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict(BaseModel):
    """What a suite file may say and nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AttackSpec(Strict):
    """What every attack of a suite has."""

    eps: Radii | None = None  # without: the suite's
    examples: Literal["correct", "survivors"] = "correct"  # all that the clean model gets right, or those no attack before broke

    joint: ClassVar[bool] = False  # verdicts depend on which examples are attacked together
    nested: ClassVar[bool] = True  # what broke an example within a smaller eps need not be tried again
    minimal: ClassVar[bool] = False  # finds the nearest input: one search serves every eps
    gradients: ClassVar[bool] = True  # needs gradients of the network

    @property
    def label(self) -> str:
        """The name in results."""
        raise NotImplementedError

    def cost(self, classes: int, norm: str) -> int:
        """Return the passes, forward and backward, that an example takes which nothing breaks."""
        raise NotImplementedError


class NamedSpec(AttackSpec):
    """An attack that a suite may give a name of its own."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str | None) -> str | None:
        if name is not None and RESERVED in name:
            raise ValueError(f"the name {RESERVED} belongs to the upstream attack of that name")
        return name


class NativeSpec(NamedSpec):
    """An attack of this package; its noise belongs to the example, so that batches never change a verdict."""

    engine: Literal["native"] = "native"

    @property
    def purpose(self) -> str:
        """What its noise is keyed with, whatever the attack is called."""
        return str(getattr(self, "attack"))  # noqa: B009

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Attack a batch; `noise` is that of its examples under this attack."""
        raise NotImplementedError

    def details(self, eps: float) -> dict[str, Any]:
        """Return what follows from the parameters at one eps, such as the length of a step, for the record."""
        return {}


def named(name: str, length: int, standard: int, restarts: int) -> str:
    """Return an attack's name, with its length where that is not the standard one, and its restarts where there are several."""
    return name + (f"-{length}" if length != standard else "") + (f"x{restarts}" if restarts > 1 else "")
