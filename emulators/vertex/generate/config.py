"""Validation of ``generationConfig``."""

import math
from dataclasses import dataclass
from typing import Any, Final

import orjson

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.generate.fields import Fields, invalid, read_fields
from imagebeam.emulators.vertex.generate.schema import Schema, check_schema
from imagebeam.emulators.vertex.models import IMAGE_TOKENS, Model

#: Default and maximum of maxOutputTokens.
MAX_OUTPUT_TOKENS: Final = 65536

_UNSUPPORTED: Final = (
    "responseJsonSchema", "responseFormat", "responseLogprobs", "logprobs", "routingConfig", "modelConfig",
    "speechConfig", "imageConfig",
)  # fmt: skip
_KNOWN: Final = (
    "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "presencePenalty",
    "frequencyPenalty", "seed", "responseMimeType", "responseSchema", "responseModalities", "mediaResolution",
    "thinkingConfig", "audioTimestamp", "enableAffectiveDialog", *_UNSUPPORTED,
)  # fmt: skip
_MIME_TYPES: Final = ("text/plain", "application/json", "text/x.enum")
_MAX_STOP_SEQUENCES: Final = 5
_MAX_CANDIDATES: Final = 8
#: Numeric settings: minimum, maximum, whether it is an integer.
_NUMBERS: Final = {
    "temperature": (0, 2, False),
    "topP": (0, 1, False),
    "topK": (1, 1_000_000, False),
    "candidateCount": (1, _MAX_CANDIDATES, True),
    "maxOutputTokens": (1, MAX_OUTPUT_TOKENS, True),
    "presencePenalty": (-2, 2, False),
    "frequencyPenalty": (-2, 2, False),
    "seed": (-(2**31), 2**31 - 1, True),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """The checked generation settings of a request.

    Attributes:
        mime_type: ``text/plain``, ``application/json`` or ``text/x.enum``.
        schema: Response schema in camelCase with upper-case types, or None.
        schema_text: The schema as sent, in JSON; empty without a schema. Counts as input.
        max_tokens: Maximum number of output tokens, including thinking tokens.
        thoughts: Number of thinking tokens.
        include_thoughts: Whether the answer includes a thought summary.
        stop_sequences: Texts at which the answer ends.
        resolution: Media resolution of images that do not set one.
    """

    mime_type: str
    schema: Schema | None
    schema_text: str
    max_tokens: int
    thoughts: int
    include_thoughts: bool
    stop_sequences: tuple[str, ...]
    resolution: str


def read_generation(config: Any, model: Model) -> Generation:
    """Check a ``generationConfig`` against a model's capabilities.

    Raises:
        ApiError: 400 for settings that Gemini rejects, 501 for settings that the local service lacks.
    """
    fields = read_fields(config, _KNOWN, "generation_config")
    for name in _UNSUPPORTED:
        if name in fields:
            raise ApiError(501, f"The local Vertex AI does not implement generationConfig.{name}.")
    for name in _NUMBERS:
        if name in fields:
            _check_number(fields, name)
    if fields.get("candidateCount", 1) != 1:
        raise ApiError(501, "The local Vertex AI does not implement a candidateCount other than 1.")
    if fields.get("responseModalities", ["TEXT"]) != ["TEXT"]:
        raise ApiError(501, "The local Vertex AI does not implement answers other than TEXT.")
    for name in ("presencePenalty", "frequencyPenalty"):
        if name in fields and not model.penalties:
            raise ApiError(400, f"Penalty is not supported for this model: {model.name} ({name}).")
    mime_type, schema = _answer_format(fields)
    thinking = read_fields(
        fields.get("thinkingConfig", {}),
        ("thinkingBudget", "thinkingLevel", "includeThoughts"),
        "generation_config.thinking_config",
    )
    return Generation(
        mime_type=mime_type,
        schema=schema,
        schema_text=orjson.dumps(fields["responseSchema"]).decode() if schema else "",
        max_tokens=int(fields.get("maxOutputTokens", MAX_OUTPUT_TOKENS)),
        thoughts=_thoughts(thinking, model),
        include_thoughts=thinking.get("includeThoughts") is True,
        stop_sequences=_stop_sequences(fields.get("stopSequences", [])),
        resolution=_resolution(fields.get("mediaResolution", "MEDIA_RESOLUTION_UNSPECIFIED")),
    )


def _check_number(fields: Fields, name: str) -> None:
    low, high, integer = _NUMBERS[name]
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"generation_config.{name}", f"{value!r} is not a number")
    if integer and value != int(value):
        raise invalid(f"generation_config.{name}", f"{value!r} is not an integer")
    if not low <= value <= high:
        raise ApiError(
            400,
            f"Unable to submit request because it has a {name} value of {value} but the supported range is from "
            f"{low} (inclusive) to {high} (inclusive). Update the value and try again.",
        )


def _answer_format(fields: Fields) -> tuple[str, Schema | None]:
    mime_type = fields.get("responseMimeType", "text/plain")
    if mime_type not in _MIME_TYPES:
        raise ApiError(
            400, f"Unsupported response_mime_type {mime_type!r}. Supported values: {', '.join(_MIME_TYPES)}."
        )
    if "responseSchema" not in fields and mime_type != "text/x.enum":
        return mime_type, None
    schema = check_schema(fields.get("responseSchema", {}))
    if mime_type == "text/plain":
        raise ApiError(
            400, "response_schema is only supported with response_mime_type application/json or text/x.enum."
        )
    if mime_type == "text/x.enum" and "enum" not in schema:
        raise ApiError(400, "response_mime_type text/x.enum needs a response_schema of type STRING with an enum.")
    return mime_type, schema


def _thoughts(thinking: Fields, model: Model) -> int:
    budget, level = thinking.get("thinkingBudget"), thinking.get("thinkingLevel")
    path = "generation_config.thinking_config"
    if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
        raise invalid(f"{path}.thinking_budget", f"{budget!r} is not an integer")
    if level is not None:
        thinking["thinkingLevel"] = str(level).upper()
        if thinking["thinkingLevel"] not in ("MINIMAL", "LOW", "MEDIUM", "HIGH"):
            raise invalid(f"{path}.thinking_level", repr(level))
    return model.thoughts(thinking)


def _stop_sequences(value: Any) -> tuple[str, ...]:
    valid = isinstance(value, list) and all(isinstance(stop, str) and stop for stop in value)
    if not valid or len(value) > _MAX_STOP_SEQUENCES:
        raise invalid("generation_config.stop_sequences", f"must be up to {_MAX_STOP_SEQUENCES} strings")
    return tuple(value)


def _resolution(value: Any) -> str:
    if not isinstance(value, str) or value not in IMAGE_TOKENS:
        raise invalid("generation_config.media_resolution", repr(value))
    if value == "MEDIA_RESOLUTION_ULTRA_HIGH":
        raise ApiError(400, "MEDIA_RESOLUTION_ULTRA_HIGH is only supported per part.")
    return value
