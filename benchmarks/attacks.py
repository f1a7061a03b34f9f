"""robust accuracy, %, under the same attacks by others at equal steps (digits, 256 examples; needs foolbox and adv-lib)"""

import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.audit import Task, cnn, fit, mlp
from robust_lowrank import UserError, data
from robust_lowrank.evaluation import APGD, DDN, FMN, PGD, KeyedNoise, check, minimal, threat

EXAMPLES = 256
STEPS = 50
EPS = {"Linf": (0.05, 0.1), "L2": (0.3, 0.5), "L1": (1.0, 2.0)}
ORDERS = {"Linf": float("inf"), "L2": 2.0, "L1": 1.0}


def peers() -> tuple[Any, Any]:
    """Return foolbox and adv-lib's attacks.

    Raises:
        UserError: one of them is not installed.
    """
    sys.modules.setdefault("visdom", types.ModuleType("visdom")).__dict__.setdefault(
        "Visdom", object
    )  # for plots that nobody draws
    try:
        import adv_lib.attacks  # pyright: ignore[reportMissingImports]
        import foolbox  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"this benchmark compares with other packages: pip install foolbox adv-lib ({error})") from error
    return foolbox, adv_lib.attacks


def run() -> pd.DataFrame:
    """Return a row a network, attack and radius: the examples that ours and theirs leave robust."""
    foolbox, adv = peers()
    digits = data.load("digits")
    x, y = digits.test_x[:EXAMPLES], digits.test_y[:EXAMPLES]
    task = Task(digits.train_x, digits.train_y, x, y)
    rows = []
    for name, make in {"cnn": cnn, "mlp": mlp}.items():
        model = fit(make(), task)
        theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        for norm, radii in EPS.items():
            nearest = _nearest(model, theirs, foolbox, adv, x, y, norm)
            for eps in radii:
                robust = partial(_robust, model, x, y, norm, eps)
                for attack, columns in _attacks(model, theirs, foolbox, adv, x, y, norm, eps).items():
                    rows.append({"network": name, "norm": norm, "eps": eps, "attack": attack} | _each(columns, robust))
                for attack, columns in nearest.items():
                    rows.append({"network": name, "norm": norm, "eps": eps, "attack": attack} | _each(columns, robust))
    return pd.DataFrame(rows).fillna("–")


def _attacks(
    model: nn.Module, theirs: Any, foolbox: Any, adv: Any, x: Tensor, y: Tensor, norm: str, eps: float
) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Return the attacks at a fixed radius: each gives the inputs that it found."""
    budget = threat(norm, eps, features=x[0].numel())

    def ours(attack: Any) -> Callable[[], Tensor]:
        noise = KeyedNoise(0, attack.purpose, torch.arange(len(x)))
        return lambda: attack.attempt(model, x, y, budget, noise).inputs

    kinds = {"Linf": foolbox.attacks.LinfPGD, "L2": foolbox.attacks.L2PGD, "L1": foolbox.attacks.SparseL1DescentAttack}
    options = {"rel_stepsize": 2.5 / STEPS} if norm != "L1" else {}
    steepest = kinds[norm](steps=STEPS, **options)
    return {
        f"PGD-{STEPS}": {"ours": ours(PGD(steps=STEPS)), "foolbox": lambda: steepest(theirs, x, y, epsilons=eps)[1]},
        f"APGD-ce-{STEPS}": {
            "ours": ours(APGD(steps=STEPS)),
            "adv-lib": lambda: adv.apgd(model, x, y, eps, ORDERS[norm], n_iter=STEPS, n_restarts=1),
        },
    }


def _nearest(
    model: nn.Module, theirs: Any, foolbox: Any, adv: Any, x: Tensor, y: Tensor, norm: str
) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Return the attacks that look for the nearest input, once for all radii."""
    kind = {"Linf": "LInfFMNAttack", "L2": "L2FMNAttack", "L1": "L1FMNAttack"}[norm]
    misled = foolbox.criteria.Misclassification(y)

    def ours(attack: Any) -> Tensor:
        noise = KeyedNoise(0, attack.purpose, torch.arange(len(x)))
        return minimal(model, x, y, norm, noise=noise, method=attack.kind, steps=STEPS).inputs

    found = {
        f"FMN-{STEPS}": {
            "ours": ours(FMN()),
            "foolbox": getattr(foolbox.attacks, kind)(steps=STEPS)(theirs, x, misled, epsilons=None)[0],
            "adv-lib": adv.fmn(model, x, y, norm=ORDERS[norm], steps=STEPS),
        }
    }
    if norm == "L2":
        found[f"DDN-{STEPS}"] = {
            "ours": ours(DDN()),
            "foolbox": foolbox.attacks.DDNAttack(steps=STEPS)(theirs, x, y, epsilons=None)[0],
            "adv-lib": adv.ddn(model, x, y, steps=STEPS),
        }
    return {attack: {who: (lambda inputs=inputs: inputs) for who, inputs in columns.items()} for attack, columns in found.items()}


def _each(columns: dict[str, Callable[[], Tensor]], robust: Callable[[Tensor], float]) -> dict[str, float]:
    torch.manual_seed(0)
    return {who: robust(find()) for who, find in columns.items()}


def _robust(model: nn.Module, x: Tensor, y: Tensor, norm: str, eps: float, inputs: Tensor) -> float:
    """Return the share of examples that none of these inputs breaks within the radius, by the rule for all; in percent.

    An input a little beyond the radius, by other packages' rounding, is brought back; one that is far beyond breaks nothing.
    """
    budget = threat(norm, eps, features=x[0].numel())
    near = budget.distance(x, inputs.detach()) <= eps * (1 + 1e-4)
    candidates = torch.where(near[:, None, None, None], inputs.detach(), x)
    broken = check(model, x, y, candidates, budget).broken | (model(x).argmax(dim=1) != y)
    return round(100 * float((~broken).double().mean()), 1)
