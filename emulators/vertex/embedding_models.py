"""The embedding models that the local cloud serves, what each accepts, and the images they are shown.

Google, "Get multimodal embeddings", "Gemini Embedding 2", as of November 2026. Vertex AI and BigQuery's
``AI.GENERATE_EMBEDDING`` ask the same models, so both find them here.
"""

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.fake_model.image_vectors import MOST_DIMENSIONS, Vector, describe
from imagebeam.emulators.fake_model.pixels import NotAnImage
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.generate.images import UNABLE, sniff
from imagebeam.emulators.vertex.models import model_missing

#: Descriptions that are remembered, about 1 kB each.
REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """One embedding model.

    Attributes:
        name: Model id; also the name of its space: no two models share one.
        method: How it is called: ``predict`` or ``embedContent``.
        dimensions: Lengths of vectors that it makes; empty for 1 to ``default``.
        default: Length when none is asked for.
        image_types: What it decodes.
        image_bytes: Greatest image.
        images: Most images of one request.
        text_tokens: Most tokens of one request.
    """

    name: str
    method: str
    dimensions: tuple[int, ...]
    default: int
    image_types: tuple[str, ...]
    image_bytes: int
    images: int
    text_tokens: int

    def serves(self, location: str) -> bool:
        """Say whether the model answers at a location: ``global``, ``us``, ``eu`` or a region."""
        return (location in ("global", "us", "eu")) == (self.method == "embedContent")

    def check_dimension(self, dimension: int) -> str | None:
        """Return why the model makes no vectors of this length; None when it does."""
        if self.dimensions and dimension not in self.dimensions:
            *others, last = map(str, self.dimensions)
            return f"Invalid dimension: {dimension}. Supported dimensions are {', '.join(others)} and {last}."
        if not 1 <= dimension <= self.default:
            return f"Invalid output_dimensionality: {dimension}. It must be between 1 and {self.default}."
        return None


MODELS: Final[Mapping[str, EmbeddingModel]] = {
    model.name: model
    for model in (
        EmbeddingModel(
            "multimodalembedding@001", "predict", (128, 256, 512, 1408), 1408,
            ("image/bmp", "image/gif", "image/jpeg", "image/png"), 20 * 1024 * 1024, 1, 32,
        ),
        EmbeddingModel(
            "gemini-embedding-2", "embedContent", (), MOST_DIMENSIONS,
            ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/heic", "image/heif", "image/avif"),
            30 * 1024 * 1024, 6, 8192,
        ),
    )
}  # fmt: skip
#: Other names of theirs.
_ALIASES: Final = {"multimodalembedding": "multimodalembedding@001", "gemini-embedding-2-preview": "gemini-embedding-2"}


def embedding_model(name: str) -> EmbeddingModel | None:
    """Return an embedding model by one of its names, or None."""
    return MODELS.get(_ALIASES.get(name, name))


def find_embedding_model(name: str, project: str, location: str | None, retired: tuple[str, ...]) -> EmbeddingModel:
    """Return an embedding model that exists at a location (None: anywhere).

    Raises:
        ApiError: 404, in the words of the service.
    """
    model = embedding_model(name)
    if model is None or name in retired or not (location is None or model.serves(location)):
        raise model_missing(name, project, location)
    return model


class Gallery:
    """Shows images to embedding models; safe to use from many threads.

    Args:
        objects: Where ``gs://`` URIs lead.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, str, int], tuple[str, Vector]] = OrderedDict()

    def stored(self, uri: str, model: EmbeddingModel) -> Vector:
        """Return the description of an object.

        Raises:
            ApiError: 400 for a bad URI or what the model does not take, 404 when the object does not exist.
        """
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if not uri.startswith("gs://") or not bucket or not name:
            raise ApiError(400, f"Invalid GCS URI: {uri}. It must be a Cloud Storage URI such as gs://bucket/object.")
        stored = self._objects.read(bucket, name)
        if stored is None:
            raise ApiError(404, f"Input file not found: the Cloud Storage object {uri} does not exist.")
        _check_size(stored.size, model)
        key = (bucket, name, stored.generation)
        known = self._recall(key)
        if known is None:
            try:
                known = self._remember(key, _look(stored.data))
            except FileNotFoundError as problem:  # deleted this moment
                raise ApiError(404, f"Input file not found: the object {uri} does not exist.") from problem
        return _fit(known, model)

    def inline(self, encoded: str, model: EmbeddingModel) -> Vector:
        """Return the description of an image in base64 (either alphabet).

        Raises:
            ApiError: 400.
        """
        try:
            data = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ApiError(400, "Invalid image bytes: Base64 decoding failed.") from problem
        _check_size(len(data), model)
        key = ("", hashlib.blake2b(data, digest_size=16).hexdigest(), 0)
        return _fit(self._recall(key) or self._remember(key, _look(data)), model)

    def _recall(self, key: tuple[str, str, int]) -> tuple[str, Vector] | None:
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
            return known

    def _remember(self, key: tuple[str, str, int], known: tuple[str, Vector]) -> tuple[str, Vector]:
        with self._lock:
            self._known[key] = known
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return known


def _check_size(size: int, model: EmbeddingModel) -> None:
    if size > model.image_bytes:
        raise ApiError(400, f"The image is too large: {size} bytes, the limit is {model.image_bytes}.")


def _fit(known: tuple[str, Vector], model: EmbeddingModel) -> Vector:
    kind, description = known
    if kind not in model.image_types:
        raise ApiError(400, f"Unsupported image format {kind}: {model.name} takes {', '.join(model.image_types)}.")
    return description


def _kind(data: bytes) -> str | None:
    if data.startswith(b"BM"):
        return "image/bmp"
    if data.startswith(b"GIF8"):
        return "image/gif"
    return "image/avif" if data[4:12] == b"ftypavif" else sniff(data)


def _look(data: bytes) -> tuple[str, Vector]:
    kind = _kind(data)
    if kind is None:
        raise ApiError(400, UNABLE)
    try:
        return kind, describe(data)
    except NotAnImage as problem:
        if kind in ("image/heic", "image/heif", "image/avif"):
            raise ApiError(501, f"The local cloud does not implement decoding of {kind}.") from problem
        raise ApiError(400, UNABLE) from problem
