"""Optimizers and learning-rate schedules are made from a configuration."""

from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from robust_lowrank.optim import LowRankOptimizer
from robust_lowrank.training.config import TrainingConfig
from robust_lowrank.training.method_config import MethodConfig

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
PLAIN = MethodConfig()
LEAST_MOMENTUM, LARGEST_MOMENTUM = 0.85, 0.95  # of a cycle


def make_optimizer(
    model: nn.Module, config: TrainingConfig, method: MethodConfig = PLAIN, *, steps_per_epoch: int = 1
) -> LowRankOptimizer:
    """Return the optimizer of all parameters, factored and dense."""
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.cycle_momentum:
        options["momentum"] = LARGEST_MOMENTUM
    elif config.steady_momentum is not None:
        options["momentum"] = config.steady_momentum
    return LowRankOptimizer(
        model,
        OPTIMIZERS[config.optimizer],
        step=method.step,
        window=method.window,
        moments=method.moments,
        penalties=[penalty.to_penalty(steps_per_epoch=steps_per_epoch) for penalty in method.penalties],
        **options,
    )


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, *, steps_per_epoch: int) -> lr_scheduler.LRScheduler:
    """Return the learning-rate schedule; its `step` is to be called after every step of the optimizer.

    `one-cycle` rises to `lr` over the first 30 % of the steps and falls to nearly 0, the momentum staying as it is unless
    `cycle_momentum` moves it the other way; `cosine` falls from `lr` to 0; `multistep` multiplies by `gamma` after the epochs in
    `milestones`; `constant` stays.
    """
    steps = config.epochs * steps_per_epoch
    match config.schedule:
        case "one-cycle":
            return lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=config.lr,
                total_steps=steps,
                cycle_momentum=config.cycle_momentum,
                base_momentum=LEAST_MOMENTUM,
                max_momentum=LARGEST_MOMENTUM,
            )
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        case "multistep":
            milestones = [epoch * steps_per_epoch for epoch in config.milestones]
            return lr_scheduler.MultiStepLR(optimizer, milestones, gamma=config.gamma)
        case "constant":
            return lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
