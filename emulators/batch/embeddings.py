"""Rows of a batch job of gemini-embedding-2: the vectors that ``embedContent`` gives, in the batch lane's shape.

Lines are ``{"key": …, "request": {"content": …, "embed_content_config": …}}``, answers ``{"tokenCount": "258",
"embedding": {"values": […]}}`` (Google, "Get batch embeddings inferences"). What a failed row looks like is not
documented: it has the ``status`` of any other Gemini batch job.
"""

import hashlib
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import orjson

from imagebeam.emulators.batch.answers import RowAnswer, row_rule, status_of, uris_of
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, Gallery
from imagebeam.emulators.vertex.embeddings import Question, one_vector, read_embed_content
from imagebeam.emulators.vertex.faults import VertexFaults

#: Spellings of the settings, and those of them that are ignored without a word.
_CONFIGS: Final = ("embed_content_config", "embedContentConfig")
_IGNORED: Final = ("task_type", "taskType", "title")


@dataclass(slots=True)
class EmbedHandler:
    """Answers rows of embedding jobs with the code of the online service; safe to use from many threads.

    Args:
        gallery: Shows the images.
        faults: The rules of section ``vertex`` for ``embedContent``; see `GenerateHandler`.
        synthetic: Make vectors from a hash of the request, without looking.
    """

    gallery: Gallery
    faults: VertexFaults
    synthetic: bool
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    @property
    def plain(self) -> bool:
        """A good row is its key, request and response."""
        return True

    def answer_line(
        self, request: Any, model: EmbeddingModel, like: bytes | None = None, *, blocked: bool = False
    ) -> RowAnswer:
        """Answer a row, see `LineHandler`."""
        del like
        uris = uris_of(request)
        try:
            question = read_embed_content(_without_ignored(request), model)
            with self._lock:
                rule = row_rule(self.faults, "embedContent", uris, "\n".join(question.texts))
            if rule is not None and rule.action == "http":
                raise rule.error()
            if blocked:
                raise ApiError(400, "The content is blocked.")
            values = self._vector(question, model)
        except ApiError as problem:
            return RowAnswer(status_of(problem), {}, uris, paid=False)
        tokens = min(question.tokens, model.text_tokens)
        # As text: thousands of rows wait to be written, and numbers take more room.
        answer = orjson.Fragment(orjson.dumps({"tokenCount": str(tokens), "embedding": {"values": values}}))
        return RowAnswer("", answer, uris, paid=True)

    def recall(self, like: bytes, uris: tuple[str, ...]) -> RowAnswer | None:
        """Remember nothing: every row has a vector of its own."""
        del like, uris
        return None

    def _vector(self, question: Question, model: EmbeddingModel) -> list[float]:
        if self.synthetic:
            return imagined((*(image.name for image in question.images), *question.texts), question.dimension)
        return one_vector(question, model, self.gallery)


def _without_ignored(request: Any) -> dict[str, Any]:
    """Return a request without the settings that the service ignores in a batch job."""
    if not isinstance(request, dict):
        raise ApiError(400, "The request must be an object.")
    told = dict(request)
    for name in _CONFIGS:
        if isinstance(told.get(name), Mapping):
            told[name] = {key: value for key, value in told[name].items() if key not in _IGNORED}
    return told


def imagined(names: Iterable[str], dimension: int) -> list[float]:
    """Return a vector of length 1 that is always the same for the same files and texts.

    Args:
        names: URIs and texts.
        dimension: Its length.
    """
    seed = int.from_bytes(hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest(), "big")
    values = np.random.Generator(np.random.SFC64(seed)).standard_normal(dimension)
    found: list[float] = (values / np.linalg.norm(values)).tolist()
    return found
