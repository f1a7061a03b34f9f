"""The attacks as a suite names them, from cheap to dear."""

from typing import Annotated

from pydantic import Field

from robust_lowrank.evaluation.specs.adaptive import APGD, FAB, DeepFool
from robust_lowrank.evaluation.specs.blackbox import RandomNoise, Square, Transfer
from robust_lowrank.evaluation.specs.ensemble import AANative
from robust_lowrank.evaluation.specs.foreign import AutoAttack, JointSpec, Torchattack
from robust_lowrank.evaluation.specs.spec import AttackSpec, NativeSpec, Radii, Strict, listed, radius
from robust_lowrank.evaluation.specs.steps import FGSM, PGD, MomentumPGD

Attack = Annotated[
    FGSM | Transfer | PGD | MomentumPGD | RandomNoise | APGD | DeepFool | FAB | Square | Torchattack | AANative | AutoAttack,
    Field(discriminator="attack"),
]
ATTACKS: dict[str, type[AttackSpec]] = {
    "fgsm": FGSM,
    "transfer": Transfer,
    "random-noise": RandomNoise,
    "pgd": PGD,
    "momentum-pgd": MomentumPGD,
    "apgd": APGD,
    "deepfool": DeepFool,
    "fab": FAB,
    "square": Square,
    "torchattacks": Torchattack,
    "aa-native": AANative,
    "autoattack": AutoAttack,
}

__all__ = [
    "APGD",
    "ATTACKS",
    "FAB",
    "FGSM",
    "PGD",
    "AANative",
    "Attack",
    "AttackSpec",
    "AutoAttack",
    "DeepFool",
    "JointSpec",
    "MomentumPGD",
    "NativeSpec",
    "Radii",
    "RandomNoise",
    "Square",
    "Strict",
    "Torchattack",
    "Transfer",
    "listed",
    "radius",
]
