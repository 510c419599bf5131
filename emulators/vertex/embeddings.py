"""``predict`` of multimodalembedding@001 and ``embedContent`` of gemini-embedding-2 in the local Vertex AI.

The vectors come from `fake_model.image_vectors`, not from a Google model. Error codes are those of the service;
the messages are modeled on it.
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
from imagebeam.emulators.fake_model.image_vectors import DESCRIPTION_LENGTH, Vector, project
from imagebeam.emulators.fake_model.text_vectors import describe_text
from imagebeam.emulators.vertex.embedding_models import EmbeddingModel, ImageDescriptors, find_embedding_model
from imagebeam.emulators.vertex.faults import MESSAGES, VertexFaults, build_error
from imagebeam.emulators.vertex.generate.fields import invalid, read_fields
from imagebeam.emulators.vertex.generate.validation import count_text
from imagebeam.emulators.vertex.models import OLD_IMAGE_TOKENS
from imagebeam.emulators.vertex.transport import corrupt_response, http_fault, simulate_latency

#: Tokens of one image.
IMAGE_TOKENS: Final = OLD_IMAGE_TOKENS
#: Message of a 429 of ``predict``, whose quota is a fixed number of requests per project.
QUOTA_EXCEEDED: Final = (
    "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with base model: "
    "multimodalembedding. Please submit a quota increase request. https://cloud.google.com/vertex-ai/docs/quotas."
)
_CONFIG: Final = (
    "taskType", "title", "outputDimensionality", "autoTruncate", "documentOcr", "audioTrackExtraction",
)  # fmt: skip
_BODY_BYTES: Final = 40 * 1024 * 1024

#: Checks the caller of a request and returns project, model and location.
Authorize = Callable[[web.Request], tuple[str, str, str | None]]


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image of a request: either its URI or its bytes in base64."""

    uri: str | None
    data: str | None

    @property
    def name(self) -> str:
        """Name in the counters: the URI, or ``inline:<digest>``."""
        if self.uri is not None:
            return self.uri
        return f"inline:{hashlib.blake2b((self.data or '').encode(), digest_size=6).hexdigest()}"


@dataclass(frozen=True, slots=True)
class EmbeddingInput:
    """The checked input of an embedding request.

    Attributes:
        dimension: Length of the vectors.
        images: Images, in order.
        texts: Texts, in order.
        tokens: Number of tokens before truncation.
        truncated: Whether the input exceeds the model's limit and is truncated.
    """

    dimension: int
    images: tuple[ImageSource, ...]
    texts: tuple[str, ...]
    tokens: int
    truncated: bool = False


class Embeddings:
    """Handlers of ``predict`` and ``embedContent``.

    Args:
        descriptors: Descriptors of images.
        faults: Source of rules with ``"method": "predict"`` or ``"embedContent"``, quota and latency.
        counters: Counts ``per_uri``, ``answered_per_uri``, ``tokens`` and ``by_method`` in branch ``vertex``.
        authorize: Checks the caller.
    """

    def __init__(
        self, descriptors: ImageDescriptors, faults: VertexFaults, counters: Counters, authorize: Authorize
    ) -> None:
        self._descriptors = descriptors
        self._faults = faults
        self._counters = counters
        self._authorize = authorize

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
        read: Callable[[Mapping[str, Any], EmbeddingModel], EmbeddingInput],
        embed: Callable[[EmbeddingInput, EmbeddingModel], dict[str, Any]],
    ) -> web.StreamResponse:
        self._counters.add("vertex", "by_method", method)
        raw = await request.read()
        project_id, name, location = self._authorize(request)
        model = find_embedding_model(name, project_id, location, self._faults.retired)
        if model.method != method:
            raise ApiError(400, f"Model {name} does not support {method}: use {model.method}.")
        if len(raw) > _BODY_BYTES:
            raise ApiError(400, f"Request payload size exceeds the limit: {_BODY_BYTES} bytes.")
        content = read(parse_object(raw), model)
        uris = tuple(dict.fromkeys(image.uri for image in content.images if image.uri))
        self._faults.check_read_access(uris)
        names = tuple(dict.fromkeys(image.name for image in content.images))
        for image_name in names:
            self._counters.add("vertex", "per_uri", image_name)
        limiter = self._faults.limiter
        if limiter.quota is not None and not limiter.admit(content.tokens):
            message = QUOTA_EXCEEDED if method == "predict" else MESSAGES[429]
            raise build_error(429, limiter.quota.message or message, retry_after=limiter.quota.retry_after)
        text = "\n".join(content.texts)
        key = names[0] if names else hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
        attempt = self._faults.count_attempt(key)
        rule = self._faults.rule(method, uris, text, key, attempt)
        failed = http_fault(rule)
        if failed is not None:
            return failed
        body = await asyncio.get_running_loop().run_in_executor(None, embed, content, model)
        await simulate_latency(request, self._faults.latency(key, attempt), rule)
        corrupted = await corrupt_response(request, rule, body)
        if corrupted is not None:
            return corrupted
        if request.transport is not None and not request.transport.is_closing():
            self._counters.add("vertex", "tokens", amount=content.tokens)
            for image_name in names:
                self._counters.add("vertex", "answered_per_uri", image_name)
        return json_response(body)

    def _predictions(self, content: EmbeddingInput, model: EmbeddingModel) -> dict[str, Any]:
        prediction: dict[str, Any] = {}
        for image in content.images:
            descriptor = describe_image(image, model, self._descriptors)
            prediction["imageEmbedding"] = project(descriptor, content.dimension, model.name)
        for text in content.texts:
            prediction["textEmbedding"] = project(describe_text(text), content.dimension, model.name)
        return {"predictions": [prediction], "deployedModelId": "imagebeam-emulator"}

    def _embedding(self, content: EmbeddingInput, model: EmbeddingModel) -> dict[str, Any]:
        tokens = min(content.tokens, model.text_tokens)
        images = min(len(content.images) * IMAGE_TOKENS, tokens)
        details = [("IMAGE", images), ("TEXT", tokens - images)]
        return {
            "embedding": {"values": content_vector(content, model, self._descriptors)},
            "usageMetadata": {
                "promptTokenCount": tokens,
                "totalTokenCount": tokens,
                "promptTokensDetails": [{"modality": kind, "tokenCount": count} for kind, count in details if count],
            },
            "truncated": content.truncated,
        }


