"""Build examples for supervised tuning: the request about a unit, and the answer that the model should give.

The format is the one that Google publishes in "Prepare supervised fine-tuning data for Gemini models": one JSON object
per line with ``systemInstruction`` and ``contents``, images by URI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Unit
from imagebeam.transforms.gemini.requests import ImagePart, build_contents
from imagebeam.transforms.tasks.answer_schema import Schema, fit_answer
from imagebeam.transforms.tasks.task import Task


def check_task(task: Task) -> None:
    """Check that a tuning file can contain the requests of a task.

    Raises:
        UserError: It cannot.
    """
    if task.image.changes_images:
        raise UserError(
            f"--format=tuning_jsonl: task {task.name} crops or scales its images, and a tuning file has only the URIs "
            "of whole images"
        )


def build_example(task: Task, unit: Unit, mime_types: Sequence[str], answer: Mapping[str, Any]) -> dict[str, Any]:
    """Build one example.

    Args:
        task: The task.
        unit: The unit; its images have ``gs://`` URIs.
        mime_types: Types of its images, one per image.
        answer: The answer as in ``outcomes``.

    Returns:
        The example: JSON values only.

    Raises:
        OffSchemaError: The answer does not match the schema of the task.
    """
    if task.schema is None:
        text = str(answer.get("text") or "")
    else:
        text = orjson.dumps(_in_order(task.schema, fit_answer(task.schema, answer))).decode()
    parts = [ImagePart(mime_type, uri=image.uri) for image, mime_type in zip(unit.images, mime_types, strict=True)]
    # The format has no media resolution per image.
    contents = build_contents(task, unit, parts, resolution="default")
    system = {"systemInstruction": {"role": "system", "parts": [{"text": task.system}]}} if task.system else {}
    return {**system, "contents": [*contents, {"role": "model", "parts": [{"text": text}]}]}


def _in_order(schema: Schema, value: Any) -> Any:
    """Return an answer with its properties in the order in which the model writes them; BigQuery sorts them."""
    if isinstance(value, dict) and "properties" in schema:
        known = [name for name in schema["propertyOrdering"] if name in value]
        ordered = {name: _in_order(schema["properties"][name], value[name]) for name in known}
        return {**ordered, **{name: value[name] for name in value if name not in ordered}}
    if isinstance(value, list) and "items" in schema:
        return [_in_order(schema["items"], item) for item in value]
    return value
