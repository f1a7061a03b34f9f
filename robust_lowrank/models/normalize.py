"""The first layer of every network here takes images in [0, 1], so that attacks work on pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.programs import float_type_of

InputShape = tuple[int, int, int]  # channels, height, width

GREY = ((0.0,), (1.0,))  # MNIST and its kin are used as they are, in [0, 1]
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


class Normalize(nn.Module):
    """Shift and scale each channel; mean and deviation are stored with the weights and not trained.

    Example:
        >>> Normalize((3, 32, 32))(torch.rand(5, 3, 32, 32)).shape
        torch.Size([5, 3, 32, 32])

    Without `mean` and `std`, images of three channels take the statistics of CIFAR-10 and others are left alone.

    Raises:
        UserError: images of another shape come in, which the channel-wise arithmetic would else broadcast in silence.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_shape: InputShape, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        default_mean, default_std = CIFAR10 if input_shape[0] == 3 else GREY
        self.input_shape: tuple[int, ...] = tuple(input_shape)
        self.register_buffer("mean", torch.tensor(default_mean if mean is None else mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(default_std if std is None else std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `(N, channels, height, width)` images."""
        if x.shape[1:] != self.input_shape:
            raise UserError(f"the network was built for images of {self.input_shape}, not {tuple(x.shape[1:])}")
        return (x - self.mean) / self.std

    def lipschitz_constant(self) -> float:
        """Return the most by which distances grow: 1 over the smallest deviation."""
        return float(1 / self.std.abs().min())

    def extra_repr(self) -> str:
        """Show the shape that the network was built for."""
        return f"input_shape={self.input_shape}"


def normalised(
    model: nn.Module, input_shape: tuple[int, ...], mean: Sequence[float] | None, std: Sequence[float] | None, *, own: bool = False
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a network of images in [0, 1] made of one that takes normalised images, and which of its tensors say how.

    Without `mean` and `std` it is the network itself.

    Example:
        >>> network, _ = normalised(nn.Conv2d(3, 4, 3), (3, 32, 32), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        >>> [name for name, _ in network.named_parameters()]
        ['1.weight', '1.bias']

    Args:
        own: the network has a place of its own for them, as those of this package have.

    Raises:
        UserError: they do not go together, or do not fit the shape.
    """
    if mean is None and std is None:
        return model, ()
    if mean is None or std is None:
        raise UserError("mean and std go together: give both, or neither where the model normalises by itself")
    if len(input_shape) != 3 or not len(mean) == len(std) == input_shape[0]:
        raise UserError(
            f"mean and std have one number a channel of (channels, height, width), not {len(mean)} and {len(std)} for {input_shape}"
        )
    if not min(std) > 0:
        raise UserError(f"std is above 0 in every channel, not {written(std)}")
    channels, height, width = input_shape
    normalize = Normalize((channels, height, width), mean=mean, std=std).to(float_type_of(model))
    if not own:
        return nn.Sequential(normalize, model), ()
    name = next(name for name, module in model.named_modules() if isinstance(module, Normalize))
    model.set_submodule(name, normalize)
    return model, (f"{name}.mean", f"{name}.std")


def apart(model: nn.Module) -> tuple[Normalize | None, nn.Module]:
    """Return the normalisation that `normalised` has put before a network from elsewhere, and the network under its own names.

    Example:
        >>> wrapped, _ = normalised(nn.Conv2d(1, 4, 3), (1, 8, 8), (0.5,), (0.2,))
        >>> apart(wrapped)[1]
        Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    if type(model) is nn.Sequential and list(dict(model.named_children())) == ["0", "1"]:
        first, network = model
        if isinstance(first, Normalize):
            return first, network
    return None, model


def written(values: Sequence[float]) -> str:
    """Return numbers as they stand in messages and records.

    Example:
        >>> written((0.5, 0.25))
        '0.5 0.25'
    """
    return " ".join(f"{value:g}" for value in values)
