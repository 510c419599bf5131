"""``predict`` of multimodalembedding@001 and ``embedContent`` of gemini-embedding-2, in the local Vertex AI.

The vectors are those of `embedding`: of real pixels, and no Google model's. Messages of errors are in the
service's manner; only their codes are known.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from aiohttp import web

from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.http import ApiError, json_response, parse_object
from imagebeam.emulators.fake_model.image_vectors import LENGTH, Vector, project
from imagebeam.emulators.fake_model.text_vectors import describe_text
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, Gallery, find_embedding_model
from imagebeam.emulators.vertex.faults import MESSAGES, VertexFaults, error_of
from imagebeam.emulators.vertex.generate.fields import invalid, read_fields
from imagebeam.emulators.vertex.generate.validation import count_text
from imagebeam.emulators.vertex.models import OLD_IMAGE_TOKENS
from imagebeam.emulators.vertex.transport import broken, http_fault, take_time

#: Tokens of one image.
IMAGE_TOKENS: Final = OLD_IMAGE_TOKENS
#: What a 429 of ``predict`` says: its quota is a fixed number of requests per project.
QUOTA_EXCEEDED: Final = (
    "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with base model: "
    "multimodalembedding. Please submit a quota increase request. https://cloud.google.com/vertex-ai/docs/quotas."
)
_CONFIG: Final = (
    "taskType", "title", "outputDimensionality", "autoTruncate", "documentOcr", "audioTrackExtraction",
)  # fmt: skip
_BODY_BYTES: Final = 40 * 1024 * 1024

#: Who asks and what for: checks a request's caller and returns project, model and location.
Enter = Callable[[web.Request], tuple[str, str, str | None]]


@dataclass(frozen=True, slots=True)
class Shown:
    """An image of a request: where it is, or its bytes in base64; exactly one of both."""

    uri: str | None
    data: str | None

    @property
    def name(self) -> str:
        """What it is counted by."""
        if self.uri is not None:
            return self.uri
        return f"inline:{hashlib.blake2b((self.data or '').encode(), digest_size=6).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be embedded.

    Attributes:
        dimension: Length of the vectors.
        images: In order.
        texts: In order.
        tokens: Of all of it, before anything is cut off.
        truncated: Whether it is too long and is cut off.
    """

    dimension: int
    images: tuple[Shown, ...]
    texts: tuple[str, ...]
    tokens: int
    truncated: bool = False


class Embeddings:
    """The two methods.

    Args:
        gallery: Shows the images.
        faults: Rules with ``"method": "predict"`` or ``"embedContent"``, the quota and the latency apply.
        counters: ``vertex``: ``per_uri``, ``answered_per_uri``, ``tokens``, ``by_method``.
        enter: Checks the caller.
    """

    def __init__(self, gallery: Gallery, faults: VertexFaults, counters: Counters, enter: Enter) -> None:
        self._gallery = gallery
        self._faults = faults
        self._counters = counters
        self._enter = enter

    async def predict(self, request: web.Request) -> web.StreamResponse:
        """Answer ``:predict``."""
        return await self._answer(request, "predict", read_predict, self._predictions)

    async def embed_content(self, request: web.Request) -> web.StreamResponse:
        """Answer ``:embedContent``."""
        return await self._answer(request, "embedContent", read_embed_content, self._embedding)

    async def _answer(
        self,
        request: web.Request,
        method: str,
        read: Callable[[Mapping[str, Any], EmbeddingModel], Question],
        think: Callable[[Question, EmbeddingModel], dict[str, Any]],
    ) -> web.StreamResponse:
        self._counters.add("vertex", "by_method", method)
        raw = await request.read()
        place, name, location = self._enter(request)
        model = find_embedding_model(name, place, location, self._faults.retired)
        if model.method != method:
            raise ApiError(400, f"Model {name} does not support {method}: use {model.method}.")
        if len(raw) > _BODY_BYTES:
            raise ApiError(400, f"Request payload size exceeds the limit: {_BODY_BYTES} bytes.")
        question = read(parse_object(raw), model)
        uris = tuple(dict.fromkeys(image.uri for image in question.images if image.uri))
        self._faults.read_files(uris)
        names = tuple(dict.fromkeys(image.name for image in question.images))
        for one in names:
            self._counters.add("vertex", "per_uri", one)
        pace = self._faults.pace
        if pace.quota is not None and not pace.admit(question.tokens):
            said = QUOTA_EXCEEDED if method == "predict" else MESSAGES[429]
            raise error_of(429, pace.quota.message or said, retry_after=pace.quota.retry_after)
        text = "\n".join(question.texts)
        key = names[0] if names else hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        before = self._faults.ask(key)
        rule = self._faults.rule(method, uris, text, key, before)
        failed = http_fault(rule)
        if failed is not None:
            return failed
        body = await asyncio.get_running_loop().run_in_executor(None, think, question, model)
        await take_time(request, self._faults.latency(key, before), rule)
        spoilt = await broken(request, rule, body)
        if spoilt is not None:
            return spoilt
        if request.transport is not None and not request.transport.is_closing():
            self._counters.add("vertex", "tokens", amount=question.tokens)
            for one in names:
                self._counters.add("vertex", "answered_per_uri", one)
        return json_response(body)

    def _predictions(self, question: Question, model: EmbeddingModel) -> dict[str, Any]:
        prediction: dict[str, Any] = {}
        for image in question.images:
            prediction["imageEmbedding"] = project(look(image, model, self._gallery), question.dimension, model.name)
        for text in question.texts:
            prediction["textEmbedding"] = project(describe_text(text), question.dimension, model.name)
        return {"predictions": [prediction], "deployedModelId": "imagebeam-emulator"}

    def _embedding(self, question: Question, model: EmbeddingModel) -> dict[str, Any]:
        tokens = min(question.tokens, model.text_tokens)
        images = min(len(question.images) * IMAGE_TOKENS, tokens)
        details = [("IMAGE", images), ("TEXT", tokens - images)]
        return {
            "embedding": {"values": one_vector(question, model, self._gallery)},
            "usageMetadata": {
                "promptTokenCount": tokens,
                "totalTokenCount": tokens,
                "promptTokensDetails": [{"modality": kind, "tokenCount": count} for kind, count in details if count],
            },
            "truncated": question.truncated,
        }


