"""Probes are small extra attacks on a few examples, which show masked gradients; numbers only, judged elsewhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from robust_lowrank.evaluation.attacks.gradients import input_gradient, margin_loss
from robust_lowrank.evaluation.attacks.pgd import pgd
from robust_lowrank.evaluation.attacks.search import Attempt
from robust_lowrank.evaluation.audit.planted import Engine, Planted, plant
from robust_lowrank.evaluation.network.target import Target
from robust_lowrank.evaluation.verdict import check, margins, predictions
from robust_lowrank.threat import KeyedNoise, Linf, Threat, per_example

FEW, MANY = 10, 40  # steps of PGD
RESTARTS = 4
SCALES = (10.0, 100.0, 10_000.0)  # by which logits are divided
DRAWS = 10  # of noise
SMOOTHING = 8  # changes of the input over which logits are averaged
_SLOPES = ((0.03, 0.3), (0.1, 0.5))  # of eps: the steps over which slopes are compared, and by how much they may differ
_STRIDE = 0.1  # of eps: the step along the gradient that should lower the margin
_DIRECTIONS = 4  # of random noise
_WIDEST = 0.02  # by which a feature moves at most while slopes are compared
_SINGLE = 1e-6  # the coarsest type whose slopes are compared
_TINY, _FEATURES = 1e-4, 16  # size of a change that must be felt, and how many features it touches
_VANISHED = 1e-12  # size of a gradient, over that of the same loss of logits divided by the last of `SCALES`
_SEARCHED = 4  # times as many examples are looked at as are wanted, to find correctly classified ones
_ALONE, _TOGETHER = 4, 32  # examples that are evaluated alone, and with how many others
_SCALINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda x: x,
    "times 255": lambda x: 255 * x,
    "over 255": lambda x: x / 255,
    "in [-1, 1]": lambda x: 2 * x - 1,
}


class Attacked(NamedTuple):
    """Probe results on K correctly classified examples; every field has a row an example, bool, on the CPU."""

    few: Tensor  # still right after PGD with 10 steps
    many: Tensor  # ... with 40 steps
    restarted: Tensor  # ... with 10 steps from 4 starts, the first of them that of `few`
    rescaled: Tensor  # ... with 10 steps, of `few` and on logits divided by 10, 100 and 10,000, from the same start
    transferred: Tensor  # ... with 40 steps, of `many` and on what PGD with 10 steps finds against the model smoothed by noise
    noise: Tensor  # ... after 10 draws of noise in the ball
    far: Tensor  # ... after PGD with 40 steps from the clean input, within half of the diameter (Linf: all) of the cube
    downhill: Tensor  # a step along the gradient lowers the margin, compared to one against it
    along: Tensor  # over short steps along the gradient the margin changes as steeply as the gradient says
    aside: Tensor  # ... along random noise
    flat: Tensor  # a tiny change of the input changes no logit
    saturated: Tensor  # the softmax of the label is 1
    vanished: Tensor  # the gradient is not 0, but nothing beside that of the same loss of smaller logits


class Probes(NamedTuple):
    """Results of `probe`."""

    eps: float
    far_eps: float
    attacked: Attacked
    looked_at: int  # examples, whatever the model says of them, behind the fields below
    right: dict[str, int]  # how many of them the model gets right as they are, and under other scalings
    lowest: float  # feature of them
    highest: float
    constant: bool  # all of them have the same logits
    apart: float  # largest change of a logit when an example is evaluated alone, over what rounding may do in the model's type
    training: tuple[str, ...]  # modules that are in training mode
    planted: tuple[Planted, ...]


def probe(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    *,
    seed: int,
    count: int = 32,
    batch_size: int = 250,
    engines: Mapping[str, Engine] | None = None,
) -> Probes:
    """Run the extra attacks on the first `count` inputs that the model gets right, among the first four times as many.

    An example costs at most 300 evaluations of the model and 250 gradients. `engines` are attacks to try on planted examples
    as well as PGD. The model is in evaluation mode; its device is where the examples go.

    Example:
        >>> found = probe(model, x, y, Linf(8 / 255), seed=0)
        >>> int(found.attacked.few.sum()), int(found.attacked.many.sum())
    """
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), x.device)
    x, y = x[: _SEARCHED * count].to(device), y[: _SEARCHED * count].to(device)
    logits = _logits(model, x, batch_size)
    rows = (predictions(logits) == y).nonzero().squeeze(1)[:count]
    far = type(threat)(threat.diameter(x[0].numel()) / (1 if isinstance(threat, Linf) else 2))
    parts = rows.split(batch_size) if len(rows) else ()
    batches = [_attack(model, x[part], y[part], threat, far, KeyedNoise(seed, "audit", part)) for part in parts]
    nothing = Attacked(*[torch.zeros(0, dtype=torch.bool)] * len(Attacked._fields))
    seen, labels = x[:count], y[:count]
    return Probes(
        eps=threat.eps,
        far_eps=far.eps,
        attacked=Attacked(*map(torch.cat, zip(nothing, *batches, strict=True))),
        looked_at=len(seen),
        right={
            name: int((predictions(_logits(model, change(seen), batch_size)) == labels).sum()) for name, change in _SCALINGS.items()
        },
        lowest=float(seen.min()),
        highest=float(seen.max()),
        constant=bool((logits[: len(seen)] == logits[0]).all() and (seen != seen[0]).any()),
        apart=_apart(model, seen[: min(batch_size, _TOGETHER)]),
        training=_in_training(model),
        planted=tuple(
            plant(name, engine, seen, logits.shape[1], threat) for name, engine in ({"pgd": _pgd} | dict(engines or {})).items()
        ),
    )


def _attack(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, far: Threat, noise: KeyedNoise) -> Attacked:
    first, *others = (threat.random_start(x, noise.at(restart=restart)) for restart in range(RESTARTS))
    few = ~_pgd(model, x, y, threat, starts=[first], steps=FEW).claimed
    rows = few.nonzero().squeeze(1)
    restarted, rescaled = few.clone(), few.clone()
    if len(rows):
        restarted[rows] = ~_pgd(model, x[rows], y[rows], threat, starts=[start[rows] for start in others], steps=FEW).claimed
        for scale in SCALES:
            rescaled[rows] &= ~_pgd(_Rescaled(model, scale), x[rows], y[rows], threat, starts=[first[rows]], steps=FEW).claimed
    many = ~_pgd(model, x, y, threat, starts=[first]).claimed
    draws = [threat.random_start(x, noise.at(restart=RESTARTS + draw)) for draw in range(DRAWS)]
    saturated, vanished = _saturation(model, x, y)
    along, aside = _slopes(model, x, y, threat, first, noise)
    seen = Attacked(
        few=few,
        many=many,
        restarted=restarted,
        rescaled=rescaled,
        transferred=many & ~_transfer(model, x, y, threat, noise),
        noise=torch.stack([_holds(_logits(model, draw, len(x)), y) for draw in draws]).all(dim=0),
        far=~_pgd(model, x, y, far).claimed,
        downhill=_downhill(model, x, y, threat, first),
        along=along,
        aside=aside,
        flat=_flat(model, first, noise),
        saturated=saturated,
        vanished=vanished,
    )
    return Attacked(*(field.cpu() for field in seen))


def _pgd(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, starts: Sequence[Tensor] = (), steps: int = MANY) -> Attempt:
    """Attack from `starts`, without them from the clean inputs."""
    return pgd(model, x, y, threat, starts=starts or [x], steps=steps, step_size=2.5 * threat.eps / steps)


def _transfer(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, noise: KeyedNoise) -> Tensor:
    """Return which examples break on what PGD finds against the smoothed model."""
    width = threat.eps / threat.diameter(x[0].numel())
    one = replace(noise, rows=noise.rows.new_zeros(1))
    smoothed = _Smoothed(model, width * (2 * one.uniform((SMOOTHING, *x.shape[1:]), stream=2)[0] - 1).to(x.dtype))
    attempt = pgd(smoothed, x, y, threat, starts=[x], steps=FEW, step_size=2.5 * threat.eps / FEW, momentum=1.0)
    return check(model, x, y, attempt.inputs, threat).broken


def _downhill(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, point: Tensor) -> Tensor:
    """Return whether the loss's gradient shows where the margin falls: the sign of its change over a short step."""
    stride = max(_STRIDE * threat.eps, math.sqrt(torch.finfo(_dtype(model, point)).eps))  # shorter ones are lost in rounding
    change = stride * threat.steepest(input_gradient(model, point, y).gradient)
    ahead, behind = _logits(model, point + change, len(x)), _logits(model, point - change, len(x))
    return margins(ahead, y) < margins(behind, y)


