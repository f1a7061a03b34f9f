"""Evaluations attack a classifier under rules strict enough to publish, and are themselves audited.

Nothing here knows of low-rank layers: a model is any `nn.Module` that returns logits for inputs in [0, 1].
"""

from robust_lowrank.evaluation.attacks.aa_native import AANative as AANative
from robust_lowrank.evaluation.attacks.apgd import APGD as APGD
from robust_lowrank.evaluation.attacks.apgd import apgd as apgd
from robust_lowrank.evaluation.attacks.deepfool import DeepFool as DeepFool
from robust_lowrank.evaluation.attacks.fab import FAB as FAB
from robust_lowrank.evaluation.attacks.fgsm import FGSM as FGSM
from robust_lowrank.evaluation.attacks.fgsm import fgsm as fgsm
from robust_lowrank.evaluation.attacks.pgd import PGD as PGD
from robust_lowrank.evaluation.attacks.pgd import MomentumPGD as MomentumPGD
from robust_lowrank.evaluation.attacks.pgd import pgd as pgd
from robust_lowrank.evaluation.attacks.random_noise import RandomNoise as RandomNoise
from robust_lowrank.evaluation.attacks.square import Square as Square
from robust_lowrank.evaluation.attacks.transfer import Transfer as Transfer
from robust_lowrank.evaluation.attacks.upstream.autoattack import AutoAttack as AutoAttack
from robust_lowrank.evaluation.attacks.upstream.torchattacks import Torchattack as Torchattack
from robust_lowrank.evaluation.forecast import Forecast as Forecast
from robust_lowrank.evaluation.forecast import forecast as forecast
from robust_lowrank.evaluation.network.classifier import as_classifier as as_classifier
from robust_lowrank.evaluation.network.inputs import check_logits as check_logits
from robust_lowrank.evaluation.network.meter import Meter as Meter
from robust_lowrank.evaluation.repetition import Again as Again
from robust_lowrank.evaluation.repetition import attack_again as attack_again
from robust_lowrank.evaluation.result import Adversarial as Adversarial
from robust_lowrank.evaluation.result import Evaluation as Evaluation
from robust_lowrank.evaluation.run import Progress as Progress
from robust_lowrank.evaluation.runner import Fingerprint as Fingerprint
from robust_lowrank.evaluation.runner import behaviour as behaviour
from robust_lowrank.evaluation.runner import evaluate as evaluate
from robust_lowrank.evaluation.runner import fingerprint as fingerprint
from robust_lowrank.evaluation.runner import prepare as prepare
from robust_lowrank.evaluation.suite import BATCH as BATCH
from robust_lowrank.evaluation.suite import EvalConfig as EvalConfig
from robust_lowrank.evaluation.suite import Suite as Suite
from robust_lowrank.evaluation.suite import load_suite as load_suite
from robust_lowrank.evaluation.suite import suite_names as suite_names
from robust_lowrank.evaluation.unit_result import Attempt as Attempt
from robust_lowrank.evaluation.verdict import Check as Check
from robust_lowrank.evaluation.verdict import check as check
from robust_lowrank.evaluation.verification import Proof as Proof
from robust_lowrank.evaluation.verification import Transferred as Transferred
from robust_lowrank.evaluation.verification import Verification as Verification
from robust_lowrank.evaluation.verification import read_adversarial as read_adversarial
from robust_lowrank.evaluation.verification import transferred as transferred
from robust_lowrank.evaluation.verification import verify as verify
from robust_lowrank.threat import L1 as L1
from robust_lowrank.threat import L2 as L2
from robust_lowrank.threat import KeyedNoise as KeyedNoise
from robust_lowrank.threat import Linf as Linf
from robust_lowrank.threat import Threat as Threat
from robust_lowrank.threat import threat as threat
