"""LoRA: the plain low-rank update of a frozen weight."""

from dataclasses import dataclass
from typing import ClassVar

from robust_lowrank.methods.vanilla import Vanilla


@dataclass(frozen=True, kw_only=True)
class LoRA(Vanilla):
    """Train W_pre + (alpha / r) A B^T, A from zero and B from a Kaiming start, by the optimizer as they are.

    Example:
        >>> LoRA().adapter
        True

    Source: Hu et al. 2021, arXiv 2106.09685, whose B is our A and whose A is our B^T.
    """

    name: ClassVar[str] = "lora"
    adapter: ClassVar[bool] = True
