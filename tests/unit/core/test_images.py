"""Images: type detection, gs:// URIs, and preparing real photographs."""

import io
import math
import pickle
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.paths import PHOTO_DIRECTORY

from imagebeam.transforms.core import images
from imagebeam.transforms.core.images import ImageError, PreparedImage, prepare
from imagebeam.transforms.core.records import ImageReason

CAT = (PHOTO_DIRECTORY / "cat.jpg").read_bytes()


def as_is(data: bytes) -> PreparedImage:
    return prepare(data, crop=None, padding=0, max_side=None, quality=90)


def smaller(data: bytes, max_side: int) -> PreparedImage:
    return prepare(data, crop=None, padding=0, max_side=max_side, quality=90)


def cropped(data: bytes, crop: images.Box, padding: float = 0.0) -> PreparedImage:
    return prepare(data, crop=crop, padding=padding, max_side=None, quality=90)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def problem(data: bytes, **options: object) -> ImageReason:
    with pytest.raises(ImageError) as caught:
        prepare(data, **{"crop": None, "padding": 0.0, "max_side": None, "quality": 90, **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value.reason


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes with a huge declared size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def test_shipped_photos_are_returned_unchanged() -> None:
    photos = sorted(PHOTO_DIRECTORY.glob("*.jpg"))
    assert len(photos) >= 10
    for photo in photos:
        data = photo.read_bytes()
        prepared = as_is(data)
        assert prepared.data is data
        assert prepared.mime_type == "image/jpeg"
        assert (prepared.width, prepared.height) == opened(data).size


@pytest.mark.parametrize(
    ("form", "mime"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("AVIF", "image/avif"),
        ("ICO", "image/x-icon"),
        ("JPEG2000", "image/jp2"),
        ("PDF", "application/pdf"),
    ],
)
def test_detects_supported_types(form: str, mime: str) -> None:
    assert images.sniff_mime(encoded(opened(CAT), form)[:64]) == mime


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "image/heic"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic", "image/heic"),
        (b"\x00\x00\x00\x14ftypmif1\x00\x00\x00\x00mif1", "image/heif"),
        (b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1avif", "image/avif"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00mp41mp42", None),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "image/svg+xml"),
        (b"<!DOCTYPE html><html>", None),
        (b"", None),
        (b"\xff\xd8", None),
    ],
)
def test_detects_other_types(head: bytes, mime: str | None) -> None:
    assert images.sniff_mime(head) == mime


@given(st.binary(max_size=80))
def test_detects_any_bytes_without_errors(head: bytes) -> None:
    assert images.sniff_mime(head) is None or "/" in str(images.sniff_mime(head))


@pytest.mark.parametrize(
    ("name", "mime"),
    [
        ("gs://b/x.jpg", "image/jpeg"),
        ("gs://b/x.JPEG", "image/jpeg"),
        ("gs://b/t1:aa:bb/o1:cc:dd.png", "image/png"),
        ("gs://b/x.webp", "image/webp"),
        ("gs://b/x.heic", "image/heic"),
        ("gs://b/x.gif", None),
        ("gs://b/x", None),
        ("gs://b/x.jpg/y", None),
        ("", None),
    ],
)
def test_types_by_name_are_supported(name: str, mime: str | None) -> None:
    assert images.mime_from_name(name) == mime


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("gs://bucket/o1:aa:bb.jpg", ("bucket", "o1:aa:bb.jpg")),
        ("gs://my.bucket_1/a/b//c?d#e f.jpg", ("my.bucket_1", "a/b//c?d#e f.jpg")),
        ("gs://bucket//x", ("bucket", "/x")),
        ("gs://bucket/Straße.jpg", ("bucket", "Straße.jpg")),
        (None, None),
        ("", None),
        ("gs://", None),
        ("gs://bucket", None),
        ("gs://bucket/", None),
        ("gs:///x", None),
        ("gs://Bucket/x", None),
        ("gs://b/x", None),
        ("gs://bucket/..", None),
        ("gs://bucket/a\nb", None),
        ("gs://bucket/" + "x" * 1025, None),
        ("gs://bucket/" + "ä" * 513, None),
        ("GS://bucket/x", None),
        (" gs://bucket/x", None),
        ("https://storage.googleapis.com/bucket/x", None),
        ("bucket/x", None),
    ],
)
def test_parses_or_rejects_gs_uris(uri: str | None, parsed: tuple[str, str] | None) -> None:
    assert images.parse_gs_uri(uri) == parsed


