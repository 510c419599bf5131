"""The local Vertex AI misbehaves as it is told, and counts exactly."""

import asyncio
import contextlib
import copy
import itertools
import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from google import genai
from google.genai import errors, types
from hypothesis import given, settings
from hypothesis import strategies as st
from support.vertex_local import JSON_CONFIG, MODEL, SCHEMA, Place, file_part, gemini, open_place, user

from imagebeam.emulators.cloud import LocalCloud
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.faults import VertexFaults
from imagebeam.emulators.vertex.generate.validation import read_prompt
from imagebeam.emulators.vertex.models import MODELS
from imagebeam.emulators.vertex.quota import Quota, QuotaLimiter
from imagebeam.transforms.core.records import Status
from imagebeam.transforms.gemini.error_classes import FailureKind, classify_http
from imagebeam.transforms.gemini.responses import parse_response
from imagebeam.transforms.tasks.task import parse_task


@pytest.fixture(scope="module")
def place(cloud: LocalCloud) -> Iterator[Place]:
    opened = open_place(cloud, "vertex-faults")
    for name in ("a.jpg", "b.jpg", "night.jpg"):
        opened.put(name)
    yield opened
    shutil.rmtree(cloud.directory / "storage" / opened.bucket)


@pytest.fixture(scope="module")
def client(cloud: LocalCloud) -> Iterator[genai.Client]:
    with gemini(cloud) as opened:
        yield opened


def ask(place: Place, name: str = "a.jpg", **more: Any) -> requests.Response:
    part = file_part(f"gs://{place.bucket}/{name}")
    return place.post({"contents": user(part, "Which is it?"), "generationConfig": JSON_CONFIG}, **more)


def codes(place: Place, *names: str) -> list[int]:
    return [ask(place, name).status_code for name in names]


def rules(cloud: LocalCloud, *given: dict[str, Any]) -> None:
    cloud.faults(vertex={"rules": list(given)})


# What a call meets


@pytest.mark.parametrize(
    ("rule", "kind", "reason"),
    [
        ({"code": 429}, FailureKind.THROTTLED, "QUOTA"),
        ({"code": 500}, FailureKind.TRANSIENT, "HTTP_500"),
        ({"code": 502}, FailureKind.TRANSIENT, "HTTP_502"),
        ({"code": 503}, FailureKind.TRANSIENT, "HTTP_503"),
        ({"code": 403}, FailureKind.UNIT, "FORBIDDEN"),
        (
            {"code": 403, "message": "Permission 'aiplatform.endpoints.predict' denied"},
            FailureKind.RUN,
            "PERMISSION_DENIED",
        ),
        ({"code": 400, "status": "FAILED_PRECONDITION"}, FailureKind.UNIT, "FAILED_PRECONDITION"),
    ],
)
def test_http_rule_returns_the_error_of_google(
    cloud: LocalCloud, place: Place, rule: dict[str, Any], kind: FailureKind, reason: str
) -> None:
    rules(cloud, {"do": "http", **rule})
    answer = ask(place)
    assert answer.status_code == rule["code"]
    assert "Retry-After" not in answer.headers
    failure = classify_http(answer.status_code, answer.content, answer.headers)
    assert (failure.kind, failure.reason) == (kind, reason)
    counters = cloud.counters()["vertex"]
    assert counters["by_status"] == {str(rule["code"]): 1}
    assert "answered_per_uri" not in counters


def test_client_raises_the_error_of_a_rule(cloud: LocalCloud, client: genai.Client) -> None:
    rules(cloud, {"do": "http", "code": 503, "message": "Busy.", "retry_after": 3})
    with pytest.raises(errors.ServerError, match=r"Busy\.") as caught:
        client.models.generate_content(model=MODEL, contents="Hello")
    assert caught.value.status == "UNAVAILABLE"
    assert caught.value.response.headers["Retry-After"] == "3"


