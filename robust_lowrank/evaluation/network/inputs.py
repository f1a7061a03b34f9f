"""Examples are checked before an evaluation, and refused with the reason."""

import torch
from torch import Tensor

from robust_lowrank.errors import UserError

PROBABILITIES = 1e-4  # largest deviation of a row's sum from 1


def outside_inference(tensor: Tensor) -> Tensor:
    """Return a tensor that gradients may pass through, also where inference mode has made it."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def check_examples(x: Tensor, y: Tensor) -> None:
    """Require inputs (N, ...) in [0, 1] as float32 or float64 and labels (N,) as int64.

    Raises:
        UserError: a shape, type or value is something else.
    """
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise UserError(f"inputs and labels are torch tensors, not {type(x).__name__} and {type(y).__name__}: use torch.as_tensor")
    if x.dim() < 2 or x.numel() == 0:
        raise UserError(f"inputs have the shape (N, ...) with N > 0, not {tuple(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64):
        hint = "divide by 255 first" if x.dtype == torch.uint8 else "convert them first"
        raise UserError(f"inputs are float32 or float64 in [0, 1], not {x.dtype}: {hint}")
    outside = (~((x >= 0) & (x <= 1))).flatten(1).any(dim=1)
    if outside.any():
        first = int(outside.nonzero()[0])
        values = x[first].flatten()
        wrong = values[~((values >= 0) & (values <= 1))][0].item()
        raise UserError(
            f"inputs lie in [0, 1], but {int(outside.sum())} of {len(x)} do not (the first is number {first}, with {wrong:g}): "
            "give raw images and let the model normalise them"
        )
    if y.dtype != torch.int64:
        raise UserError(f"labels are int64 class numbers, not {y.dtype}: use y.long()")
    if y.shape != (len(x),):
        raise UserError(f"labels have the shape ({len(x)},), one for each input, not {tuple(y.shape)}")


def check_labels(y: Tensor, classes: int) -> None:
    """Require labels within the classes of the model.

    Raises:
        UserError: a label is negative or beyond the last class.
    """
    wrong = (y < 0) | (y >= classes)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise UserError(f"the model has {classes} classes, 0 to {classes - 1}, but example {first} has the label {int(y[first])}")


def are_probabilities(logits: Tensor) -> bool:
    """Return whether every row of (N, classes) outputs is a probability distribution."""
    return bool((logits >= 0).all() and ((logits.sum(dim=1) - 1).abs() <= PROBABILITIES).all())


def check_logits(logits: Tensor) -> None:
    """Require outputs (N, classes) that are not probabilities, whose gradients a softmax has flattened.

    Example:
        >>> check_logits(torch.tensor([[2.0, -1.0]]))

    Raises:
        UserError: every row is non-negative and sums to 1.
    """
    if are_probabilities(logits):
        raise UserError(
            f"the model returns probabilities: every output row is non-negative and sums to 1, for all of {len(logits)} inputs\n"
            "The softmax at its end hides gradients from attacks: remove it, so that the model returns logits"
        )
