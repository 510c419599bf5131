"""``generationConfig``: how a request wants to be answered."""

import math
from dataclasses import dataclass
from typing import Any, Final

import orjson

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.generate.fields import Fields, invalid, read_fields
from imagebeam.emulators.vertex.generate.schema import Schema, check_schema
from imagebeam.emulators.vertex.models import IMAGE_TOKENS, Model

#: Output tokens of a model when a request sets no limit, and the greatest limit.
MOST_OUTPUT_TOKENS: Final = 65536

_NOT_DONE: Final = (
    "responseJsonSchema", "responseFormat", "responseLogprobs", "logprobs", "routingConfig", "modelConfig",
    "speechConfig", "imageConfig",
)  # fmt: skip
_KNOWN: Final = (
    "temperature", "topP", "topK", "candidateCount", "maxOutputTokens", "stopSequences", "presencePenalty",
    "frequencyPenalty", "seed", "responseMimeType", "responseSchema", "responseModalities", "mediaResolution",
    "thinkingConfig", "audioTimestamp", "enableAffectiveDialog", *_NOT_DONE,
)  # fmt: skip
_MIME_TYPES: Final = ("text/plain", "application/json", "text/x.enum")
_STOPS: Final = 5
_CANDIDATES: Final = 8
#: Numbers: least, greatest, whole.
_NUMBERS: Final = {
    "temperature": (0, 2, False),
    "topP": (0, 1, False),
    "topK": (1, 1_000_000, False),
    "candidateCount": (1, _CANDIDATES, True),
    "maxOutputTokens": (1, MOST_OUTPUT_TOKENS, True),
    "presencePenalty": (-2, 2, False),
    "frequencyPenalty": (-2, 2, False),
    "seed": (-(2**31), 2**31 - 1, True),
}


@dataclass(frozen=True, slots=True)
class Generation:
    """How a request is to be answered.

    Attributes:
        mime_type: ``text/plain``, ``application/json`` or ``text/x.enum``.
        schema: Schema of the answer in camelCase with upper-case types, or ``None``.
        schema_text: The schema as it came, JSON; empty without one. It counts as input.
        limit: Output tokens at most, thoughts among them.
        thoughts: Tokens that the model thinks.
        show_thoughts: Whether the answer shows a summary of them.
        stops: Texts at which the answer ends.
        resolution: Media resolution of all images that have none of their own.
    """

    mime_type: str
    schema: Schema | None
    schema_text: str
    limit: int
    thoughts: int
    show_thoughts: bool
    stops: tuple[str, ...]
    resolution: str


def read_generation(config: Any, model: Model) -> Generation:
    """Check a ``generationConfig`` against what a model takes.

    Raises:
        ApiError: 400 for what Gemini refuses, 501 for what only the local one does not do.
    """
    fields = read_fields(config, _KNOWN, "generation_config")
    for name in _NOT_DONE:
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
    mime_type, schema = _answer(fields)
    thinking = read_fields(
        fields.get("thinkingConfig", {}),
        ("thinkingBudget", "thinkingLevel", "includeThoughts"),
        "generation_config.thinking_config",
    )
    return Generation(
        mime_type=mime_type,
        schema=schema,
        schema_text=orjson.dumps(fields["responseSchema"]).decode() if schema else "",
        limit=int(fields.get("maxOutputTokens", MOST_OUTPUT_TOKENS)),
        thoughts=_thoughts(thinking, model),
        show_thoughts=thinking.get("includeThoughts") is True,
        stops=_stops(fields.get("stopSequences", [])),
        resolution=_resolution(fields.get("mediaResolution", "MEDIA_RESOLUTION_UNSPECIFIED")),
    )


def _check_number(fields: Fields, name: str) -> None:
    least, greatest, whole = _NUMBERS[name]
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise invalid(f"generation_config.{name}", f"{value!r} is no number")
    if whole and value != int(value):
        raise invalid(f"generation_config.{name}", f"{value!r} is not whole")
    if not least <= value <= greatest:
        raise ApiError(
            400,
            f"Unable to submit request because it has a {name} value of {value} but the supported range is from "
            f"{least} (inclusive) to {greatest} (inclusive). Update the value and try again.",
        )


def _answer(fields: Fields) -> tuple[str, Schema | None]:
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
        raise invalid(f"{path}.thinking_budget", f"{budget!r} is no whole number")
    if level is not None:
        thinking["thinkingLevel"] = str(level).upper()
        if thinking["thinkingLevel"] not in ("MINIMAL", "LOW", "MEDIUM", "HIGH"):
            raise invalid(f"{path}.thinking_level", repr(level))
    return model.thoughts(thinking)


def _stops(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _STOPS or not all(isinstance(stop, str) and stop for stop in value):
        raise invalid("generation_config.stop_sequences", f"must be up to {_STOPS} texts")
    return tuple(value)


def _resolution(value: Any) -> str:
    if not isinstance(value, str) or value not in IMAGE_TOKENS:
        raise invalid("generation_config.media_resolution", repr(value))
    if value == "MEDIA_RESOLUTION_ULTRA_HIGH":
        raise ApiError(400, "MEDIA_RESOLUTION_ULTRA_HIGH is only supported per part.")
    return value
