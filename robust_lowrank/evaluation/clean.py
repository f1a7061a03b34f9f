"""The clean pass records logits of untouched inputs, and gradients."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.evaluation.attacks.gradients import input_gradient
from robust_lowrank.evaluation.network.inputs import are_probabilities
from robust_lowrank.evaluation.verdict import margins, predictions

_REPEATABLE = 1e-4  # largest change of logits on a second evaluation, relative to their size


class Clean(NamedTuple):
    """The model's answers to clean inputs; every tensor has a row an example and lives on the CPU."""

    labels: Tensor
    prediction: Tensor  # -1 without finite logits
    margin: Tensor  # float64
    finite: Tensor  # bool: the logits are finite
    gradient_finite: Tensor  # bool: so is the gradient of the cross-entropy
    gradient_zero: Tensor  # bool: that gradient is exactly 0
    probabilities: bool  # every row of logits is a probability distribution
    repeatable: bool  # a second evaluation gave the same logits

    @property
    def correct(self) -> Tensor:
        """The examples that are classified rightly."""
        return self.prediction == self.labels


def examine(model: nn.Module, x: Tensor, y: Tensor, *, twice: bool, gradients: bool = True) -> Clean:
    """Evaluate a batch and its gradients, if there are any, and once more if asked whether the model repeats itself."""
    if gradients:
        logits, _, gradient, _ = input_gradient(model, x, y)
    else:
        with torch.no_grad():
            logits, gradient = model(x), torch.ones_like(x)
    flat = gradient.flatten(1)
    return Clean(
        labels=y.cpu(),
        prediction=predictions(logits).cpu(),
        margin=margins(logits, y).double().cpu(),
        finite=logits.isfinite().all(dim=1).cpu(),
        gradient_finite=flat.isfinite().all(dim=1).cpu(),
        gradient_zero=(flat == 0).all(dim=1).cpu(),
        probabilities=are_probabilities(logits),
        repeatable=not twice or _repeats(model, x, logits),
    )


def merge(batches: Sequence[Clean]) -> Clean:
    """Return the batches as one; what is said of the whole holds if it holds for every batch."""
    *tensors, probabilities, repeatable = zip(*batches, strict=True)
    return Clean(*map(torch.cat, tensors), probabilities=all(probabilities), repeatable=all(repeatable))


@torch.no_grad()
def _repeats(model: nn.Module, x: Tensor, logits: Tensor) -> bool:
    first, second = logits.nan_to_num(0, 0, 0), model(x).nan_to_num(0, 0, 0)
    return bool((second - first).abs().max() <= _REPEATABLE * first.abs().max())
