"""The embedding models of the local cloud: what each accepts, and the descriptors of its input images.

Sources: Google, "Get multimodal embeddings" and "Gemini Embedding 2", as of November 2026. Shared by the local
Vertex AI and by ``AI.GENERATE_EMBEDDING`` of the local BigQuery.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from imagebeam.emulators.core.cache import LruCache
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.fake_model.image_stats import NotAnImageError
from imagebeam.emulators.fake_model.image_vectors import MAX_DIMENSIONS, Vector, describe
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.vertex.generate.images import UNABLE_TO_PROCESS, sniff
from imagebeam.emulators.vertex.models import model_not_found

#: Maximum number of cached descriptors, about 1 kB each.
CACHE_SIZE: Final = 20_000


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """One embedding model.

    Attributes:
        name: Model ID. Each model has its own vector space.
        method: API method: ``predict`` or ``embedContent``.
        dimensions: Supported vector lengths; empty for every length from 1 to ``default``.
        default: Default vector length.
        image_types: Supported MIME types.
        image_bytes: Maximum size of an image in bytes.
        images: Maximum number of images per request.
        text_tokens: Maximum number of tokens per request.
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
        """Return whether the model is served at a location: ``global``, ``us``, ``eu`` or a region."""
        return (location in ("global", "us", "eu")) == (self.method == "embedContent")

    def check_dimension(self, dimension: int) -> str | None:
        """Return the error message for an unsupported vector length, or None."""
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
            "gemini-embedding-2", "embedContent", (), MAX_DIMENSIONS,
            ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/heic", "image/heif", "image/avif"),
            30 * 1024 * 1024, 6, 8192,
        ),
    )
}  # fmt: skip
#: Alternative model IDs.
_ALIASES: Final = {"multimodalembedding": "multimodalembedding@001", "gemini-embedding-2-preview": "gemini-embedding-2"}


def embedding_model(name: str) -> EmbeddingModel | None:
    """Return the embedding model with an ID or alias, or None."""
    return MODELS.get(_ALIASES.get(name, name))


def find_embedding_model(name: str, project: str, location: str | None, retired: tuple[str, ...]) -> EmbeddingModel:
    """Return an embedding model that is served at a location (None: at any).

    Raises:
        ApiError: 404 if there is no such model.
    """
    model = embedding_model(name)
    if model is None or name in retired or not (location is None or model.serves(location)):
        raise model_not_found(name, project, location)
    return model


class ImageDescriptors:
    """Computes and caches the descriptors of images. Thread-safe.

    Args:
        objects: The local Cloud Storage.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._cache: LruCache[tuple[str, str, int], tuple[str, Vector]] = LruCache(CACHE_SIZE)

    def from_uri(self, uri: str, model: EmbeddingModel) -> Vector:
        """Return the descriptor of an object.

        Raises:
            ApiError: 400 for an invalid URI or an image that the model does not accept, 404 if the object does not
                exist.
        """
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        if not uri.startswith("gs://") or not bucket or not name:
            raise ApiError(400, f"Invalid GCS URI: {uri}. It must be a Cloud Storage URI such as gs://bucket/object.")
        stored = self._objects.read(bucket, name)
        if stored is None:
            raise ApiError(404, f"Input file not found: the Cloud Storage object {uri} does not exist.")
        _check_size(stored.size, model)
        key = (bucket, name, stored.generation)
        known = self._cache.get(key)
        if known is None:
            try:
                known = self._cache.put(key, _describe(stored.data))
            except FileNotFoundError as problem:  # deleted since `read`
                raise ApiError(404, f"Input file not found: the object {uri} does not exist.") from problem
        return _check_type(known, model)

    def from_base64(self, encoded: str, model: EmbeddingModel) -> Vector:
        """Return the descriptor of an image in base64 (standard or URL-safe alphabet).

        Raises:
            ApiError: 400 if it cannot be decoded or the model does not accept it.
        """
        try:
            data = base64.b64decode(encoded.replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError) as problem:
            raise ApiError(400, "Invalid image bytes: Base64 decoding failed.") from problem
        _check_size(len(data), model)
        key = ("", hashlib.blake2b(data, digest_size=16).hexdigest(), 0)
        return _check_type(self._cache.get(key) or self._cache.put(key, _describe(data)), model)


def _check_size(size: int, model: EmbeddingModel) -> None:
    if size > model.image_bytes:
        raise ApiError(400, f"The image is too large: {size} bytes, the limit is {model.image_bytes}.")


def _check_type(known: tuple[str, Vector], model: EmbeddingModel) -> Vector:
    kind, description = known
    if kind not in model.image_types:
        raise ApiError(400, f"Unsupported image format {kind}: {model.name} takes {', '.join(model.image_types)}.")
    return description


def _mime_type(data: bytes) -> str | None:
    if data.startswith(b"BM"):
        return "image/bmp"
    if data.startswith(b"GIF8"):
        return "image/gif"
    return "image/avif" if data[4:12] == b"ftypavif" else sniff(data)


def _describe(data: bytes) -> tuple[str, Vector]:
    kind = _mime_type(data)
    if kind is None:
        raise ApiError(400, UNABLE_TO_PROCESS)
    try:
        return kind, describe(data)
    except NotAnImageError as problem:
        if kind in ("image/heic", "image/heif", "image/avif"):
            raise ApiError(501, f"The local cloud does not implement decoding of {kind}.") from problem
        raise ApiError(400, UNABLE_TO_PROCESS) from problem
