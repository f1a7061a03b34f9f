"""The table holds each layer's norm as an operator on its images, batch normalisation folded in."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from robust_lowrank.conditioning.copies import own_copy
from robust_lowrank.conditioning.operators.convolution import LinearLayer, convolution, is_linear
from robust_lowrank.conditioning.operators.lanczos import Estimate, conv_norm
from robust_lowrank.conditioning.operators.symbol import circular_singular_values, conv_bound
from robust_lowrank.errors import UserError
from robust_lowrank.layers import Adapter, ChainLayer
from robust_lowrank.records import OPERATORS

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-4  # of residuals; the norms are then good to about 1e-6
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def is_batch_norm(layer: nn.Module) -> TypeGuard[BatchNorm]:
    """Return whether a module is torch's own batch normalisation, not a subclass that may compute something else."""
    return type(layer) in BATCH_NORMS


class Call(NamedTuple):
    """A linear layer with the size of what comes in, (1, 1) of a matrix, and the batch normalisation that follows at once."""

    name: str
    layer: LinearLayer
    size: tuple[int, int]
    norm: BatchNorm | None = None


@torch.no_grad()
def operators(model: nn.Module, input_shape: Sequence[int]) -> "pd.DataFrame":
    """Return the operator norms of every linear layer and convolution, a row a layer.

    Example:
        >>> frame = operators(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)), (1, 8, 8))
        >>> bool((frame["operator_norm"] <= frame["operator_bound"]).all())
        True

    Columns: those of `records.OPERATORS`. A layer that is called several times is seen as in its first call. Convolutions that
    do not pad with zeros, and subclasses of torch's layers that compute something else, have no norm here and are left out.

    Args:
        model: the network, which stays as it is; it is seen in evaluation mode.
        input_shape: of one input, such as (channels, height, width).

    Raises:
        UserError: a weight holds NaN or infinity.
    """
    import pandas as pd

    bounded_calls = [call for call in calls(model, input_shape) if getattr(call.layer, "padding_mode", "zeros") == "zeros"]
    return pd.DataFrame([_row(call) for call in bounded_calls], columns=pd.Index(OPERATORS))


@torch.no_grad()
def calls(model: nn.Module, input_shape: Sequence[int]) -> list[Call]:
    """Return the linear layers in the order in which an input of this shape reaches them."""
    seen: dict[str, Call] = {}
    outputs: list[tuple[Tensor, str]] = []  # kept alive, so that each stays the one it is
    copied = own_copy(model).eval()
    inner = {id(part) for layer in copied.modules() if isinstance(layer, Adapter) for part in layer.children()}

    def record(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if isinstance(layer, BATCH_NORMS):
                before = next((source for tensor, source in outputs if tensor is inputs[0]), None)
                if before is not None:
                    seen[before] = seen[before]._replace(norm=layer)
            elif is_linear(layer) and name not in seen:
                seen[name] = Call(name, layer, size_of(layer, inputs[0].shape))
                if output.dim() == dims_of(layer):  # of (N, L, C) batch normalisation scales the positions
                    outputs.append((output, name))

        return hook

    for name, layer in copied.named_modules():
        if (is_linear(layer) or isinstance(layer, BATCH_NORMS)) and id(layer) not in inner:
            layer.register_forward_hook(record(name))
    first = next(copied.parameters(), torch.zeros(()))
    copied(torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device))
    return list(seen.values())


def size_of(layer: LinearLayer, shape: Sequence[int]) -> tuple[int, int]:
    """Return height and width of the input of a convolution, and (1, 1) for a linear layer."""
    slides = dims_of(layer) - 2
    height, width = *[1] * (2 - slides), *shape[len(shape) - slides :]
    return height, width


def dims_of(layer: LinearLayer) -> int:
    """Return the dimensions of a layer's weight: 2 of a matrix, 4 of a convolution's kernel."""
    base = layer.base if isinstance(layer, Adapter) else layer
    return base.slides + 2 if isinstance(base, ChainLayer) else base.weight.dim()


@torch.no_grad()
def scale_of(norm: BatchNorm) -> Tensor | None:
    """Return gamma / sqrt(var + eps), float64, by which batch normalisation multiplies a channel in evaluation mode.

    Without running statistics, when it normalises by the batch, there is none.
    """
    if norm.running_var is None:
        return None
    return normalisation_scale(norm.running_var, norm.weight, norm.eps)


@torch.no_grad()
def normalisation_scale(variance: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """Return gamma / sqrt(var + eps), float64."""
    scale = 1 / torch.sqrt(variance.double() + eps)
    return scale if weight is None else weight.double() * scale


def _row(call: Call) -> dict[str, Any]:
    try:
        conv = convolution(call.layer)
    except UserError as error:
        raise UserError(f"layer {call.name!r}: {error}") from error
    matrix = dims_of(call.layer) == 2
    bound = conv_bound(conv, call.size)
    scale = None if call.norm is None else scale_of(call.norm)
    folded = bound if scale is None else conv_bound(convolution(call.layer, scale=scale), call.size)
    circular = circular_singular_values(conv, call.size)
    largest, smallest = float(circular[0]), float(circular[-1])
    estimate = Estimate(largest, 0.0, 0) if matrix else conv_norm(conv, call.size, tolerance=TOLERANCE)
    return {
        "layer": call.name,
        "kind": "linear" if matrix else call.layer.kind if isinstance(call.layer, ChainLayer) else "conv",
        "height": call.size[0],
        "width": call.size[1],
        "sigma_max": float(torch.linalg.matrix_norm(conv.kernel.flatten(1), 2)),
        "operator_norm": estimate.value,
        "residual": estimate.residual,
        "operator_bound": bound,
        "circular_max": largest,
        "circular_min": smallest,
        "circular_cond": largest / smallest if smallest > 0 else math.inf,
        "folded_bound": folded,
        "contribution": math.log10(folded) if folded > 0 else -math.inf,
    }
