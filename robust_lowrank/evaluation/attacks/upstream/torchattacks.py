"""Attacks of the package torchattacks run by name, with every parameter said and all that it leaves open closed."""

import inspect
import io
import random
import time
import warnings
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib import metadata
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from robust_lowrank.errors import UserError, first_line, unknown_name
from robust_lowrank.evaluation.attacks.base import JointAttack, JointTask, NamedAttack
from robust_lowrank.evaluation.attacks.upstream.counted import CountedModel
from robust_lowrank.evaluation.attacks.view import image_view, square_view
from robust_lowrank.evaluation.network.meter import Exhausted, Meter
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.unit_result import Attempt, UnitResult
from robust_lowrank.evaluation.verdict import check
from robust_lowrank.threat import Threat, frozen_eval

_OTHER_NORMS = {
    "CW": ("L2",),
    "DeepFool": ("L2",),
    "EADEN": ("L1", "L2"),
    "EADL1": ("L1",),
    "FAB": ("Linf", "L2", "L1"),
    "APGD": ("Linf", "L2"),
    "APGDT": ("Linf", "L2"),
    "JSMA": ("L0",),
    "OnePixel": ("L0",),
    "PGDL2": ("L2",),
    "PGDRSL2": ("L2",),
    "Pixle": ("L0",),
    "SparseFool": ("L0",),
    "Square": ("Linf", "L2"),
    "GN": ("Linf", "L2", "L1"),
    "VANILA": ("Linf", "L2", "L1"),
}  # every other attack is for Linf; GN and VANILA know no budget
_BUDGETS = ("eps", "max_epsilon")  # what the attacks call it
_OURS = (*_BUDGETS, "norm", "seed", "verbose")  # parameters that an evaluation itself gives
_TARGETS = 9  # of targeted attacks, as upstream's default of ten classes means


