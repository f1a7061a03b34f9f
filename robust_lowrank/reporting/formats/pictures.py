"""Pictures are images of examples, read from a result and drawn as PNG files, which the page holds too."""

import base64
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robust_lowrank.errors import UserError

_SIDE = 96  # pixels; smaller images are enlarged pixel by pixel to about this size, larger ones reduced to it
_LARGEST = 1024  # pixels a side
_FLOATS = ("F16", "F32", "F64")


@dataclass(frozen=True)
class Picture:
    """A PNG with its description for those who cannot see it."""

    name: str  # of its file
    png: bytes
    alt: str
    width: int
    height: int

    @property
    def data_uri(self) -> str:
        """The picture as an image address that needs no file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def read_images(path: Path, key: str, examples: Collection[int]) -> dict[int, np.ndarray]:
    """Return images of some examples, by the example's number, as float64 arrays (channels, height, width) in [0, 1].

    Only those images are loaded. Examples that the file does not hold are left out; without the file, or where inputs are no images
    of one or three channels, none is returned.

    Args:
        path: a safetensors file with the tensors KEY/inputs, (K, channels, height, width), and KEY/examples, (K,).
        key: such as "pgd-20/0.1"; empty for a file that holds one set, under "inputs" and "examples".
        examples: the numbers that are wanted.

    Example:
        >>> read_images(Path("runs/dense/results/quick/clean.safetensors"), "", [0, 3])[3].shape
        (1, 8, 8)

    Raises:
        UserError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    prefix = f"{key}/" if key else ""
    try:
        with safe_open(path, framework="numpy") as file:
            if not {f"{prefix}inputs", f"{prefix}examples"} <= set(file.keys()):
                return {}
            inputs = file.get_slice(f"{prefix}inputs")
            numbers = file.get_tensor(f"{prefix}examples")
            if not _are_images(inputs.get_shape(), inputs.get_dtype()) or numbers.shape != (inputs.get_shape()[0],):
                return {}
            rows = {int(number): row for row, number in enumerate(numbers) if int(number) in examples}
            images = {number: np.asarray(inputs[row : row + 1][0], dtype=np.float64) for number, row in rows.items()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as inputs: {str(error).splitlines()[0]}") from error
    return {number: np.clip(image, 0, 1) for number, image in images.items() if np.isfinite(image).all()}


def _are_images(shape: list[int], dtype: str) -> bool:
    return len(shape) == 4 and shape[1] in (1, 3) and 0 < max(shape[2:]) <= _LARGEST and min(shape[2:]) > 0 and dtype in _FLOATS


def draw_picture(pixels: np.ndarray, name: str, alt: str) -> Picture:
    """Draw an image (channels, height, width) in [0, 1] as PNG: enlarged by a whole factor, or reduced where it is large."""
    from PIL import Image

    bytes_ = np.rint(255 * pixels).astype(np.uint8)
    image = Image.fromarray(bytes_[0] if len(bytes_) == 1 else np.ascontiguousarray(bytes_.transpose(1, 2, 0)))
    side = max(image.size)
    if side <= _SIDE:
        times = _SIDE // side
        image = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    else:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return Picture(name, buffer.getvalue(), alt, *image.size)