def look(image: Shown, model: EmbeddingModel, gallery: Gallery) -> Vector:
    """Return the description of an image.

    Raises:
        ApiError: The image is not there, or the model does not take it.
    """
    return gallery.inline(image.data or "", model) if image.uri is None else gallery.stored(image.uri, model)


def one_vector(question: Question, model: EmbeddingModel, gallery: Gallery) -> list[float]:
    """Make one vector of all parts of a content: the mean of what each would have; raises as `look` does."""
    parts = [look(image, model, gallery) for image in question.images]
    if question.texts:
        parts.append(describe_text(" ".join(question.texts)))
    together = np.sum([part / max(float(np.linalg.norm(part)), 1e-9) for part in parts], axis=0)
    assert together.shape == (LENGTH,)  # noqa: S101
    return project(together, question.dimension, model.name)


def read_predict(body: Mapping[str, Any], model: EmbeddingModel) -> Question:
    """Check a request of ``:predict``.

    Raises:
        ApiError: 400 for what the model refuses, 501 for videos.
    """
    fields = read_fields(body, ("instances", "parameters", "labels"), "")
    instances = fields.get("instances")
    if not isinstance(instances, list) or len(instances) != 1:
        count = len(instances) if isinstance(instances, list) else 0
        raise ApiError(400, f"Invalid number of instances: {count}. Exactly 1 instance per prediction is supported.")
    instance = read_fields(instances[0], ("image", "text", "video"), "instances[0]")
    if "video" in instance:
        raise ApiError(501, "The local Vertex AI does not implement embeddings of videos.")
    images = (_instance_image(instance["image"], model),) if "image" in instance else ()
    text = instance.get("text", "")
    if not isinstance(text, str):
        raise invalid("instances[0].text", "must be a string")
    if not images and not text:
        raise ApiError(400, "Invalid instance: at least one of image, text and video must be given.")
    if count_text(text) > model.text_tokens:
        raise ApiError(400, f"The text is too long: {count_text(text)} tokens, the limit is {model.text_tokens}.")
    parameters = read_fields(fields.get("parameters", {}), ("dimension",), "parameters")
    dimension = _dimension(parameters.get("dimension"), model)
    return Question(dimension, images, (text,) if text else (), count_text(text) + IMAGE_TOKENS * len(images))