def test_rule_matches_file_or_prompt_and_stops_after_its_times_per_file(cloud: LocalCloud, place: Place) -> None:
    rules(cloud, {"match": ".jpg", "times": 2, "do": "http", "code": 503})
    assert codes(place, "a.jpg", "b.jpg", "a.jpg", "b.jpg", "a.jpg", "b.jpg") == [503, 503, 503, 503, 200, 200]
    rules(cloud, {"match": "night", "do": "http", "code": 500}, {"match": "Which is", "do": "http", "code": 504})
    assert codes(place, "night.jpg", "a.jpg") == [500, 504]


def test_setting_the_same_rules_resets_their_counts(cloud: LocalCloud, place: Place) -> None:
    for _ in range(2):
        rules(cloud, {"times": 1, "do": "http", "code": 503})
        assert codes(place, "a.jpg", "a.jpg") == [503, 200]


def test_other_sections_keep_the_counts(cloud: LocalCloud, place: Place) -> None:
    rules(cloud, {"times": 1, "do": "http", "code": 503})
    assert codes(place, "a.jpg") == [503]
    cloud.faults(token={})
    assert codes(place, "a.jpg") == [200]


def test_reset_breaks_the_connection_within_a_response(cloud: LocalCloud, client: genai.Client, place: Place) -> None:
    rules(cloud, {"times": 2, "do": "reset"})
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ask(place)
    with pytest.raises(Exception, match="closed connection without sending complete message body"):
        client.models.generate_content(model=MODEL, contents="Hello")
    assert cloud.counters()["vertex"]["by_status"] == {"reset": 2}


def test_garbage_response_is_not_json(cloud: LocalCloud, client: genai.Client) -> None:
    rules(cloud, {"do": "garbage"})
    with pytest.raises(json.JSONDecodeError):
        client.models.generate_content(model=MODEL, contents="Hello")


def test_slow_response_exceeds_the_client_timeout_and_is_not_counted(cloud: LocalCloud, place: Place) -> None:
    rules(cloud, {"match": "a.jpg", "do": "slow", "seconds": 1.5})
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(
            f"{cloud.url}/v1/projects/p/locations/global/publishers/google/models/{MODEL}:generateContent",
            json={"contents": user(file_part(f"gs://{place.bucket}/a.jpg"))},
            headers={"Authorization": f"Bearer {place.token}"},
            timeout=0.5,
        )
    started = time.monotonic()
    assert ask(place).status_code == 200
    assert time.monotonic() - started >= 1.5
    counters = cloud.counters()["vertex"]
    assert counters["by_status"] == {"499": 1, "200": 1}
    assert list(counters["per_uri"].values()) == [2]
    assert list(counters["answered_per_uri"].values()) == [1]


