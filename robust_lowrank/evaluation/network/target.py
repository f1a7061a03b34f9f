"""A target takes inputs of any float type on its device, and returns one row of logits an example."""

from contextlib import suppress

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError, first_line
from robust_lowrank.evaluation.network.inputs import check_examples, check_labels

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)  # of a model that cannot take an input


class Target(nn.Module):
    """A classifier behind a fixed interface: (N, ...) in [0, 1] to (N, classes) logits in float32 or float64.

    The model gets a copy of the inputs in its own type, so that one that normalises in place does no harm; low-precision logits
    become float32. A model whose outputs do not depend on the input has gradient 0 instead of an autograd error. One logit z, of
    shape (N,) or (N, 1), stands for the two (0, z) of which softmax makes its sigmoid. A model that fails on two inputs and not
    on one gets them one by one.

    Raises:
        UserError: the model cannot take such an input, or does not return one row of logits an example.
    """

    def __init__(self, model: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.model = model
        tensors = [*model.parameters(), *model.buffers()]
        self.device: torch.device = tensors[0].device if tensors else example.device
        self._dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), example.dtype)
        self.bytes: int = example[0].numel() * example.element_size()  # of an input
        self.alone: bool = False  # it takes one input at a time
        self.classes: int = self._probe(example[:1].to(self.device))
        self.alone = self._fails_on_two(example[:1].to(self.device))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, connected to `x`."""
        logits = torch.cat([self._logits(row) for row in x.split(1)]) if self.alone else self._logits(x)
        if not isinstance(logits, Tensor) or logits.shape != (len(x), self.classes):
            raise UserError(f"the model returned {_describe(logits)} for {len(x)} inputs, where ({len(x)}, {self.classes}) is due")
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        if x.requires_grad and torch.is_grad_enabled():
            logits = logits + 0 * x.flatten(1).sum(dim=1, keepdim=True)
        return logits

    def typed(self, x: Tensor) -> Tensor:
        """Return a copy of inputs in the model's own type."""
        return x.to(self._dtype, copy=True)

    def _probe(self, example: Tensor) -> int:
        try:
            with torch.no_grad():
                logits = self._logits(example)
        except FAILURES as error:
            raise UserError(f"the model cannot take inputs of shape {(1, *example.shape[1:])}: {first_line(error)}") from error
        classes = logits.shape[1] if isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == 1 else 0
        if classes < 2 or not logits.is_floating_point():
            raise UserError(
                f"the model returned {_describe(logits)} for one input; an attack needs logits of shape (N, classes). "
                "Say with output= where they are in what it returns: a key, an index or a function"
            )
        return classes

    def _logits(self, x: Tensor) -> Tensor:
        """Return what the model says of inputs, one logit as two."""
        logits = self.model(self.typed(x))
        if not isinstance(logits, Tensor) or logits.shape not in ((len(x),), (len(x), 1)):
            return logits
        column = logits.reshape(len(x), 1)
        return torch.cat([torch.zeros_like(column), column], dim=1)

    def _fails_on_two(self, example: Tensor) -> bool:
        try:
            with torch.no_grad():
                self._logits(torch.cat([example, example]))
        except FAILURES:
            return True
        return False


def checked_target(model: nn.Module, x: Tensor, y: Tensor) -> Target:
    """Return a model as attacks see it, if examples and labels are what it can be attacked on.

    Raises:
        UserError: they are not, or the model cannot take them.
    """
    check_examples(x, y)
    target = Target(model, x)
    check_labels(y, target.classes)
    return target


def _describe(output: object) -> str:
    with suppress(AttributeError):
        return f"a {str(output.dtype).removeprefix('torch.')} tensor of shape {tuple(output.shape)}"  # pyright: ignore[reportAttributeAccessIssue]
    return f"a {type(output).__name__}"
