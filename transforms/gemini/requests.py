"""Build ``generateContent`` requests, for every lane.

A batch job imports its requests as one table, so requests have no null, empty object or empty list,
and all requests of one task have the same structure.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from imagebeam.transforms.core.records import Image, Lane, Unit
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import FIELD, Task

UNKNOWN = "unknown"

# Google, "Flex PayGo": flex only, without using provisioned throughput first.
_LANE_HEADERS: Mapping[Lane, Mapping[str, str]] = {
    Lane.ONLINE: {},
    Lane.FLEX: {
        "X-Vertex-AI-LLM-Shared-Request-Type": "flex",
        "X-Vertex-AI-LLM-Request-Type": "shared",
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class ImagePart:
    """An image in a request: by URI, or with its bytes.

    Attributes:
        mime_type: Such as ``image/jpeg``.
        uri: ``gs://`` URI that the service reads; None with ``data``.
        data: The bytes, if they are part of the request.
    """

    mime_type: str
    uri: str | None = None
    data: bytes | None = None

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.data is None):
            raise ValueError("an image part needs either a URI or bytes")


def build_request(
    task: Task,
    profile: ModelProfile,
    unit: Unit,
    image_parts: Sequence[ImagePart],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Build the request for one unit.

    Args:
        task: The task.
        profile: The task's model, which decides how thinking and sampling are expressed.
        unit: The unit.
        image_parts: The unit's images, in its order.
        labels: Billing labels, the same for every request of a run.

    Returns:
        The REST body in camelCase, JSON values only.

    Raises:
        ValueError: The number of image parts is wrong.
    """
    return {"contents": build_contents(task, unit, image_parts), **request_frame(task, profile, labels)}


def build_contents(
    task: Task, unit: Unit, image_parts: Sequence[ImagePart], *, resolution: str | None = None
) -> list[dict[str, Any]]:
    """Build the ``contents`` of a request: the images of a unit and the prompt.

    Args:
        task: The task.
        unit: The unit.
        image_parts: The unit's images, in its order.
        resolution: Media resolution of the images; the task's by default.

    Raises:
        ValueError: The number of image parts is wrong.
    """
    if len(image_parts) != len(unit.images):
        raise ValueError(f"{len(image_parts)} image parts for {len(unit.images)} images of unit {unit.unit_id}")
    content: list[dict[str, Any]] = []
    for number, (image, part) in enumerate(zip(unit.images, image_parts, strict=True), 1):
        if len(image_parts) > 1:
            content.append({"text": image_label(image, number, len(image_parts))})
        content.append(image_part(part, resolution or task.media_resolution))
    # Images come before the text (Google, "Image understanding").
    content.append({"text": render_prompt(task.prompt, unit)})
    return [{"role": "user", "parts": content}]


def request_frame(task: Task, profile: ModelProfile, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return the fields that are the same in every request of a task: all except ``contents``.

    Args:
        task: The task.
        profile: The task's model.
        labels: Billing labels.
    """
    frame = {
        "systemInstruction": {"parts": [{"text": task.system}]} if task.system else None,
        "generationConfig": _generation_config(task, profile),
        "labels": dict(labels),
    }
    return {name: value for name, value in frame.items() if value}


def lane_headers(lane: Lane) -> dict[str, str]:
    """Return the extra HTTP headers of a lane.

    Args:
        lane: Online or flex.

    Raises:
        ValueError: The lane does not use HTTP calls.
    """
    if lane not in _LANE_HEADERS:
        raise ValueError(f"lane {lane} does not use HTTP calls")
    return dict(_LANE_HEADERS[lane])


def image_label(image: Image, number: int, count: int) -> str:
    """Return the text before each of several images, so that an answer can refer to them.

    >>> image_label(Image("o1:a", None, "2025-05-01T10:00:00Z", heading=-137.25), 2, 3)
    'Image 2 of 3, captured 2025-05-01T10:00:00Z, camera heading -137 degrees:'
    >>> image_label(Image("o1:a", None), 1, 2)
    'Image 1 of 2, captured unknown, camera heading unknown:'
    """
    heading = UNKNOWN if image.heading is None else f"{round(image.heading)} degrees"
    return f"Image {number} of {count}, captured {image.capture_time or UNKNOWN}, camera heading {heading}:"


def render_prompt(prompt: str, unit: Unit) -> str:
    """Fill the fields of a prompt; missing values become ``unknown``.

    Args:
        prompt: Prompt with fields such as ``{{capture_time}}``.
        unit: The unit with the values; the heading is that of its newest image.

    Returns:
        The text. A value that looks like a field is not expanded.
    """
    newest = unit.images[-1] if unit.images else Image("", None)
    values: dict[str, Any] = {
        "unit_id": unit.unit_id,
        "asset_id": unit.asset_id,
        "asset_type": unit.asset_type,
        "capture_time": unit.capture_time or newest.capture_time,
        "heading": None if newest.heading is None else round(newest.heading),
        "latitude": unit.latitude,
        "longitude": unit.longitude,
        "image_count": len(unit.images),
        **{f"extra.{name}": value for name, value in unit.extra.items()},
    }

    def fill(found: Any) -> str:
        value = values.get(found.group(1))
        if value is None or value == "":
            return UNKNOWN
        return str(value).lower() if isinstance(value, bool) else str(value)

    return FIELD.sub(fill, prompt)


def image_part(part: ImagePart, resolution: str) -> dict[str, Any]:
    """Return the part of a request for an image.

    Args:
        part: The image.
        resolution: The task's media resolution.
    """
    # The only resolution that is set per part.
    level = {"mediaResolution": {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}} if resolution == "ultra_high" else {}
    if part.data is None:
        return {"fileData": {"mimeType": part.mime_type, "fileUri": part.uri}, **level}
    encoded = base64.b64encode(part.data).decode("ascii")
    return {"inlineData": {"mimeType": part.mime_type, "data": encoded}, **level}


def _generation_config(task: Task, profile: ModelProfile) -> dict[str, Any]:
    # A task that was not loaded for this model may still hold settings that it ignores.
    generation = profile.drop_ignored_settings(task).generation
    per_request = task.media_resolution not in ("default", "ultra_high")
    config = {
        "temperature": generation.temperature,
        "topP": generation.top_p,
        "maxOutputTokens": generation.max_output_tokens,
        "seed": generation.seed,
        # Google, "Structured output": JSON is guaranteed only with both.
        "responseMimeType": None if task.schema is None else "application/json",
        "responseSchema": task.schema,
        "mediaResolution": f"MEDIA_RESOLUTION_{task.media_resolution.upper()}" if per_request else None,
        "thinkingConfig": profile.thinking.config(generation.thinking) or None,
    }
    return {name: value for name, value in config.items() if value is not None}