def _slopes(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, point: Tensor, noise: KeyedNoise) -> tuple[Tensor, Tensor]:
    """Return whether the margin's gradient predicts how it changes over a short step, along the gradient and along random noise.

    A gradient that flows through a part of the network alone, as when the rest is detached, may well point downhill; but the margin
    falls faster than it says. Networks in less than single precision are taken to agree: rounding would hide the slope.
    """
    if torch.finfo(_dtype(model, point)).eps > _SINGLE:
        every = torch.ones_like(y, dtype=torch.bool)
        return every, every
    inside = _WIDEST + (1 - 2 * _WIDEST) * point  # no step leaves [0, 1], where some networks clamp
    logits, _, gradient, _ = input_gradient(model, inside, y, margin_loss)
    rounding = 4 * torch.finfo(_dtype(model, point)).eps * logits.double().abs().amax(dim=1)
    uphill = gradient if threat.norm == "L1" else threat.steepest(gradient)  # one feature alone is soon far away
    drawn = noise.normal((_DIRECTIONS, *x.shape[1:]), stream=3).to(x.dtype).unbind(dim=1)

    def agree(directions: Sequence[Tensor]) -> Tensor:
        agreed = torch.ones_like(y, dtype=torch.bool)
        for share, apart in _SLOPES:
            pairs = [_changes(model, y, inside, gradient, _step(threat, direction, share)) for direction in directions]
            error = torch.stack([(change - due).abs() for change, due in pairs]).sum(dim=0)
            size = torch.stack([torch.maximum(change.abs(), due.abs()) for change, due in pairs]).sum(dim=0)
            agreed &= error <= apart * size + len(pairs) * rounding
        return agreed

    return agree([uphill]), agree(drawn)


