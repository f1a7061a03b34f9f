"""Gradients of several processes, each on a batch of its own, are averaged before any of them moves a weight."""

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.optim.processes import Processes, processes, sharded

MARK = "averaged_at"  # an attribute of a gradient: its version when it was last the same on all processes


@torch.no_grad()
def average_gradients(model: nn.Module) -> None:
    """Average a network's gradients over the processes of `torch.distributed`; with one process, do nothing.

    `LowRankOptimizer.step` and `clip_grad_norm_` do it themselves. Whoever looks at gradients or scales them before calls this
    after the last `backward` of a step: before `scaler.unscale_(optimizer)`, say. A second call has nothing left to do.

    The mean is one over processes: batches of equal sizes give the gradient of them all.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> net(torch.ones(1, 2)).sum().backward()
        >>> average_gradients(net)

    Raises:
        UserError: a gradient is sparse.
    """
    if (others := processes()) is not None:
        average(list(model.parameters()), others)


def average(parameters: Iterable[nn.Parameter], others: Processes, *, beside: Iterable[Tensor] = ()) -> None:
    """Average the gradients of parameters, unless they are it already, and what else is given.

    A parameter that has a gradient on some processes alone counts as having one of zeros on the rest.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad or parameter.grad is not None]
    wanted = [parameter for parameter in trained if not sharded(parameter)]
    present = [parameter.grad is not None and not _marked(parameter.grad) for parameter in wanted]
    if len(set(others.numbers(zlib.crc32(bytes(present))))) > 1:
        present = [any(each) for each in zip(*others.objects(present), strict=True)]
    grads = []
    for parameter in (parameter for parameter, needed in zip(wanted, present, strict=True) if needed):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if parameter.grad.is_sparse:
            raise UserError("a gradient is sparse, which several processes cannot average: make the embedding with sparse=False")
        grads.append(parameter.grad)
    others.average([*grads, *beside])
    for grad in grads:
        mark(grad)


def mark(grad: Tensor) -> None:
    """Note that a gradient is the same on all processes, until anything is added to it."""
    setattr(grad, MARK, grad._version)


def _marked(grad: Tensor) -> bool:
    return getattr(grad, MARK, None) == grad._version
