"""The two kinds of tasks: classification with ``generateContent``, and embedding.

A kind decides how a request is built, alone or as a line of a batch job, how the response is parsed, and how many
tokens a call can take at most. :func:`task_kind` is the only place that distinguishes the kinds; the remaining
differences are attributes of :class:`~tasks.task.Task`. Everything else, from reading to recording, is the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import orjson
import pydantic

from imagebeam.transforms.core.records import Answer, Image, Unit, Usage
from imagebeam.transforms.gemini.batch_requests import LineTemplate, line_template
from imagebeam.transforms.gemini.embedding_batch import EmbeddingLines, embedding_lines
from imagebeam.transforms.gemini.embeddings import build_embedding_request, parse_embedding
from imagebeam.transforms.gemini.requests import ImagePart, build_request
from imagebeam.transforms.gemini.responses import parse_response
from imagebeam.transforms.tasks.embedding import EmbedTask
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

# Length of a prompt field in a sample request.
_FIELD_CHARS = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Classification:
    """A prompt about images, answered with text or JSON by ``generateContent``."""

    task: Task

    def build_request(
        self, profile: ModelProfile, unit: Unit, image_parts: Sequence[ImagePart], labels: Mapping[str, str]
    ) -> dict[str, Any]:
        """See :func:`~gemini.requests.build_request`."""
        return build_request(self.task, profile, unit, image_parts, labels)

    def build_lines(self, profile: ModelProfile, labels: Mapping[str, str]) -> LineTemplate:
        """See :func:`~gemini.batch_requests.line_template`."""
        return line_template(self.task, profile, labels)

    def parse_response(self, body: Mapping[str, Any]) -> Answer:
        """See :func:`~gemini.responses.parse_response`."""
        return parse_response(body, self.task)

    def sample_request(self, profile: ModelProfile, images: int) -> dict[str, Any]:
        """Return a request with this many images; each field of the prompt has a text of typical length."""
        filled = "x" * _FIELD_CHARS
        extra = {field.removeprefix("extra."): filled for field in self.task.prompt_fields()}
        shown = tuple(Image(filled, None, filled, heading=-180.0) for _ in range(images))
        unit = Unit(filled, self.task.unit, "", shown, filled, filled, latitude=-90.0, longitude=-180.0, extra=extra)
        return build_request(self.task, profile, unit, [ImagePart("image/jpeg", uri="gs://")] * images, {})

    def max_usage(self, profile: ModelProfile, body: Mapping[str, Any]) -> Usage:
        """Return the maximum tokens of a request, including its answer and thoughts.

        The bound is exact where the service counts exactly, and generous where only the service can count: an image
        counts as in the model's table (its limit where the table has an average); text has at most as many tokens as
        bytes, so the bytes of its JSON are counted, the answer's schema included.
        """
        parts = [part for content in body["contents"] for part in content["parts"]]
        texts = [part for part in parts if "text" in part]
        config = body.get("generationConfig", {})
        text_tokens = json_bytes([texts, body.get("systemInstruction"), config])
        images = len(parts) - len(texts)
        return Usage(
            prompt_tokens=text_tokens + images * image_tokens_limit(profile, self.task),
            output_tokens=int(config.get("maxOutputTokens", profile.max_output_tokens)),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Embedding:
    """One image, answered with a vector by ``embedContent`` or ``predict``."""

    task: EmbedTask

    def build_request(
        self, profile: ModelProfile, unit: Unit, image_parts: Sequence[ImagePart], labels: Mapping[str, str]
    ) -> dict[str, Any]:
        """See :func:`~gemini.embeddings.build_embedding_request`."""
        return build_embedding_request(self.task, image_parts)

    def build_lines(self, profile: ModelProfile, labels: Mapping[str, str]) -> EmbeddingLines:
        """See :func:`~gemini.embedding_batch.embedding_lines`."""
        return embedding_lines(self.task)

    def parse_response(self, body: Mapping[str, Any]) -> Answer:
        """See :func:`~gemini.embeddings.parse_embedding`."""
        return parse_embedding(body, self.task)

    def sample_request(self, profile: ModelProfile, images: int) -> dict[str, Any]:
        """Return the request for one image."""
        return build_embedding_request(self.task, [ImagePart("image/jpeg", uri="gs://")])

    def max_usage(self, profile: ModelProfile, body: Mapping[str, Any]) -> Usage:
        """Return the tokens of one image; a vector has none."""
        return Usage(prompt_tokens=image_tokens_limit(profile, self.task), images=1)


def task_kind(task: Task) -> Classification | Embedding:
    """Return the kind of a task."""
    return Embedding(task) if isinstance(task, EmbedTask) else Classification(task)


def _tag(task: Any) -> str:
    dimension = task.get("dimension") if isinstance(task, dict) else task.vector_dimension
    return "classification" if dimension is None else "embedding"


#: A task of either kind in a record that is stored as JSON: what is read back has the kind that was written.
AnyTask = Annotated[
    Annotated[Task, pydantic.Tag("classification")] | Annotated[EmbedTask, pydantic.Tag("embedding")],
    pydantic.Discriminator(_tag),
]


def image_tokens_limit(profile: ModelProfile, task: Task) -> int:
    """Return the maximum prompt tokens of one image."""
    for table in (profile.image_tokens_limit, profile.image_tokens):
        if task.media_resolution in table:
            return table[task.media_resolution]
    return max(profile.image_tokens.values(), default=0)


def json_bytes(document: Any) -> int:
    """Return the bytes of a JSON text, or slightly more; uses orjson if possible, because every call needs it."""
    try:
        return len(orjson.dumps(document))
    except orjson.JSONEncodeError:  # a lone surrogate, which only a JSON escape can express
        return len(json.dumps(document))
