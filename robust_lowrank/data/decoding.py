"""Image files become one tensor of bytes, and what was done to them on the way is counted."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from math import prod
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robust_lowrank.bounds import require_memory, require_proportion
from robust_lowrank.data.layout import Picture
from robust_lowrank.data.reading import Progress, Reading, counted, listed
from robust_lowrank.data.room import room
from robust_lowrank.errors import UserError, first_line, shown

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others are opened, whatever a file is called
DEEP = 65535  # white in 16 bits
PIXELS, DENSE = 2**24, 64  # so many pixels, or so many a byte of its file, an image may have
SMALL, USUAL = 2**20, 8  # with more, images are decoded one at a time, so that threads do not add up their memory
SCAN, SCANS = b"\xff\xda", 200  # of progressive JPEG; ten are usual
BLOCK = 4096  # bytes that the smallest file takes
_ALONE = Lock()
TURNED, FRAMES, LAID, SCALED, RESIZED = (
    "turned as their EXIF orientation says",
    "with several frames, of which the first is taken",
    "with transparency laid on white",
    "scaled from 16 bits to 8",
    "resized to {} x {} (height x width), what is beyond cut off at both sides",
)
CONVERTED = "converted from {} to {}"


class Decoded(NamedTuple):
    """An image as bytes (height, width) or (height, width, 3) and what was done to it, or why it cannot be read."""

    pixels: np.ndarray | None
    handled: tuple[str, ...] = ()
    fault: str = ""


class Images(NamedTuple):
    """Images (N, channels, height, width) in uint8, which of the pictures they are, and what was done to them."""

    images: Tensor
    kept: list[int]
    remarks: list[str]


def read_images(root: Path, pictures: Sequence[Picture], reading: Reading, progress: Progress) -> Images:
    """Decode pictures in threads, in their order.

    Raises:
        UserError: files are broken (unless they are to be skipped), sizes differ and none is given, or memory does not suffice.
    """
    images, kept, broken, different = torch.empty(0), list[int](), dict[str, str](), False
    handled: Counter[str] = Counter()
    with _decoding(pictures, reading) as all_decoded:
        for number, decoded in enumerate(all_decoded):
            progress(number + 1, len(pictures))
            if decoded.pixels is None:
                broken[shown(pictures[number].name)] = decoded.fault
                continue
            pixels = torch.from_numpy(decoded.pixels)
            pixels = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
            if not kept:
                shape = (len(pictures), reading.channels or 1, *pixels.shape[1:])
                what = f"{shown(root)}: {counted(len(pictures), 'image')} of this size"
                require_proportion(prod(shape), _occupied(pictures), what, "give a smaller size, or mend what is blank")
                images = room(shape, what)
            if different := pixels.shape[1:] != images.shape[2:]:
                break
            if len(pixels) == 3 and images.shape[1] == 1:  # the first that is not grey
                images = _in_three_channels(images, kept, f"{shown(root)}: {counted(len(pictures), 'image')} in colour")
            images[len(kept)] = pixels
            kept.append(number)
            handled.update(decoded.handled)
    if different:
        raise _different_sizes(root, pictures)
    if broken and not (reading.skip_broken and kept):
        faults = listed(f"{name} ({fault})" for name, fault in broken.items())
        raise UserError(
            f"{len(broken)} of {counted(len(pictures), 'image')} in {shown(root)} cannot be read: {faults}\n"
            "Mend or remove them, or leave them out: --skip-broken, in Python Reading(skip_broken=True)"
        )
    remarks = [f"{counted(count, 'image')} {what}" for what, count in handled.items()]
    if broken:
        remarks.append(f"{counted(len(broken), 'broken image')} left out: {', '.join(broken)}")
    remarks.append("one channel, grey" if images.shape[1] == 1 else "three channels, RGB")
    return Images(images[: len(kept)], kept, remarks)


def _in_three_channels(grey: Tensor, kept: Sequence[int], what: str) -> Tensor:
    images = room((len(grey), 3, *grey.shape[2:]), what)
    for number in range(len(kept)):
        images[number] = grey[number]
    return images


def _occupied(pictures: Sequence[Picture]) -> int:
    """Return how many bytes the files take on a disk, about."""
    return sum(max(picture.path.stat().st_size, BLOCK) for picture in pictures if picture.path.is_file())


@contextmanager
def _decoding(pictures: Sequence[Picture], reading: Reading) -> Iterator[Iterator[Decoded]]:
    from PIL import Image

    Image.init()  # here, for it is not made to be called in several threads at once
    with warnings.catch_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # of what is odd in a file and does no harm
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield pool.map(partial(decode, reading=reading), [picture.path for picture in pictures])
        finally:
            pool.shutdown(cancel_futures=True)


def decode(path: Path, reading: Reading) -> Decoded:
    """Read one image file; nothing is decoded that has far more pixels than the file has bytes."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            pixels, size = prod(image.size), path.stat().st_size
            if pixels > max(PIXELS, DENSE * size):
                return Decoded(None, fault=f"{pixels:,} pixels in {size:,} bytes, as in a decompression bomb")
            if image.format == "JPEG" and path.read_bytes().count(SCAN) > SCANS:
                return Decoded(None, fault=f"a JPEG of more than {SCANS} scans, which takes as long as so many images")
            with nullcontext() if pixels <= max(SMALL, USUAL * size) else _ALONE:
                return _decoded(image, reading)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Decoded(None, fault=f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, as in a decompression bomb")
    except Exception as error:  # pillow raises nearly anything on damaged files
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        return Decoded(None, fault="not an image of these formats" if isinstance(error, Image.UnidentifiedImageError) else reason)


def _decoded(image: "Image.Image", reading: Reading) -> Decoded:
    from PIL import Image, ImageOps

    handled: list[str] = []
    if getattr(image, "is_animated", False):
        handled.append(FRAMES)
    if image.getexif().get(0x0112, 1) != 1:
        handled.append(TURNED)
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        return Decoded(None, fault="its pixels are floating-point numbers: store the images in a .npz file")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > DEEP:
            return Decoded(None, fault=f"its pixels are beyond 16 bits, from {values.min()} to {values.max()}")
        handled.append(SCALED)
        image = Image.fromarray(((values.astype(np.uint32) * 255 + DEEP // 2) // DEEP).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        handled.append(LAID)
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in ("1", "P"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB"):
        handled.append(CONVERTED.format(image.mode, "RGB"))
        image = image.convert("RGB")
    pixels = np.array(image)
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and reading.channels == 1:
        handled.append(CONVERTED.format("colour", "grey"))
        pixels = np.array(image.convert("L"))
    if reading.shape is not None and pixels.shape[:2] != reading.shape:
        handled.append(RESIZED.format(*reading.shape))
        pixels = _resized(pixels, *reading.shape)
    return Decoded(np.ascontiguousarray(pixels), tuple(handled))


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bring an image to a size: scaled until it just covers it, then cut at its longer side, as torchvision's transforms do."""
    from torchvision.transforms.v2 import functional as transforms

    tall, wide = pixels.shape[:2]
    if height * wide >= width * tall:
        size = [height, max(width, height * wide // tall)]
    else:
        size = [max(height, width * tall // wide), width]
    require_memory(size[0] * size[1] * 12, f"an image of {tall} x {wide}, resized to {size[0]} x {size[1]},")
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    tensor = tensor.unsqueeze(0) if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    cut = transforms.center_crop(transforms.resize(tensor, size, antialias=True), [height, width])
    return (cut.squeeze(0) if len(cut) == 1 else cut.permute(1, 2, 0)).numpy()


def _different_sizes(root: Path, pictures: Sequence[Picture]) -> UserError:
    """Return the error that names the commonest sizes, as the files' heads have them."""
    from PIL import Image

    sizes: Counter[Any] = Counter()
    for picture in pictures:
        try:
            with Image.open(picture.path, formats=FORMATS) as image:
                sizes[f"{image.height} x {image.width}"] += 1
        except Exception:  # as in `decode`; that it is broken is another matter
            continue
    found = listed(f"{size} ({count:,})" for size, count in sizes.most_common())
    return UserError(
        f"the images in {shown(root)} are of different sizes, height x width: {found}\n"
        "Say to which size all are brought: --image-size 32 or 32x48, in Python Reading(size=32)"
    )
