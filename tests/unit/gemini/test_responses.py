"""Responses: every documented HTTP 200 without an answer, and any answer that a schema allows."""

import json
import math
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from imagebeam.transforms.core.records import Status, Usage
from imagebeam.transforms.gemini.responses import RAW_TEXT_CHARS, parse_response
from imagebeam.transforms.tasks.task import Task, parse_task


def task_with(schema: dict[str, Any] | None) -> Task:
    document: dict[str, Any] = {"name": "sign", "prompt": "What is it?"}
    if schema is not None:
        document["schema"] = schema
    return parse_task(yaml.safe_dump(document, sort_keys=False), source="sign.yaml", default_model="m")


SIGN = task_with(
    {
        "type": "object",
        "properties": {
            "category": {"type": "string", "enum": ["SIGN", "POLE"]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
            "count": {"type": "integer", "minimum": 0},
            "seen": {"type": "boolean"},
            "notes": {"type": "string", "nullable": True},
            "parts": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2},
            "place": {
                "type": "object",
                "properties": {"side": {"type": "string"}},
                "required": ["side"],
            },
        },
        "required": ["category", "confidence"],
    }
)
FREE = task_with(None)
GOOD = '{"category":"SIGN","confidence":0.93}'
USAGE = {
    "promptTokenCount": 480,
    "candidatesTokenCount": 14,
    "thoughtsTokenCount": 5,
    "totalTokenCount": 499,
    "cachedContentTokenCount": 100,
    "trafficType": "ON_DEMAND",
}


def body(*texts: str, finish: str | None = "STOP", **more: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text} for text in texts]}}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "modelVersion": "gemini-3.5-flash-lite",
        "responseId": "k3sf",
        **more,
    }


def test_parses_answer_usage_and_ids() -> None:
    parsed = parse_response(body(GOOD), SIGN)
    assert (parsed.status, parsed.reason, parsed.message, parsed.raw_text) == (Status.OK, None, None, None)
    assert parsed.value == {"category": "SIGN", "confidence": 0.93}
    assert parsed.usage == Usage(480, 100, 14, 5, "ON_DEMAND")
    assert (parsed.model_version, parsed.response_id) == ("gemini-3.5-flash-lite", "k3sf")
    assert not parsed.retryable


def test_free_text_becomes_a_text_value() -> None:
    assert parse_response(body("A red ", "sign.\n"), FREE).value == {"text": "A red sign."}


def test_free_text_that_looks_like_json_is_not_parsed() -> None:
    assert parse_response(body(GOOD), FREE).value == {"text": GOOD}