class Torchattack(JointAttack, NamedAttack):
    """Any attack of torchattacks by its class, such as MIFGSM; what `parameters` leaves out has that package's default."""

    attack: Literal["torchattacks"] = "torchattacks"
    turn: ClassVar[int] = 100
    engine: Literal["torchattacks"] = "torchattacks"
    algorithm: str
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @classmethod
    def of_record(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Return the fields: results write the eps among the parameters, which is the suite's."""
        return values | {"parameters": {key: value for key, value in values.get("parameters", {}).items() if key != "eps"}}

    @property
    def label(self) -> str:
        """The name in results, such as torchattacks-mifgsm."""
        return self.name or f"torchattacks-{self.algorithm.lower()}"

    def require(self) -> None:
        """Require torchattacks."""
        _package()

    def cost(self, classes: int, norm: str) -> int:
        """Return a forward and a backward for each of the attack's steps, where it says how many they are."""
        return 2 * int(self.parameters.get("steps", 10))

    def settings(self, classes: int, shape: tuple[int, ...], threat: Threat) -> dict[str, Any]:
        """Return every parameter of the attack."""
        complete = complete_parameters(self.algorithm, self.parameters, threat, classes=classes)
        return {"parameters": complete, "version": f"torchattacks {metadata.version('torchattacks')}"}

    def find(self, task: JointTask) -> UnitResult:
        """Run the attack."""
        started, target = time.perf_counter(), task.target
        clean, labels = task.x.to(target.device), task.y.to(target.device)
        attempt = torchattack(
            target,
            clean,
            labels,
            task.threat,
            name=self.algorithm,
            parameters=self.parameters,
            seed=task.seed,
            batch_size=task.batch_size,
            meter=task.meter,
        )
        seen = check(target, clean, labels, attempt.inputs, task.threat)
        return UnitResult.of(task.rows, attempt, seen, time.perf_counter() - started)


def torchattack(
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    name: str,
    parameters: Mapping[str, object],
    seed: int,
    batch_size: int,
    meter: Meter | None = None,
) -> Attempt:
    """Run an attack of torchattacks on batches of examples and bring what it proposes into the threat model.

    It sees float32 images: inputs of another shape are viewed as one channel. Each batch starts from the same seed, and its noise
    is drawn by batch, so that a verdict can depend on `batch_size`. A success counts as claimed if the input is still one after
    the projection. Modes, flags, random states and stdout are left as found. Evaluations are a batch's mean, rounded up.

    Example:
        >>> torchattack(Target(model, x), x, y, Linf(8 / 255), name="MIFGSM", parameters={"steps": 20}, seed=0, batch_size=100)

    Raises:
        UserError: torchattacks is not installed; it has no such attack or parameter; the attack is for another norm, or fails on
            such inputs.

    Source: Kim 2020 (arXiv 2010.01950), package torchattacks.
    """
    settings = complete_parameters(name, parameters, threat, seed=seed, classes=target.classes)
    kind, shape = _find_class(name), tuple(x.shape[1:])
    view = square_view(shape, threat.norm) if name == "Square" else image_view(shape)
    if view is None:
        raise UserError(f"torchattacks Square fails for {threat.norm} on inputs of shape {shape}: leave it out of the suite")
    counted = CountedModel(target, threat, shape, meter)
    batches = []
    with frozen_eval(counted):
        for clean, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            counted.watch(clean)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.manual_seed(seed)
            proposed = _quietly(kind, counted, settings, clean.float().reshape(-1, *view), labels)
            seen = check(target, clean, labels, proposed.reshape(clean.shape), threat)
            passes = (torch.full_like(labels, -(-rows // len(clean))) for rows in counted.rows)
            batches.append((seen.inputs, seen.broken, counted.nonfinite.to(clean.device) | ~seen.finite, *passes))
    inputs, claimed, nonfinite, forwards, backwards = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return Attempt(inputs, claimed, nonfinite, forwards, backwards)


def complete_parameters(
    name: str, parameters: Mapping[str, object], threat: Threat, *, seed: int = 0, classes: int = 10
) -> dict[str, Any]:
    """Return every parameter with which an attack will run: those given, the evaluation's own, and upstream's defaults.

    The budget, norm and seed are the evaluation's. Targeted attacks get at most nine target classes, as upstream's default has,
    and never more than there are. Upstream's step sizes do not follow the budget: give `alpha` where eps is not 8/255.

    Example:
        >>> complete_parameters("PGD", {"steps": 40}, Linf(0.1))
        {'eps': 0.1, 'alpha': 0.00784313725490196, 'steps': 40, 'random_start': True}

    Raises:
        UserError: torchattacks is not installed; it has no such attack or parameter, or the attack is for another norm.
    """
    defaults = _defaults(_find_class(name)) or {}
    if threat.norm not in norms_of(name):
        fitting = ", ".join(other for other in torchattack_names() if threat.norm in norms_of(other))
        raise UserError(
            f"torchattacks {name} is an attack for {' and '.join(norms_of(name))}, the evaluation's norm is {threat.norm}\n"
            f"For {threat.norm} there are {fitting}"
        )
    free = [key for key in defaults if key not in _OURS]
    for key in parameters:
        if key in _OURS:
            raise UserError(f"{key} of torchattacks {name} comes from the evaluation: remove it, and give eps, norm and seed there")
        if key not in free:
            raise unknown_name(f"parameter of torchattacks {name}", key, free)
    ours = dict.fromkeys(_BUDGETS, threat.eps) | {"norm": threat.norm, "seed": seed, "verbose": False}
    ours["n_classes"] = min(classes, _TARGETS + 1)
    return defaults | {key: value for key, value in ours.items() if key in defaults} | dict(parameters)


def torchattack_names() -> list[str]:
    """Return the attacks of torchattacks that need no more than a model.

    Raises:
        UserError: torchattacks is not installed.
    """
    package = _package()
    return sorted(name for name in package.__all__ if name != "AutoAttack" and _defaults(getattr(package, name)) is not None)


def _find_class(name: str) -> Any:
    if name == "AutoAttack":
        raise UserError(
            "torchattacks AutoAttack runs 10 iterations where AutoAttack has 100, so that its figures are not AutoAttack's\n"
            'Use the suite "standard", or attack = "autoattack" with engine = "pyautoattack"'
        )
    if name not in torchattack_names():
        raise unknown_name("attack of torchattacks", name, torchattack_names())
    return getattr(_package(), name)


def norms_of(name: str) -> tuple[str, ...]:
    """Return the norms that an attack of torchattacks is for."""
    return _OTHER_NORMS.get(name, ("Linf",))


def _defaults(kind: type) -> dict[str, Any] | None:
    """Return the parameters after the model with their defaults, None if one of them has none."""
    model, *others = list(inspect.signature(kind).parameters.values())
    complete = model.name == "model" and all(p.default is not p.empty for p in others)
    return {p.name: p.default for p in others} if complete else None


def _package() -> Any:
    try:
        import torchattacks
    except ModuleNotFoundError as error:
        raise UserError(
            f"torchattacks cannot be imported ({error})\npip install --no-deps torchattacks, which leaves its old requests out"
        ) from error
    return torchattacks


def _quietly(kind: Any, counted: CountedModel, settings: Mapping[str, Any], images: Tensor, labels: Tensor) -> Tensor:
    """Return what the attack proposes; it prints, warns and leaves gradients on, none of which reaches the caller."""
    with torch.inference_mode(False), torch.enable_grad(), warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            attack = kind(counted, **settings)
            attack.set_device(images.device)
            return attack(images.clone(), labels.clone()).detach()
        except (torch.cuda.OutOfMemoryError, UserError, Exhausted):
            raise
        except Exception as error:  # attacks that cannot take an input raise anything
            raise UserError(
                f"torchattacks {kind.__name__} fails on images of shape {tuple(images.shape[1:])} with {dict(settings)}: "
                f"{first_line(error)}\nChange its parameters, or leave it out of the suite"
            ) from error
