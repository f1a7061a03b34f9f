"""Pictures: images of examples as PNG files, which the page holds too."""

import base64
import io
from dataclasses import dataclass

import numpy as np

_SIDE = 96  # pixels; smaller images are enlarged pixel by pixel to about this size, larger ones reduced to it


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
