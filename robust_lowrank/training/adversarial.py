"""Adversarial training finds the worst inputs of a batch before the step, and takes the loss on them.

The inner maximisation runs once a step, at the weights before it, so that methods which evaluate the loss several times a step
see the same inputs each time. It makes a fixed number of steps and never waits for the device.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.threat import KeyedNoise, Threat, frozen_eval
from robust_lowrank.training.adversarial_config import AdversarialConfig

FAST_STEP = 1.25  # eps, Wong et al. 2020
START_DEVIATION = 0.001  # Zhang et al. 2019, algorithm 1


def ascend(
    objective: Callable[[Tensor], Tensor], x: Tensor, start: Tensor, threat: Threat, *, steps: int, step_size: float
) -> Tensor:
    """Climb an objective around `x` by steps of fixed length along the steepest direction, projecting after each.

    Example:
        >>> x = torch.full((1, 2), 0.5)
        >>> ascend(lambda point: point.sum(), x, x, Linf(0.1), steps=3, step_size=0.05)
        tensor([[0.6000, 0.6000]])

    Args:
        objective: a scalar, the sum over the examples of something that depends on that example alone.
        x: clean inputs (N, ...) in [0, 1].
        start: where to begin, (N, ...); it is projected first.
        threat: the inputs that are allowed; the result is within it exactly.
        steps: how many steps.
        step_size: the length of one in the threat model's norm.

    Source: Madry et al. 2018 (arXiv 1706.06083), methods (R3).
    """
    point = threat.project(x, start)
    for _ in range(steps):
        leaf = point.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(objective(leaf), leaf)
        point = threat.project(x, threat.ascend(leaf.detach(), gradient, step_size))
    return point


def divergence(logits: Tensor, perturbed: Tensor) -> Tensor:
    """Return KL(softmax(logits) || softmax(perturbed)) summed over the examples; both are (N, classes).

    Example:
        >>> divergence(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.)
    """
    return F.kl_div(F.log_softmax(perturbed, dim=1), F.log_softmax(logits, dim=1), reduction="sum", log_target=True)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, noise: KeyedNoise | None = None) -> Tensor:
    """Return inputs moved once along the steepest direction of the cross-entropy: by eps from `x`, or by 1.25 eps from noise.

    Example:
        >>> fgsm(torch.nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0]), Linf(0.1)).shape
        torch.Size([1, 2])

    `x` is (N, ...) in [0, 1], `y` (N,); with `noise` the start is uniform in the threat model.

    Source: Goodfellow et al. 2015 (arXiv 1412.6572), methods (29); Wong et al. 2020 (arXiv 2001.03994), methods (R2).
    """
    start, length = (x, 1.0) if noise is None else (threat.random_start(x, noise), FAST_STEP)
    return ascend(_cross_entropy(model, y), x, start, threat, steps=1, step_size=length * threat.eps)


def pgd(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, noise: KeyedNoise, steps: int, step_size: float) -> Tensor:
    """Return inputs that climb the cross-entropy from a start uniform in the threat model.

    Example:
        >>> noise = KeyedNoise(0, "example", torch.arange(1))
        >>> model, x, y = torch.nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([0])
        >>> pgd(model, x, y, Linf(0.1), noise=noise, steps=10, step_size=0.025).shape
        torch.Size([1, 2])

    `x` is (N, ...) in [0, 1], `y` (N,). Unlike the evaluation's PGD it returns the last point, also where one before broke the
    example.

    Source: Madry et al. 2018 (arXiv 1706.06083), methods (R3).
    """
    return ascend(_cross_entropy(model, y), x, threat.random_start(x, noise), threat, steps=steps, step_size=step_size)


def trades(model: nn.Module, x: Tensor, threat: Threat, *, noise: KeyedNoise, steps: int, step_size: float) -> Tensor:
    """Return inputs that climb the divergence of their prediction from the clean one, from a small Gaussian start.

    Example:
        >>> noise = KeyedNoise(0, "example", torch.arange(1))
        >>> trades(torch.nn.Linear(2, 2), torch.full((1, 2), 0.5), Linf(0.1), noise=noise, steps=10, step_size=0.02).shape
        torch.Size([1, 2])

    `x` is (N, ...) in [0, 1]. The clean input itself is a stationary point, which is why the start is beside it.

    Source: Zhang et al. 2019 (arXiv 1901.08573), algorithm 1, methods (R5).
    """
    with torch.no_grad():
        clean = model(x)
    start = x + (START_DEVIATION * noise.normal(x.shape[1:])).to(x.dtype)
    return ascend(lambda point: divergence(clean, model(point)), x, start, threat, steps=steps, step_size=step_size)


def training_inputs(
    model: nn.Module, x: Tensor, y: Tensor, config: AdversarialConfig, threat: Threat, *, noise: KeyedNoise
) -> Tensor:
    """Return the inputs of one training step: a batch with its first `mix` perturbed, or for TRADES clean and perturbed, (2N, ...).

    The network is attacked in evaluation mode with its parameters frozen; modes, gradients, running statistics and random states
    are left as found.

    Args:
        model: returns logits (N, classes).
        x: clean inputs (N, ...) in [0, 1], in random order.
        y: labels (N,).
        config: complete, see `AdversarialConfig.complete`.
        threat: the threat model of its norm and eps.
        noise: one stream an input.

    Example:
        >>> config = AdversarialConfig(attack="fgsm", eps=0.1, mix=0.5).complete()
        >>> inputs = training_inputs(model, x, y, config, Linf(config.eps), noise=KeyedNoise(0, "training", torch.arange(len(x))))
    """
    with frozen_eval(model):
        if config.attack == "trades":
            return torch.cat([x, _perturb(model, x, y, config, threat, noise)])
        assert config.mix is not None
        count = max(1, round(config.mix * len(x)))
        first = replace(noise, rows=noise.rows[:count])
        return torch.cat([_perturb(model, x[:count], y[:count], config, threat, first), x[count:]])


def training_loss(logits: Tensor, y: Tensor, *, beta: float | None = None) -> Tensor:
    """Return the mean cross-entropy; with `beta`, that of the clean half of TRADES' logits plus beta times the divergence.

    Example:
        >>> training_loss(torch.zeros(2, 10), torch.tensor([3]), beta=6.0)
        tensor(2.3026)

    `logits` are (N, classes), or (2N, classes) with `beta`; `y` is (N,).

    Source: Zhang et al. 2019 (arXiv 1901.08573), with beta for the paper's 1/lambda, methods (R4).
    """
    clean = logits[: len(y)]
    loss = F.cross_entropy(clean, y)
    return loss if beta is None else loss + beta * divergence(clean, logits[len(y) :]) / len(y)


def _perturb(model: nn.Module, x: Tensor, y: Tensor, config: AdversarialConfig, threat: Threat, noise: KeyedNoise) -> Tensor:
    if config.attack == "fgsm":
        return fgsm(model, x, y, threat, noise=noise if config.random_start else None)
    assert config.steps is not None and config.step_size is not None
    if config.attack == "pgd":
        return pgd(model, x, y, threat, noise=noise, steps=config.steps, step_size=config.step_size)
    return trades(model, x, threat, noise=noise, steps=config.steps, step_size=config.step_size)


def _cross_entropy(model: nn.Module, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda point: F.cross_entropy(model(point), y, reduction="sum")
