"""Response bodies of ``generateContent`` and ``countTokens``, with the faults of a rule applied."""

import base64
import binascii
import datetime
import secrets
from typing import Any, Final

import orjson

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.faults import Rule
from imagebeam.emulators.vertex.generate.schema import Schema
from imagebeam.emulators.vertex.generate.validation import Prompt, count_text

#: ``modelVersion`` of all responses, so that they are not mistaken for responses of Gemini.
MODEL_VERSION: Final = "imagebeam-emulator"

_HARMS: Final = ("HATE_SPEECH", "DANGEROUS_CONTENT", "HARASSMENT", "SEXUALLY_EXPLICIT")
_RATINGS: Final = [
    {
        "category": f"HARM_CATEGORY_{harm}",
        "probability": "NEGLIGIBLE",
        "probabilityScore": 0.01,
        "severity": "HARM_SEVERITY_NEGLIGIBLE",
        "severityScore": 0.01,
    }
    for harm in _HARMS
]
_OFF_ENUM: Final = "OUTSIDE_THE_ENUM"


def answer_body(prompt: Prompt, text: str, traffic: str, rule: Rule | None) -> dict[str, Any]:
    """Return the response of ``generateContent``.

    Args:
        prompt: The checked request.
        text: The text of the model.
        traffic: ``trafficType``, that is how the request is billed.
        rule: The fault rule to apply, or None.

    Raises:
        ApiError: 400 for an invalid ``continuationToken``.
    """
    action = None if rule is None else rule.action
    if rule is not None and action == "blocked":
        reason = rule.settings.get("reason", "SAFETY")
        feedback = {"blockReason": reason, "blockReasonMessage": f"The prompt was blocked: {reason}."}
        return {"promptFeedback": feedback, **_metadata(prompt, traffic, 0, 0)}
    thoughts = min(prompt.generation.thoughts, prompt.generation.max_tokens)
    candidate: dict[str, Any] = {"index": 0}
    written: str | None = _apply_stop_sequences(prompt, text[_offset(prompt.continuation) :])
    finish = "STOP"
    if action == "continuation" and prompt.continuation is None:
        written, finish = text[: len(text) // 2], "CONTINUATION"
        candidate["continuationToken"] = base64.b64encode(str(len(written)).encode()).decode()
    elif action == "finish" and rule is not None:
        finish = rule.settings["reason"]
        written = text[: len(text) // 2] if finish == "MAX_TOKENS" else None
    elif action == "empty":
        written = None
    elif action in _CORRUPTIONS:
        written = _CORRUPTIONS[action](text, prompt.generation.schema)
    room = prompt.generation.max_tokens - thoughts
    if written is not None and count_text(written) > room:
        written, finish = written[: room * 4] or None, "MAX_TOKENS"
    candidate["finishReason"] = finish
    if written is not None or action == "empty":
        candidate["content"] = _content(prompt, written)
        candidate["avgLogprobs"] = -0.125
    candidate["safetyRatings"] = _RATINGS
    return {"candidates": [candidate], **_metadata(prompt, traffic, count_text(written or ""), thoughts)}


def token_count(prompt: Prompt) -> dict[str, Any]:
    """Return the response of ``countTokens``."""
    return {
        "totalTokens": prompt.tokens,
        "totalBillableCharacters": len("".join(prompt.text.split())),
        "promptTokensDetails": _details(prompt),
    }


def _content(prompt: Prompt, written: str | None) -> dict[str, Any]:
    content: dict[str, Any] = {"role": "model"}
    if written is None:
        return content
    content["parts"] = [{"text": written}]
    if prompt.generation.include_thoughts and prompt.generation.thoughts:
        content["parts"].insert(0, {"text": "I measure the pixels and fill in the form.", "thought": True})
    return content


def _metadata(prompt: Prompt, traffic: str, output: int, thoughts: int) -> dict[str, Any]:
    usage: dict[str, Any] = {"promptTokenCount": prompt.tokens}
    if output:
        usage["candidatesTokenCount"] = output
    if thoughts:
        usage["thoughtsTokenCount"] = thoughts
    usage["totalTokenCount"] = prompt.tokens + output + thoughts
    usage["trafficType"] = traffic
    usage["promptTokensDetails"] = _details(prompt)
    if output:
        usage["candidatesTokensDetails"] = [{"modality": "TEXT", "tokenCount": output}]
    now = datetime.datetime.now(datetime.UTC)
    return {
        "usageMetadata": usage,
        "modelVersion": MODEL_VERSION,
        "createTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "responseId": secrets.token_urlsafe(16),
    }


def _details(prompt: Prompt) -> list[dict[str, Any]]:
    counts = {"TEXT": prompt.text_tokens, "IMAGE": prompt.image_tokens}
    return [{"modality": modality, "tokenCount": count} for modality, count in counts.items() if count]


def _apply_stop_sequences(prompt: Prompt, text: str) -> str:
    ends = [text.find(stop) for stop in prompt.generation.stop_sequences if stop in text]
    return text[: min(ends)] if ends else text


def _offset(token: str | None) -> int:
    """Decode a continuation token: the number of characters already returned."""
    if token is None:
        return 0
    try:
        # The google-genai client keeps the token as bytes and sends them in URL-safe base64.
        return int(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError) as problem:
        raise ApiError(400, "Invalid value at 'continuation_token'") from problem


# Invalid answers


def _bad_json(text: str, _schema: Schema | None) -> str:
    return text[: len(text) // 2] if text[:1] in ("{", "[", '"') else "{" + text


def _fenced(text: str, _schema: Schema | None) -> str:
    return f"```json\n{text}\n```"


def _off_schema(text: str, schema: Schema | None) -> str:
    """Return an answer with one value that violates the schema's enum or type."""
    if schema is None:
        return text
    properties = schema.get("properties")
    if not properties:
        return _OFF_ENUM if "enum" in schema else orjson.dumps({"off_schema": True}).decode()
    answer = orjson.loads(text)
    target = next((name for name, value in properties.items() if "enum" in value), next(iter(properties)))
    kind = properties[target].get("type")
    answer[target] = _OFF_ENUM if "enum" in properties[target] or kind == "OBJECT" else {"off_schema": True}
    return orjson.dumps(answer).decode()


_CORRUPTIONS: Final = {"bad_json": _bad_json, "fenced": _fenced, "off_schema": _off_schema}
