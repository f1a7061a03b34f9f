"""Small networks for small grey images: a perceptron, LeNet5, and a network that trains on 8 x 8 in seconds."""

from collections import OrderedDict

from torch import nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.normalize import Normalize

InputShape = tuple[int, int, int]


def mlp(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return a perceptron with two hidden layers of 256, for images of any shape."""
    channels, height, width = input_shape
    return nn.Sequential(
        OrderedDict(
            normalize=Normalize(input_shape),
            flatten=nn.Flatten(),
            fc1=nn.Linear(channels * height * width, 256),
            act1=nn.LeakyReLU(),
            fc2=nn.Linear(256, 256),
            act2=nn.LeakyReLU(),
            fc3=nn.Linear(256, num_classes),
        )
    )


def cnn(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return two 3 x 3 convolutions (16 and 32 channels) and two linear layers, for images from 4 x 4."""
    channels, height, width = input_shape
    if min(height, width) < 4:
        raise UserError(f"cnn needs images of at least 4 x 4, not {height} x {width}")
    return nn.Sequential(
        OrderedDict(
            normalize=Normalize(input_shape),
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
    )


def lenet5(input_shape: InputShape, num_classes: int) -> nn.Module:
    """Return the LeNet5 of the CondLR experiments: convolutions of 20 and 50 channels, linear layers 800-500-classes.

    Source: methods as in Savostianova et al. 2023 (arXiv 2306.01485), LeakyReLU after every layer but the last.
    """
    channels, height, width = input_shape
    if (height, width) != (28, 28):
        raise UserError(f"lenet5 needs images of 28 x 28, not {height} x {width}; cnn and mlp take others")
    return nn.Sequential(
        OrderedDict(
            normalize=Normalize(input_shape),
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
    )
