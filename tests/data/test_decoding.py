import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from robust_lowrank.data import Reading
from robust_lowrank.data.decoding import decode, read_images
from robust_lowrank.data.layout import Picture
from robust_lowrank.data.reading import quiet
from robust_lowrank.errors import UserError
from tests.data.pictures import drawn

COLOUR, GREY = drawn(0), drawn(1, channels=1)
AS_IT_COMES = Reading()


def read(path: Path, image: Image.Image, name: str = "image.png", reading: Reading = AS_IT_COMES, **options: object):
    image.save(path / name, **options)
    decoded = decode(path / name, reading)
    assert decoded.pixels is not None, decoded.fault
    return decoded.pixels, decoded.handled


def pictures(*paths: Path) -> list[Picture]:
    return [Picture(path, path.name, 0) for path in paths]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".PNG"])
def test_lossless_formats_keep_every_byte(suffix: str, tmp_path: Path) -> None:
    pixels, handled = read(tmp_path, Image.fromarray(COLOUR), f"image{suffix}")
    assert np.array_equal(pixels, COLOUR)
    assert not handled


@pytest.mark.parametrize(("suffix", "options"), [(".webp", {"lossless": True}), (".gif", {})])
def test_webp_and_gif(suffix: str, options: dict[str, object], tmp_path: Path) -> None:
    few = (COLOUR // 128) * 128  # colours that a palette holds
    pixels, _ = read(tmp_path, Image.fromarray(few), f"image{suffix}", **options)
    assert np.array_equal(pixels, few)


def test_jpeg_is_what_pillow_reads(tmp_path: Path) -> None:
    pixels, _ = read(tmp_path, Image.fromarray(COLOUR), "image.JPG")
    with Image.open(tmp_path / "image.JPG") as image:
        assert np.array_equal(pixels, np.asarray(image))


def test_grey_images_have_no_channels_whatever_their_form(tmp_path: Path) -> None:
    for form in (Image.fromarray(GREY), Image.fromarray(np.stack([GREY] * 3, -1)), Image.fromarray(GREY).convert("P")):
        pixels, handled = read(tmp_path, form)
        assert np.array_equal(pixels, GREY)
        assert not handled
    bits = Image.fromarray((GREY > 127).astype(np.uint8) * 255).convert("1")
    assert np.array_equal(read(tmp_path, bits)[0], np.where(GREY > 127, 255, 0))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_the_orientation_of_exif_is_applied(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, handled = read(tmp_path, Image.fromarray(COLOUR), f"image{suffix}", exif=exif)
    stored = COLOUR
    if suffix == ".jpg":
        with Image.open(tmp_path / "image.jpg") as image:
            stored = np.asarray(image)
    turned = {  # what the standard says of rows and columns: the stored image, seen from its first row and column
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored),
    }
    assert np.array_equal(pixels, turned[orientation])
    assert handled == ("turned as their EXIF orientation says",)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_scaled_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    deep = np.array([[0, 128, 129, 257], [32768, 65534, 65535, 65407]], dtype=np.uint16)
    pixels, handled = read(tmp_path, Image.fromarray(deep), f"image{suffix}")
    assert pixels.tolist() == [[round(int(value) / 257) for value in row] for row in deep]
    assert handled == ("scaled from 16 bits to 8",)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    pixels, handled = read(tmp_path, Image.new("CMYK", (4, 3), (0, 255, 255, 0)), "image.tif")
    assert np.array_equal(pixels, np.broadcast_to(np.array([255, 0, 0], dtype=np.uint8), (3, 4, 3)))
    assert handled == ("converted from CMYK to RGB",)


def transparent(mode: str) -> Image.Image:
    """Return two pixels: the first is black, or transparent black."""
    if mode == "P":
        image = Image.new("P", (2, 1), 1)
        image.putpalette([0, 0, 0, 200, 0, 0])
        image.putpixel((0, 0), 0)
        image.info["transparency"] = 0
        return image
    image = Image.new(mode, (2, 1), (200, 255) if mode == "LA" else (200, 0, 0, 255))
    image.putpixel((0, 0), (0,) * len(image.getbands()))
    return image


@pytest.mark.parametrize(("mode", "opaque"), [("P", [200, 0, 0]), ("LA", 200), ("RGBA", [200, 0, 0])])
def test_what_is_transparent_is_white(mode: str, opaque: object, tmp_path: Path) -> None:
    pixels, handled = read(tmp_path, transparent(mode))
    assert (pixels[0, 0] == 255).all()
    assert pixels[0, 1].tolist() == opaque
    assert handled == ("with transparency laid on white",)


def test_half_transparent_black_is_grey(tmp_path: Path) -> None:
    assert abs(int(read(tmp_path, Image.new("RGBA", (1, 1), (0, 0, 0, 128)))[0][0, 0]) - 127) <= 1


@pytest.mark.parametrize("suffix", [".gif", ".png", ".tif"])
def test_of_several_frames_the_first_is_taken(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("L", (3, 3), value) for value in (10, 200)]
    pixels, handled = read(tmp_path, frames[0], f"image{suffix}", save_all=True, append_images=frames[1:])
    assert (pixels == 10).all()
    assert "with several frames, of which the first is taken" in handled


@pytest.mark.parametrize(("height", "width"), [(6, 8), (9, 30), (40, 7), (5, 5), (1, 3)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resizing_is_that_of_torchvision(height: int, width: int, channels: int, tmp_path: Path) -> None:
    image = Image.fromarray(drawn(2, height=height, width=width, channels=channels))
    pixels, handled = read(tmp_path, image, reading=Reading(size=5))
    expected = v2.Compose([v2.PILToTensor(), v2.Resize(5, antialias=True), v2.CenterCrop(5)])(image)
    tensor = torch.from_numpy(pixels).reshape(5, 5, -1).permute(2, 0, 1)
    assert torch.equal(tensor, expected)
    assert bool(handled) == ((height, width) != (5, 5))


@pytest.mark.parametrize(("height", "width"), [(12, 16), (8, 30), (31, 9)])
def test_sizes_need_not_be_square(height: int, width: int, tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, width).astype(np.uint8), (height, width))
    pixels, _ = read(tmp_path, Image.fromarray(ramp.copy()), reading=Reading(size=(6, 8)))
    assert pixels.shape == (6, 8)
    assert abs(float(pixels.mean()) - 127.5) < 4  # the middle is what is kept


def test_one_channel_can_be_asked_for(tmp_path: Path) -> None:
    pixels, handled = read(tmp_path, Image.fromarray(COLOUR), reading=Reading(channels=1))
    assert np.array_equal(pixels, np.asarray(Image.fromarray(COLOUR).convert("L")))
    assert handled == ("converted from colour to grey",)


def bomb(width: int) -> bytes:
    """Return a PNG file that announces so many pixels a side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, width, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("width", [12_000, 50_000])
def test_bombs_are_refused_before_they_are_unpacked(width: int, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(width))
    with pytest.raises(UserError, match=r"bomb\.png \(more than .* pixels, as in a decompression bomb\)"):
        read_images(tmp_path, pictures(tmp_path / "bomb.png"), AS_IT_COMES, quiet)


def test_broken_files_are_named_or_left_out(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        Image.fromarray(drawn(number)).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:-40])
    paths[2].write_bytes(b"")
    paths[3].unlink()
    with pytest.raises(UserError) as caught:
        read_images(tmp_path, pictures(*paths), AS_IT_COMES, quiet)
    message = str(caught.value)
    assert f"3 of 5 images in {tmp_path} cannot be read: 1.png (image file is truncated" in message
    assert "2.png (not an image of these formats)" in message
    assert "3.png (No such file or directory)" in message
    assert "--skip-broken" in message
    images, kept, remarks = read_images(tmp_path, pictures(*paths), Reading(skip_broken=True), quiet)
    assert kept == [0, 4]
    assert torch.equal(images, torch.stack([torch.from_numpy(drawn(number)).permute(2, 0, 1) for number in (0, 4)]))
    assert "3 broken images left out: 1.png, 2.png, 3.png" in remarks
    with pytest.raises(UserError, match="1 of 1 image in"):
        read_images(tmp_path, pictures(paths[2]), Reading(skip_broken=True), quiet)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((3, 3), dtype=np.float32)).save(tmp_path / "float.tif")
    assert "floating-point" in decode(tmp_path / "float.tif", AS_IT_COMES).fault


def test_a_script_that_calls_itself_an_image_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    assert decode(tmp_path / "image.png", AS_IT_COMES).fault == "not an image of these formats"


def test_different_sizes_are_named_with_their_remedy(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(drawn(number, height=4 if number % 3 else 7)).save(path)
    with pytest.raises(UserError, match=r"different sizes, height x width: 4 x 8 \(4\), 7 x 8 \(2\)\n.*--image-size 32"):
        read_images(tmp_path, pictures(*paths), AS_IT_COMES, quiet)


@pytest.mark.parametrize("first", [0, 1])
def test_all_are_rgb_if_one_is(first: int, tmp_path: Path) -> None:
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    Image.fromarray(GREY).save(paths[first])
    Image.fromarray(COLOUR).save(paths[1 - first])
    images, _, remarks = read_images(tmp_path, pictures(*paths), AS_IT_COMES, quiet)
    assert torch.equal(images[first], torch.from_numpy(GREY).expand(3, -1, -1))
    assert torch.equal(images[1 - first], torch.from_numpy(COLOUR).permute(2, 0, 1))
    assert remarks == ["three channels, RGB"]
    alone, *_ = read_images(tmp_path, pictures(paths[first]), AS_IT_COMES, quiet)
    assert alone.shape == (1, 1, 6, 8)
    asked, *_ = read_images(tmp_path, pictures(paths[first]), Reading(channels=3), quiet)
    assert torch.equal(asked[0], images[first])


def test_progress_counts_every_image(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(paths):
        Image.fromarray(drawn(number)).save(path)
    seen: list[tuple[int, int]] = []
    read_images(tmp_path, pictures(*paths), AS_IT_COMES, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_more_than_memory_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "0.png")
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(UserError, match="1 image of this size would take"):
        read_images(tmp_path, pictures(tmp_path / "0.png"), AS_IT_COMES, quiet)


def test_images_have_no_more_pixels_than_their_bytes_can_mean(tmp_path: Path) -> None:
    Image.new("L", (4100, 4100)).save(blank := tmp_path / "blank.png")
    assert "16,810,000 pixels in" in decode(blank, AS_IT_COMES).fault
    Image.new("L", (4096, 4096)).save(blank)
    assert decode(blank, Reading(8)).pixels is not None


def test_a_directory_does_not_expand_out_of_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_lowrank.bounds.FREE", 2**16)
    for number in range(3):
        Image.new("RGB", (600, 600), (1, 2, number)).save(tmp_path / f"{number}.png")
    listed = pictures(*sorted(tmp_path.iterdir()))
    with pytest.raises(UserError, match=r"3 images of this size would take 3 MiB .* as a decompression bomb does: give a smaller"):
        read_images(tmp_path, listed, Reading(channels=3), quiet)
    assert len(read_images(tmp_path, listed, Reading(size=8), quiet).kept) == 3


def test_a_jpeg_of_endless_scans_is_broken(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(path := tmp_path / "image.jpg", progressive=True)
    content = path.read_bytes()
    last = content.rindex(b"\xff\xda")
    path.write_bytes(content[:last] + content[last:-2] * 300 + content[-2:])
    assert decode(path, AS_IT_COMES).fault == "a JPEG of more than 200 scans, which takes as long as so many images"
