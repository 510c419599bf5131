"""Images as bytes: what they are, whether Gemini takes them, and cutting them down before they are sent."""

from __future__ import annotations

import dataclasses
import io
import math
import re

from PIL import Image, ImageOps

from imagebeam.transforms.core.records import ImageReason

SUPPORTED = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
"""Types that Gemini takes (Google, model pages)."""

MAX_INLINE_BYTES = 7 * 1024 * 1024
"""Largest image that may travel inside a request (Google, model pages)."""

MAX_PIXELS = 100_000_000
"""Largest image that is decoded here: some bytes of PNG can unfold into gigabytes."""

# What a box may stick out of the image, in pixels: detectors round.
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
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_HEIF_BRANDS = frozenset({b"mif1", b"msf1", b"heif"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
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


class ImageProblem(Exception):  # noqa: N818 - it is an outcome of one unit, not an error of the run
    """An image cannot be asked about.

    Attributes:
        reason: Why, as it stands in the outcome.
        message: The same for people, one line.
    """

    def __init__(self, reason: ImageReason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclasses.dataclass(frozen=True, slots=True)
class PreparedImage:
    """An image ready to travel in a request.

    Attributes:
        data: Its bytes: the given ones if nothing had to be done, else a JPEG without metadata.
        mime_type: What they are.
        width: Pixels as a viewer shows it; 0 if unknown (HEIC and HEIF are passed on unopened).
        height: Likewise.
    """

    data: bytes
    mime_type: str
    width: int
    height: int


def sniff_mime(head: bytes) -> str | None:
    """What the first bytes of a file (64 are enough) say it is.

    Args:
        head: The first bytes.

    Returns:
        A MIME type, also of formats that Gemini does not take; None if they look like no image.

    >>> sniff_mime(b"GIF89a...")
    'image/gif'
    """
    for magic, mime in _MAGIC:
        if head.startswith(magic):
            return mime
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
    """ISO media files say their kind by brands: the major one, or the compatible ones after it."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    for known, mime in (
        (_AVIF_BRANDS, "image/avif"),
        (_HEIC_BRANDS, "image/heic"),
        (_HEIF_BRANDS, "image/heif"),
    ):
        if known.intersection(brands):
            return mime
    return None


def mime_from_name(uri: str) -> str | None:
    """The type that a name's suffix promises, if it is one that Gemini takes.

    >>> mime_from_name("gs://b/o1:aa:bb.JPG")
    'image/jpeg'
    >>> mime_from_name("gs://b/scan.tiff") is None
    True
    """
    name = uri.rpartition("/")[2]
    _, dot, suffix = name.rpartition(".")
    return _SUFFIXES.get(suffix.lower()) if dot else None


def parse_gs_uri(uri: str | None) -> tuple[str, str] | None:
    """Takes a ``gs://`` URI apart.

    Args:
        uri: Such as ``gs://bucket/o1:aa:bb/photo.jpg``: an object's name may hold nearly anything.

    Returns:
        Bucket and object name; None if it is none.

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
    """The URI of an image that the service is to read.

    Args:
        uri: What the source says.

    Raises:
        ImageProblem: It is none, or no ``gs://`` URI.
    """
    if uri is None or parse_gs_uri(uri) is None:
        raise ImageProblem(ImageReason.NO_URI, f"not a gs:// URI: {uri[:200]}" if uri else "no image URI")
    return uri


def prepare(data: bytes, *, crop: Box | None, padding: float, max_side: int | None, quality: int) -> PreparedImage:
    """Checks an image, and cuts it down if asked for.

    Args:
        data: The file's bytes.
        crop: Left, top, right, bottom in pixels of the image as a viewer shows it (EXIF orientation applied).
            A box that does not fit into the image is ignored: Imagery Insights gives boxes in the source
            frame also for images that are cropped already.
        padding: Margin around the box, as a fraction of its longer side.
        max_side: Longest side of the result in pixels; None leaves the size.
        quality: JPEG quality of a changed image, 1 to 100.

    Returns:
        The image; the same bytes if nothing had to be done.

    Raises:
        ImageProblem: It is no readable image of a type that Gemini takes, or too large.
    """
    mime = sniff_mime(data[:64])
    if mime is None:
        raise ImageProblem(ImageReason.UNREADABLE, "the bytes are no image")
    if mime not in SUPPORTED:
        raise ImageProblem(ImageReason.UNSUPPORTED, f"Gemini does not take {mime}")
    if mime not in _FORMATS:
        return _pass_on(data, mime, changed=crop is not None or max_side is not None)
    try:
        prepared = _prepare(data, mime, crop, padding, max_side, quality)
    except ImageProblem:
        raise
    except Image.DecompressionBombError as error:
        raise ImageProblem(ImageReason.TOO_LARGE, _one_line(error)) from None
    except Exception as error:
        # Given broken bytes, decoders raise whatever they stumble over.
        raise ImageProblem(ImageReason.UNREADABLE, f"cannot decode {mime}: {_one_line(error)}") from None
    return _small_enough(prepared)


def _pass_on(data: bytes, mime: str, *, changed: bool) -> PreparedImage:
    if changed:
        raise ImageProblem(
            ImageReason.UNSUPPORTED, f"{mime} cannot be cropped or downscaled here; as it is, Gemini takes it"
        )
    return _small_enough(PreparedImage(data, mime, 0, 0))


def _small_enough(prepared: PreparedImage) -> PreparedImage:
    if len(prepared.data) > MAX_INLINE_BYTES:
        raise ImageProblem(
            ImageReason.TOO_LARGE,
            f"{len(prepared.data):,} bytes; a request takes {MAX_INLINE_BYTES:,} inline: set image.max_side",
        )
    return prepared


def _prepare(
    data: bytes, mime: str, crop: Box | None, padding: float, max_side: int | None, quality: int
) -> PreparedImage:
    with Image.open(io.BytesIO(data), formats=[_FORMATS[mime]]) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ImageProblem(
                ImageReason.TOO_LARGE, f"{opened.width} x {opened.height} pixels are more than {MAX_PIXELS:,}"
            )
        # EXIF orientations 5 to 8 lie on their side.
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = (opened.height, opened.width) if turned else opened.size
        box = None if crop is None else _pixels(crop, padding, width, height)
        cut = box or (0, 0, width, height)
        target = _target(cut[2] - cut[0], cut[3] - cut[1], max_side)
        if cut == (0, 0, width, height) and target == (width, height):
            # Nothing to do but to see that it can be read: at an eighth of the size a JPEG tells as well.
            opened.draft(None, (max(1, opened.width // 8), max(1, opened.height // 8)))
            opened.load()
            return PreparedImage(data, mime, width, height)
        if box is None:
            # The decoder itself halves a JPEG as long as twice the target is left.
            opened.draft(None, (2 * max(target), 2 * max(target)))
        image = _flat(ImageOps.exif_transpose(opened))
    if box is not None:
        image = image.crop(box)
    if image.size != target:
        image = image.resize(target, Image.Resampling.LANCZOS, reducing_gap=3.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return PreparedImage(buffer.getvalue(), "image/jpeg", *target)


def _pixels(crop: Box, padding: float, width: int, height: int) -> tuple[int, int, int, int] | None:
    """The padded box in whole pixels inside the image; None if the box does not fit into it."""
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
    """The size after downscaling, same shape; never larger than it is."""
    longest = max(width, height)
    if max_side is None or longest <= max_side:
        return width, height
    return max(1, round(width * max_side / longest)), max(1, round(height * max_side / longest))


def _flat(image: Image.Image) -> Image.Image:
    """RGB, as JPEG wants it: transparency on white, sixteen bits on eight."""
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