def test_respects_the_server_timeout_header(cloud: LocalCloud, place: Place) -> None:
    rules(cloud, {"do": "slow", "seconds": 30})
    answer = ask(place, headers={"X-Server-Timeout": "0.05"})
    assert answer.status_code == 504
    assert answer.json()["error"]["status"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize(
    ("rule", "status", "reason"),
    [
        ({"do": "blocked"}, Status.BLOCKED, "SAFETY"),
        ({"do": "blocked", "reason": "PROHIBITED_CONTENT"}, Status.BLOCKED, "PROHIBITED_CONTENT"),
        ({"do": "finish", "reason": "SAFETY"}, Status.BLOCKED, "SAFETY"),
        ({"do": "finish", "reason": "MAX_TOKENS"}, Status.INVALID_ANSWER, "TRUNCATED"),
        ({"do": "finish", "reason": "OTHER"}, Status.INVALID_ANSWER, "OTHER"),
        ({"do": "bad_json"}, Status.INVALID_ANSWER, "NOT_JSON"),
        ({"do": "off_schema"}, Status.INVALID_ANSWER, "OFF_SCHEMA"),
        ({"do": "empty"}, Status.INVALID_ANSWER, "EMPTY"),
        ({"do": "continuation"}, Status.INVALID_ANSWER, "CONTINUATION"),
        ({"do": "fenced"}, Status.OK, None),
    ],
)
def test_malformed_answer_is_classified(
    cloud: LocalCloud, place: Place, rule: dict[str, str], status: Status, reason: str | None
) -> None:
    rules(cloud, rule)
    answer = ask(place)
    assert answer.status_code == 200
    task = parse_task(json.dumps({"name": "t", "prompt": "?", "schema": SCHEMA}), source="t", default_model=MODEL)
    parsed = parse_response(answer.json(), task)
    assert (parsed.status, parsed.reason) == (status, reason)
    assert parsed.usage.prompt_tokens > 1120  # it is paid all the same
    assert list(cloud.counters()["vertex"]["answered_per_uri"].values()) == [1]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "ARRAY", "items": {"type": "STRING"}},
        {"type": "STRING", "enum": ["A", "B"]},
        {"type": "OBJECT", "properties": {"o": {"type": "OBJECT", "properties": {"n": {"type": "NUMBER"}}}}},
        {"type": "NUMBER"},
    ],
)
def test_answers_of_any_schema_can_be_malformed(cloud: LocalCloud, place: Place, schema: dict[str, Any]) -> None:
    def text() -> str:
        asked = {"contents": user("?"), "generationConfig": JSON_CONFIG | {"responseSchema": schema}}
        found: str = place.post(asked).json()["candidates"][0]["content"]["parts"][0]["text"]
        return found

    good = text()
    rules(cloud, {"do": "bad_json"})
    with pytest.raises(json.JSONDecodeError):
        json.loads(text())
    rules(cloud, {"do": "off_schema"})
    assert text() != good


def test_client_joins_an_answer_in_two_parts(cloud: LocalCloud, client: genai.Client) -> None:
    asked = types.GenerateContentConfig(response_mime_type="application/json", response_schema=SCHEMA)
    whole = client.models.generate_content(model=MODEL, contents="Hello", config=asked).text
    rules(cloud, {"do": "continuation"})
    joined = client.models.generate_content(model=MODEL, contents="Hello", config=asked)
    assert joined.text == whole
    assert cloud.counters()["vertex"]["calls"] == 3


def test_retired_model_and_disabled_api_are_fatal(cloud: LocalCloud, place: Place) -> None:
    cloud.faults(vertex={"retired_models": [MODEL]})
    answer = ask(place)
    assert classify_http(answer.status_code, answer.content, answer.headers).reason == "MODEL_NOT_FOUND"
    cloud.faults(vertex={"api_disabled": True})
    answer = ask(place)
    failure = classify_http(answer.status_code, answer.content, answer.headers)
    assert (failure.kind, failure.reason) == (FailureKind.RUN, "SERVICE_DISABLED")
    assert f"project {cloud.project} before or it is disabled" in failure.message


def test_count_tokens_has_separate_rules(cloud: LocalCloud, client: genai.Client, place: Place) -> None:
    rules(cloud, {"method": "countTokens", "do": "http", "code": 403})
    with pytest.raises(errors.ClientError, match="input file"):
        client.models.count_tokens(model=MODEL, contents="Hello")
    assert codes(place, "a.jpg") == [200]


# Quota and pace


def test_quota_rejects_excess_calls_and_can_be_changed(cloud: LocalCloud, place: Place) -> None:
    cloud.faults(vertex={"quota": {"requests_per_minute": 1, "burst": 2}})
    assert codes(place, "a.jpg", "a.jpg", "a.jpg", "b.jpg") == [200, 200, 429, 429]
    refused = ask(place)
    assert "error-code-429" in refused.json()["error"]["message"]
    assert "Retry-After" not in refused.headers
    cloud.faults(vertex={"quota": {"requests_per_minute": 60_000, "retry_after": 2}})
    assert codes(place, "a.jpg", "a.jpg") == [200, 200]
    assert cloud.counters()["vertex"]["by_status"] == {"200": 4, "429": 3}