def test_ignores_thoughts_and_parts_without_text() -> None:
    document = body(GOOD)
    document["candidates"][0]["content"]["parts"] = [
        {"text": "Let me look at it.", "thought": True},
        {"thoughtSignature": "abc"},
        {"executableCode": {"code": "1"}},
        {"text": GOOD[:9], "thoughtSignature": "abc", "thought": False},
        {"text": GOOD[9:]},
    ]
    assert parse_response(document, SIGN).status is Status.OK


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}\n```",
        f"```json\r\n{GOOD}\r\n```\n",
        f"Here is the answer:\n```json\n{GOOD}\n```\nI hope it helps.",
        f"\n  {GOOD}\n",
    ],
)
def test_accepts_fenced_json(text: str) -> None:
    assert parse_response(body(text), SIGN).value == {"category": "SIGN", "confidence": 0.93}


def test_rejects_two_fenced_answers() -> None:
    two = f"```json\n{GOOD}\n```\nor\n```json\n{GOOD}\n```"
    assert parse_response(body(two), SIGN).reason == "NOT_JSON"


@pytest.mark.parametrize("finish", ["STOP", None, "", "FINISH_REASON_UNSPECIFIED"])
def test_missing_finish_reason_counts_as_stop(finish: str | None) -> None:
    assert parse_response(body(GOOD, finish=finish), SIGN).status is Status.OK


@pytest.mark.parametrize(
    "code",
    ["SAFETY", "OTHER", "BLOCKLIST", "PROHIBITED_CONTENT", "MODEL_ARMOR", "IMAGE_SAFETY", "JAILBREAK", "NEW_ONE"],
)
def test_blocked_prompt_has_the_code_of_the_service(code: str) -> None:
    parsed = parse_response(
        {"promptFeedback": {"blockReason": code, "blockReasonMessage": "No."}, "usageMetadata": USAGE}, SIGN
    )
    assert (parsed.status, parsed.reason, parsed.message) == (Status.BLOCKED, code, "No.")
    assert parsed.usage.prompt_tokens == 480
    assert not parsed.retryable


@pytest.mark.parametrize(
    "code",
    [
        "SAFETY",
        "RECITATION",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "MODEL_ARMOR",
        "LANGUAGE",
        "IMAGE_SAFETY",
        "IMAGE_RECITATION",
    ],
)
@pytest.mark.parametrize("content", [True, False])
def test_blocking_finish_reason_wins_over_valid_text(code: str, content: bool) -> None:  # noqa: FBT001
    document = body(GOOD, finish=code)
    if not content:
        del document["candidates"][0]["content"]
    parsed = parse_response(document, SIGN)
    assert (parsed.status, parsed.reason, parsed.value, parsed.retryable) == (Status.BLOCKED, code, None, False)
    assert parsed.raw_text == (GOOD if content else None)


@pytest.mark.parametrize(
    "code", ["OTHER", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "NO_IMAGE", "CONTINUATION", "NEW_ONE"]
)
def test_other_finish_reason_is_a_retryable_invalid_answer(code: str) -> None:
    parsed = parse_response(body(GOOD, finish=code), SIGN)
    assert (parsed.status, parsed.reason, parsed.retryable) == (Status.INVALID_ANSWER, code, True)


@pytest.mark.parametrize("text", [GOOD[:-4], "", GOOD])
def test_max_tokens_is_truncation_for_any_text(text: str) -> None:
    for task in (SIGN, FREE):
        parsed = parse_response(body(text, finish="MAX_TOKENS"), task)
        assert (parsed.status, parsed.reason, parsed.retryable) == (Status.INVALID_ANSWER, "TRUNCATED", True)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"candidates": []},
        {"candidates": None},
        {"candidates": [{}]},
        {"candidates": [{"finishReason": "STOP"}]},
        {"candidates": [{"content": {"role": "model"}, "finishReason": "STOP"}]},
        {"candidates": [{"content": {"parts": [{"text": "thinking", "thought": True}]}}]},
        body(""),
        body(" \n"),
        {"promptFeedback": {}},
    ],
)
def test_answer_without_text_is_empty(document: dict[str, Any]) -> None:
    for task in (SIGN, FREE):
        parsed = parse_response(document, task)
        assert (parsed.status, parsed.reason, parsed.retryable) == (Status.INVALID_ANSWER, "EMPTY", True)


@pytest.mark.parametrize(
    "text",
    [
        "A sign.",
        GOOD + "}",
        '{"category":"SIGN","confidence":NaN}',
        GOOD[:-1],
        "{'category': 'SIGN'}",
        "```json\n{\n```",
    ],
)
def test_reports_text_that_is_not_json(text: str) -> None:
    parsed = parse_response(body(text), SIGN)
    assert (parsed.status, parsed.reason, parsed.raw_text) == (Status.INVALID_ANSWER, "NOT_JSON", text)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([{"category": "SIGN", "confidence": 1}], "the answer: a list is not an object"),
        ("SIGN", "the answer: 'SIGN' is not an object"),
        (None, "the answer: is null"),
        ({"confidence": 1}, "category: is missing"),
        ({"category": "TREE", "confidence": 1}, "category: 'TREE' is not one of SIGN, POLE"),
        ({"category": "sign", "confidence": 1}, "category: 'sign' is not one of SIGN, POLE"),
        ({"category": None, "confidence": 1}, "category: is null"),
        ({"category": 1, "confidence": 1}, "category: 1 is not a string"),
        ({"category": "SIGN", "confidence": "1"}, "confidence: '1' is not a number"),
        ({"category": "SIGN", "confidence": True}, "confidence: true is not a number"),
        ({"category": "SIGN", "confidence": 1.01}, "confidence: 1.01 is out of range"),
        ({"category": "SIGN", "confidence": -1}, "confidence: -1 is out of range"),
        ({"category": "SIGN", "confidence": 1, "count": 1.5}, "count: 1.5 is not an integer"),
        ({"category": "SIGN", "confidence": 1, "count": 2**63}, "count: 9223372036854775808 does not fit into 64"),
        ({"category": "SIGN", "confidence": 1, "count": -1}, "count: -1 is out of range"),
        ({"category": "SIGN", "confidence": 1, "seen": "true"}, "seen: 'true' is not true or false"),
        ({"category": "SIGN", "confidence": 1, "parts": "a"}, "parts: 'a' is not an array"),
        ({"category": "SIGN", "confidence": 1, "parts": []}, "parts: has 0 items, too few or too many"),
        ({"category": "SIGN", "confidence": 1, "parts": ["a", "b", "c"]}, "parts: has 3 items, too few or too many"),
        ({"category": "SIGN", "confidence": 1, "parts": ["a", 2]}, "parts[1]: 2 is not a string"),
        ({"category": "SIGN", "confidence": 1, "place": {}}, "place.side: is missing"),
        ({"category": "SIGN", "confidence": 1, "place": {"side": None}}, "place.side: is null"),
    ],
)
def test_reports_path_and_problem_of_a_schema_mismatch(answer: Any, expected: str) -> None:
    parsed = parse_response(body(json.dumps(answer)), SIGN)
    assert (parsed.status, parsed.reason, parsed.retryable) == (Status.INVALID_ANSWER, "OFF_SCHEMA", True)
    assert str(parsed.message).startswith(expected)
    assert parsed.value is None


def test_converts_integral_floats_to_integers() -> None:
    parsed = parse_response(body('{"category":"SIGN","confidence":1,"count":3.0}'), SIGN)
    assert parsed.value is not None
    assert type(parsed.value["count"]) is int


def test_keeps_properties_beyond_the_schema() -> None:
    parsed = parse_response(body('{"category":"SIGN","confidence":1,"more":[1]}'), SIGN)
    assert parsed.value == {"category": "SIGN", "confidence": 1, "more": [1]}


def test_cuts_raw_text() -> None:
    assert len(str(parse_response(body("x" * 9000), SIGN).raw_text)) == RAW_TEXT_CHARS


def test_parses_token_counts_written_as_text() -> None:
    document = body(GOOD)
    document["usageMetadata"] = {"promptTokenCount": "480", "candidatesTokenCount": -1, "thoughtsTokenCount": None}
    assert parse_response(document, SIGN).usage == Usage(480, 0, 0, 0)


# -- any schema, any answer --------------------------------------------------------------------------------

NAMES = st.sampled_from(["alpha", "beta", "Gamma", "delta_1", "e"])
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
SCALARS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({"type": "string"}),
    st.lists(WORDS, min_size=1, max_size=4, unique=True).map(lambda values: {"type": "string", "enum": values}),
    st.just({"type": "boolean"}),
    st.tuples(st.integers(-9, 0), st.integers(0, 9)).map(
        lambda span: {"type": "integer", "minimum": span[0], "maximum": span[1]}
    ),
    st.tuples(st.integers(-9, 0), st.integers(1, 9)).map(
        lambda span: {"type": "number", "minimum": span[0], "maximum": span[1]}
    ),
    st.sampled_from([{"type": "integer"}, {"type": "number"}]),
)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda properties, skip: {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if name not in skip],
        },
        st.dictionaries(NAMES, inner, min_size=1, max_size=4),
        st.sets(NAMES, max_size=2),
    )


def maybe_null(schemas: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(lambda schema, null: {**schema, "nullable": null}, schemas, st.booleans())


ARRAYS = st.builds(
    lambda items, low: {"type": "array", "items": items, "minItems": low, "maxItems": low + 2},
    maybe_null(SCALARS | objects(SCALARS)),
    st.integers(0, 2),
)
SCHEMAS = objects(maybe_null(SCALARS | ARRAYS | objects(SCALARS)))


def answers_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Whatever a model bound by the schema may write."""
    if schema.get("nullable"):
        return st.none() | answers_of({**schema, "nullable": False})
    if schema["type"] == "object":
        fields = {name: answers_of(inner) for name, inner in schema["properties"].items()}
        return st.fixed_dictionaries(
            {name: field for name, field in fields.items() if name in schema["required"]},
            optional={name: field for name, field in fields.items() if name not in schema["required"]},
        )
    if schema["type"] == "array":
        return st.lists(answers_of(schema["items"]), min_size=schema["minItems"], max_size=schema["maxItems"])
    if schema["type"] == "boolean":
        return st.booleans()
    if schema["type"] == "integer":
        return st.integers(schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1))
    if schema["type"] == "number":
        return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def questions(draw: st.DrawFn) -> tuple[Task, Any]:
    schema = draw(SCHEMAS)
    return task_with(schema), draw(answers_of(schema))


@given(questions(), st.sampled_from([None, 2]))
def test_any_answer_that_matches_its_schema_is_ok(question: tuple[Task, Any], indent: int | None) -> None:
    task, answer = question
    parsed = parse_response(body(json.dumps(answer, indent=indent)), task)
    assert (parsed.status, parsed.message) == (Status.OK, None)
    assert parsed.value == answer


@given(questions(), st.floats(0, 1, exclude_max=True), st.booleans(), st.sampled_from(["STOP", "MAX_TOKENS"]))
def test_truncated_answer_is_never_ok(
    question: tuple[Task, Any],
    fraction: float,
    fenced: bool,  # noqa: FBT001
    finish: str,
) -> None:
    task, answer = question
    text = json.dumps(answer)
    cut = text[: math.floor(len(text) * fraction)]
    parsed = parse_response(body(f"```json\n{cut}" if fenced else cut, finish=finish), task)
    assert parsed.status is Status.INVALID_ANSWER
    assert parsed.value is None
    assert parsed.retryable


@given(questions(), st.data())
def test_answer_without_a_required_property_is_never_ok(question: tuple[Task, Any], data: st.DataObject) -> None:
    task, answer = question
    assert task.schema is not None
    assume("required" in task.schema)
    name = data.draw(st.sampled_from(task.schema["required"]))
    del answer[name]
    assert parse_response(body(json.dumps(answer)), task).reason == "OFF_SCHEMA"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "candidates",
                    "content",
                    "parts",
                    "text",
                    "thought",
                    "finishReason",
                    "promptFeedback",
                    "blockReason",
                    "promptTokenCount",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["candidates", "promptFeedback", "usageMetadata", "modelVersion"]), JSON))
def test_any_body_has_a_status_and_a_reason(document: dict[str, Any]) -> None:
    for task in (SIGN, FREE):
        parsed = parse_response(document, task)
        assert (parsed.status is Status.OK) == (parsed.reason is None) == (parsed.value is not None)
        assert parsed.usage.prompt_tokens >= 0
