"""WRN-16 for small images (Zagoruyko, Komodakis 2016, arXiv 1605.07146), with the LeakyReLU of the CondLR experiments."""

import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.normalize import Normalize

WIDTHS = (16, 32, 64)
BLOCKS = 2  # a stage, which makes 16 layers of convolutions and one of the classifier's


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

    Example:
        >>> WideResNet((3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int, *, widen: int = 4) -> None:
        super().__init__()
        channels, height, width = input_shape
        if min(height, width) < 4:
            raise UserError(f"wrn16-{widen} needs images of at least 4 x 4, not {height} x {width}")
        self.normalize: Normalize = Normalize(input_shape)
        self.conv1: nn.Conv2d = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        channels = 16
        for stage, wide in enumerate(widen * width for width in WIDTHS):
            for block in range(BLOCKS):
                blocks.append(PreactivationBlock(channels, wide, 2 if stage > 0 and block == 0 else 1))
                channels = wide
        self.blocks: nn.Sequential = nn.Sequential(*blocks)
        self.bn: nn.BatchNorm2d = nn.BatchNorm2d(channels)
        self.linear: nn.Linear = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images in [0, 1] to logits."""
        y = self.blocks(self.conv1(self.normalize(x)))
        return self.linear(F.leaky_relu(self.bn(y)).mean(dim=(2, 3)))