def test_token_quota_rejects_excess_tokens(cloud: LocalCloud, place: Place) -> None:
    quota = {"tokens_per_minute": 60, "burst_tokens": 2000, "retry_after": 7, "message": "Too many tokens."}
    cloud.faults(vertex={"quota": quota})
    assert codes(place, "a.jpg", "a.jpg") == [200, 200]
    refused = ask(place)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "7"
    assert refused.json()["error"]["message"] == "Too many tokens."


@given(
    per_minute=st.integers(0, 6000),
    burst=st.integers(1, 50),
    pauses=st.lists(st.floats(0, 5), max_size=100),
)
def test_rate_never_exceeds_the_quota(per_minute: int, burst: int, pauses: list[float]) -> None:
    times = [0.0, *itertools.accumulate(pauses)]
    now = 0.0
    limiter = QuotaLimiter(Quota(requests_per_minute=per_minute, burst=burst), lambda: now)
    admitted = 0
    for now in times:
        while limiter.admit(1):
            admitted += 1
        assert admitted <= burst + per_minute / 60 * now + 1e-6
    assert admitted >= burst


def test_large_answer_delays_later_calls(cloud: LocalCloud) -> None:
    now = 0.0
    limiter = QuotaLimiter(Quota(tokens_per_minute=60, burst_tokens=10), lambda: now)
    assert limiter.admit(25)
    limiter.charge(5)
    now = 20.0
    assert not limiter.admit(1)
    now = 20.5
    assert limiter.admit(1)


def test_latency_applies_and_calls_run_concurrently(cloud: LocalCloud, place: Place) -> None:
    cloud.faults(vertex={"latency": {"median_s": 0.3, "sigma": 0}})

    async def many() -> None:
        async with gemini(cloud).aio as client:
            await asyncio.gather(*(client.models.generate_content(model=MODEL, contents="Hello") for _ in range(8)))

    started = time.monotonic()
    asyncio.run(many())
    assert time.monotonic() - started >= 0.3
    counters = cloud.counters()["vertex"]
    assert counters["max_in_flight"] == 8
    assert counters["in_flight"] == 0
    assert sum(counters["per_second"].values()) == counters["calls"] == 8


def faults(section: dict[str, Any], seed: int = 0) -> VertexFaults:
    config = FaultConfig()
    made = VertexFaults(config, seed)
    config.update({"vertex": section})
    made.refresh()
    return made


def test_latency_is_log_normal_and_reproducible() -> None:
    section = {"latency": {"median_s": 1.0, "sigma": 0.35}}
    drawn = [faults(section).latency(f"gs://b/{number}", 0) for number in range(400)]
    assert drawn == [faults(section).latency(f"gs://b/{number}", 0) for number in range(400)]
    assert faults(section, seed=1).latency("gs://b/0", 0) != drawn[0] != faults(section).latency("gs://b/0", 1)
    drawn.sort()
    assert 0.9 < drawn[200] < 1.1
    assert 1.35 < drawn[336] / drawn[200] < 1.5  # one sigma


def test_rate_is_a_share_of_calls_in_any_order() -> None:
    section = {"rules": [{"rate": 0.1, "do": "empty"}]}
    uris = [f"gs://b/{number}" for number in range(2000)]

    def met(order: list[str]) -> set[str]:
        made = faults(section)
        return {uri for uri in order if made.rule("generateContent", (uri,), "", uri, made.count_attempt(uri))}

    assert met(uris) == met(uris[::-1])
    assert 150 < len(met(uris)) < 250


# Counters


