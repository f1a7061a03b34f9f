"""A suite is a TOML file that says completely what is run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator, model_validator

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.evaluation.attacks.aa_native import AANative
from robust_lowrank.evaluation.attacks.base import Attack, Radii, listed
from robust_lowrank.evaluation.attacks.registry import AnyAttack
from robust_lowrank.ranges import BATCHES, SEEDS, distinct
from robust_lowrank.tables import Table, parse_table, read_values, shipped_files
from robust_lowrank.threat import THREATS, radius

BATCH = 256
ATTACKS = 100  # the most of a suite


class Suite(Table):
    """A threat model and the attacks that are tried within it, cheap ones first; the worst case counts.

    Example:
        >>> Suite(name="mine", norm="L2", eps=(0.5,), attacks=(PGD(steps=40),))
    """

    entry: ClassVar[str] = "[{}]"
    place: ClassVar[str] = " (at {}{})"

    name: str
    description: str = ""
    norm: Literal["Linf", "L2", "L1"] = "Linf"
    eps: Radii | None = None
    attacks: Annotated[tuple[AnyAttack, ...], Field(min_length=1, max_length=ATTACKS, strict=False)]

    @field_validator("norm", mode="before")
    @classmethod
    def _known(cls, norm: object) -> object:
        if isinstance(norm, str) and norm not in THREATS:
            raise unknown_name("norm", norm, THREATS)
        return norm

    @model_validator(mode="after")
    def _is_complete(self) -> "Suite":
        if self.eps is None and any(attack.eps is None for attack in self.attacks):
            raise ValueError("no eps: give the suite one, or every attack")
        labels = [attack.label for attack in self.attacks]
        if len(set(labels)) < len(labels):
            raise ValueError(f"two attacks share a name ({', '.join(labels)}): set name")
        if refusal := self._refusal(self.norm):
            raise ValueError(refusal)
        return self

    def _refusal(self, norm: str) -> str:
        """Return in words which attack cannot be put in a norm; nothing if all can."""
        other = next((attack for attack in self.attacks if norm not in attack.norms), None)
        return "" if other is None else f"{other.label} measures distances in {' or '.join(other.norms)}, not in {norm}"

    def radii(self, attack: Attack) -> tuple[float, ...]:
        """Return the budgets of one of the suite's attacks, ascending."""
        return tuple(sorted(set(attack.eps or self.eps or ())))

    def replaced(self, *, eps: float | str | Sequence[float | str] | None = None, norm: str | None = None) -> "Suite":
        """Return the suite with another norm or with other budgets, which then hold for all its attacks.

        Raises:
            UserError: the norm is unknown, changes without an eps for it, or an eps is not a positive number.
        """
        self._known(norm)
        if norm not in (None, self.norm) and eps is None:
            raise UserError(f"suite {self.name!r} has its eps for {self.norm}: give an eps for {norm} as well")
        if refusal := self._refusal(norm or self.norm):
            raise UserError(f"suite {self.name!r}: {refusal}")
        changes: dict[str, Any] = {"norm": norm or self.norm}
        if eps is not None:
            radii = tuple(radius(value) for value in listed(eps))
            if not radii:
                raise UserError("eps is empty: give at least one budget, such as 0.1 or '8/255'")
            distinct(radii)
            changes |= {"eps": radii, "attacks": tuple(attack.model_copy(update={"eps": None}) for attack in self.attacks)}
        return self.model_copy(update=changes)


def completed(suite: Suite) -> Suite:
    """Return a suite that goes on where its attacks on a sample end: with all of `aa-native` on what these leave.

    Example:
        >>> [attack.label for attack in completed(load_suite("aa-fast")).attacks]
        ['aa-fast', 'aa-native']

    Raises:
        UserError: none of its attacks samples.
    """
    bounded = [attack for attack in suite.attacks if attack.samples]
    if not bounded:
        raise UserError(f"suite {suite.name!r} has no attack on a sample that could be completed: take 'aa-fast'")
    rest = AANative(examples="survivors", eps=bounded[0].eps)
    return Suite.model_validate(suite.model_dump() | {"attacks": (*suite.attacks, rest)})


class EvalConfig(NamedTuple):
    """A suite with its budgets settled, and everything else that its verdicts can depend on."""

    suite: Suite
    seed: int = 0
    batch_size: int = BATCH
    gradients: bool = True  # False: the network has none, and only attacks that need none are run
    offset: int = 0  # the number of the first example, where these are a part of a larger set
    fold: bool = True  # whether native attacks search on the network's fast form

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
        fold: bool = True,
    ) -> "EvalConfig":
        """Return a configuration with its suite read, and its budgets and norm settled.

        Raises:
            UserError: one of them is not what it should be, or the package of an attack is not installed.
        """
        chosen = (suite if isinstance(suite, Suite) else load_suite(suite)).replaced(eps=eps, norm=norm)
        BATCHES.require("batch_size", batch_size)
        SEEDS.require("seed", seed)
        if not gradients and (needing := [attack.label for attack in chosen.attacks if attack.gradients]):
            raise UserError(f"the network has no gradients, which {', '.join(needing)} needs: take the suite 'blackbox'")
        for attack in chosen.attacks:
            attack.require()
        return cls(chosen, seed, batch_size, gradients, offset, fold)


def suite_names() -> list[str]:
    """Return the names of the suites that come with the package."""
    return sorted(path.stem for path in shipped_files("suites", "attacks").glob("*.toml"))


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
        if not path.exists():
            raise UserError(f"there is no suite file {path}; suites by name: {', '.join(suite_names())}")
    elif text in suite_names():
        path = shipped_files("suites", "attacks") / f"{text}.toml"
    else:
        raise unknown_name("suite", text, suite_names())
    values = read_values(path)
    if "name" in values:
        raise UserError(f"{path}: a suite is named after its file; remove the key 'name'")
    return parse_table(values, Suite, source=str(path), name=path.stem)
