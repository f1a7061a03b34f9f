"""Attack a classifier under rules strict enough to publish: threat models, attacks, suites, verdicts and their audit.

Nothing here knows of low-rank layers: a model is any `nn.Module` that returns logits for inputs in [0, 1].
"""

from robust_lowrank.evaluation.engines.apgd import apgd
from robust_lowrank.evaluation.engines.fgsm import fgsm
from robust_lowrank.evaluation.engines.pgd import pgd
from robust_lowrank.evaluation.engines.search import Attempt
from robust_lowrank.evaluation.noise import KeyedNoise
from robust_lowrank.evaluation.result import Adversarial, Evaluation
from robust_lowrank.evaluation.runner import evaluate, fingerprint
from robust_lowrank.evaluation.suite import FGSM, PGD, AutoAttack, Suite, load_suite, suite_names
from robust_lowrank.evaluation.threat import L1, L2, Linf, Threat, threat
from robust_lowrank.evaluation.verdict import Check, check

__all__ = [
    "FGSM",
    "L1",
    "L2",
    "PGD",
    "Adversarial",
    "Attempt",
    "AutoAttack",
    "Check",
    "Evaluation",
    "KeyedNoise",
    "Linf",
    "Suite",
    "Threat",
    "apgd",
    "check",
    "evaluate",
    "fgsm",
    "fingerprint",
    "load_suite",
    "pgd",
    "suite_names",
    "threat",
]
