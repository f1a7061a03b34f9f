"""Steps spread their evaluations: all on one batch, or one a batch."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import nn

from robust_lowrank.optim.driver import LayerDriver
from robust_lowrank.optim.replay import repeatable

Evaluate = Callable[[], Any]  # clears and fills the gradients, and returns the loss


def exact_step(driver: LayerDriver, model: nn.Module, evaluate: Evaluate) -> Any:
    """Take all evaluations of a step on the same batch, truncate, and return the loss of the first."""
    turning = {name: layer for name, layer in driver.galerkin.items() if layer.method.core_steps}
    with repeatable(model) if turning else nullcontext():
        loss = evaluate()
    with driver.closing():
        driver.turn(turning)
        driver.require_bases_grad(False, clipped=False)
        rounds = max((layer.method.core_steps for layer in turning.values()), default=0)
        moving = {}
        for left in range(rounds, 0, -1):
            with repeatable(model) if left > 1 else nullcontext():
                evaluate()
            moving = {name: layer for name, layer in turning.items() if layer.method.core_steps >= left}
            if left > 1:
                driver.step_cores(moving)
        driver.turn_and_move({name: layer for name, layer in driver.galerkin.items() if name not in moving}, truncated_next=True)
        driver.step_all(moving)
        driver.truncate()
    return loss


def amortised_step(driver: LayerDriver, window: int, evaluate: Evaluate) -> Any:
    """Take one evaluation: turn the bases by it, or move the cores between them, and truncate at the end of a window."""
    loss = evaluate()
    moving = driver.open if driver.position else {}
    if driver.position == 0:
        driver.turn_and_move(driver.galerkin, truncated_next=window == 0)
        driver.require_bases_grad(False)
    driver.step_all(moving)
    if driver.position == window:
        driver.truncate()
    else:
        driver.position += 1
    return loss