def test_counters_report_calls_per_uri_and_billed_tokens(cloud: LocalCloud, client: genai.Client, place: Place) -> None:
    parts = [file_part(f"gs://{place.bucket}/{name}") for name in ("a.jpg", "b.jpg", "a.jpg")]
    usage = place.post({"contents": user(*parts, "Compare.")}).json()["usageMetadata"]
    assert codes(place, "b.jpg", "gone.jpg") == [200, 404]
    counters = cloud.counters()["vertex"]
    named = {name: f"gs://{place.bucket}/{name}" for name in ("a.jpg", "b.jpg", "gone.jpg")}
    assert counters["per_uri"] == {named["a.jpg"]: 1, named["b.jpg"]: 2, named["gone.jpg"]: 1}
    assert counters["answered_per_uri"] == {named["a.jpg"]: 1, named["b.jpg"]: 2}
    assert counters["by_status"] == {"200": 2, "404": 1}
    assert counters["tokens"] > usage["totalTokenCount"] > 3 * 1120
    client.models.count_tokens(model=MODEL, contents="Hello")
    client.models.get(model=MODEL)
    counters = cloud.counters()["vertex"]
    assert (counters["calls"], counters["count_tokens_calls"], counters["model_gets"]) == (3, 1, 1)


# What cannot be ordered


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"latencies": {}}, "unknown key 'latencies'"),
        ({"latency": {"mean": 1}}, "unknown key 'mean' in latency"),
        ({"latency": {"sigma": 1}}, "median_s must be a number"),
        ({"quota": {"rpm": 1}}, "unknown key 'rpm' in quota"),
        ({"quota": {"burst": -1}}, "burst must be a number ≥ 0"),
        ({"rules": {}}, "rules must be a list"),
        ({"rules": ["reset"]}, r"rules\[0\] must be an object"),
        ({"rules": [{"do": "explode"}]}, "unknown action 'explode': use http, reset"),
        ({"rules": [{"do": "http"}]}, "code must be 400 to 599"),
        ({"rules": [{"do": "http", "code": 200}]}, "code must be 400 to 599"),
        ({"rules": [{"do": "reset", "code": 500}]}, "unknown key 'code'"),
        ({"rules": [{"do": "slow"}]}, "seconds must be a number"),
        ({"rules": [{"do": "finish"}]}, "reason must be a finishReason"),
        ({"rules": [{"do": "empty", "rate": 2}]}, "rate must be from 0 to 1"),
        ({"rules": [{"do": "empty", "times": "1"}]}, "times must be a number"),
        ({"rules": [{"do": "empty", "method": "countTokens"}]}, "countTokens only"),
        ({"retired_models": "gemini"}, "must be a list of model IDs"),
        ({"api_disabled": 1}, "must be true or false"),
    ],
)
def test_rejects_unknown_fault(cloud: LocalCloud, section: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cloud.faults(vertex=section)


# Anything at all

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "parts", "text", "type", "data", "level", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)
GOOD: dict[str, Any] = {
    "contents": user(file_part("gs://b/o") | {"mediaResolution": {"level": "MEDIA_RESOLUTION_HIGH"}}, "?"),
    "systemInstruction": {"parts": [{"text": "?"}]},
    "generationConfig": JSON_CONFIG
    | {
        "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True},
        "mediaResolution": "MEDIA_RESOLUTION_LOW",
        "stopSequences": ["x"],
        "temperature": 1,
        "topK": 5,
        "responseModalities": ["TEXT"],
        "candidateCount": 1,
        "maxOutputTokens": 5,
    },
    "labels": {"a": "b"},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "OFF"}],
}


def spots(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to every value below a JSON value."""
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*path, key)
        yield from spots(value, (*path, key))


def test_undamaged_request_is_valid() -> None:
    assert read_prompt(GOOD, MODELS[MODEL]).tokens > 1120


@settings(max_examples=400)
@given(spot=st.sampled_from(list(spots(GOOD))), value=ANYTHING)
def test_any_damaged_request_is_answered_or_rejected(spot: tuple[Any, ...], value: Any) -> None:
    body = copy.deepcopy(GOOD)
    node: Any = body
    for key in spot[:-1]:
        node = node[key]
    node[spot[-1]] = value
    with contextlib.suppress(ApiError):  # any other exception is a bug
        assert read_prompt(body, MODELS[MODEL]).tokens >= 0