def describe_image(image: ImageSource, model: EmbeddingModel, descriptors: ImageDescriptors) -> Vector:
    """Return the descriptor of an image.

    Raises:
        ApiError: The image does not exist, or the model does not accept it.
    """
    if image.uri is None:
        return descriptors.from_base64(image.data or "", model)
    return descriptors.from_uri(image.uri, model)


def content_vector(content: EmbeddingInput, model: EmbeddingModel, descriptors: ImageDescriptors) -> list[float]:
    """Return one vector for all parts of the content: their mean. Raises the same errors as `describe_image`."""
    parts = [describe_image(image, model, descriptors) for image in content.images]
    if content.texts:
        parts.append(describe_text(" ".join(content.texts)))
    together = np.sum([part / max(float(np.linalg.norm(part)), 1e-9) for part in parts], axis=0)
    assert together.shape == (DESCRIPTION_LENGTH,)  # noqa: S101
    return project(together, content.dimension, model.name)


def read_predict(body: Mapping[str, Any], model: EmbeddingModel) -> EmbeddingInput:
    """Check a ``:predict`` request.

    Raises:
        ApiError: 400 for input that the model rejects, 501 for videos.
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
    return EmbeddingInput(dimension, images, (text,) if text else (), count_text(text) + IMAGE_TOKENS * len(images))


def _instance_image(value: Any, model: EmbeddingModel) -> ImageSource:
    image = read_fields(value, ("gcsUri", "bytesBase64Encoded", "mimeType"), "instances[0].image")
    found = ImageSource(image.get("gcsUri"), image.get("bytesBase64Encoded"))
    if (found.uri is None) == (found.data is None) or not isinstance(found.uri or found.data, str):
        raise ApiError(400, "Invalid image: exactly one of gcsUri and bytesBase64Encoded must be set.")
    if not (found.uri or found.data):
        raise ApiError(400, "Invalid image: it is empty.")
    _check_type(image.get("mimeType"), model, required=False)
    return found


def read_embed_content(body: Mapping[str, Any], model: EmbeddingModel) -> EmbeddingInput:
    """Check an ``:embedContent`` request.

    Raises:
        ApiError: 400 for input that the model rejects, 501 for features that the local service lacks.
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
    images = tuple(part for part in found if isinstance(part, ImageSource))
    texts = tuple(part for part in found if isinstance(part, str))
    if len(images) > model.images:
        raise ApiError(400, f"Too many images: {len(images)}. At most {model.images} images are allowed per request.")
    tokens = IMAGE_TOKENS * len(images) + count_text(*texts)
    too_long = tokens > model.text_tokens
    if too_long and config.get("autoTruncate") is False:
        raise ApiError(400, f"The input token count ({tokens}) exceeds the maximum of {model.text_tokens}.")
    return EmbeddingInput(_dimension(config.get("outputDimensionality"), model), images, texts, tokens, too_long)


def _part(value: Any, model: EmbeddingModel, path: str) -> ImageSource | str:
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
    return ImageSource(given, None) if source == "fileUri" else ImageSource(None, given)


def _check_type(given: Any, model: EmbeddingModel, *, required: bool) -> None:
    if given is None and not required:
        return
    if isinstance(given, str) and (given.startswith(("video/", "audio/")) or given == "application/pdf"):
        raise ApiError(501, f"The local Vertex AI does not implement input of type {given}, only images.")
    if given not in (*model.image_types, "image/jpg"):
        raise ApiError(400, f"Unsupported mime type {given!r}: {model.name} takes {', '.join(model.image_types)}.")


def _dimension(value: Any, model: EmbeddingModel) -> int:
    """Parse a vector length: an integer, also in the form 512.0."""
    if value is None:
        return model.default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise invalid("dimension", f"{value!r} is not an integer")
    problem = model.check_dimension(int(value))
    if problem:
        raise ApiError(400, problem)
    return int(value)
