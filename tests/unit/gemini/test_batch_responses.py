"""Output lines of a batch job: any content parses, answers as online, at the price of the batch lane."""

import datetime
import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagebeam.transforms.core.records import Answer, Image, Status, Unit, UnitKind, Usage
from imagebeam.transforms.gemini.batch_responses import (
    DEAD_LETTER_CHARS,
    OutputLine,
    build_outcome,
    parse_answer,
    parse_line,
    parse_row,
)
from imagebeam.transforms.gemini.error_classes import FailureKind, classify_http
from imagebeam.transforms.gemini.responses import parse_response
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Price
from imagebeam.transforms.tasks.task import Task

SCHEMA = {
    "type": "OBJECT",
    "properties": {"category": {"type": "STRING", "enum": ["SIGN", "POLE"]}},
    "required": ["category"],
    "propertyOrdering": ["category"],
}
TASK = Task("look", "", "m", "Look.", schema=SCHEMA)
PROFILE = ModelProfile(
    "m",
    prices={
        "online": Price(Decimal(2), Decimal(20), Decimal("0.2")),
        "batch": Price(Decimal(1), Decimal(10), Decimal("0.2")),
    },
)
TIME = "2026-11-20T10:13:16.826+00:00"
# As the reference shows it: with the nulls that the import injects.
REQUEST = {
    "contents": [
        {
            "role": "user",
            "parts": [
                {"fileData": {"fileUri": "gs://b/1.jpg", "mimeType": "image/jpeg"}, "text": None},
                {"fileData": None, "text": "Classify."},
            ],
        }
    ]
}
USAGE = {"promptTokenCount": 480, "candidatesTokenCount": 9, "totalTokenCount": 489}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=10,
)
FIELDS = ("custom_id", "key", "status", "processed_time", "request", "response")


def answer(text: str = '{"category":"SIGN"}', **candidate: Any) -> dict[str, Any]:
    content = {"parts": [{"text": text}], "role": "model"}
    return {
        "candidates": [{"content": content, "finishReason": "STOP", **candidate}],
        "modelVersion": "m-001",
        "responseId": "r1",
        "usageMetadata": USAGE,
    }


def line(response: Any = None, status: Any = "", **more: Any) -> OutputLine:
    fields = {"custom_id": "k-1", "status": status, "processed_time": TIME, "request": REQUEST, "response": response}
    return parse_line(orjson.dumps({**fields, **more}))


def refused(code: int, message: str, status: str, phrase: str = "Bad Request") -> str:
    return f"{phrase}: " + json.dumps({"error": {"code": code, "message": message, "status": status}})


UNIT = Unit("o1:a", UnitKind.OBSERVATION, "d", (Image("o1:a", "gs://b/1.jpg"),))
AT = "2026-11-21T00:00:00Z"


def cost_of(answer: Answer) -> Decimal:
    cost = build_outcome(UNIT, answer, PROFILE, answered_at=AT).cost_usd
    assert cost is not None
    return cost


# -- answers -----------------------------------------------------------------------------------------------


def test_answer_is_ok_at_half_the_price() -> None:
    row = line(answer())
    result = parse_answer(row, TASK)
    assert (row.key, row.uris) == ("k-1", ("gs://b/1.jpg",))
    assert (result.status, result.value) == (Status.OK, {"category": "SIGN"})
    assert result.usage == Usage(prompt_tokens=480, output_tokens=9)
    assert cost_of(result) == Decimal("0.00057")  # 480 × 1 + 9 × 10 per million
    assert (result.model_version, result.response_id, result.retryable) == ("m-001", "r1", False)
    assert row.answered_at == "2026-11-20T10:13:16.826000Z"


def test_builds_the_outcome_of_a_unit() -> None:
    row = line(answer())
    outcome = build_outcome(UNIT, parse_answer(row, TASK), PROFILE, attempts=2, answered_at=AT)
    assert (outcome.unit, outcome.status, outcome.answer.value) == (UNIT, Status.OK, {"category": "SIGN"})
    assert (outcome.attempts, outcome.answered_at, outcome.usage) == (2, AT, outcome.answer.usage)
    assert line(answer(), processed_time=None).answered_at is None


