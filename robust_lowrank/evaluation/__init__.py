"""Attack a classifier under rules strict enough to publish: threat models, attacks, suites, verdicts and their audit.

Nothing here knows of low-rank layers: a model is any `nn.Module` that returns logits for inputs in [0, 1].
"""

from robust_lowrank.evaluation.engines.apgd import apgd
from robust_lowrank.evaluation.engines.fgsm import fgsm
from robust_lowrank.evaluation.engines.pgd import pgd
from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.forecast import Forecast, forecast
from robust_lowrank.evaluation.inputs import check_logits
from robust_lowrank.evaluation.matrix import Transferred, transferred
from robust_lowrank.evaluation.meter import Meter
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.question import BATCH, Question, ask
from robust_lowrank.evaluation.result import Adversarial, Evaluation
from robust_lowrank.evaluation.runner import evaluate, fingerprint, prepare
from robust_lowrank.evaluation.specs import (
    APGD,
    FAB,
    FGSM,
    PGD,
    AANative,
    AutoAttack,
    DeepFool,
    MomentumPGD,
    RandomNoise,
    Square,
    Torchattack,
    Transfer,
)
from robust_lowrank.evaluation.suite import Suite, load_suite, suite_names
from robust_lowrank.evaluation.threat import L1, L2, Linf, Threat, threat
from robust_lowrank.evaluation.verdict import Check, check
from robust_lowrank.evaluation.verification import Proof, read_adversarial, verify
from robust_lowrank.evaluation.work import Progress

__all__ = [
    "APGD",
    "BATCH",
    "FAB",
    "FGSM",
    "L1",
    "L2",
    "PGD",
    "AANative",
    "Adversarial",
    "Attempt",
    "AutoAttack",
    "Check",
    "DeepFool",
    "Evaluation",
    "Forecast",
    "KeyedNoise",
    "Linf",
    "Meter",
    "MomentumPGD",
    "Progress",
    "Proof",
    "Question",
    "RandomNoise",
    "Square",
    "Suite",
    "Threat",
    "Torchattack",
    "Transfer",
    "Transferred",
    "apgd",
    "ask",
    "check",
    "check_logits",
    "evaluate",
    "fgsm",
    "fingerprint",
    "forecast",
    "load_suite",
    "pgd",
    "prepare",
    "read_adversarial",
    "suite_names",
    "threat",
    "transferred",
    "verify",
]
