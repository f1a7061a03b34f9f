"""Directories of small drawn images."""

from pathlib import Path

import numpy as np
from PIL import Image


def drawn(number: int, *, height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    """Return an image that differs from those of other numbers: (height, width), or with a last axis of 3."""
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def folder(root: Path, counts: dict[str, int], **form: int) -> Path:
    """Write so many images of each class, such as {"train/cat": 3}, below a directory, and return it."""
    number = 0
    for place, count in counts.items():
        (root / place).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.fromarray(drawn(number, **form)).save(root / place / f"{index}.png")
            number += 1
    return root