@pytest.mark.parametrize(
    "response",
    [
        answer(),
        answer("no json"),
        answer('{"category":"TREE"}'),
        answer('{"cat', finishReason="MAX_TOKENS"),
        answer("", finishReason="SAFETY"),
        answer("", finishReason="OTHER"),
        {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": USAGE},
        {"usageMetadata": USAGE},
    ],
)
def test_answer_equals_the_online_answer(response: dict[str, Any]) -> None:
    reply, result = parse_response(response, TASK), parse_answer(line(response), TASK)
    assert result == reply


def test_empty_status_with_a_blocked_prompt_is_blocked() -> None:
    result = parse_answer(line({"promptFeedback": {"blockReason": "SAFETY"}}), TASK)
    assert (result.status, result.reason, result.retryable) == (Status.BLOCKED, "SAFETY", False)


@pytest.mark.parametrize("response", [None, {}, "", []])
def test_row_without_an_answer_is_retryable(response: Any) -> None:
    result = parse_answer(line(response), TASK)
    assert (result.status, result.reason, result.retryable) == (Status.UNAVAILABLE, "NO_ANSWER", True)


# -- failed rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (refused(400, "Please use a valid role: user.", "INVALID_ARGUMENT"), "BAD_REQUEST/INVALID_ARGUMENT"),
        (refused(429, "Resource exhausted.", "RESOURCE_EXHAUSTED", "Too Many Requests"), "UNAVAILABLE/QUOTA again"),
        (refused(503, "overloaded", "UNAVAILABLE", "Service Unavailable"), "UNAVAILABLE/HTTP_503 again"),
        (refused(8, "rpc code", ""), "UNAVAILABLE/QUOTA again"),
        (refused(3, "rpc code", ""), "BAD_REQUEST/HTTP_400"),
        (refused(404, "No such object: gs://b/1.jpg", "NOT_FOUND"), "IMAGE_ERROR/NOT_FOUND"),
        (refused(403, "denied while accessing input file.", "PERMISSION_DENIED"), "IMAGE_ERROR/FORBIDDEN"),
        (refused(404, "Publisher Model `x` was not found", "NOT_FOUND"), "UNAVAILABLE/MODEL_NOT_FOUND"),
        ('Bad Request: [{"error": {"code": 400, "message": "m"}}] and more', "BAD_REQUEST/HTTP_400"),
        ({"error": {"code": 503, "message": "an object"}}, "UNAVAILABLE/HTTP_503 again"),
        ({"code": "429", "message": "flat"}, "UNAVAILABLE/QUOTA again"),
        ("Bad Request: {cut off", "BAD_REQUEST/HTTP_400"),
        ("Service Unavailable", "UNAVAILABLE/HTTP_503 again"),
        ("504 Gateway Timeout: {}", "UNAVAILABLE/HTTP_504 again"),
        ("INTERNAL: something", "UNAVAILABLE/HTTP_500 again"),
        ("Cancelled by the weather", "UNAVAILABLE/UNKNOWN again"),
        (7, "UNAVAILABLE/UNKNOWN again"),
        ({"odd": 1}, "UNAVAILABLE/UNKNOWN again"),
    ],
)
def test_failed_row_is_classified_as_online(status: Any, expected: str) -> None:
    result = parse_answer(line({}, status), TASK)
    assert f"{result.status}/{result.reason}{' again' if result.retryable else ''}" == expected
    assert result.message
    assert result.value is None


@pytest.mark.parametrize("code", [400, 403, 404, 408, 409, 413, 429, 499, 500, 502, 503, 504])
def test_error_code_is_classified_as_online(code: int) -> None:
    document = json.dumps({"error": {"code": code, "message": "text", "status": ""}})
    online = classify_http(code, document, {})
    result = parse_answer(line({}, f"Whatever: {document}"), TASK)
    assert (result.status, result.reason, result.message) == (online.status, online.reason, online.message)
    assert result.retryable == (online.kind in (FailureKind.THROTTLED, FailureKind.TRANSIENT))


def test_error_has_the_message_of_the_service() -> None:
    error = line({}, refused(400, "Please use a valid role.", "INVALID_ARGUMENT")).error
    assert error is not None
    assert (error.code, error.status, error.message) == (400, "INVALID_ARGUMENT", "Please use a valid role.")


def test_charges_a_failed_row_with_usage() -> None:
    result = parse_answer(line({"usageMetadata": USAGE}, refused(503, "late", "UNAVAILABLE")), TASK)
    assert (result.status, cost_of(result)) == (Status.UNAVAILABLE, Decimal("0.00057"))


def test_unknown_status_does_not_hide_an_answer() -> None:
    assert parse_answer(line(answer(), "OK"), TASK).ok
    assert parse_answer(line({"promptFeedback": {"blockReason": "SAFETY"}}, "done"), TASK).reason == "SAFETY"


