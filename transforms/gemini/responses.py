"""What a ``generateContent`` answer means: one reader for every lane.

HTTP 200 is not yet an answer: the prompt or the answer may have been blocked, the text cut off, empty, no
JSON, or JSON that does not fit the schema.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from imagebeam.transforms.core.records import Status, Usage
from imagebeam.transforms.tasks.answer_schema import OffSchemaError, fit_answer
from imagebeam.transforms.tasks.task import Task

RAW_TEXT_CHARS = 4000
MESSAGE_CHARS = 500

_FINISHED = frozenset({"", "STOP", "FINISH_REASON_UNSPECIFIED"})
_BLOCKED = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "LANGUAGE", "JAILBREAK"}
)
_FENCED = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n(.*?)```", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What came back for a unit, and what it cost in tokens.

    Attributes:
        status: OK, BLOCKED or INVALID_ANSWER.
        reason: The service's code if BLOCKED; TRUNCATED, EMPTY, NOT_JSON, OFF_SCHEMA or an odd finish reason
            if INVALID_ANSWER; None if OK.
        message: What is wrong, one line; None if OK.
        answer: The answer that fits the schema, ``{"text": …}`` without one; only if OK.
        raw_text: What the model wrote, at most 4,000 characters; None if OK or if it wrote nothing.
        usage: Tokens of the call.
        model_version: The model's version as the service names it.
        response_id: The service's id of the answer.
        retryable: True if asking again may help, which is worth one more call.
        vector: The embedding, if that was asked for; only if OK.
    """

    status: Status
    reason: str | None
    message: str | None
    answer: Mapping[str, Any] | None
    raw_text: str | None
    usage: Usage
    model_version: str | None
    response_id: str | None
    retryable: bool
    vector: Sequence[float] | None = None


def read_reply(body: Mapping[str, Any], task: Task) -> Reply:
    """Reads the answer to a request of a task.

    Args:
        body: The JSON body of an HTTP 200, or the ``response`` of a batch line.
        task: What was asked.

    Returns:
        What it means; never raises for anything that a service may send.
    """
    candidate = _first(body.get("candidates"))
    text = _text(candidate)
    status, reason, message, answer = _read(body, candidate, text, task)
    return Reply(
        status=status,
        reason=reason,
        message=None if message is None else " ".join(message.split())[:MESSAGE_CHARS],
        answer=answer,
        raw_text=None if status is Status.OK or not text else text[:RAW_TEXT_CHARS],
        usage=read_usage(_mapping(body.get("usageMetadata"))),
        model_version=_word(body.get("modelVersion")),
        response_id=_word(body.get("responseId")),
        retryable=status is Status.INVALID_ANSWER,
    )


_Read = tuple[Status, str | None, str | None, Mapping[str, Any] | None]


def _read(body: Mapping[str, Any], candidate: Mapping[str, Any] | None, text: str, task: Task) -> _Read:
    if candidate is None:
        feedback = _mapping(body.get("promptFeedback"))
        block = _word(feedback.get("blockReason"))
        if block:
            told = _word(feedback.get("blockReasonMessage"))
            return Status.BLOCKED, block, told or f"the prompt was blocked: {block}", None
        return _invalid("EMPTY", "the answer has no candidate")
    finish = _word(candidate.get("finishReason")) or ""
    told = _word(candidate.get("finishMessage"))
    # IMAGE_SAFETY, IMAGE_PROHIBITED_CONTENT, IMAGE_RECITATION ...
    if finish in _BLOCKED or finish.startswith("IMAGE_"):
        return Status.BLOCKED, finish, told or f"the answer was blocked: {finish}", None
    if finish == "MAX_TOKENS":
        return _invalid("TRUNCATED", "the output limit cut the answer off")
    if finish not in _FINISHED:
        return _invalid(finish, told or f"the model stopped with {finish}")
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
    """The JSON of a text: all of it, or the one fenced block in it."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        blocks = _FENCED.findall(text)
        if len(blocks) != 1:
            raise
        return orjson.loads(blocks[0])


def _text(candidate: Mapping[str, Any] | None) -> str:
    """The text of an answer: its parts without thoughts, joined."""
    parts = _mapping((candidate or {}).get("content")).get("parts")
    if not isinstance(parts, list):
        return ""
    return "".join(
        part["text"]
        for part in parts
        if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("thought") is not True
    )


def read_usage(metadata: Mapping[str, Any]) -> Usage:
    """The tokens that ``usageMetadata`` tells."""
    return Usage(
        prompt_tokens=_count(metadata, "promptTokenCount") + _count(metadata, "toolUsePromptTokenCount"),
        cached_tokens=_count(metadata, "cachedContentTokenCount"),
        output_tokens=_count(metadata, "candidatesTokenCount"),
        thought_tokens=_count(metadata, "thoughtsTokenCount"),
        traffic_type=_word(metadata.get("trafficType")),
    )


def _count(metadata: Mapping[str, Any], key: str) -> int:
    """A token count; proto JSON may write an int64 as text."""
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
