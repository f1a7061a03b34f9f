import pytest
import torch
from torch import Tensor

from robust_lowrank.data import Dataset, digest, unit_range
from robust_lowrank.errors import UserError


def make(images: Tensor | None = None, labels: Tensor | None = None) -> Dataset:
    fine = torch.zeros(2, 1, 4, 4)
    images = fine if images is None else images
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels
    return Dataset("made up", ("a", "b", "c"), images, labels, fine, torch.tensor([0, 2]))


def test_bytes_become_floats_in_the_unit_interval() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(unit_range(images).flatten(), torch.arange(256) / 255)


def test_floats_stay_as_they_are() -> None:
    images = torch.rand(2, 1, 3, 3)
    assert torch.equal(unit_range(images), images)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.01, 1.01])
def test_pixels_outside_the_unit_interval_are_refused_with_their_image(value: float) -> None:
    images = torch.zeros(5, 1, 4, 4)
    images[3, 0, 1, 2] = value
    with pytest.raises(UserError, match="training part: image 3 has a pixel that is NaN or outside"):
        make(images)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_beyond_the_classes_are_refused_with_their_image(label: int) -> None:
    with pytest.raises(UserError, match=rf"label {label} of image 1 is beyond the classes 0\.\.2"):
        make(labels=torch.tensor([0, label]))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 4, 4), None, r"must be \(N, channels, height, width\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.float64), None, "uint8 or float32"),
        (None, torch.zeros(3, dtype=torch.int64), "one int64 an image"),
        (None, torch.zeros(2), "one int64 an image"),
        (torch.zeros(0, 1, 4, 4), None, "no images"),
        (torch.zeros(2, 1, 5, 5), None, "must have one shape"),
    ],
)
def test_wrong_forms_are_refused(images: Tensor | None, labels: Tensor | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(images, labels)


def test_first_takes_a_prefix() -> None:
    data = make(torch.rand(4, 1, 4, 4)).first(train=3)
    assert len(data.train_y) == len(data.train_x) == 3
    assert len(data.test_y) == 2


@pytest.mark.parametrize("wanted", [0, 3])
def test_first_refuses_more_than_there_are(wanted: int) -> None:
    with pytest.raises(UserError, match=f"2 test images here: {wanted} cannot"):
        make().first(test=wanted)


def test_digest_sees_pixels_labels_shapes_and_types() -> None:
    images, labels = torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])
    others = [
        (images + 1, labels),
        (images, labels.flip(0)),
        (images.reshape(2, 1, 2, 8), labels),
        (images.view(torch.int32), labels),
    ]
    reference = digest(images, labels)
    assert digest(images.clone(), labels.clone()) == reference
    assert all(digest(*other) != reference for other in others)
