"""Parse ``generateContent`` responses, for every lane.

A response with HTTP 200 can still lack an answer: the prompt or the answer may be blocked, the text truncated, empty,
not JSON, or JSON that does not match the schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from imagebeam.transforms.core.records import Answer, Status, Usage
from imagebeam.transforms.gemini.json_values import integer_of, list_of, mapping_of, text_of
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
    """Parse the response to a request of a task; never raises.

    Args:
        body: The JSON body of an HTTP 200, or the ``response`` of a batch line.
        task: The task.
    """
    candidates = list_of(body.get("candidates"))
    candidate = candidates[0] if candidates and isinstance(candidates[0], dict) else None
    text = _text(candidate)
    status, reason, message, value = _read(body, candidate, text, task)
    return Answer(
        status=status,
        reason=reason,
        message=None if message is None else " ".join(message.split())[:MESSAGE_CHARS],
        value=value,
        raw_text=None if status is Status.OK or not text else text[:RAW_TEXT_CHARS],
        model_version=text_of(body.get("modelVersion")) or None,
        response_id=text_of(body.get("responseId")) or None,
        usage=read_usage(mapping_of(body.get("usageMetadata"))),
        retryable=status is Status.INVALID_ANSWER,
    )


_Read = tuple[Status, str | None, str | None, Mapping[str, Any] | None]


def _read(body: Mapping[str, Any], candidate: Mapping[str, Any] | None, text: str, task: Task) -> _Read:
    if candidate is None:
        feedback = mapping_of(body.get("promptFeedback"))
        if block := text_of(feedback.get("blockReason")):
            detail = text_of(feedback.get("blockReasonMessage"))
            return Status.BLOCKED, block, detail or f"the prompt was blocked: {block}", None
        return _invalid("EMPTY", "the answer has no candidate")
    finish, detail = text_of(candidate.get("finishReason")), text_of(candidate.get("finishMessage"))
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
    return "".join(
        part["text"]
        for part in list_of(mapping_of((candidate or {}).get("content")).get("parts"))
        if isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("thought") is not True
    )


def read_usage(metadata: Mapping[str, Any]) -> Usage:
    """Return the tokens of ``usageMetadata``."""
    count = {name: max(0, integer_of(value) or 0) for name, value in metadata.items()}.get
    return Usage(
        prompt_tokens=count("promptTokenCount", 0) + count("toolUsePromptTokenCount", 0),
        cached_tokens=count("cachedContentTokenCount", 0),
        output_tokens=count("candidatesTokenCount", 0),
        thought_tokens=count("thoughtsTokenCount", 0),
        traffic_type=text_of(metadata.get("trafficType")) or None,
    )
