"""A suite is a TOML file that says completely what is run."""

import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError, model_validator

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.evaluation.attacks.base import Attack, Radii, listed
from robust_lowrank.evaluation.attacks.registry import ATTACKS, AnyAttack
from robust_lowrank.tables import Table
from robust_lowrank.threat import THREATS, radius

BATCH = 256


class Suite(Table):
    """A threat model and the attacks that are tried within it, cheap ones first; the worst case counts.

    Example:
        >>> Suite(name="mine", norm="L2", eps=(0.5,), attacks=(PGD(steps=40),))
    """

    name: str
    description: str = ""
    norm: Literal["Linf", "L2", "L1"] = "Linf"
    eps: Radii | None = None
    attacks: Annotated[tuple[AnyAttack, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _is_complete(self) -> "Suite":
        if self.eps is None and any(attack.eps is None for attack in self.attacks):
            raise ValueError("no eps: give the suite one, or every attack")
        labels = [attack.label for attack in self.attacks]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two attacks share a name ({', '.join(labels)}): set name")
        return self

    def radii(self, attack: Attack) -> tuple[float, ...]:
        """Return the budgets of one of the suite's attacks, ascending."""
        return tuple(sorted(set(attack.eps or self.eps or ())))

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
            radii = tuple(radius(value) for value in listed(eps))
            if not radii:
                raise UserError("eps is empty: give at least one budget, such as 0.1 or '8/255'")
            changes |= {"eps": radii, "attacks": tuple(attack.model_copy(update={"eps": None}) for attack in self.attacks)}
        return self.model_copy(update=changes)


class EvalConfig(NamedTuple):
    """A suite with its budgets settled, and everything else that its verdicts can depend on."""

    suite: Suite
    seed: int = 0
    batch_size: int = BATCH
    gradients: bool = True  # False: the network has none, and only attacks that need none are run
    offset: int = 0  # the number of the first example, where these are a part of a larger set

    @classmethod
    def resolve(
        cls,
        suite: str | Path | Suite,
        *,
        eps: float | str | Sequence[float | str] | None = None,
        norm: str | None = None,
        seed: int = 0,
        batch_size: int = BATCH,
        gradients: bool = True,
        offset: int = 0,
    ) -> "EvalConfig":
        """Return a configuration with its suite read, and its budgets and norm settled.

        Raises:
            UserError: one of them is not what it should be.
        """
        chosen = (suite if isinstance(suite, Suite) else load_suite(suite)).replaced(eps=eps, norm=norm)
        if batch_size < 1:
            raise UserError(f"batch_size is at least 1, not {batch_size}")
        if not gradients and (needing := [attack.label for attack in chosen.attacks if attack.gradients]):
            raise UserError(f"the network has no gradients, which {', '.join(needing)} needs: take the suite 'blackbox'")
        return cls(chosen, seed, batch_size, gradients, offset)


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
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")  # a wrong key is why the right one is missing
    kind, place = first["type"], [part for part in first["loc"] if part not in ATTACKS]
    where = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, place)))
    if kind == "extra_forbidden":
        owner = first["loc"][:-1]
        known = set(ATTACKS[str(owner[-1])].model_fields if owner else Suite.model_fields) - (set() if owner else {"name"})
        return UserError(f"{path}: {unknown_name('key', str(first['loc'][-1]), known)} (at {where})")
    if kind == "union_tag_invalid":
        return UserError(f"{path}: {unknown_name('attack', first.get('ctx', {})['tag'], ATTACKS)} (at {where})")
    if kind == "union_tag_not_found":
        return UserError(f"{path}: {where} does not say which attack it is: set attack to one of {', '.join(ATTACKS)}")
    if kind == "missing":
        return UserError(f"{path}: {where} is missing" + (": begin each attack with [[attacks]]" if where == "attacks" else ""))
    if kind == "tuple_type" and where == "attacks":
        return UserError(f"{path}: attacks is a list: begin each attack with [[attacks]]")
    if kind == "literal_error" and where == "norm" and isinstance(first["input"], str):
        return UserError(f"{path}: {unknown_name('norm', first['input'], THREATS)}")
    message = first["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    return UserError(f"{path}: {where}: {message}" if where else f"{path}: {message}")