# -- reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["custom_id", "key"])
def test_reads_both_names_of_the_key(name: str) -> None:
    assert parse_line(orjson.dumps({name: "k-7", "response": {}})).key == "k-7"


@pytest.mark.parametrize("fields", [{}, {"custom_id": 7}, {"custom_id": ""}, {"key": None}])
def test_key_must_be_text(fields: dict[str, Any]) -> None:
    assert parse_line(orjson.dumps(fields)).key is None


@pytest.mark.parametrize(
    "request_echo",
    [
        {"contents": [{"parts": [{"file_data": {"file_uri": "gs://b/1"}}, {"text": "x"}]}]},
        {"contents": [{"parts": [{"fileData": {"fileUri": None, "file_uri": "gs://b/1"}, "file_data": None}]}]},
        {"contents": [None, {"parts": None}, {"parts": [None, {"fileData": {"fileUri": "gs://b/1"}}]}]},
        {"contents": {"parts": {"fileData": {"fileUri": "gs://b/1"}}}},
        {"content": {"parts": [{"fileData": {"fileUri": "gs://b/1"}}]}},
        '{"contents": [{"parts": [{"fileData": {"fileUri": "gs://b/1"}}]}]}',
    ],
)
def test_finds_uris_in_every_spelling_of_the_echo(request_echo: Any) -> None:
    assert line(request=request_echo).uris == ("gs://b/1",)


def test_truncated_line_is_a_dead_letter() -> None:
    row = parse_line(orjson.dumps({"custom_id": "k-1", "response": answer()})[:-5])
    assert row.problem is not None
    assert row.key is None
    assert row.dead_letter.startswith('{"custom_id":"k-1"')


def test_cuts_dead_letters() -> None:
    assert len(parse_line("ü".encode() * 10_000).dead_letter) == DEAD_LETTER_CHARS


def test_table_row_parses_like_a_line() -> None:
    time = datetime.datetime(2026, 11, 20, 10, 13, 16, 826000, datetime.UTC)
    row = parse_row(
        {
            "custom_id": "k-1",
            "request": json.dumps(REQUEST),
            "response": json.dumps(answer()),
            "status": None,
            "processed_time": time,
            "price": Decimal(1),
        }
    )
    assert (row.key, row.uris) == ("k-1", ("gs://b/1.jpg",))
    assert parse_answer(row, TASK) == parse_answer(line(answer()), TASK)


@pytest.mark.parametrize("depth", [300, 900, 5000])
def test_parses_deep_nesting(depth: int) -> None:
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    for raw in (
        b'{"custom_id":"k-1","response":' + deep + b"}",
        b'{"custom_id":"k-1","status":' + deep + b"}",
        orjson.dumps({"custom_id": "k-1", "status": f"Bad Request: {deep.decode()}"}),
        b'{"custom_id":"k-1","request":' + deep + b"}",
    ):
        row = parse_line(raw)
        assert parse_answer(row, TASK).status is not Status.OK
        assert row.uris == ()
        assert parse_answer(parse_line(row.without_echo()), TASK) == parse_answer(row, TASK)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_parse(raw: bytes) -> None:
    check(parse_line(raw))


@example({"status": float("inf")})
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON)))
def test_any_values_in_known_fields_parse(fields: dict[str, Any]) -> None:
    check(parse_line(json.dumps(fields).encode()))
    check(parse_row(fields))


@given(
    JSON.map(lambda value: f"Bad Request: {json.dumps(value)}") | st.text(st.characters(codec="utf-8")),
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("candidates", "promptFeedback", "usageMetadata", "modelVersion"), JSON)
    ),
)
def test_any_status_and_response_have_an_answer(status: str, response: dict[str, Any]) -> None:
    check(parse_line(json.dumps({"custom_id": "k-1", "status": status, "response": response}).encode()))


def check(row: OutputLine) -> None:
    result = parse_answer(row, TASK)
    assert (result.status is Status.OK) == (result.value is not None) == result.ok
    assert result.ok or (result.reason and result.message is not None)
    assert cost_of(result) >= 0
    assert len(row.dead_letter) <= DEAD_LETTER_CHARS
    assert all(isinstance(uri, str) for uri in row.uris)
    # What waits for the end of a shard, without its echo, means the same.
    small = parse_line(row.without_echo())
    assert small.key == row.key
    assert parse_answer(small, TASK) == result
