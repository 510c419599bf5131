"""Build embedding requests for images and search texts, and parse their responses.

google-genai silently drops the image of a request to ``multimodalembedding@001``, so embedding requests do not go
through it.
"""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from imagebeam.transforms.core.records import Answer, Status, Usage
from imagebeam.transforms.gemini.json_values import list_of, mapping_of, text_of
from imagebeam.transforms.gemini.requests import ImagePart, image_part
from imagebeam.transforms.gemini.responses import read_usage
from imagebeam.transforms.tasks.embedding import EmbedTask, find_embedding_model


def build_embedding_request(task: EmbedTask, image_parts: Sequence[ImagePart]) -> dict[str, Any]:
    """Build the request for the vector of one image.

    Args:
        task: Model and length of the vector.
        image_parts: The image.

    Returns:
        The REST body of ``:embedContent`` or ``:predict``, in camelCase.

    Raises:
        ValueError: There is not exactly one image.
    """
    if len(image_parts) != 1:
        raise ValueError(f"an embedding needs exactly one image, not {len(image_parts)}")
    part = image_parts[0]
    if part.data is not None:
        content = {"bytesBase64Encoded": base64.b64encode(part.data).decode("ascii")}
    else:
        content = {"gcsUri": str(part.uri)}
    instance = {"image": {"mimeType": part.mime_type, **content}}
    return _request_body(task, image_part(part, task.media_resolution), instance)


def build_embedding_row(task: EmbedTask, part: ImagePart) -> dict[str, Any]:
    """Build the same request with the field names of batch jobs (Google, "Get batch embeddings inferences").

    Args:
        task: Model and length of the vector; a model of ``embedContent``.
        part: The image.

    Returns:
        ``content`` without a role, and the settings in snake_case.
    """
    body = build_embedding_request(task, [part])
    return {
        "content": {"parts": body["content"]["parts"]},
        "embed_content_config": {"output_dimensionality": body["embedContentConfig"]["outputDimensionality"]},
    }


def parse_embedding(body: Mapping[str, Any], task: EmbedTask) -> Answer:
    """Parse the response to an embedding request; never raises.

    A vector of zeros is invalid: it has no direction, and a single one breaks every search by cosine.

    Args:
        body: The JSON body of an HTTP 200, or the ``response`` of a batch line, which has another token count.
        task: The task.
    """
    values = _values(body)
    reason, message = _problem(values, task.dimension)
    metadata = body.get("usageMetadata")
    usage = read_usage(metadata if isinstance(metadata, dict) else {"promptTokenCount": body.get("tokenCount")})
    return Answer(
        status=Status.OK if reason is None else Status.INVALID_ANSWER,
        reason=reason,
        message=message,
        value={"dimension": task.dimension} if reason is None else None,
        usage=usage + Usage(images=1),
        model_version=text_of(body.get("modelVersion")) or None,
        retryable=reason is not None,
        # 24 kB for 3,072 numbers, where a list of floats takes 98.
        vector=array.array("d", values) if reason is None and values is not None else None,
    )


def build_text_request(task: EmbedTask, text: str) -> dict[str, Any]:
    """Build the request for the vector of a search text.

    Args:
        task: Model and length of the vector.
        text: The text.

    Returns:
        The REST body of ``:embedContent`` or ``:predict``, in camelCase.
    """
    return _request_body(task, {"text": text}, {"text": text})


def _request_body(task: EmbedTask, part: dict[str, Any], instance: dict[str, Any]) -> dict[str, Any]:
    """Return the body of ``:embedContent`` with a part, or of ``:predict`` with an instance, as the model has it."""
    if find_embedding_model(task.model).method == "embedContent":
        return {
            "content": {"role": "user", "parts": [part]},
            "embedContentConfig": {"outputDimensionality": task.dimension},
        }
    return {"instances": [instance], "parameters": {"dimension": task.dimension}}


def parse_text_embedding(body: Mapping[str, Any], task: EmbedTask) -> Answer:
    """Parse the response to a request for the vector of a text; never raises."""
    predictions = body.get("predictions")
    if isinstance(predictions, list) and predictions and isinstance(predictions[0], dict):
        # The only field of the response with another name than for an image.
        body = {**body, "predictions": [{"imageEmbedding": predictions[0].get("textEmbedding")}]}
    return parse_embedding(body, task)


def _values(body: Mapping[str, Any]) -> list[Any] | None:
    """Return the numbers of ``embedding.values``, or of the first prediction's ``imageEmbedding``."""
    embedding, predictions = body.get("embedding"), list_of(body.get("predictions"))
    if isinstance(embedding, dict):
        values = embedding.get("values")
    else:
        values = mapping_of(next(iter(predictions), None)).get("imageEmbedding")
    return list_of(values) or None


def _problem(values: list[Any] | None, dimension: int) -> tuple[str | None, str | None]:
    if values is None:
        return "EMPTY", "the answer has no vector"
    if len(values) != dimension:
        return "WRONG_LENGTH", f"the vector has {len(values)} numbers, not {dimension}"
    # JSON has no NaN: services write it as text.
    if not all(type(value) in (float, int) and abs(value) <= sys.float_info.max for value in values):
        return "NOT_FINITE", "the vector has elements that are not finite numbers"
    if not any(values):
        return "ALL_ZERO", "all numbers of the vector are 0"
    return None, None
