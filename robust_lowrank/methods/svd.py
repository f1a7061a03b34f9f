"""SVD cuts a dense network's weights to their leading triplets after training: a baseline."""

from dataclasses import dataclass
from typing import ClassVar

from robust_lowrank.errors import UserError
from robust_lowrank.methods.vanilla import Vanilla


@dataclass(frozen=True, kw_only=True)
class SVD(Vanilla):
    """Truncate the weights of a trained network, W = A B^T from its leading triplets, and fine-tune A and B if wanted.

    Args:
        finetune: epochs that `rlr-eval train` goes on for after the truncation; in Python, `compress` a trained network and go on.

    Example:
        >>> SVD(finetune=2).form
        'pair'
    """

    name: ClassVar[str] = "svd"
    finetune: int = 0

    def __post_init__(self) -> None:
        if self.finetune < 0:
            raise UserError(f"finetune = {self.finetune} is below 0: it is a number of epochs")