@given(st.text(st.characters(exclude_characters="\r\n"), min_size=1, max_size=200))
def test_parses_any_object_name_without_line_breaks(name: str) -> None:
    expected = None if name in (".", "..") else ("bucket", name)
    assert images.parse_gs_uri(f"gs://bucket/{name}") == expected


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_downscales_to_the_longest_side_as_jpeg(form: str) -> None:
    data = encoded(opened(CAT), form)
    prepared = smaller(data, 100)
    assert prepared.mime_type == "image/jpeg"
    assert max(prepared.width, prepared.height) == 100
    assert opened(prepared.data).size == (prepared.width, prepared.height)
    assert opened(prepared.data).format == "JPEG"


def test_downscaled_photo_resembles_the_original() -> None:
    before = opened(CAT).convert("RGB").resize((16, 16))
    after = opened(smaller(CAT, 120).data).resize((16, 16))
    difference = [abs(a - b) for a, b in zip(before.tobytes(), after.tobytes(), strict=True)]
    assert sum(difference) / len(difference) < 6


def test_keeps_a_small_image_unchanged() -> None:
    assert smaller(CAT, 8192).data is CAT


def test_lower_quality_gives_fewer_bytes() -> None:
    def size(quality: int) -> int:
        return len(prepare(CAT, crop=None, padding=0, max_side=200, quality=quality).data)

    assert size(30) < size(95)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_crops_to_the_box(form: str) -> None:
    image = Image.new("RGB", (200, 100), "white")
    image.paste("red", (50, 20, 90, 60))
    prepared = cropped(encoded(image, form), (50, 20, 90, 60))
    assert (prepared.width, prepared.height) == (40, 40)
    red, green, blue = opened(prepared.data).getpixel((20, 20))  # type: ignore[misc]
    assert red > 230
    assert max(green, blue) < 40


def test_padding_is_a_fraction_of_the_longer_side_within_the_image() -> None:
    image = encoded(Image.new("RGB", (200, 100)), "PNG")
    middle = cropped(image, (80, 40, 120, 60), 0.5)
    assert (middle.width, middle.height) == (80, 60)
    corner = cropped(image, (0, 0, 40, 20), 0.5)
    assert (corner.width, corner.height) == (60, 40)


def test_crops_and_downscales() -> None:
    prepared = prepare(CAT, crop=(10, 10, 210, 110), padding=0, max_side=64, quality=80)
    assert (prepared.width, prepared.height) == (64, 32)


@pytest.mark.parametrize(
    "box",
    [
        (1172.0, 2013.0, 1253.0, 2172.0),  # of the source frame, on an image that is cropped already
        (-50.0, 0.0, 40.0, 40.0),
        (40.0, 40.0, 40.0, 80.0),
        (90.0, 40.0, 40.0, 80.0),
        (math.nan, 0.0, 40.0, 40.0),
        (0.0, 0.0, math.inf, 40.0),
    ],
)
def test_ignores_a_box_that_does_not_fit(box: images.Box) -> None:
    assert cropped(CAT, box).data is CAT


def test_accepts_a_box_with_a_rounding_error() -> None:
    image = encoded(Image.new("RGB", (200, 100)), "PNG")
    prepared = cropped(image, (-0.6, 50.0, 100.0, 100.9))
    assert (prepared.width, prepared.height) == (100, 50)


