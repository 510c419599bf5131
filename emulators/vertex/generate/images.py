"""Load and measure the images of requests, and cache the results."""

import base64
import binascii
import hashlib
from typing import Final

from imagebeam.emulators.core.cache import LruCache
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.fake_model.image_stats import ImageStats, NotAnImageError, measure
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.generate.validation import INLINE_BYTES, InputImage

#: Maximum number of cached image statistics.
CACHE_SIZE: Final = 4096
#: Maximum size of an image in Cloud Storage in bytes.
OBJECT_BYTES: Final = 30 * 1024 * 1024

UNABLE_TO_PROCESS: Final = (
    "Unable to process input image. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting"
)
#: Brands of ISO base media files that are HEIC or HEIF.
_HEIC: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_HEIF: Final = (b"mif1", b"msf1")
_HEIF_TYPES: Final = ("image/heic", "image/heif")


class ImageReader:
    """Measures the images of requests. Thread-safe.

    Args:
        objects: The local Cloud Storage.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._cache: LruCache[tuple[str, str, int], tuple[str, ImageStats]] = LruCache(CACHE_SIZE)

    def measure(self, image: InputImage) -> ImageStats:
        """Return the statistics of an image.

        Raises:
            ApiError: 404 if its object does not exist, 400 if it is too large, cannot be decoded or does not have the
                declared type, 501 if its type is not supported by the local service.
        """
        kind, measured = self._inline(image) if image.uri is None else self._stored(image.uri)
        if kind != image.mime_type and {kind, image.mime_type} != set(_HEIF_TYPES):
            raise ApiError(400, UNABLE_TO_PROCESS)
        return measured

    def _stored(self, uri: str) -> tuple[str, ImageStats]:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        stored = self._objects.read(bucket, name)
        if stored is None:
            raise _missing(uri)
        if stored.size > OBJECT_BYTES:
            raise ApiError(400, f"The image {uri} is too large: {stored.size} bytes, the limit is {OBJECT_BYTES}.")
        key = (bucket, name, stored.generation)
        known = self._cache.get(key)
        if known is None:
            try:
                data = stored.data
            except FileNotFoundError as problem:  # deleted since `read`
                raise _missing(uri) from problem
            known = self._cache.put(key, _measure(data))
        return known

    def _inline(self, image: InputImage) -> tuple[str, ImageStats]:
        try:
            data = base64.b64decode(image.data or "", altchars=_altchars(image.data or ""), validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ApiError(
                400, "Invalid value at 'inline_data.data' (TYPE_BYTES), Base64 decoding failed."
            ) from problem
        if len(data) > INLINE_BYTES:
            raise ApiError(400, f"The image in inline_data is too large: the limit is {INLINE_BYTES} bytes.")
        key = ("", hashlib.blake2b(data, digest_size=16).hexdigest(), 0)
        known = self._cache.get(key)
        return known if known is not None else self._cache.put(key, _measure(data))


def sniff(data: bytes) -> str | None:
    """Return the MIME type of an image that Gemini supports, or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return "image/heic" if data[8:12] in _HEIC else "image/heif" if data[8:12] in _HEIF else None
    return None


def _measure(data: bytes) -> tuple[str, ImageStats]:
    kind = sniff(data)
    if kind is None:
        raise ApiError(400, UNABLE_TO_PROCESS)
    try:
        return kind, measure(data)
    except NotAnImageError as problem:
        if kind in _HEIF_TYPES:
            raise ApiError(501, f"The local Vertex AI does not implement decoding of {kind}.") from problem
        raise ApiError(400, UNABLE_TO_PROCESS) from problem


def _altchars(text: str) -> bytes | None:
    """Return the ``altchars`` of URL-safe base64, which the google-genai client sends, or None for standard base64."""
    return b"-_" if "-" in text or "_" in text else None


def _missing(uri: str) -> ApiError:
    return ApiError(404, f"Input file not found: the Cloud Storage object {uri} does not exist.")
