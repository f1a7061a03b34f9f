"""`MODELS` names the architectures and makes them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from robust_lowrank.errors import UserError, unknown_name
from robust_lowrank.models.normalize import InputShape
from robust_lowrank.models.resnet import ResNet18, ResNet20, WideResNet
from robust_lowrank.models.sequential import cnn, lenet5, mlp, vgg16
from robust_lowrank.models.vit import VisionTransformer


@dataclass(frozen=True)
class Entry:
    """An architecture: how to make it from an input shape and a number of classes, and what it is."""

    build: Callable[[InputShape, int], nn.Module]
    summary: str


MODELS = {
    "mlp": Entry(mlp, "perceptron with two hidden layers of 256; any image"),
    "cnn": Entry(cnn, "two convolutions and two linear layers; small images such as digits"),
    "lenet5": Entry(lenet5, "the LeNet5 of the CondLR experiments; 28 x 28"),
    "resnet20": Entry(ResNet20, "ResNet-20 with parameter-free shortcuts; CIFAR"),
    "resnet18": Entry(ResNet18, "ResNet-18 with 1 x 1 shortcuts, no pooling at the start; small images"),
    "resnet18-quarter": Entry(partial(ResNet18, narrow=4), "the same with a quarter of the channels"),
    "wrn16-1": Entry(partial(WideResNet, widen=1), "WRN-16-1, a quarter of the channels of WRN-16-4; small images"),
    "wrn16-4": Entry(WideResNet, "WRN-16-4 with LeakyReLU, its shortcuts in place; small images"),
    "vit": Entry(VisionTransformer, "vision transformer: patches of 4, width 192, 6 blocks; sides that are multiples of 4"),
    "vgg16": Entry(vgg16, "VGG16 with batch normalisation and LeakyReLU; 32 x 32"),
    "vgg16-quarter": Entry(partial(vgg16, narrow=4), "the same with a quarter of the channels"),
}


def build(name: str, *, input_shape: InputShape, num_classes: int) -> nn.Module:
    """Build a network with fresh weights: images in [0, 1] go in, logits come out, normalisation is inside.

    Weights are Kaiming-normal with fan-in and the gain of ReLU, as `compress(init="kaiming")` draws those of factored layers, so
    that dense and low-rank networks start from the same distribution.

    Example:
        >>> build("cnn", input_shape=(1, 8, 8), num_classes=10)(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 10])

    Raises:
        UserError: the name is unknown, or the architecture does not take images of this shape.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    if len(input_shape) != 3 or min(input_shape) < 1 or num_classes < 2:
        raise UserError(
            f"{name} needs an input shape (channels, height, width) and two or more classes, "
            f"not {tuple(input_shape)} and {num_classes}"
        )
    model = MODELS[name].build(input_shape, num_classes)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight)
    return model


def classifier(model: nn.Module) -> str:
    """Return the name of the last `nn.Linear`, the layer that makes the logits and is best left dense.

    Example:
        >>> classifier(build("lenet5", input_shape=(1, 28, 28), num_classes=10))
        'fc2'

    Raises:
        UserError: the network has no linear layer.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise UserError(f"{type(model).__name__} has no linear layer, the last of which stays dense: say by exclude what does")
    return names[-1]
