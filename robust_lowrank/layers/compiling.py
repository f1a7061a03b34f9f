"""Compilers may leave ranks open, so that what they make serves them all."""

from collections.abc import Sequence

import torch
from torch import Tensor


def is_open(*sizes: int) -> bool:
    """Return whether this is compiled for any number in the place of one of these sizes."""
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False
    from torch.fx.experimental.symbolic_shapes import has_static_value  # slow to import

    return not all(has_static_value(size) for size in sizes)


def leave_ranks_open(core: Tensor, bases: Sequence[Tensor]) -> None:
    """Have torch leave the ranks of these factors open from its first compilation on, if it leaves sizes of parameters open."""
    torch._dynamo.maybe_mark_dynamic(core, list(range(len(bases))))
    for basis in bases:
        torch._dynamo.maybe_mark_dynamic(basis, 1)
