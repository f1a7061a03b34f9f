import numpy as np
import pytest

from robust_lowrank.data import Reading
from robust_lowrank.data.splitting import divide, shuffled, split
from robust_lowrank.errors import UserError

LABELS = np.random.default_rng(0).integers(0, 7, 500).tolist()
NAMES = [f"{label}/{number}.png" for number, label in enumerate(LABELS)]


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_every_class_is_split_in_the_same_proportion(fraction: float) -> None:
    train, test = split(LABELS, NAMES, fraction)
    assert sorted(train + test) == list(range(500))
    counts = np.bincount(LABELS)
    tested = np.bincount([LABELS[index] for index in test], minlength=7)
    assert (np.abs(tested - fraction * counts) <= 1).all()
    assert (tested >= 1).all()
    assert (tested < counts).all()


def test_the_order_of_the_images_does_not_matter() -> None:
    train, test = split(LABELS, NAMES, 0.2)
    order = np.random.default_rng(1).permutation(500)
    again = split([LABELS[i] for i in order], [NAMES[i] for i in order], 0.2)
    assert [NAMES[i] for i in test] == [NAMES[order[i]] for i in again.test]
    assert [NAMES[i] for i in train] == [NAMES[order[i]] for i in again.train]


def test_the_first_images_are_of_every_class() -> None:
    names = [f"{label}/{number}.png" for label in range(5) for number in range(100)]
    assert {index // 100 for index in shuffled(names)[:40]} == set(range(5))


def test_a_class_with_one_image_is_trained_on_and_it_is_said() -> None:
    (train, test), remarks = divide([0, 0, 1], ["a", "b", "c"], Reading(), classes=["cat", "d\x1bog"], where="here", by="name")
    assert 2 in train
    assert len(test) == 1
    assert remarks == ["split by name: 2 images to train on, 1 (20%) to test on", "no image to test on of d\\x1bog"]


def test_one_image_a_class_cannot_be_split() -> None:
    with pytest.raises(UserError, match="here has one image a class: none is left to test on"):
        divide([0, 1], ["a", "b"], Reading(), classes=["cat", "dog"], where="here", by="name")
