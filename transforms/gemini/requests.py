"""The body of a ``generateContent`` request: built here for every lane, online, flex and batch alike.

A batch job imports its requests as one table, so there is never a null, an empty object or an empty list,
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

# Google, "Flex PayGo": at the flex price only, not after provisioned throughput.
_LANE_HEADERS: Mapping[Lane, Mapping[str, str]] = {
    Lane.ONLINE: {},
    Lane.FLEX: {
        "X-Vertex-AI-LLM-Shared-Request-Type": "flex",
        "X-Vertex-AI-LLM-Request-Type": "shared",
    },
}


@dataclasses.dataclass(frozen=True, slots=True)
class ImagePart:
    """An image as a request carries it: by reference or with its bytes.

    Attributes:
        mime_type: Such as ``image/jpeg``.
        uri: ``gs://`` URI that the service reads.
        data: The bytes, if they travel in the request.
    """

    mime_type: str
    uri: str | None = None
    data: bytes | None = None

    def __post_init__(self) -> None:
        if (self.uri is None) == (self.data is None):
            raise ValueError("an image part has a URI or bytes, not both or neither")


def build_request(
    task: Task,
    profile: ModelProfile,
    unit: Unit,
    parts: Sequence[ImagePart],
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """Builds the request about one unit.

    Args:
        task: What is asked.
        profile: The task's model, which decides how thinking and sampling are said.
        unit: What it is asked about.
        parts: The unit's images, in its order.
        labels: Billing labels, the same for every request of a run.

    Returns:
        The REST body in camelCase, JSON values only.

    Raises:
        ValueError: There is not one part per image.
    """
    if len(parts) != len(unit.images):
        raise ValueError(f"{len(parts)} parts for {len(unit.images)} images of unit {unit.unit_id}")
    content: list[dict[str, Any]] = []
    for number, (image, part) in enumerate(zip(unit.images, parts, strict=True), 1):
        if len(parts) > 1:
            content.append({"text": image_label(image, number, len(parts))})
        content.append(image_part(part, task.media_resolution))
    # An image comes before the text about it (Google, "Image understanding").
    content.append({"text": render_prompt(task.prompt, unit)})
    return {"contents": [{"role": "user", "parts": content}], **request_frame(task, profile, labels)}


def request_frame(task: Task, profile: ModelProfile, labels: Mapping[str, str]) -> dict[str, Any]:
    """What is the same in every request of a task: all but ``contents``.

    Args:
        task: What is asked.
        profile: The task's model.
        labels: Billing labels.
    """
    frame: dict[str, Any] = {}
    if task.system:
        frame["systemInstruction"] = {"parts": [{"text": task.system}]}
    if config := _generation_config(task, profile):
        frame["generationConfig"] = config
    if labels:
        frame["labels"] = dict(labels)
    return frame


def lane_headers(lane: Lane) -> dict[str, str]:
    """The extra HTTP headers of a lane.

    Args:
        lane: ``online`` or ``flex``.

    Raises:
        ValueError: There is no such lane over HTTP.
    """
    if lane not in _LANE_HEADERS:
        raise ValueError(f"no such lane: {lane}")
    return dict(_LANE_HEADERS[lane])


def image_label(image: Image, number: int, count: int) -> str:
    """What stands before each of several images, so that an answer can tell them apart.

    >>> image_label(Image("o1:a", None, "2025-05-01T10:00:00Z", heading=-137.25), 2, 3)
    'Image 2 of 3, captured 2025-05-01T10:00:00Z, camera heading -137 degrees:'
    >>> image_label(Image("o1:a", None), 1, 2)
    'Image 1 of 2, captured unknown, camera heading unknown:'
    """
    heading = UNKNOWN if image.heading is None else f"{_degrees(image.heading)} degrees"
    return f"Image {number} of {count}, captured {image.capture_time or UNKNOWN}, camera heading {heading}:"


def render_prompt(prompt: str, unit: Unit) -> str:
    """Fills the fields of a prompt; what the unit lacks reads ``unknown``.

    Args:
        prompt: The prompt with fields such as ``{{capture_time}}``.
        unit: Where they come from; the heading is that of its newest image.

    Returns:
        The text. A value that looks like a field stays as it is.
    """
    newest = unit.images[-1] if unit.images else None
    heading = newest.heading if newest else None
    values: dict[str, Any] = {
        "unit_id": unit.unit_id,
        "asset_id": unit.asset_id,
        "asset_type": unit.asset_type,
        "capture_time": unit.capture_time or (newest.capture_time if newest else None),
        "heading": None if heading is None else _degrees(heading),
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
    """An image as it stands among the parts of a request.

    Args:
        part: The image.
        resolution: The task's media resolution.
    """
    body: dict[str, Any]
    if part.data is not None:
        encoded = base64.b64encode(part.data).decode("ascii")
        body = {"inlineData": {"mimeType": part.mime_type, "data": encoded}}
    else:
        body = {"fileData": {"mimeType": part.mime_type, "fileUri": part.uri}}
    if resolution == "ultra_high":
        # The only resolution that exists per part only.
        body["mediaResolution"] = {"level": "MEDIA_RESOLUTION_ULTRA_HIGH"}
    return body


def _degrees(angle: float) -> str:
    """Whole degrees: a camera's pose is no better, and -0 is 0."""
    return str(round(angle))


def _generation_config(task: Task, profile: ModelProfile) -> dict[str, Any]:
    # A task that was not loaded for this model may still hold settings that it ignores.
    wanted = profile.drop_ignored_settings(task).generation
    config: dict[str, Any] = {}
    if wanted.temperature is not None:
        config["temperature"] = wanted.temperature
    if wanted.top_p is not None:
        config["topP"] = wanted.top_p
    if wanted.max_output_tokens is not None:
        config["maxOutputTokens"] = wanted.max_output_tokens
    if wanted.seed is not None:
        config["seed"] = wanted.seed
    if task.schema is not None:
        # Google, "Structured output": JSON is guaranteed with both only.
        config["responseMimeType"] = "application/json"
        config["responseSchema"] = task.schema
    if task.media_resolution not in ("default", "ultra_high"):
        config["mediaResolution"] = f"MEDIA_RESOLUTION_{task.media_resolution.upper()}"
    if thinking := profile.thinking.config(wanted.thinking):
        config["thinkingConfig"] = thinking
    return config
