"""Rules say what torch's optimizers mean for a factored weight: updates of tangent vectors.

A first moment is a tangent vector, and taken along as one. A second moment keeps the covariances U^T G G^T U and V^T G^T G V of the
gradient in the bases (methods (73)-(74)), after Shampoo's (Gupta, Koren, Singer 2018, arXiv 1802.09568), which keeps those of the
whole gradient, G G^T and G^T G.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robust_lowrank import linalg
from robust_lowrank.errors import UserError
from robust_lowrank.linalg import Factors
from robust_lowrank.methods import tangent

LEAST_SHARE = 1e-4  # of the mean of all eigenvalues of a covariance that one counts as at least

MUON_OPTIONS = ("momentum", "nesterov", "eps", "adjust_lr_fn")

State = dict[str, Any]
Rule = Callable[[State, Factors, Factors, dict[str, Any]], tuple[Factors, State]]


def sgd(state: State, gradient: Factors, factors: Factors, group: dict[str, Any]) -> tuple[Factors, State]:
    """Return the direction of SGD, with momentum, dampening and Nesterov's as torch has them."""
    gradient = _decayed(gradient, factors, group["weight_decay"])
    if not (momentum := group["momentum"]):
        return gradient, {}
    moment = gradient
    if state:
        moment = tangent.add(tangent.scale(gradient, 1 - group["dampening"]), _moment(state, factors), by=momentum)
    direction = tangent.add(gradient, moment, by=momentum) if group["nesterov"] else moment
    return direction, {"moment": _kept(moment)}


def adam(state: State, gradient: Factors, factors: Factors, group: dict[str, Any]) -> tuple[Factors, State]:
    """Return the direction of Adam or AdamW."""
    first, second = group["betas"]
    gradient = _decayed(gradient, factors, 0.0 if decoupled_decay(group) else group["weight_decay"])
    step = _step(state)
    moment = _averaged(state, gradient, factors, first)
    covariances = _averaged_covariances(state, gradient, factors, second)
    advanced: State = {"step": step, "moment": _kept(moment), "covariances": covariances}
    if group["amsgrad"]:
        covariances = advanced["largest"] = tuple(map(_larger, state.get("largest", covariances), covariances))
    direction = _whitened(moment, factors, covariances, group["eps"], unbias=1 - second ** float(step))
    return tangent.scale(direction, 1 / (1 - first ** float(step))), advanced


def nadam(state: State, gradient: Factors, factors: Factors, group: dict[str, Any]) -> tuple[Factors, State]:
    """Return the direction of NAdam: Adam's with Nesterov's momentum, whose factor grows with the steps."""
    first, second = group["betas"]
    gradient = _decayed(gradient, factors, 0.0 if decoupled_decay(group) else group["weight_decay"])
    step = _step(state)
    moment = _averaged(state, gradient, factors, first)
    covariances = _averaged_covariances(state, gradient, factors, second)
    now, following = (first * (1 - 0.5 * 0.96 ** (float(step + ahead) * group["momentum_decay"])) for ahead in (0, 1))
    product = state.get("mu_product", torch.ones(())) * now
    mixed = tangent.add(
        tangent.scale(gradient, (1 - now) / (1 - float(product))), moment, by=following / (1 - float(product) * following)
    )
    advanced = {"step": step, "mu_product": product, "moment": _kept(moment), "covariances": covariances}
    return _whitened(mixed, factors, covariances, group["eps"], unbias=1 - second ** float(step)), advanced


def rmsprop(state: State, gradient: Factors, factors: Factors, group: dict[str, Any]) -> tuple[Factors, State]:
    """Return the direction of RMSprop, whose momentum is one of whitened gradients."""
    gradient = _decayed(gradient, factors, group["weight_decay"])
    covariances = _averaged_covariances(state, gradient, factors, group["alpha"])
    direction = _whitened(gradient, factors, covariances, group["eps"])
    advanced: State = {"step": _step(state), "covariances": covariances}
    if momentum := group["momentum"]:
        if "moment" in state:
            direction = tangent.add(direction, _moment(state, factors), by=momentum)
        advanced["moment"] = _kept(direction)
    return direction, advanced


