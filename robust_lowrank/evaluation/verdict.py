"""A verdict has one rule: an example is broken only if this check says so, whatever an attack says."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robust_lowrank.threat import Threat, per_example

SAME_MARGIN = 1e-3  # relative to 1 + its size


class Check(NamedTuple):
    """The verdict of one forward pass on inputs; every field has a row an example."""

    inputs: Tensor  # the candidates within the threat model, (N, ...)
    broken: Tensor  # bool: finite logits, inside the threat model, wrong by a strict margin
    finite: Tensor  # bool: all logits are finite
    prediction: Tensor  # int64, -1 without finite logits
    margin: Tensor  # float64, logit of the label less the largest other one
    distance: Tensor  # float64, in the norm of the threat model


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """Return the label's logit less the largest other one, (N,); negative is wrong, 0 is a tie.

    Example:
        >>> margins(torch.tensor([[2.0, 1.0, -1.0]]), torch.tensor([1]))
        tensor([-1.])
    """
    column = y[:, None]
    others = logits.scatter(1, column, -torch.inf)
    return (logits.gather(1, column) - others.amax(dim=1, keepdim=True)).squeeze(1)


def predictions(logits: Tensor) -> Tensor:
    """Return the predicted class of each row, -1 where a logit is not finite."""
    return torch.where(logits.isfinite().all(dim=1), logits.argmax(dim=1), -1)


@torch.no_grad()
def check(model: nn.Module, x: Tensor, y: Tensor, candidates: Tensor, threat: Threat) -> Check:
    """Project candidate inputs into the threat model around `x`, evaluate them once, and say which of them break their example.

    A candidate that is not finite is replaced by the clean input. A tie does not count as broken.
    """
    usable = per_example(candidates.isfinite().flatten(1).all(dim=1), x)
    inputs = threat.project(x, torch.where(usable, candidates.to(x.dtype), x))
    logits = model(inputs)
    margin = margins(logits, y).double()
    finite = logits.isfinite().all(dim=1)
    return Check(
        inputs=inputs,
        broken=finite & threat.contains(x, inputs) & (margin < 0),
        finite=finite,
        prediction=predictions(logits),
        margin=margin,
        distance=threat.distance(x, inputs),
    )


@torch.no_grad()
def unlike_at(form: nn.Module, found: Check, y: Tensor, among: Tensor) -> Tensor:
    """Return which examples, of those `among` a mask, another form of the network gives another margin at the inputs checked."""
    rows = among.nonzero().squeeze(1)
    seen, due = margins(form(found.inputs[rows]), y[rows]).double(), found.margin[rows]
    near = (seen - due).abs() <= SAME_MARGIN * (1 + due.abs())
    return torch.zeros_like(among).index_copy(0, rows, ~(near & seen.isfinite() & due.isfinite()))
