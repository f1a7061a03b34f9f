"""VGG16 for CIFAR follows the CondLR experiments: batch normalisation, LeakyReLU, linear layers 512-512-classes."""

from collections import OrderedDict

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.normalize import Normalize

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DROPOUT = 0.2


def vgg16(input_shape: tuple[int, int, int], num_classes: int, *, narrow: int = 1) -> nn.Module:
    """Return 13 convolutions in five stages, each stage halving the image, and a classifier of three linear layers.

    `narrow` divides the width of every layer.

    Batch normalisation keeps torch's momentum of 0.1: with the 0.9 of the reference code, its running statistics are
    little more than those of the last batch.
    """
    channels, height, width = input_shape
    if (height, width) != (32, 32):
        raise UserError(f"vgg16 needs images of 32 x 32, not {height} x {width}")
    features: list[nn.Module] = []
    for stage in STAGES:
        for filters in (wide // narrow for wide in stage):
            features += [nn.Conv2d(channels, filters, 3, padding=1), nn.BatchNorm2d(filters), nn.LeakyReLU()]
            channels = filters
        features.append(nn.MaxPool2d(2))
    classifier = nn.Sequential(
        nn.Linear(channels, channels),
        nn.LeakyReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(channels, channels),
        nn.LeakyReLU(),
        nn.Dropout(DROPOUT),
        nn.Linear(channels, num_classes),
    )
    return nn.Sequential(
        OrderedDict(
            normalize=Normalize(input_shape),
            features=nn.Sequential(*features),
            flatten=nn.Flatten(),
            classifier=classifier,
        )
    )
