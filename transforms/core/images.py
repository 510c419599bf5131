"""Detect the type of images, check that Gemini supports it, and crop or downscale images."""

from __future__ import annotations

import dataclasses
import io
import math
import re

from PIL import Image, ImageOps

from imagebeam.transforms.core.records import ImageReason

SUPPORTED = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
"""Image types that Gemini supports (Google, model pages)."""

MAX_INLINE_BYTES = 7 * 1024 * 1024
"""Largest inline image of a request (Google, model pages)."""

MAX_PIXELS = 100_000_000
"""Largest image to decode: a small PNG can expand to gigabytes."""

# Pixels that a box may exceed the image by: detectors round.
_SLACK_PX = 2.0

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"II+\x00", "image/tiff"),
    (b"MM\x00+", "image/tiff"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"\xff\x0a", "image/jxl"),
    (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"%PDF-", "application/pdf"),
)
#: Brands of ISO media, the most specific type first.
_BRANDS = {
    "image/avif": frozenset({b"avif", b"avis"}),
    "image/heic": frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}),
    "image/heif": frozenset({b"mif1", b"msf1", b"heif"}),
}
_SUFFIXES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "jpe": "image/jpeg",
    "jfif": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
}
_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")

Box = tuple[float, float, float, float]


class ImageError(Exception):
    """An image cannot be sent.

    Attributes:
        reason: Reason code of the outcome.
        message: Message of the outcome, one line.
    """

    def __init__(self, reason: ImageReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready to be sent inline.

    Attributes:
        data: Its bytes: the original ones if nothing changed, else a JPEG without metadata.
        mime_type: Their type.
        width: Width in pixels, EXIF orientation applied; 0 if unknown (HEIC and HEIF are not decoded).
        height: Height in pixels, likewise.
    """

    data: bytes
    mime_type: str
    width: int
    height: int


def sniff_mime(head: bytes) -> str | None:
    """Detect the type of a file by its first bytes (64 are enough).

    Args:
        head: The first bytes.

    Returns:
        A MIME type, also of formats that Gemini does not support; None if they are not a known image.

    >>> sniff_mime(b"GIF89a...")
    'image/gif'
    """
    if found := next((mime for magic, mime in _MAGIC if head.startswith(magic)), None):
        return found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp":
        return _sniff_iso(head)
    if head[:2] == b"BM" and head[6:10] == b"\x00\x00\x00\x00":
        return "image/bmp"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "image/svg+xml"
    return None


def _sniff_iso(head: bytes) -> str | None:
    """Detect ISO media by brand: the major one, or the compatible ones after it."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    return next((mime for mime, known in _BRANDS.items() if known.intersection(brands)), None)


def mime_from_name(uri: str) -> str | None:
    """Return the type of a name's suffix, if Gemini supports it.

    >>> mime_from_name("gs://b/o1:aa:bb.JPG")
    'image/jpeg'
    >>> mime_from_name("gs://b/scan.tiff") is None
    True
    """
    name = uri.rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return _SUFFIXES.get(suffix.lower()) if dot else None


def parse_gs_uri(uri: str | None) -> tuple[str, str] | None:
    """Split a ``gs://`` URI.

    Args:
        uri: URI such as ``gs://bucket/o1:aa:bb/photo.jpg``; an object name may contain nearly anything.

    Returns:
        Bucket and object name; None if it is not a ``gs://`` URI.

    >>> parse_gs_uri("gs://street/o1:aa:bb.jpg")
    ('street', 'o1:aa:bb.jpg')
    """
    if not uri or not uri.startswith("gs://"):
        return None
    bucket, _, name = uri[5:].partition("/")
    if not _BUCKET.fullmatch(bucket) or not name or name in (".", ".."):
        return None
    if "\n" in name or "\r" in name or len(name.encode("utf-8", "surrogatepass")) > 1024:
        return None
    return bucket, name


def checked_uri(uri: str | None) -> str:
    """Return the URI of an image, checked.

    Args:
        uri: URI from the source.

    Raises:
        ImageError: It is missing, or not a ``gs://`` URI.
    """
    if uri is None or parse_gs_uri(uri) is None:
        raise ImageError(ImageReason.NO_URI, f"not a gs:// URI: {uri[:200]}" if uri else "no image URI")
    return uri


def prepare(data: bytes, *, crop: Box | None, padding: float, max_side: int | None, quality: int) -> PreparedImage:
    """Check an image, and crop or downscale it if required.

    Args:
        data: Bytes of the file.
        crop: Left, top, right, bottom in pixels, EXIF orientation applied; None for no crop.
            A box that does not fit into the image is ignored: Imagery Insights has boxes in the source
            frame also for images that are already cropped.
        padding: Margin around the box, as a fraction of its longer side.
        max_side: Longest side of the result in pixels; None keeps the size.
        quality: JPEG quality of a changed image, 1 to 100.

    Returns:
        The image; with the same bytes if nothing changed.

    Raises:
        ImageError: It is not a readable image of a supported type, or too large.
    """
    mime = sniff_mime(data[:64])
    if mime is None:
        raise ImageError(ImageReason.UNREADABLE, "not an image")
    if mime not in SUPPORTED:
        raise ImageError(ImageReason.UNSUPPORTED, f"Gemini does not support {mime}")
    if mime not in _FORMATS:
        if crop is not None or max_side is not None:
            raise ImageError(
                ImageReason.UNSUPPORTED,
                f"imagebeam cannot crop or downscale {mime}; remove image.crop and image.max_side",
            )
        return _check_size(PreparedImage(data, mime, 0, 0))
    try:
        return _check_size(_prepare(data, mime, crop, padding, max_side, quality))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(ImageReason.TOO_LARGE, _one_line(error)) from None
    except Exception as error:
        # Decoders raise many types of exceptions for broken bytes.
        raise ImageError(ImageReason.UNREADABLE, f"cannot decode {mime}: {_one_line(error)}") from None


def _check_size(prepared: PreparedImage) -> PreparedImage:
    if len(prepared.data) > MAX_INLINE_BYTES:
        raise ImageError(
            ImageReason.TOO_LARGE,
            f"{len(prepared.data):,} bytes; the maximum of an inline image is {MAX_INLINE_BYTES:,}: set image.max_side",
        )
    return prepared


def _prepare(
    data: bytes, mime: str, crop: Box | None, padding: float, max_side: int | None, quality: int
) -> PreparedImage:
    with Image.open(io.BytesIO(data), formats=[_FORMATS[mime]]) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ImageError(
                ImageReason.TOO_LARGE, f"{opened.width} x {opened.height} pixels; the maximum is {MAX_PIXELS:,}"
            )
        # EXIF orientations 5 to 8 swap width and height.
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = (opened.height, opened.width) if turned else opened.size
        box = None if crop is None else _pixels(crop, padding, width, height)
        cut = box or (0, 0, width, height)
        target = _target(cut[2] - cut[0], cut[3] - cut[1], max_side)
        if cut == (0, 0, width, height) and target == (width, height):
            # Unchanged: only check that it can be decoded, a JPEG at an eighth of its size.
            opened.draft(None, (max(1, opened.width // 8), max(1, opened.height // 8)))
            opened.load()
            return PreparedImage(data, mime, width, height)
        if box is None:
            # The JPEG decoder downscales by halves, to at least twice the target.
            opened.draft(None, (2 * max(target), 2 * max(target)))
        image = _to_rgb(ImageOps.exif_transpose(opened))
    if box is not None:
        image = image.crop(box)
    if image.size != target:
        image = image.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return PreparedImage(buffer.getvalue(), "image/jpeg", *target)


def _pixels(crop: Box, padding: float, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Return the padded box in whole pixels inside the image; None if the box does not fit into it."""
    left, top, right, bottom = crop
    if not all(math.isfinite(value) for value in crop) or right <= left or bottom <= top:
        return None
    if min(left, top) < -_SLACK_PX or right > width + _SLACK_PX or bottom > height + _SLACK_PX:
        return None
    margin = padding * max(right - left, bottom - top)
    box = (
        max(0, math.floor(left - margin)),
        max(0, math.floor(top - margin)),
        min(width, math.ceil(right + margin)),
        min(height, math.ceil(bottom + margin)),
    )
    return box if box[0] < box[2] and box[1] < box[3] else None


def _target(width: int, height: int, max_side: int | None) -> tuple[int, int]:
    """Return the size after downscaling, with the same aspect ratio; never larger."""
    longest = max(width, height)
    if max_side is None or longest <= max_side:
        return width, height
    return max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB for JPEG: transparency to white, 16 bits to 8."""
    if image.mode.startswith(("I", "F")):
        image = image.point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image.convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
