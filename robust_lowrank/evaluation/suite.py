"""Attack suites as data: TOML files that say completely what is run."""

import re
import tomllib
from collections.abc import Sequence
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.evaluation.threat import THREATS

_RESERVED = "autoattack"


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


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, (int, float, str)) else value


Radii = Annotated[
    tuple[Annotated[float, BeforeValidator(radius)], ...], Field(min_length=1, strict=False), BeforeValidator(_listed)
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AttackSpec(_Strict):
    """What every attack of a suite has."""

    eps: Radii | None = None  # without: the suite's
    examples: Literal["correct", "survivors"] = "correct"  # all that the clean model gets right, or those no attack before broke


class NativeSpec(AttackSpec):
    """An attack of this package; its noise belongs to the example, so that batches never change a verdict."""

    engine: Literal["native"] = "native"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str | None) -> str | None:
        if name is not None and _RESERVED in name:
            raise ValueError(f"the name {_RESERVED} belongs to the upstream attack of that name")
        return name


class FGSM(NativeSpec):
    """One step of length eps."""

    attack: Literal["fgsm"] = "fgsm"

    @property
    def label(self) -> str:
        """The name in results."""
        return self.name or "fgsm"


class PGD(NativeSpec):
    """`steps` steps of length `relative_step * eps / steps` on the cross-entropy, from `restarts` starts."""

    attack: Literal["pgd"] = "pgd"
    steps: Annotated[int, Field(ge=1)] = 20
    relative_step: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.5
    restarts: Annotated[int, Field(ge=1)] = 1
    random_start: bool = True

    @property
    def label(self) -> str:
        """The name in results, such as pgd-20 or pgd-20x5 with five restarts."""
        return self.name or f"pgd-{self.steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    def step_size(self, eps: float) -> float:
        """Return the length of a step."""
        return self.relative_step * eps / self.steps

    @model_validator(mode="after")
    def _restarts_differ(self) -> "PGD":
        if self.restarts > 1 and not self.random_start:
            raise ValueError("restarts without random_start repeat the same attack: set random_start or restarts = 1")
        return self


class AutoAttack(AttackSpec):
    """AutoAttack as published: APGD-CE, targeted APGD, targeted FAB and Square with upstream's iteration counts.

    Version `plus` has more parts and restarts, `rand` averages gradients of randomised models.
    """

    attack: Literal["autoattack"] = "autoattack"
    engine: Literal["pyautoattack"] = "pyautoattack"
    version: Literal["standard", "plus", "rand"] = "standard"

    @property
    def label(self) -> str:
        """The name in results, where the model has classes enough for the standard targets."""
        return _RESERVED if self.version == "standard" else f"{_RESERVED}-{self.version}"


Attack = Annotated[FGSM | PGD | AutoAttack, Field(discriminator="attack")]
ATTACKS: dict[str, type[AttackSpec]] = {"fgsm": FGSM, "pgd": PGD, "autoattack": AutoAttack}  # cheap ones first


class Suite(_Strict):
    """A threat model and the attacks that are tried within it, cheap ones first; the worst case counts.

    Example:
        >>> Suite(name="mine", norm="L2", eps=(0.5,), attacks=(PGD(steps=40),))
    """

    name: str
    description: str = ""
    norm: Literal["Linf", "L2"] = "Linf"
    eps: Radii | None = None
    attacks: Annotated[tuple[Attack, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _is_complete(self) -> "Suite":
        if self.eps is None and any(spec.eps is None for spec in self.attacks):
            raise ValueError("no eps: give the suite one, or every attack")
        labels = [spec.label for spec in self.attacks]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two attacks share a name ({', '.join(labels)}): set name")
        return self

    def radii(self, spec: AttackSpec) -> tuple[float, ...]:
        """Return the budgets of one of the suite's attacks, ascending."""
        return tuple(sorted(set(spec.eps or self.eps or ())))

    def replaced(self, *, eps: float | str | Sequence[float | str] | None = None, norm: str | None = None) -> "Suite":
        """Return the suite with another norm or with other budgets, which then hold for all its attacks.

        Raises:
            UserError: the norm is unknown, changes without an eps for it, or an eps is not a positive number.
        """
        if norm is not None and norm not in THREATS:
            raise unknown_name("norm", norm, THREATS)
        if norm not in (None, self.norm) and eps is None:
            raise UserError(f"suite {self.name!r} has its eps for {self.norm}: give an eps for {norm} as well")
        changes: dict[str, Any] = {"norm": norm or self.norm}
        if eps is not None:
            radii = tuple(radius(value) for value in _listed(eps))
            if not radii:
                raise UserError("eps is empty: give at least one budget, such as 0.1 or '8/255'")
            changes |= {"eps": radii, "attacks": tuple(spec.model_copy(update={"eps": None}) for spec in self.attacks)}
        return self.model_copy(update=changes)


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(path.stem for path in _directory().glob("*.toml"))


def load_suite(name_or_path: str | Path) -> Suite:
    """Read a suite by its name, or from a TOML file.

    Example:
        >>> load_suite("standard").attacks[0].label
        'autoattack'

    Raises:
        UserError: there is no such suite or file, or the file has a wrong key, value or type.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text:
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(f"there is no suite file {path}; suites by name: {', '.join(suite_names())}")
    elif text in suite_names():
        path = _directory() / f"{text}.toml"
    else:
        raise unknown_name("suite", text, suite_names())
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} is not a TOML file: {error}") from error
    if "name" in content:
        raise UserError(f"{path}: a suite is named after its file; remove the key 'name'")
    try:
        return Suite.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise _readable(path, error) from error


def _directory() -> Path:
    """Return where the suites are: inside the installed package, or beside it in a source tree."""
    package = Path(str(resources.files("robust_lowrank")))
    installed = package / "suites"
    return installed if installed.is_dir() else package.parent / "attacks"


def _readable(path: Path, error: ValidationError) -> UserError:
    first = error.errors()[0]
    kind, place = first["type"], [part for part in first["loc"] if part not in ATTACKS]
    where = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, place)))
    if kind == "extra_forbidden":
        owner = first["loc"][:-1]
        known = set(ATTACKS[str(owner[-1])].model_fields if owner else Suite.model_fields) - (set() if owner else {"name"})
        return UserError(f"{path}: {unknown_name('key', str(first['loc'][-1]), known)} (at {where})")
    if kind == "union_tag_invalid":
        return UserError(f"{path}: {unknown_name('attack', first.get('ctx', {})['tag'], ATTACKS)} (at {where})")
    if kind == "literal_error" and where == "norm" and isinstance(first["input"], str):
        return UserError(f"{path}: {unknown_name('norm', first['input'], THREATS)}")
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    return UserError(f"{path}: {where}: {message}" if where else f"{path}: {message}")