def muon(state: State, gradient: Factors, factors: Factors, group: dict[str, Any]) -> tuple[Factors, State]:
    """Return the direction of Muon on the manifold: the tangent part of the matrix sign of a momentum of tangent vectors.

    After Riemannion (Bogachev et al. 2025, arXiv 2507.12142). As in torch's Muon the momentum is kept before its sign is taken, and
    `adjust_lr_fn="match_rms_adamw"` gives the direction the root mean square 0.2, here over the entries of the whole weight.
    """
    momentum = group["momentum"]
    old = _moment(state, factors) if state else tangent.scale(gradient, 0.0)
    moment = tangent.add(tangent.scale(gradient, 1 - momentum), old, by=momentum)
    mixed = tangent.add(tangent.scale(gradient, 1 - momentum), moment, by=momentum) if group["nesterov"] else moment
    direction, rank = tangent.orthogonalise(mixed, factors, cutoff=group["eps"])
    n, m = len(factors.bases[0]), tangent.size(factors) // len(factors.bases[0])
    by = MUON_SCALES[group["adjust_lr_fn"] or "original"](n, m, rank)
    return tangent.scale(direction, by), {"step": _step(state), "moment": _kept(moment)}


RULES: dict[type[torch.optim.Optimizer], Rule] = {
    torch.optim.SGD: sgd,
    torch.optim.Adam: adam,
    torch.optim.AdamW: adam,
    torch.optim.NAdam: nadam,
    torch.optim.RMSprop: rmsprop,
    torch.optim.Muon: muon,
}


MUON_SCALES: dict[str, Callable[[int, int, Tensor], float | Tensor]] = {
    "original": lambda n, m, _: math.sqrt(max(1.0, n / m)),
    "spectral_unclamped": lambda n, m, _: math.sqrt(n / m),
    "match_rms_adamw": lambda n, m, rank: 0.2 * (n * m / rank.clamp(min=1)).sqrt(),
}


def rule_of(optimizer: type[torch.optim.Optimizer]) -> Rule:
    """Return the rule of a torch optimizer.

    Raises:
        UserError: it has none that does not depend on the choice of bases.
    """
    if optimizer not in RULES:
        raise UserError(
            f"{optimizer.__name__} has no update rule for factored weights that does not depend on their bases: take "
            f"{', '.join(each.__name__ for each in RULES)}, or moments='elementwise', which hands it the cores as they are"
        )
    return RULES[optimizer]


def make_inner(
    optimizer: type[torch.optim.Optimizer], groups: list[dict[str, Any]], options: dict[str, Any]
) -> torch.optim.Optimizer:
    """Return the optimizer of parameters without a rule: of the same class, or AdamW beside Muon, which takes matrices alone.

    The options of the rules stand in the parameter groups, where schedulers find them.
    """
    if optimizer is not torch.optim.Muon:
        return optimizer(groups, **options)
    optimizer([torch.nn.Parameter(torch.zeros(1, 1))], **options)  # it knows which values are allowed
    if unused := [name for name in options if name.startswith("ns_")]:
        raise UserError(f"{unused[0]} belongs to an iteration that factored weights do not need, whose sign is exact: leave it out")
    declared = inspect.signature(optimizer.__init__).parameters
    chosen = {name: declared[name].default for name in ("lr", "weight_decay", *MUON_OPTIONS)} | options
    muon = {name: chosen[name] for name in MUON_OPTIONS}
    inner = torch.optim.AdamW(groups, lr=chosen["lr"], weight_decay=chosen["weight_decay"])
    for group in inner.param_groups:
        group["decoupled_weight_decay"] = True
        if group["name"] == "cores":
            group.update(muon)
    return inner


def decoupled_decay(group: dict[str, Any]) -> float:
    """Return the weight decay that shrinks the weight itself instead of joining its gradient, as AdamW's does; 0 for none."""
    return group["weight_decay"] if group.get("decoupled_weight_decay") else 0.0


