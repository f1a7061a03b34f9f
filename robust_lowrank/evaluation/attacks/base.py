"""Every attack of a suite says its parameters, its name in results, what it costs, and how it is run."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, field_validator
from torch import Tensor, nn

from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.unit_result import Attempt, UnitResult
from robust_lowrank.ranges import BUDGETS, distinct
from robust_lowrank.tables import Table
from robust_lowrank.threat import KeyedNoise, Threat, radius

RESERVED = "autoattack"


def listed(value: Any) -> Any:
    """Return a list of one for one value."""
    return [value] if isinstance(value, (int, float, str)) else value


Radii = Annotated[
    tuple[Annotated[float, BeforeValidator(radius)], ...],
    Field(min_length=1, max_length=BUDGETS, strict=False),
    AfterValidator(distinct),
    BeforeValidator(listed),
]


class Attack(Table):
    """An attack of a suite; one that a suite can choose has the fields `attack` and `engine`."""

    eps: Radii | None = None  # without: the suite's
    examples: Literal["correct", "survivors"] = "correct"  # all that the clean model gets right, or those no attack before broke

    turn: ClassVar[int]  # attacks run in ascending order, from cheap to dear
    title: ClassVar[str | None] = None  # what reports write for the first word of a name that is its own
    joint: ClassVar[bool] = False  # verdicts depend on which examples are attacked together
    nested: ClassVar[bool] = True  # what broke an example within a smaller eps need not be tried again
    at_once: ClassVar[bool] = False  # one search serves every eps: it is given all radii, and says how near each input lies
    minimal: ClassVar[bool] = False  # finds the nearest input, at once
    gradients: ClassVar[bool] = True  # needs gradients of the network
    searches: ClassVar[bool] = True  # looks at what the network answers before it tries the next input
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")  # in which it can be put
    maskable: ClassVar[bool] = False  # keeps to a mask on the features that may move
    transfers: ClassVar[bool] = False  # makes its inputs on other networks
    ensemble: ClassVar[bool] = False  # has several parts, which it names in its flags
    samples: ClassVar[bool] = False  # tries some of its parts on a random sample of the examples alone
    revised: ClassVar[tuple[str, ...]] = ()  # norms under which it finds something else than in the first version of the package
    rival: ClassVar[str | None] = None  # the cheaper attack that must not find more than this one

    @property
    def kind(self) -> str:
        """The name by which a suite chooses it."""
        return str(getattr(self, "attack"))  # noqa: B009

    @property
    def package(self) -> str:
        """The package whose code it is, "native" for this one."""
        return str(getattr(self, "engine"))  # noqa: B009

    @classmethod
    def of_record(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of the attack by what results say of them, which may be more."""
        return values

    @property
    def label(self) -> str:
        """The name in results."""
        raise NotImplementedError

    def require(self) -> None:
        """Require the package whose code it is, before time is spent on anything else.

        Raises:
            UserError: it is not installed.
        """

    def named(self, classes: int, shape: tuple[int, ...], threat: Threat) -> str:
        """Return the name in results for such a network."""
        return self.label

    def cost(self, classes: int, norm: str) -> int:
        """Return the passes, forward and backward, that an example takes which nothing breaks."""
        raise NotImplementedError

    def most(self, classes: int, norm: str, radii: int) -> int:
        """Return the most passes that any example takes at one eps, or in a search that serves so many radii at once."""
        return self.cost(classes, norm)


class NamedAttack(Attack):
    """An attack that a suite may give a name of its own."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or self.kind

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str | None) -> str | None:
        if name is not None and RESERVED in name:
            raise ValueError(f"the name {RESERVED} belongs to the upstream attack of that name")
        return name


class NativeAttack(NamedAttack):
    """An attack of this package; its noise belongs to the example, so that batches never change a verdict."""

    engine: Literal["native"] = "native"

    @property
    def purpose(self) -> str:
        """The key of its noise, whatever the attack is called."""
        return self.kind

    def attempt(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Attempt:
        """Attack a batch; `noise` is that of its examples under this attack."""
        raise NotImplementedError

    def details(self, eps: float) -> dict[str, Any]:
        """Return what follows from the parameters at one eps, such as the length of a step, for the record."""
        return {}


class JointTask(NamedTuple):
    """The input of an attack that batches by itself."""

    target: Target
    x: Tensor  # the examples that are attacked
    y: Tensor
    rows: Tensor  # their numbers
    threat: Threat
    seed: int
    batch_size: int
    meter: Meter
    report: Callable[[float, str], None]


class JointAttack(Attack):
    """An attack that is given all examples at once, and batches them by itself."""

    joint: ClassVar[bool] = True

    def settings(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
        """Return every parameter that the other package uses, for the record."""
        raise NotImplementedError

    def find(self, task: JointTask) -> UnitResult:
        """Attack the examples of the task."""
        raise NotImplementedError


def named(name: str, length: int, standard: int, restarts: int) -> str:
    """Return an attack's name, with its length where that is not the standard one, and its restarts where there are several."""
    return name + (f"-{length}" if length != standard else "") + (f"x{restarts}" if restarts > 1 else "")
