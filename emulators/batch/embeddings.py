"""Rows of a batch job of gemini-embedding-2: the vectors of ``embedContent`` in the format of batch jobs.

Input lines are ``{"key": …, "request": {"content": …, "embed_content_config": …}}``, responses ``{"tokenCount":
"258", "embedding": {"values": […]}}`` (Google, "Get batch embeddings inferences"). The format of failed rows is not
documented; they get a ``status`` as in other Gemini batch jobs.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from imagebeam.emulators.batch.answers import RowAnswer, find_row_rule, row_status, uris_of
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, ImageDescriptors
from imagebeam.emulators.vertex.embeddings import EmbeddingInput, content_vector, read_embed_content
from imagebeam.emulators.vertex.faults import VertexFaults

#: Names of the configuration, and settings that the service ignores without an error.
_CONFIGS: Final = ("embed_content_config", "embedContentConfig")
_IGNORED: Final = ("task_type", "taskType", "title")


@dataclass(slots=True)
class EmbedHandler:
    """Answers rows of embedding jobs with the code of the online service. Thread-safe.

    Args:
        descriptors: Descriptors of images.
        faults: The rules of section ``vertex`` for ``embedContent``; see `GenerateHandler`.
        synthetic: Derive the vectors from a hash of the request, without reading images.
    """

    descriptors: ImageDescriptors
    faults: VertexFaults
    synthetic: bool
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    @property
    def omits_status(self) -> bool:
        """Lines of successful rows have a key, request and response only."""
        return True

    def answer_line(
        self, request: Any, model: EmbeddingModel, skeleton: bytes | None = None, *, blocked: bool = False
    ) -> RowAnswer:
        """Answer a row, see `LineHandler`."""
        del skeleton
        uris = uris_of(request)
        try:
            content = read_embed_content(_drop_ignored(request), model)
            with self._lock:
                rule = find_row_rule(self.faults, "embedContent", uris, "\n".join(content.texts))
            if rule is not None and rule.action == "http":
                raise rule.error()
            if blocked:
                raise ApiError(400, "The content is blocked.")
            values = self._vector(content, model)
        except ApiError as problem:
            return RowAnswer(row_status(problem), {}, uris, paid=False)
        tokens = min(content.tokens, model.text_tokens)
        # Serialized at once: thousands of rows are held before they are written, and floats take more memory.
        answer = orjson.Fragment(orjson.dumps({"tokenCount": str(tokens), "embedding": {"values": values}}))
        return RowAnswer("", answer, uris, paid=True)

    def cached_answer(self, skeleton: bytes, uris: tuple[str, ...]) -> RowAnswer | None:
        """Return None: vectors are not cached, because every row has a different one."""
        del skeleton, uris
        return None

    def _vector(self, content: EmbeddingInput, model: EmbeddingModel) -> list[float]:
        if self.synthetic:
            return synthetic_vector((*(image.name for image in content.images), *content.texts), content.dimension)
        return content_vector(content, model, self.descriptors)


def _drop_ignored(request: Any) -> dict[str, Any]:
    """Return a request without the settings that the service ignores in a batch job."""
    if not isinstance(request, dict):
        raise ApiError(400, "The request must be an object.")
    kept = dict(request)
    for name in _CONFIGS:
        if isinstance(kept.get(name), Mapping):
            kept[name] = {key: value for key, value in kept[name].items() if key not in _IGNORED}
    return kept


def synthetic_vector(names: Iterable[str], dimension: int) -> list[float]:
    """Return a vector of norm 1 that depends on the names only.

    Args:
        names: URIs and texts of the request.
        dimension: Number of components.
    """
    seed = int.from_bytes(hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest(), "big")
    values = np.random.Generator(np.random.SFC64(seed)).standard_normal(dimension)
    found: list[float] = (values / np.linalg.norm(values)).tolist()
    return found
