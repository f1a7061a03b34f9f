"""Residual networks take small images: ResNets (He et al., arXiv 1512.03385), WRN-16 (Zagoruyko, Komodakis, arXiv 1605.07146)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.normalize import InputShape, Normalize

WIDTHS = (64, 128, 256, 512)  # of the stages of ResNet-18
WIDE_WIDTHS = (16, 32, 64)  # of the stages of WRN-16, before they are widened
WIDE_BLOCKS = 2  # a stage, which makes 16 layers of convolutions and one of the classifier's


class Shortcut(nn.Module):
    """Halve the image and pad with zero channels, which takes no parameters (option A)."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.before: int = extra_channels // 2
        self.after: int = extra_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to `(N, C + extra_channels, H / 2, W / 2)`, rounded up."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalisation, and a skip connection around them, trained where it is `projected`."""

    def __init__(self, channels_in: int, channels: int, stride: int, *, projected: bool = False) -> None:
        super().__init__()
        self.conv1: nn.Conv2d = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(channels)
        self.conv2: nn.Conv2d = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(channels)
        if channels_in == channels:
            self.shortcut: nn.Module = nn.Identity()
        elif projected:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels))
        else:
            self.shortcut = Shortcut(channels - channels_in)

    def forward(self, x: Tensor) -> Tensor:
        """Return `relu(residual(x) + shortcut(x))`."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """A convolution, nine blocks of 16, 32 and 64 channels, the mean over positions, and a linear layer.

    Example:
        >>> ResNet20((3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Apart from `normalize`, the keys are those of the widespread CIFAR checkpoints (`conv1`, `layer1.0.bn1`, `linear`).
    Weights trained under another normalisation come with their `mean` and `std`.
    """

    def __init__(
        self, input_shape: InputShape, num_classes: int, *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 4:
            raise UserError(f"resnet20 needs images of at least 4 x 4, not {height} x {width}")
        self.normalize: Normalize = Normalize(input_shape, mean=mean, std=std)
        self.conv1: nn.Conv2d = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(16)
        self.layer1: nn.Sequential = _stage(16, 16, stride=1)
        self.layer2: nn.Sequential = _stage(16, 32, stride=2)
        self.layer3: nn.Sequential = _stage(32, 64, stride=2)
        self.linear: nn.Linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images in [0, 1] to logits."""
        y = torch.relu(self.bn1(self.conv1(self.normalize(x))))
        y = self.layer3(self.layer2(self.layer1(y)))
        return self.linear(y.mean(dim=(2, 3)))


def _stage(channels_in: int, channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(channels_in, channels, stride), Block(channels, channels, 1), Block(channels, channels, 1))


class ResNet18(nn.Module):
    """A 3 x 3 convolution without pooling, eight blocks of 64 to 512 channels, the mean over positions, and a linear layer.

    `narrow` divides the number of channels everywhere.

    Shortcuts that change the shape are 1 x 1 convolutions (option B). The first layers are those that small images need; on
    ImageNet they are a 7 x 7 convolution of stride 2 and a pooling.

    Example:
        >>> ResNet18((3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, input_shape: InputShape, num_classes: int, *, narrow: int = 1) -> None:
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 8:
            raise UserError(f"resnet18 needs images of at least 8 x 8, not {height} x {width}")
        self.normalize: Normalize = Normalize(input_shape)
        first, *_, last = widths = [width // narrow for width in WIDTHS]
        self.conv1: nn.Conv2d = nn.Conv2d(channels, first, 3, padding=1, bias=False)
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(first)
        blocks: list[nn.Module] = []
        channels = first
        for wide in widths:
            blocks += [Block(channels, wide, 1 if wide == first else 2, projected=True), Block(wide, wide, 1)]
            channels = wide
        self.blocks: nn.Sequential = nn.Sequential(*blocks)
        self.linear: nn.Linear = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images in [0, 1] to logits."""
        y = self.blocks(torch.relu(self.bn1(self.conv1(self.normalize(x)))))
        return self.linear(y.mean(dim=(2, 3)))


class PreactivationBlock(nn.Module):
    """Two 3 x 3 convolutions, each after normalisation and activation, and a connection around them.

    Where the shape changes, that connection is a 1 x 1 convolution of the activated input; else it is the input itself.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1: nn.BatchNorm2d = nn.BatchNorm2d(channels_in)
        self.conv1: nn.Conv2d = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2: nn.BatchNorm2d = nn.BatchNorm2d(channels)
        self.conv2: nn.Conv2d = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = (
            None if channels_in == channels else nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both paths."""
        activated = F.leaky_relu(self.bn1(x))
        y = self.conv2(F.leaky_relu(self.bn2(self.conv1(activated))))
        return y + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """A convolution to 16 channels, six blocks of 16, 32 and 64 times `widen`, the mean over positions, and a linear layer.

    Activations are the LeakyReLU of the CondLR experiments.

    Example:
        >>> WideResNet((3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, input_shape: InputShape, num_classes: int, *, widen: int = 4) -> None:
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 4:
            raise UserError(f"wrn16-{widen} needs images of at least 4 x 4, not {height} x {width}")
        self.normalize: Normalize = Normalize(input_shape)
        self.conv1: nn.Conv2d = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        channels = 16
        for stage, wide in enumerate(widen * width for width in WIDE_WIDTHS):
            for block in range(WIDE_BLOCKS):
                blocks.append(PreactivationBlock(channels, wide, 2 if stage > 0 and block == 0 else 1))
                channels = wide
        self.blocks: nn.Sequential = nn.Sequential(*blocks)
        self.bn: nn.BatchNorm2d = nn.BatchNorm2d(channels)
        self.linear: nn.Linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images in [0, 1] to logits."""
        y = self.blocks(self.conv1(self.normalize(x)))
        return self.linear(F.leaky_relu(self.bn(y)).mean(dim=(2, 3)))
