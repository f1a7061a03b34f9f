"""Some networks are one sequence of layers: a perceptron, LeNet5, one that trains on 8 x 8 in seconds, and VGG16 for CIFAR."""

from collections import OrderedDict

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.normalize import InputShape, Normalize

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # of VGG16
DROPOUT = 0.2


def mlp(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return a perceptron with two hidden layers of 256, for images of any shape."""
    channels, height, width = input_shape
    return _sequence(
        input_shape,
        flatten=nn.Flatten(),
        fc1=nn.Linear(channels * height * width, 256),
        act1=nn.LeakyReLU(),
        fc2=nn.Linear(256, 256),
        act2=nn.LeakyReLU(),
        fc3=nn.Linear(256, num_classes),
    )


def cnn(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return two 3 x 3 convolutions (16 and 32 channels) and two linear layers, for images from 4 x 4."""
    channels, height, width = input_shape
    if min(height, width) < 4:
        raise UserError(f"cnn needs images of at least 4 x 4, not {height} x {width}")
    return _sequence(
        input_shape,
        conv1=nn.Conv2d(channels, 16, 3, padding=1),
        act1=nn.LeakyReLU(),
        conv2=nn.Conv2d(16, 32, 3, padding=1),
        act2=nn.LeakyReLU(),
        pool=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(32 * (height // 2) * (width // 2), 128),
        act3=nn.LeakyReLU(),
        fc2=nn.Linear(128, num_classes),
    )


def lenet5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the LeNet5 of the CondLR experiments: convolutions of 20 and 50 channels, linear layers 800-500-classes.

    Source: methods as in Savostianova et al. 2023 (arXiv 2306.01485), LeakyReLU after every layer but the last.
    """
    channels, height, width = input_shape
    if (height, width) != (28, 28):
        raise UserError(f"lenet5 needs images of 28 x 28, not {height} x {width}; cnn and mlp take others")
    return _sequence(
        input_shape,
        conv1=nn.Conv2d(channels, 20, 5),
        act1=nn.LeakyReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5),
        act2=nn.LeakyReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(800, 500),
        act3=nn.LeakyReLU(),
        fc2=nn.Linear(500, num_classes),
    )


def vgg16(input_shape: InputShape, num_classes: int, *, narrow: int = 1) -> nn.Module:
    """Return the VGG16 of the CondLR experiments: 13 convolutions in five stages, each halving the image, and three linear layers.

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
    hidden = [layer for _ in range(2) for layer in (nn.Linear(channels, channels), nn.LeakyReLU(), nn.Dropout(DROPOUT))]
    classifier = nn.Sequential(*hidden, nn.Linear(channels, num_classes))
    return _sequence(input_shape, features=nn.Sequential(*features), flatten=nn.Flatten(), classifier=classifier)


def _sequence(input_shape: InputShape, **layers: nn.Module) -> nn.Sequential:
    """Return layers one after another, the first of which normalises the images."""
    return nn.Sequential(OrderedDict(normalize=Normalize(input_shape), **layers))
