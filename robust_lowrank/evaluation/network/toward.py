"""A targeted goal is an untargeted one of another network: one that tells a class from all others."""

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError


class Toward(nn.Module):
    """The network of two classes, whatever is not the target, 0, and the target, 1: to break label 0 is to reach the target.

    Its logits are the largest of the other classes and the target's, so that an input is broken if and only if the network takes it
    for the target by a strict margin. Every attack, suite and audit works on it as on any network; examples of the target class are
    left out beforehand.

    Args:
        network: returns logits (N, classes), or one logit of a binary network.
        target: a class.

    Example:
        >>> others = y != 3
        >>> goal = Toward(model, 3)
        >>> evaluate(goal, x[others], goal.labels(y[others]), suite="aa-native", eps="8/255").robust_accuracy

    Raises:
        UserError: the network has no such class.
    """

    def __init__(self, network: nn.Module, target: int) -> None:
        super().__init__()
        self.network: nn.Module = network
        self.target: int = target

    def forward(self, x: Tensor) -> Tensor:
        """Return the two logits, (N, 2)."""
        logits = self.network(x)
        if logits.shape in ((len(x),), (len(x), 1)):  # one logit of a binary network
            column = logits.reshape(len(x), 1)
            logits = torch.cat([torch.zeros_like(column), column], dim=1)
        if not 0 <= self.target < logits.shape[1]:
            raise UserError(f"class {self.target} cannot be the target: the network has classes 0 to {logits.shape[1] - 1}")
        column = torch.full((len(logits), 1), self.target, device=logits.device)
        others = logits.scatter(1, column, -torch.inf).amax(dim=1)
        return torch.stack([others, logits[:, self.target]], dim=1)

    def labels(self, y: Tensor) -> Tensor:
        """Return the labels of examples of other classes, all 0.

        Raises:
            UserError: an example is of the target class.
        """
        if bool((y == self.target).any()):
            raise UserError(f"an example is of class {self.target} already: leave those out, as in x[y != {self.target}]")
        return torch.zeros_like(y)