def transport_state(state: State, old: Factors, new: Factors) -> State:
    """Return a rule's state after a layer's factors have changed: its moments in the new tangent space."""
    moved = dict(state)
    if "moment" in state:
        moved["moment"] = _kept(tangent.transport(_moment(state, old), old, new))
    for name in ("covariances", "largest"):
        if name in state:
            moved[name] = tuple(map(_packed, tangent.transport_covariances(list(map(_unpacked, state[name])), old, new)))
    return moved


def _kept(x: Factors) -> tuple[Tensor, ...]:
    """Return what a state holds of a tangent vector: a matrix's X_S = U^T X_K follows from the rest."""
    return x.bases if x.core.ndim == 2 else (x.core, *x.bases)


def _moment(state: State, factors: Factors) -> Factors:
    """Return the tangent vector that `_kept` was given."""
    kept = tuple(state["moment"])
    return Factors(factors.bases[0].T @ kept[0], kept) if factors.core.ndim == 2 else Factors(kept[0], kept[1:])


def _step(state: State) -> Tensor:
    return state.get("step", torch.zeros(())) + 1


def _decayed(gradient: Factors, factors: Factors, decay: float) -> Factors:
    """Return the gradient of the loss + decay ||W||^2 / 2."""
    return tangent.add(gradient, tangent.of_core(factors, factors.core), by=decay) if decay else gradient


def _averaged(state: State, gradient: Factors, factors: Factors, beta: float) -> Factors:
    new = tangent.scale(gradient, 1 - beta)
    return tangent.add(new, _moment(state, factors), by=beta) if state else new


def _averaged_covariances(state: State, gradient: Factors, factors: Factors, beta: float) -> tuple[Tensor, ...]:
    now = tangent.covariances(gradient, factors)
    before = map(_unpacked, state["covariances"]) if state else map(torch.zeros_like, now)
    return tuple(_packed(old.lerp(new, 1 - beta)) for old, new in zip(before, now, strict=True))


def _packed(square: Tensor) -> Tensor:
    """Return the lower triangle of a symmetric matrix."""
    return square[*torch.tril_indices(*square.shape, device=square.device)]


def _unpacked(triangle: Tensor) -> Tensor:
    """Return the symmetric matrix with a lower triangle."""
    size = math.isqrt(2 * len(triangle))
    square = triangle.new_zeros(size, size)
    rows, columns = torch.tril_indices(size, size, device=triangle.device)
    square[rows, columns] = square[columns, rows] = triangle
    return square


def _larger(one: Tensor, other: Tensor) -> Tensor:
    """Return the smallest symmetric matrix of the form (A + B + |D|) / 2 that is at least A and B: for numbers their maximum."""
    a, b = _unpacked(one), _unpacked(other)
    values, vectors = linalg.eigh(a - b)
    return _packed(((a + b + (vectors * values.abs()) @ vectors.T) / 2).to(one.dtype))


def _whitened(x: Factors, factors: Factors, covariances: tuple[Tensor, ...], eps: float, *, unbias: float = 1.0) -> Factors:
    """Return X whitened (methods (75)), and so scaled that white noise gets the root mean square 1 over the whole weight."""
    levels = tangent.noise_covariances(factors)
    roots = [_root(_unpacked(each) / unbias, level, eps) for each, level in zip(covariances, levels, strict=True)]
    return tangent.scale(tangent.whiten(x, factors, roots), math.sqrt(tangent.size(factors) / tangent.whitened_size(factors)))


def _root(covariance: Tensor, level: float, eps: float) -> Callable[[float], Tensor]:
    """Return a function from an exponent to that power of a covariance.

    Directions without a gradient would get the longest steps of all. So an eigenvalue counts as a share of their mean at least.

    Args:
        level: the eigenvalue that belongs to entries of mean square 1.
        eps: added to the root mean square of an entry.
    """
    values, vectors = linalg.eigh(covariance)
    values = values.maximum(LEAST_SHARE * values.mean()).clamp(min=0)
    values = (values.sqrt() + eps * math.sqrt(level)).square()
    return lambda exponent: ((vectors * values**exponent) @ vectors.T).to(covariance.dtype)