def turned(orientation: int, size: tuple[int, int] = (200, 100)) -> bytes:
    """Left half red, right half blue, rotated by the EXIF tag."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95)


def test_applies_exif_orientation_before_downscaling() -> None:
    prepared = smaller(turned(6), 50)  # 6: turn 90 degrees clockwise; the left side comes to the top
    assert (prepared.width, prepared.height) == (25, 50)
    shown = opened(prepared.data)
    assert shown.size == (25, 50)
    assert shown.getexif().get(0x0112) is None
    assert shown.getpixel((12, 5))[0] > 200  # type: ignore[index]
    assert shown.getpixel((12, 45))[2] > 200  # type: ignore[index]


def test_box_refers_to_the_oriented_image() -> None:
    prepared = cropped(turned(6), (0, 0, 100, 90))
    assert (prepared.width, prepared.height) == (100, 90)
    assert opened(prepared.data).getpixel((50, 40))[0] > 200  # type: ignore[index]


def test_unchanged_rotated_image_reports_its_oriented_size() -> None:
    data = turned(8)
    prepared = as_is(data)
    assert prepared.data is data
    assert (prepared.width, prepared.height) == (100, 200)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_converts_every_color_mode_to_jpeg(mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    image = Image.new("I;16", (300, 300), 0x8000) if mode == "I;16" else opened(CAT).convert(mode)
    data = encoded(image, "JPEG" if mode == "CMYK" else form)
    assert opened(smaller(data, 64).data).mode == "RGB"


def test_16_bit_images_keep_their_brightness() -> None:
    data = encoded(Image.new("I;16", (300, 300), 0x8000), "PNG")
    assert 120 < opened(smaller(data, 64).data).getpixel((30, 30))[0] < 136  # type: ignore[index]


def test_transparency_becomes_white() -> None:
    data = encoded(Image.new("RGBA", (300, 300), (0, 0, 0, 0)), "PNG")
    assert opened(smaller(data, 64).data).getpixel((30, 30)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_truncated_image_is_unreadable(form: str, fraction: float) -> None:
    data = encoded(opened(CAT), form)
    cut = data[: int(len(data) * fraction)]
    assert problem(cut) is ImageReason.UNREADABLE
    assert problem(cut, max_side=64) is ImageReason.UNREADABLE


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff" + b"\0" * 500, CAT[:40]])
def test_other_bytes_are_unreadable(data: bytes) -> None:
    assert problem(data) is ImageReason.UNREADABLE


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "AVIF"])
def test_other_types_are_unsupported(form: str) -> None:
    assert problem(encoded(opened(CAT), form), max_side=64) is ImageReason.UNSUPPORTED


@pytest.mark.parametrize("size", [(20_000, 20_000), (12_000, 9_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_is_too_large(size: tuple[int, int]) -> None:
    assert problem(bomb(*size)) is ImageReason.TOO_LARGE


def test_image_above_the_inline_limit_is_too_large_unless_downscaled() -> None:
    noise = Image.effect_noise((3000, 3000), 100)
    data = encoded(noise, "PNG")
    assert len(data) > images.MAX_INLINE_BYTES
    assert problem(data) is ImageReason.TOO_LARGE
    assert smaller(data, 512).width == 512


def test_heic_is_passed_through_but_cannot_be_changed() -> None:
    data = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"\0" * 99
    assert as_is(data) == PreparedImage(data, "image/heic", 0, 0)
    assert problem(data, max_side=64) is ImageReason.UNSUPPORTED


@given(st.integers(0, len(CAT) - 1), st.binary(min_size=1, max_size=40))
@settings(max_examples=40, deadline=None)
def test_damaged_bytes_give_an_image_or_an_image_error(at: int, damage: bytes) -> None:
    def verdict(data: bytes) -> object:
        try:
            return smaller(data, 64).mime_type
        except ImageError as error:
            return error.reason

    possible = ("image/jpeg", ImageReason.UNREADABLE, ImageReason.TOO_LARGE)
    assert verdict(CAT[:at] + damage + CAT[at + len(damage) :]) in possible


def test_image_error_can_be_pickled() -> None:
    again = pickle.loads(pickle.dumps(ImageError(ImageReason.NOT_FOUND, "gone")))
    assert (again.reason, str(again)) == (ImageReason.NOT_FOUND, "gone")