def _step(threat: Threat, direction: Tensor, share: float) -> Tensor:
    """Return a step of that share of eps, or as much of it as moves no feature further than `_WIDEST`."""
    length = threat.distance(torch.zeros_like(direction), direction)
    widest = direction.flatten(1).abs().amax(dim=1)
    scale = torch.minimum(share * threat.eps / length, _WIDEST / widest).nan_to_num(0.0, 0.0, 0.0)
    return direction * per_example(scale, direction).to(direction.dtype)


def _changes(model: nn.Module, y: Tensor, point: Tensor, gradient: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Return how much the margin falls from one side of the points to the other, and how much the gradient says."""
    ahead, behind = (margins(_logits(model, point + sign * step, len(point)), y).double() for sign in (1, -1))
    return behind - ahead, 2 * (gradient.double() * step.double()).flatten(1).sum(dim=1)


def _flat(model: nn.Module, point: Tensor, noise: KeyedNoise) -> Tensor:
    """Return whether a change of some features by about 1e-4, more where the model's type is coarser, goes unnoticed."""
    features = point[0].numel()
    size = max(_TINY, 4 * torch.finfo(_dtype(model, point)).eps)
    chosen = noise.uniform((features,), stream=1).argsort(dim=1)[:, :_FEATURES]
    change = torch.zeros(len(point), features, dtype=point.dtype, device=point.device).scatter_(1, chosen, size)
    inwards = torch.where(point.flatten(1) > 0.5, -change, change).reshape(point.shape)
    return (_logits(model, point + inwards, len(point)) == _logits(model, point, len(point))).all(dim=1)


def _saturation(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the softmax of the label is 1, and whether the gradient vanishes beside that of smaller logits."""
    logits, _, gradient, _ = input_gradient(model, x, y)
    saturated = functional.softmax(logits, dim=1).gather(1, y[:, None]).squeeze(1) == 1
    smaller = SCALES[-1] * input_gradient(_Rescaled(model, SCALES[-1]), x, y).gradient
    size, due = (part.flatten(1).abs().amax(dim=1) for part in (gradient, smaller))
    return saturated, size < _VANISHED * due


def _apart(model: nn.Module, x: Tensor) -> float:
    """Return how much logits depend on the rest of the batch, over what rounding may do in the model's type."""
    together = _logits(model, x, len(x))[:_ALONE].nan_to_num(0, 0, 0)
    alone = _logits(model, x[:_ALONE], 1).nan_to_num(0, 0, 0)
    tolerated = max(1e-4, 8 * torch.finfo(_dtype(model, x)).eps) * float(together.abs().max())
    change = float((alone - together).abs().max())
    return change / tolerated if change else 0.0


def _holds(logits: Tensor, y: Tensor) -> Tensor:
    """Return which examples are not broken: right, or without an answer."""
    return (logits.argmax(dim=1) == y) | ~torch.isfinite(logits).all(dim=1)


def _in_training(model: nn.Module) -> tuple[str, ...]:
    network = model.model if isinstance(model, Target) else model
    return tuple(name or type(module).__name__ for name, module in network.named_modules() if module.training)


def _dtype(model: nn.Module, x: Tensor) -> torch.dtype:
    return next((part.dtype for part in (*model.parameters(), *model.buffers()) if part.is_floating_point()), x.dtype)


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    return torch.cat([model(batch) for batch in x.split(batch_size)])


class _Rescaled(nn.Module):
    """A model with smaller logits: the same predictions, and gradients that do not vanish."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits over the scale."""
        return self.model(x) / self.scale


class _Smoothed(nn.Module):
    """The mean of a model's logits over fixed small changes of the input, (draws, ...): a rugged layer hides less of its slope."""

    def __init__(self, model: nn.Module, changes: Tensor) -> None:
        super().__init__()
        self.model, self.changes = model, changes

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits."""
        return torch.stack([self.model((x + change).clamp(0, 1)) for change in self.changes]).mean(dim=0)
