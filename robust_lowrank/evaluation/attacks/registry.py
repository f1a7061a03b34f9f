"""The registry finds attacks in the files of this package, and orders them from cheap to dear."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field

from robust_lowrank.evaluation import attacks
from robust_lowrank.evaluation.attacks.base import Attack


def _attack_classes() -> Iterator[type[Attack]]:
    for module in walk_packages(attacks.__path__, f"{attacks.__name__}."):
        for value in vars(import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name and "attack" in getattr(value, "model_fields", {}):
                yield value


ATTACKS: dict[str, type[Attack]] = {
    kind.model_fields["attack"].default: kind for kind in sorted(_attack_classes(), key=lambda kind: kind.turn)
}

if TYPE_CHECKING:
    AnyAttack = Attack
else:
    AnyAttack = Annotated[Union[tuple(ATTACKS.values())], Field(discriminator="attack")]  # noqa: UP007


def title_of(name: str) -> str:
    """Return an attack's name in results as reports write it, such as `PGD-20` for `pgd-20`."""
    head, dash, tail = name.partition("-")
    return ((ATTACKS[head].title if head in ATTACKS else None) or head) + dash + tail
