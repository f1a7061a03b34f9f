"""Attack a classifier under rules strict enough to publish: threat models, attacks, suites, verdicts and their audit.

Nothing here knows of low-rank layers: a model is any `nn.Module` that returns logits for inputs in [0, 1].
"""

from robust_lowrank.evaluation.attacks.aa_native import AANative
from robust_lowrank.evaluation.attacks.apgd import APGD, apgd
from robust_lowrank.evaluation.attacks.deepfool import DeepFool
from robust_lowrank.evaluation.attacks.fab import FAB
from robust_lowrank.evaluation.attacks.fgsm import FGSM, fgsm
from robust_lowrank.evaluation.attacks.pgd import PGD, MomentumPGD, pgd
from robust_lowrank.evaluation.attacks.random_noise import RandomNoise
from robust_lowrank.evaluation.attacks.square import Square
from robust_lowrank.evaluation.attacks.transfer import Transfer
from robust_lowrank.evaluation.attacks.upstream.autoattack import AutoAttack
from robust_lowrank.evaluation.attacks.upstream.torchattacks import Torchattack
from robust_lowrank.evaluation.forecast import Forecast, forecast
from robust_lowrank.evaluation.network.inputs import check_logits
from robust_lowrank.evaluation.network.meter import Meter
from robust_lowrank.evaluation.result import Adversarial, Evaluation
from robust_lowrank.evaluation.run import Progress
from robust_lowrank.evaluation.runner import evaluate, fingerprint, prepare
from robust_lowrank.evaluation.suite import BATCH, EvalConfig, Suite, load_suite, suite_names
from robust_lowrank.evaluation.unit_result import Attempt
from robust_lowrank.evaluation.verdict import Check, check
from robust_lowrank.evaluation.verification import Proof, Transferred, read_adversarial, transferred, verify
from robust_lowrank.threat import L1, L2, KeyedNoise, Linf, Threat, threat

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
    "EvalConfig",
    "Evaluation",
    "Forecast",
    "KeyedNoise",
    "Linf",
    "Meter",
    "MomentumPGD",
    "Progress",
    "Proof",
    "RandomNoise",
    "Square",
    "Suite",
    "Threat",
    "Torchattack",
    "Transfer",
    "Transferred",
    "apgd",
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