def _instance_image(value: Any, model: EmbeddingModel) -> Shown:
    image = read_fields(value, ("gcsUri", "bytesBase64Encoded", "mimeType"), "instances[0].image")
    found = Shown(image.get("gcsUri"), image.get("bytesBase64Encoded"))
    if (found.uri is None) == (found.data is None) or not isinstance(found.uri or found.data, str):
        raise ApiError(400, "Invalid image: exactly one of gcsUri and bytesBase64Encoded must be set.")
    if not (found.uri or found.data):
        raise ApiError(400, "Invalid image: it is empty.")
    _check_type(image.get("mimeType"), model, required=False)
    return found


def read_embed_content(body: Mapping[str, Any], model: EmbeddingModel) -> Question:
    """Check a request of ``:embedContent``.

    Raises:
        ApiError: 400 for what the model refuses, 501 for what only the local one does not do.
    """
    fields = read_fields(body, ("content", "embedContentConfig", *_CONFIG[:4]), "")
    config = read_fields(fields.get("embedContentConfig", {}), _CONFIG, "embed_content_config")
    config = {key: fields[key] for key in _CONFIG[:4] if key in fields} | config
    if config.get("taskType") not in (None, "", "TASK_TYPE_UNSPECIFIED"):
        raise ApiError(400, f"task_type is not supported for model {model.name}: put the task into the text.")
    if config.get("title"):
        raise ApiError(400, f"title is not supported for model {model.name}: put it into the text.")
    if "content" not in fields:
        raise ApiError(400, "Unable to submit request because the content field is required.")
    content = read_fields(fields["content"], ("role", "parts"), "content")
    if content.get("role", "user") != "user":
        raise ApiError(400, "Please use a valid role: user.")
    parts = content.get("parts")
    parts = [parts] if isinstance(parts, dict) else parts
    if not isinstance(parts, list) or not parts:
        raise ApiError(400, "Unable to submit request because content must include at least one parts field.")
    found = [_part(part, model, f"content.parts[{number}]") for number, part in enumerate(parts)]
    images = tuple(part for part in found if isinstance(part, Shown))
    texts = tuple(part for part in found if isinstance(part, str))
    if len(images) > model.images:
        raise ApiError(400, f"Too many images: {len(images)}. At most {model.images} images are allowed per request.")
    tokens = IMAGE_TOKENS * len(images) + count_text(*texts)
    too_long = tokens > model.text_tokens
    if too_long and config.get("autoTruncate") is False:
        raise ApiError(400, f"The input token count ({tokens}) exceeds the maximum of {model.text_tokens}.")
    return Question(_dimension(config.get("outputDimensionality"), model), images, texts, tokens, too_long)


def _part(value: Any, model: EmbeddingModel, path: str) -> Shown | str:
    part = read_fields(value, ("text", "inlineData", "fileData", "videoMetadata", "mediaResolution"), path)
    kinds = [kind for kind in ("text", "inlineData", "fileData") if kind in part]
    if len(kinds) != 1:
        raise ApiError(400, f"{path}.data: required oneof field 'data' must have one initialized field.")
    for kind in ("videoMetadata", "mediaResolution"):
        if kind in part:
            raise ApiError(501, f"The local Vertex AI does not implement {path}.{kind}.")
    if kinds == ["text"]:
        if not isinstance(part["text"], str) or not part["text"]:
            raise ApiError(400, f"Unable to submit request because it has an empty text parameter ({path}).")
        return str(part["text"])
    source = "fileUri" if kinds == ["fileData"] else "data"
    data = read_fields(part[kinds[0]], ("mimeType", source, "displayName"), f"{path}.{kinds[0]}")
    _check_type(data.get("mimeType"), model, required=True)
    given = data.get(source)
    if not isinstance(given, str) or not given:
        raise ApiError(400, f"Unable to submit request because {path} has no {source}.")
    return Shown(given, None) if source == "fileUri" else Shown(None, given)


def _check_type(given: Any, model: EmbeddingModel, *, required: bool) -> None:
    if given is None and not required:
        return
    if isinstance(given, str) and (given.startswith(("video/", "audio/")) or given == "application/pdf"):
        raise ApiError(501, f"The local Vertex AI does not implement input of type {given}, only images.")
    if given not in (*model.image_types, "image/jpg"):
        raise ApiError(400, f"Unsupported mime type {given!r}: {model.name} takes {', '.join(model.image_types)}.")


def _dimension(value: Any, model: EmbeddingModel) -> int:
    """Read a length: a whole number, however a client writes it (512, 512.0)."""
    if value is None:
        return model.default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise invalid("dimension", f"{value!r} is no whole number")
    problem = model.check_dimension(int(value))
    if problem:
        raise ApiError(400, problem)
    return int(value)
