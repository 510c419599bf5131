"""The REST client: retries, paging, errors and endpoints, against a scripted session."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import google.auth.exceptions
import pytest
import requests

from imagebeam.transforms.clients import rest
from imagebeam.transforms.clients.rest import ApiError, RestClient, service_url
from imagebeam.transforms.core.errors import SystemicError

BASE = "https://service.example/v1"


@dataclasses.dataclass
class Answer:
    status_code: int = 200
    content: bytes = b"{}"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def rejection(status: int, name: str, message: str) -> Answer:
    return Answer(status, json.dumps({"error": {"code": status, "status": name, "message": message}}).encode())


class Session:
    """A session that gives scripted answers, the last one again and again."""

    def __init__(self, *answers: Answer | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, str, dict[str, Any]]] = []

    def request(self, method: str, url: str, **options: Any) -> Answer:
        self.requests.append((method, url, options))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


Script = Callable[..., tuple[RestClient, Session]]


@pytest.fixture(name="script")
def _script(monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)

    def build(*answers: Answer | Exception) -> tuple[RestClient, Session]:
        session = Session(*answers)
        monkeypatch.setattr("google.auth.transport.requests.AuthorizedSession", lambda *_args, **_options: session)
        return RestClient(BASE + "/", None), session

    return build


def test_sends_one_request_and_parses_the_answer(script: Script) -> None:
    client, session = script(Answer(content=b'{"name": "x"}'))
    assert client.call("POST", "things:make", params={"a": "b"}, body={"c": 1}) == {"name": "x"}
    options = {"json": {"c": 1}, "params": {"a": "b"}, "timeout": rest.TIMEOUT_S}
    assert session.requests == [("POST", f"{BASE}/things:make", options)]


@pytest.mark.parametrize(
    "transient",
    [
        rejection(503, "UNAVAILABLE", "later"),
        rejection(429, "RESOURCE_EXHAUSTED", "quota"),
        Answer(content=b"<html>"),
        requests.exceptions.ConnectionError("reset"),
        requests.exceptions.ReadTimeout("slow"),
    ],
)
def test_retries_transient_errors(script: Script, transient: Answer | Exception) -> None:
    client, session = script(transient, transient, Answer(content=b'{"ok": true}'))
    assert client.call("GET", "thing") == {"ok": True}
    assert len(session.requests) == 3
    client, session = script(transient)
    with pytest.raises(ApiError) as caught:
        client.call("GET", "thing")
    assert (caught.value.retryable, caught.value.is_rejection) == (True, False)
    assert len(session.requests) == rest.TRIES


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (rejection(403, "PERMISSION_DENIED", "not allowed"), 403, "PERMISSION_DENIED"),
        (rejection(404, "NOT_FOUND", "unknown"), 404, "NOT_FOUND"),
        (rejection(409, "ALREADY_EXISTS", "exists"), 409, "ALREADY_EXISTS"),
        (rejection(401, "UNAUTHENTICATED", "expired"), 401, "UNAUTHENTICATED"),
        (google.auth.exceptions.RefreshError("invalid_grant: revoked"), 0, "CREDENTIALS"),
    ],
)
def test_reports_permanent_errors_at_once(script: Script, answer: Answer | Exception, status: int, reason: str) -> None:
    client, session = script(answer)
    with pytest.raises(ApiError, match=f"reading thing: {reason}: ") as caught:
        client.call("GET", "thing", operation="reading thing")
    error = caught.value
    assert (error.status, error.reason, error.retryable) == (status, reason, False)
    assert error.is_rejection == (status not in (0, 401))
    assert len(session.requests) == 1
    assert isinstance(error, SystemicError)
    if isinstance(answer, Answer):
        assert error.body == answer.content
        assert error.message == json.loads(answer.content)["error"]["message"]
    else:
        assert error.__cause__ is answer


def test_lists_all_pages(script: Script) -> None:
    client, session = script(
        Answer(content=b'{"things": [{"n": 1}, "odd"], "nextPageToken": "t"}'),
        Answer(content=b'{"nextPageToken": "u"}'),
        Answer(content=b'{"things": [{"n": 2}]}'),
    )
    assert list(client.list_items("things", "things", params={"filter": "x"})) == [{"n": 1}, {"n": 2}]
    sent = [options["params"] for _, _, options in session.requests]
    assert [params.get("pageToken") for params in sent] == [None, "t", "u"]
    assert {params["filter"] for params in sent} == {"x"}


def test_the_environment_overrides_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BIGQUERY_EMULATOR_HOST", "CLOUDSDK_API_ENDPOINT_OVERRIDES_ANALYTICSHUB"):
        monkeypatch.delenv(name, raising=False)
    assert service_url("analyticshub") == "https://analyticshub.googleapis.com"
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:1/")
    assert service_url("analyticshub") == service_url("bigqueryconnection") == "http://127.0.0.1:1"
    assert service_url("iamcredentials") == "https://iamcredentials.googleapis.com"
    monkeypatch.setenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_ANALYTICSHUB", "http://127.0.0.1:2/")
    assert service_url("analyticshub") == "http://127.0.0.1:2"
