"""What is searched for, as a request to the model that made the vectors: a text, or the bytes of one image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.gemini.embeddings import read_embedding
from imagebeam.transforms.gemini.responses import Reply
from imagebeam.transforms.tasks.embedding import EmbedTask, find_embedding_model


def build_text_request(task: EmbedTask, text: str) -> dict[str, Any]:
    """Builds the request for the vector of a text.

    Args:
        task: Which model and length.
        text: What is looked for.

    Returns:
        The REST body of ``:embedContent`` or ``:predict``, in camelCase.
    """
    if find_embedding_model(task.model).method == "embedContent":
        return {
            "content": {"role": "user", "parts": [{"text": text}]},
            "embedContentConfig": {"outputDimensionality": task.dimension},
        }
    return {"instances": [{"text": text}], "parameters": {"dimension": task.dimension}}


def read_text_embedding(body: Mapping[str, Any], task: EmbedTask) -> Reply:
    """Reads the answer to a request for the vector of a text; never raises for anything that a service may send."""
    predictions = body.get("predictions")
    if isinstance(predictions, list) and predictions and isinstance(predictions[0], dict):
        # The one field of the answer that is called otherwise than for an image.
        body = {**body, "predictions": [{"imageEmbedding": predictions[0].get("textEmbedding")}]}
    return read_embedding(body, task)
