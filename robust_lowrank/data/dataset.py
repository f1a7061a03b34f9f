"""Every data set has one form: images in [0, 1] and integer labels, to train and to test on."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from robust_lowrank.errors import UserError
from robust_lowrank.provenance import digest_tensors


def unit_range(images: Tensor) -> Tensor:
    """Return images as float32 in [0, 1], whether they are stored as bytes or as such floats already."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


class Description(NamedTuple):
    """What is known of a data set beside its images: what a network must fit, and what was done to the images as they came."""

    input_shape: tuple[int, ...]  # channels, height and width of an image
    classes: tuple[str, ...]  # their names
    remarks: tuple[str, ...] = ()  # such as "3 images turned as their EXIF orientation says"


class Examples(NamedTuple):
    """Inputs (N, ...) in [0, 1] that a network is attacked on, their labels (N,) in int64, and what is known of them."""

    x: Tensor
    y: Tensor
    note: str  # how they came to be, such as "uint8, divided by 255"
    classes: tuple[str, ...] = ()  # their names; none if they have but numbers
    remarks: tuple[str, ...] = ()  # as those of `Description`


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, checked when it is made.

    Example:
        >>> data = load("digits")
        >>> data.test_x.shape, data.num_classes
        (torch.Size([500, 1, 8, 8]), 10)

    Images are `(N, channels, height, width)`, uint8 or float32 in [0, 1]; labels are `(N,)` int64, numbers of `classes`.

    Raises:
        UserError: shapes or types do not fit, a pixel is NaN or outside [0, 1], a label is beyond the classes.
    """

    name: str
    classes: tuple[str, ...]  # their names
    train_images: Tensor
    train_y: Tensor
    test_images: Tensor
    test_y: Tensor
    remarks: tuple[str, ...] = ()  # what was done to the images as they came

    def __post_init__(self) -> None:
        _check(f"{self.name}, training part", self.train_images, self.train_y, self.num_classes)
        _check(f"{self.name}, test part", self.test_images, self.test_y, self.num_classes)
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            shapes = f"{tuple(self.train_images.shape[1:])} and {tuple(self.test_images.shape[1:])}"
            raise UserError(f"{self.name}: training and test images must have one shape, not {shapes}")

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def description(self) -> Description:
        """What is known of it beside the images."""
        return Description(self.input_shape, self.classes, self.remarks)

    @property
    def train_x(self) -> Tensor:
        """Training images, float32 in [0, 1]; converted at each access when stored as bytes."""
        return unit_range(self.train_images)

    @property
    def test_x(self) -> Tensor:
        """Test images, float32 in [0, 1]; converted at each access when stored as bytes."""
        return unit_range(self.test_images)

    def first(self, *, train: int | None = None, test: int | None = None) -> "Dataset":
        """Return the data set with only its first `train` training and first `test` test images (None: all).

        Raises:
            UserError: more are asked for than there are, or none.
        """
        for part, count, available in (("training", train, len(self.train_y)), ("test", test, len(self.test_y))):
            if count is not None and not 1 <= count <= available:
                raise UserError(f"{self.name} has {available} {part} images here: {count} cannot be taken from them")
        return replace(
            self,
            train_images=self.train_images[:train],
            train_y=self.train_y[:train],
            test_images=self.test_images[:test],
            test_y=self.test_y[:test],
        )


def digest(images: Tensor, labels: Tensor) -> str:
    """Return the sha256 over the shape, type and bytes of images and labels: it names exactly what was used."""
    return digest_tensors({"x": images, "y": labels})


def _check(where: str, images: Tensor, labels: Tensor, num_classes: int) -> None:
    if images.ndim != 4 or images.dtype not in (torch.uint8, torch.float32):
        got = f"{tuple(images.shape)} {images.dtype}"
        raise UserError(f"{where}: images must be (N, channels, height, width), uint8 or float32, not {got}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        got = f"{tuple(labels.shape)} {labels.dtype} for {len(images)} images"
        raise UserError(f"{where}: labels must be one int64 an image, not {got}")
    if not len(labels):
        raise UserError(f"{where}: there are no images")
    if images.is_floating_point():
        bad = ~((images >= 0) & (images <= 1)).flatten(1).all(dim=1)
        if bad.any():
            raise UserError(f"{where}: image {int(bad.nonzero()[0])} has a pixel that is NaN or outside [0, 1]; scale the pixels")
    beyond = (labels < 0) | (labels >= num_classes)
    if beyond.any():
        index = int(beyond.nonzero()[0])
        raise UserError(f"{where}: label {int(labels[index])} of image {index} is beyond the classes 0..{num_classes - 1}")
