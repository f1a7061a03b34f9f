"""Steps spread their evaluations: all on one batch, or one a batch."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from torch import nn

from robust_lowrank.layers import FactoredLayer
from robust_lowrank.optim.driver import LayerDriver
from robust_lowrank.optim.recall import Recall
from robust_lowrank.optim.replay import moment, repeatable


class Evaluation(NamedTuple):
    """What an evaluation consists of."""

    run: Callable[[], Any]  # clears and fills the gradients, and returns the loss
    complete: Callable[[Any], None]  # adds what is no part of the loss, given it
    complete_cores: Callable[[Mapping[str, FactoredLayer]], None]  # the same for cores that have new gradients

    def __call__(self) -> Any:
        """Return the loss, with all gradients in place."""
        loss = self.run()
        self.complete(loss)
        return loss


def exact_step(driver: LayerDriver, model: nn.Module, evaluation: Evaluation) -> Any:
    """Take all evaluations of a step on the same batch, truncate, and return the loss of the first.

    The second one is not run where the first has shown what it would: bases have turned, and the weight is the same.
    """
    turning = {name: layer for name, layer in driver.galerkin.items() if layer.method.core_steps}
    rounds = max((layer.method.core_steps for layer in turning.values()), default=0)
    recall, go_back = Recall(turning), moment(model) if turning else None
    try:
        with recall.watching():
            loss = evaluation.run()
        evaluation.complete(loss)
    except BaseException:
        if go_back is not None:
            go_back()
        raise
    if go_back is not None and not (recall and rounds == 1):
        go_back()
    with driver.closing():
        driver.turn(turning)
        driver.require_bases_grad(False, clipped=False)
        if rounds:
            driver.exchange("turned")
        moving = {}
        for left in range(rounds, 0, -1):
            if recall:
                recall.give()
                evaluation.complete_cores(turning)
            else:
                with repeatable(model) if left > 1 else nullcontext():
                    evaluation()
            moving = {name: layer for name, layer in turning.items() if layer.method.core_steps >= left}
            if left > 1:
                driver.step_cores(moving)
                driver.exchange("turned")
        driver.turn_and_move({name: layer for name, layer in driver.galerkin.items() if name not in moving}, truncated_next=True)
        driver.step_all(moving)
        driver.truncate()
    return loss


def amortised_step(driver: LayerDriver, window: int, evaluation: Evaluation) -> Any:
    """Take one evaluation: turn the bases by it, or move the cores between them, and truncate at the end of a window."""
    loss = evaluation()
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
