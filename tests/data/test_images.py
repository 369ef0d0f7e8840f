"""Decoding against Pillow, and every way in which an image can be bad."""

import functools
import io
import os

import numpy as np
import pytest
from PIL import Image, ImageOps

from vision.data import images
from vision.data.images import BadImage, decode


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", height: int = 60, width: int = 80) -> Image.Image:
    """A smooth picture without symmetry, so that any flip or turn shows."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / width, 255 * y / height, 255 * (x + 2 * y) / (width + 2 * height)]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8)).convert(mode)


def by_pillow(data: bytes) -> np.ndarray:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_lossless_formats_equal_pillow(kind, mode):
    data = encode(picture(mode), kind)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGB")])
def test_lossy_formats_are_near_pillow(kind, mode):
    data = encode(picture(mode), kind, quality=95)
    assert np.abs(decode(data).astype(int) - by_pillow(data)).max() <= 3


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP"])
def test_palette(kind):
    data = encode(picture().quantize(16), kind)
    np.testing.assert_array_equal(decode(data), by_pillow(data))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour_shows_white_there(kind):
    data = encode(picture().quantize(16), kind, transparency=3)
    expected = by_pillow(data)
    assert (expected == 255).all(-1).any()
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("TIFF", "RGBA"), ("WEBP", "RGBA")])
@pytest.mark.parametrize("orientation", [1, 6])
def test_transparency_is_laid_over_white(kind, mode, orientation):
    image = picture(mode)
    image.putalpha(picture("L").point(lambda value: 255 - value))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(image, kind, exif=exif, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    assert np.abs(decode(data).astype(int) - by_pillow(data)).max() <= 1


def test_a_fully_transparent_image_is_white():
    data = encode(Image.new("RGBA", (5, 4), (9, 8, 7, 0)), "PNG")
    assert (decode(data) == 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(kind):
    values = np.linspace(0, 65535, 60 * 80).astype(np.uint16).reshape(60, 80)
    data = encode(Image.fromarray(values), kind)
    np.testing.assert_array_equal(decode(data, channels=1)[..., 0], np.rint(values / 257).astype(np.uint8))


def test_16_bit_colour_keeps_the_order_of_channels():
    cv2 = images.opencv()
    rgb = np.asarray(picture()).astype(np.uint16) * 257
    data = cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(data), np.asarray(picture()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    assert np.abs(decode(data).astype(int) - by_pillow(data)).max() <= 3


def test_grey_from_colour_is_the_luma():
    data = encode(picture(), "PNG")
    luma = np.asarray(picture()) @ [0.299, 0.587, 0.114]
    assert decode(data, channels=1).shape == (60, 80, 1)
    assert np.abs(decode(data, channels=1)[..., 0] - luma).max() <= 1


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (6, 8, 3), (6, 8, 4)])
def test_arrays_pass_through(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if shape[-1] == 4:
        array[..., 3] = 255
    expected = np.broadcast_to(array.reshape(6, 8, -1)[..., :3], (6, 8, 3))
    np.testing.assert_array_equal(decode(array), expected)


@pytest.mark.parametrize("array", [np.zeros((6, 8), np.float32), np.zeros((6, 8, 2), np.uint8), np.zeros(6, np.uint8)])
def test_other_arrays_are_bad_images(array):
    with pytest.raises(BadImage, match="expected a uint8 array"):
        decode(array)


def noisy(kind: str, **options) -> bytes:
    return encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)), kind, **options)


KINDS = {
    "jpeg": noisy("JPEG"),
    "progressive jpeg": noisy("JPEG", progressive=True),
    "png": noisy("PNG"),
    "webp": noisy("WEBP"),
    "bmp": noisy("BMP"),
    "gif": noisy("GIF"),
    "tiff": noisy("TIFF"),
    "ppm": noisy("PPM"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.1, 0.001])
def test_truncated_files_are_bad_images(kind, share):
    decode(KINDS[kind])
    with pytest.raises(BadImage):
        decode(KINDS[kind][: int(len(KINDS[kind]) * share)])


def test_a_jpeg_cut_after_the_thumbnail_in_its_header_is_truncated():
    thumbnail = encode(picture().resize((16, 12)), "JPEG")
    exif = b"Exif\0\0" + b"MM\0*" + b"\0" * 20 + thumbnail
    whole = noisy("JPEG", exif=exif)
    assert whole.count(b"\xff\xd9") >= 2
    decode(whole)
    decode(whole + b"\0 trailing bytes \xff\xd8 of a camera")
    with pytest.raises(BadImage, match="JPEG file is truncated"):
        decode(whole[: int(len(whole) * 0.8)])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty"), (b"hello, world" * 9, "not an image"), (b"\xff\xd8\xff\xd9", "not an image")],
)
def test_files_that_are_no_images(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImage, match=message):
        decode(str(tmp_path / "a.jpg"))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(BadImage, match="no such file"):
        decode(str(tmp_path / "missing.png"))
    with pytest.raises(BadImage, match="is a directory"):
        decode(str(tmp_path))
    if os.geteuid() != 0:
        (tmp_path / "secret.png").write_bytes(KINDS["png"])
        (tmp_path / "secret.png").chmod(0)
        with pytest.raises(BadImage, match="permission denied"):
            decode(str(tmp_path / "secret.png"))


def test_a_damaged_png_is_a_bad_image():
    data = bytearray(KINDS["png"])
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(BadImage):
        decode(bytes(data))


def test_floating_point_pixels_are_refused():
    data = encode(Image.fromarray(np.zeros((6, 8), np.float32)), "TIFF")
    with pytest.raises(BadImage):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_sizes_without_decoding(kind, mode, tmp_path):
    data = encode(picture(mode, 37, 61), kind)
    (tmp_path / "image").write_bytes(data)
    assert images.size(data) == images.size(tmp_path / "image") == images.size(decode(data)) == (37, 61)


@pytest.mark.parametrize("options", [{"progressive": True}, {"optimize": True}, {"comment": b"\xff\xc0 no frame"}])
def test_sizes_of_other_jpegs_are_read_from_the_header(options, monkeypatch):
    data = encode(picture("RGB", 37, 61), "JPEG", **options)
    monkeypatch.setattr(images, "decode", None)
    assert images.size(data) == (37, 61)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(10))
def test_sizes_are_those_of_the_upright_image(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture("RGB", 37, 61), kind, exif=exif)
    assert images.size(data) == decode(data).shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", [b"II*\0", b"MM\0*"])
def test_sizes_of_turned_jpegs_are_read_from_the_header(orientation, order, monkeypatch):
    size = functools.partial(int.to_bytes, byteorder="little" if order == b"II*\0" else "big")
    # TIFF 6.0, section 2: the number of entries, of each its tag, type, count and value; here the maker and the turn.
    maker = size(0x010F, 2) + size(2, 2) + size(4, 4) + b"ACM\0"
    turn = size(0x0112, 2) + size(3, 2) + size(1, 4) + size(orientation, 2) + b"\0\0"
    exif = b"Exif\0\0" + order + size(8, 4) + size(2, 2) + maker + turn + size(0, 4)
    data = encode(picture("RGB", 37, 61), "JPEG", exif=exif)
    expected = decode(data).shape[:2]
    assert expected == ((61, 37) if orientation >= 5 else (37, 61))
    monkeypatch.setattr(images, "decode", None)
    assert images.size(data) == expected


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_sizes_of_whole_files(kind, tmp_path):
    data = encode(picture("RGB", 37, 61), kind)
    (tmp_path / "image").write_bytes(data)
    assert images.whole_size(data) == images.whole_size(tmp_path / "image") == (37, 61)
    for content in (data[: len(data) // 2], data[:-20], b"", b"text"):
        if kind == "BMP" and len(content) == len(data) - 20:
            continue  # what is missing of such a file is black
        (tmp_path / "image").write_bytes(content)
        for given in (content, tmp_path / "image"):
            with pytest.raises(BadImage):
                images.whole_size(given)
    with pytest.raises(BadImage, match="no such file"):
        images.whole_size(tmp_path / "missing.jpg")
    if kind == "JPEG":
        (tmp_path / "image").write_bytes(data + b"\0\0trailer")
        assert images.whole_size(tmp_path / "image") == (37, 61)


def test_sizes_of_bad_images():
    with pytest.raises(BadImage, match="not an image"):
        images.size(b"no image")
    with pytest.raises(BadImage, match="expected a uint8 array"):
        images.size(np.zeros((3, 4), np.float32))
