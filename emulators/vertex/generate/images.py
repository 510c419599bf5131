"""The images of a request: found, told apart by their bytes, measured, and remembered."""

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from typing import Final

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.fake_model.pixels import Measurements, NotAnImage, measure
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.generate.validation import INLINE_BYTES, InputImage

#: Measurements that are remembered.
REMEMBERED: Final = 4096
#: Greatest image in Cloud Storage, in bytes.
OBJECT_BYTES: Final = 30 * 1024 * 1024

UNABLE: Final = (
    "Unable to process input image. Please retry or report in "
    "https://developers.generativeai.google/guide/troubleshooting"
)
#: Brands of ISO base media files that are HEIC or HEIF.
_HEIC: Final = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
_HEIF: Final = (b"mif1", b"msf1")
_APART_BY_NAME_ONLY: Final = ("image/heic", "image/heif")

_Key = tuple[str, str, int]


class ImageReader:
    """Measures the images of requests; safe to use from many threads.

    Args:
        objects: Where ``gs://`` URIs lead.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._known: OrderedDict[_Key, tuple[str, Measurements]] = OrderedDict()

    def measure(self, image: InputImage) -> Measurements:
        """Return what is to be seen on an image.

        Raises:
            ApiError: 404 when its object does not exist, 400 when it is too large, cannot be decoded or is of
                another type than the request says, 501 when it is of a type that only Gemini decodes.
        """
        kind, measured = self._inline(image) if image.uri is None else self._stored(image.uri)
        if kind != image.mime_type and {kind, image.mime_type} != set(_APART_BY_NAME_ONLY):
            raise ApiError(400, UNABLE)
        return measured

    def _stored(self, uri: str) -> tuple[str, Measurements]:
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        stored = self._objects.read(bucket, name)
        if stored is None:
            raise _missing(uri)
        if stored.size > OBJECT_BYTES:
            raise ApiError(400, f"The image {uri} is too large: {stored.size} bytes, the limit is {OBJECT_BYTES}.")
        key = (bucket, name, stored.generation)
        known = self._recall(key)
        if known is None:
            try:
                data = stored.data
            except FileNotFoundError as problem:  # deleted this moment
                raise _missing(uri) from problem
            known = self._remember(key, _look(data))
        return known

    def _inline(self, image: InputImage) -> tuple[str, Measurements]:
        try:
            data = base64.b64decode(image.data or "", altchars=_altchars(image.data or ""), validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ApiError(
                400, "Invalid value at 'inline_data.data' (TYPE_BYTES), Base64 decoding failed."
            ) from problem
        if len(data) > INLINE_BYTES:
            raise ApiError(400, f"The image in inline_data is too large: the limit is {INLINE_BYTES} bytes.")
        key = ("", hashlib.blake2b(data, digest_size=16).hexdigest(), 0)
        known = self._recall(key)
        return known if known is not None else self._remember(key, _look(data))

    def _recall(self, key: _Key) -> tuple[str, Measurements] | None:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
            return known

    def _remember(self, key: _Key, known: tuple[str, Measurements]) -> tuple[str, Measurements]:
        with self._lock:
            self._known[key] = known
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known


def sniff(data: bytes) -> str | None:
    """Return which of the types that Gemini takes these bytes are; ``None`` for anything else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[4:8] == b"ftyp":
        return "image/heic" if data[8:12] in _HEIC else "image/heif" if data[8:12] in _HEIF else None
    return None


def _look(data: bytes) -> tuple[str, Measurements]:
    kind = sniff(data)
    if kind is None:
        raise ApiError(400, UNABLE)
    try:
        return kind, measure(data)
    except NotAnImage as problem:
        if kind in _APART_BY_NAME_ONLY:
            raise ApiError(501, f"The local Vertex AI does not implement decoding of {kind}.") from problem
        raise ApiError(400, UNABLE) from problem


def _altchars(text: str) -> bytes | None:
    """Proto JSON takes both alphabets of base64; the google-genai client writes the one for URLs."""
    return b"-_" if "-" in text or "_" in text else None


def _missing(uri: str) -> ApiError:
    return ApiError(404, f"Input file not found: the Cloud Storage object {uri} does not exist.")
