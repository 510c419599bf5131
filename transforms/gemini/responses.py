"""Parses ``generateContent`` responses, for every lane.

A response with HTTP 200 can still lack an answer: the prompt or the answer may be blocked, the text truncated, empty,
not JSON, or JSON that does not match the schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from imagebeam.transforms.core.records import Answer, Status, Usage
from imagebeam.transforms.tasks.answer_schema import OffSchemaError, fit_answer
from imagebeam.transforms.tasks.task import Task

RAW_TEXT_CHARS = 4000
MESSAGE_CHARS = 500

_FINISHED = frozenset({"", "STOP", "FINISH_REASON_UNSPECIFIED"})
_BLOCKED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "LANGUAGE", "JAILBREAK"}
)
_FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(.*?)```", re.DOTALL)


def parse_response(body: Mapping[str, Any], task: Task) -> Answer:
    """Parse the response to a request of a task; never raises, whatever a service may send.

    Args:
        body: The JSON body of an HTTP 200, or the ``response`` of a batch line.
        task: The task.
    """
    candidate = _first(body.get("candidates"))
    text = _text(candidate)
    status, reason, message, value = _read(body, candidate, text, task)
    return Answer(
        status=status,
        reason=reason,
        message=None if message is None else " ".join(message.split())[:MESSAGE_CHARS],
        value=value,
        raw_text=None if status is Status.OK or not text else text[:RAW_TEXT_CHARS],
        model_version=_word(body.get("modelVersion")),
        response_id=_word(body.get("responseId")),
        usage=read_usage(_mapping(body.get("usageMetadata"))),
        retryable=status is Status.INVALID_ANSWER,
    )


_Read = tuple[Status, str | None, str | None, Mapping[str, Any] | None]


def _read(body: Mapping[str, Any], candidate: Mapping[str, Any] | None, text: str, task: Task) -> _Read:
    if candidate is None:
        feedback = _mapping(body.get("promptFeedback"))
        block = _word(feedback.get("blockReason"))
        if block:
            detail = _word(feedback.get("blockReasonMessage"))
            return Status.BLOCKED, block, detail or f"the prompt was blocked: {block}", None
        return _invalid("EMPTY", "the answer has no candidate")
    finish = _word(candidate.get("finishReason")) or ""
    detail = _word(candidate.get("finishMessage"))
    # IMAGE_SAFETY, IMAGE_PROHIBITED_CONTENT, IMAGE_RECITATION ...
    if finish in _BLOCKED or finish.startswith("IMAGE_"):
        return Status.BLOCKED, finish, detail or f"the answer was blocked: {finish}", None
    if finish == "MAX_TOKENS":
        return _invalid("TRUNCATED", "the answer was truncated at the output limit")
    if finish not in _FINISHED:
        return _invalid(finish, detail or f"the model stopped with {finish}")
    if not text.strip():
        return _invalid("EMPTY", "the answer has no text")
    if task.schema is None:
        return Status.OK, None, None, {"text": text.strip()}
    try:
        document = _json(text)
    except orjson.JSONDecodeError as error:
        return _invalid("NOT_JSON", f"the answer is not JSON: {error}")
    try:
        return Status.OK, None, None, fit_answer(task.schema, document)
    except OffSchemaError as error:
        return _invalid("OFF_SCHEMA", str(error))


def _invalid(reason: str, message: str) -> _Read:
    return Status.INVALID_ANSWER, reason, message, None


def _json(text: str) -> Any:
    """Parse a text as JSON: all of it, or its only fenced block."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        blocks = _FENCED.findall(text)
        if len(blocks) != 1:
            raise
        return orjson.loads(blocks[0])


def _text(candidate: Mapping[str, Any] | None) -> str:
    """Return the text of an answer: its parts without thoughts, joined."""
    parts = _mapping((candidate or {}).get("content")).get("parts")
    if not isinstance(parts, list):
        return ""
    return "".join(
        part["text"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("thought") is not True
    )


def read_usage(metadata: Mapping[str, Any]) -> Usage:
    """Return the tokens of ``usageMetadata``."""
    return Usage(
        prompt_tokens=_count(metadata, "promptTokenCount") + _count(metadata, "toolUsePromptTokenCount"),
        cached_tokens=_count(metadata, "cachedContentTokenCount"),
        output_tokens=_count(metadata, "candidatesTokenCount"),
        thought_tokens=_count(metadata, "thoughtsTokenCount"),
        traffic_type=_word(metadata.get("trafficType")),
    )


def _count(metadata: Mapping[str, Any], key: str) -> int:
    """Return a token count; proto JSON may write an int64 as text."""
    value = metadata.get(key)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:18])
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _first(value: Any) -> Mapping[str, Any] | None:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
