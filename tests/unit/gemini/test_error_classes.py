"""Failed calls: what the service and the clients really return, and how it is classified."""

import asyncio
import json
import ssl

import aiohttp
import google.api_core.exceptions
import google.auth.exceptions
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebeam.transforms.core.records import Status
from imagebeam.transforms.gemini.error_classes import MESSAGE_CHARS, FailureKind, classify_exception, classify_http


def body(code: int, status: str, message: str, **more: object) -> bytes:
    return json.dumps({"error": {"code": code, "status": status, "message": message, **more}}).encode()


EXHAUSTED = (
    "Resource exhausted. Please try again later. Please refer to "
    "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details."
)
QUOTA = (
    "Quota exceeded for aiplatform.googleapis.com/online_prediction_requests_per_base_model with base model: "
    "multimodalembedding. Please submit a quota increase request."
)
INPUT_FORBIDDEN = (
    "Permission denied while accessing input file. Learn more about providing the appropriate credentials: "
    "https://cloud.google.com/"
)
NO_MODEL = (
    "Publisher Model `projects/p/locations/us-central1/publishers/google/models/x` was not found or your "
    "project does not have access to it. Please ensure you are using a valid model version."
)
NO_ACCESS = (
    "vertex-sa@p.iam.gserviceaccount.com does not have storage.objects.get access to the Google Cloud Storage object."
)
API_OFF = (
    "Vertex AI API has not been used in project 12 before or it is disabled. Enable it by visiting "
    "https://console.developers.google.com/apis/api/aiplatform.googleapis.com then retry."
)
HTML_502 = (
    b"<!DOCTYPE html>\n<html lang=en>\n<title>Error 502 (Server Error)!!1</title>\n<p><b>502.</b> "
    b"<ins>That\xe2\x80\x99s an error.</ins></html>"
)

HTTP_TABLE = [
    # The documented bodies.
    (429, body(429, "RESOURCE_EXHAUSTED", EXHAUSTED), "THROTTLED", "UNAVAILABLE", "QUOTA"),
    (
        429,
        body(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        "THROTTLED",
        "UNAVAILABLE",
        "QUOTA",
    ),
    (429, body(429, "RESOURCE_EXHAUSTED", QUOTA), "THROTTLED", "UNAVAILABLE", "QUOTA"),
    (403, body(403, "PERMISSION_DENIED", INPUT_FORBIDDEN), "UNIT", "IMAGE_ERROR", "FORBIDDEN"),
    (
        503,
        body(503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        "TRANSIENT",
        "UNAVAILABLE",
        "HTTP_503",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "Please use a valid role: user, model."),
        "UNIT",
        "BAD_REQUEST",
        "INVALID_ARGUMENT",
    ),
    (404, body(404, "NOT_FOUND", NO_MODEL), "RUN", "UNAVAILABLE", "MODEL_NOT_FOUND"),
    # The documented codes.
    (
        401,
        body(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
        "RUN",
        "UNAVAILABLE",
        "UNAUTHENTICATED",
    ),
    (408, body(408, "", "Request timeout."), "TRANSIENT", "UNAVAILABLE", "HTTP_408"),
    (
        499,
        body(499, "CANCELLED", "The operation was cancelled."),
        "TRANSIENT",
        "UNAVAILABLE",
        "HTTP_499",
    ),
    (500, body(500, "INTERNAL", "Internal error encountered."), "TRANSIENT", "UNAVAILABLE", "HTTP_500"),
    (
        504,
        body(504, "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
        "TRANSIENT",
        "UNAVAILABLE",
        "HTTP_504",
    ),
    (
        400,
        body(400, "FAILED_PRECONDITION", "Organization policy."),
        "UNIT",
        "BAD_REQUEST",
        "FAILED_PRECONDITION",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum of 1048576."),
        "UNIT",
        "BAD_REQUEST",
        "INVALID_ARGUMENT",
    ),
    (501, body(501, "UNIMPLEMENTED", "Not implemented here."), "RUN", "UNAVAILABLE", "UNIMPLEMENTED"),
    (409, body(409, "ABORTED", "Conflict."), "TRANSIENT", "UNAVAILABLE", "HTTP_409"),
    # What permission and existence are about: the input file, or the API.
    (403, body(403, "PERMISSION_DENIED", NO_ACCESS), "UNIT", "IMAGE_ERROR", "FORBIDDEN"),
    (400, body(400, "INVALID_ARGUMENT", NO_ACCESS), "UNIT", "IMAGE_ERROR", "FORBIDDEN"),
    (
        403,
        body(403, "PERMISSION_DENIED", "Permission 'aiplatform.endpoints.predict' denied on resource."),
        "RUN",
        "UNAVAILABLE",
        "PERMISSION_DENIED",
    ),
    (403, body(403, "PERMISSION_DENIED", API_OFF), "RUN", "UNAVAILABLE", "SERVICE_DISABLED"),
    (
        403,
        body(
            403,
            "PERMISSION_DENIED",
            "Billing.",
            details=[{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "BILLING_DISABLED"}],
        ),
        "RUN",
        "UNAVAILABLE",
        "BILLING_DISABLED",
    ),
    (
        404,
        body(404, "NOT_FOUND", "The input file gs://b/o1:aa:bb.jpg was not found."),
        "UNIT",
        "IMAGE_ERROR",
        "NOT_FOUND",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "No such object: bucket/photo.jpg"),
        "UNIT",
        "IMAGE_ERROR",
        "NOT_FOUND",
    ),
    (
        404,
        b"<html><head><title>Error 404 (Not Found)!!1</title></head></html>",
        "RUN",
        "UNAVAILABLE",
        "HTTP_404",
    ),
    (404, body(404, "NOT_FOUND", "Requested entity was not found."), "UNIT", "UNAVAILABLE", "NOT_FOUND"),
    (404, body(404, "NOT_FOUND", "Endpoint `1` not found."), "RUN", "UNAVAILABLE", "MODEL_NOT_FOUND"),
    # What is wrong with the image.
    (
        400,
        body(400, "INVALID_ARGUMENT", "Unable to process input image. Please retry or report."),
        "UNIT",
        "IMAGE_ERROR",
        "UNREADABLE",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "Provided image is not valid."),
        "UNIT",
        "IMAGE_ERROR",
        "UNREADABLE",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "Unsupported MIME type: image/gif"),
        "UNIT",
        "IMAGE_ERROR",
        "UNSUPPORTED",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "mimeType parameter with value image/bmp is not supported."),
        "UNIT",
        "IMAGE_ERROR",
        "UNSUPPORTED",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "Request payload size exceeds the limit: 20971520 bytes."),
        "UNIT",
        "IMAGE_ERROR",
        "TOO_LARGE",
    ),
    (
        400,
        body(400, "INVALID_ARGUMENT", "The image at gs://b/x.jpg is too large."),
        "UNIT",
        "IMAGE_ERROR",
        "TOO_LARGE",
    ),
    (413, b"", "UNIT", "IMAGE_ERROR", "TOO_LARGE"),
    # Shapes.
    (502, HTML_502, "TRANSIENT", "UNAVAILABLE", "HTTP_502"),
    (
        503,
        b"[" + body(503, "UNAVAILABLE", "The model is overloaded.") + b"]",
        "TRANSIENT",
        "UNAVAILABLE",
        "HTTP_503",
    ),
    (500, b"", "TRANSIENT", "UNAVAILABLE", "HTTP_500"),
    (400, b"", "UNIT", "BAD_REQUEST", "HTTP_400"),
    (
        400,
        json.dumps({"message": "<html>nginx</html>", "status": "Bad Request"}).encode(),
        "UNIT",
        "BAD_REQUEST",
        "HTTP_400",
    ),
    (204, b"", "TRANSIENT", "UNAVAILABLE", "HTTP_204"),
]


@pytest.mark.parametrize(("code", "text", "kind", "status", "reason"), HTTP_TABLE)
def test_classifies_error_bodies(code: int, text: bytes, kind: str, status: str, reason: str) -> None:
    failure = classify_http(code, text, {})
    assert (failure.kind.value, failure.status.value, failure.reason) == (kind, status, reason)


def test_uses_the_title_of_an_html_page() -> None:
    assert classify_http(502, HTML_502, {}).message == "Error 502 (Server Error)!!1"


def test_empty_body_has_a_message() -> None:
    assert classify_http(500, b"", {}).message == "HTTP 500 without a message"


def test_parses_oauth_errors() -> None:
    text = '{"error": "invalid_grant", "error_description": "Token has been revoked."}'
    assert classify_http(400, text, {}).message == "invalid_grant: Token has been revoked."


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [
        ({"Retry-After": "3"}, [], 3.0),
        ({"retry-after": "2.5"}, [], 2.5),
        (
            {"Retry-After": "Fri, 20 Nov 2026 10:00:07 GMT", "Date": "Fri, 20 Nov 2026 10:00:00 GMT"},
            [],
            7.0,
        ),
        (
            {"Retry-After": "Fri, 20 Nov 2026 10:00:00 GMT", "Date": "Fri, 20 Nov 2026 10:00:07 GMT"},
            [],
            0.0,
        ),
        ({}, [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"}], 12.5),
        ({"Retry-After": "soon"}, [], None),
        ({}, [], None),
    ],
)
def test_parses_retry_after(headers: dict[str, str], details: list[object], seconds: float | None) -> None:
    text = body(429, "RESOURCE_EXHAUSTED", EXHAUSTED, details=details)
    assert classify_http(429, text, headers).retry_after == seconds


def test_message_is_one_short_line_without_secrets() -> None:
    text = body(400, "INVALID_ARGUMENT", "bad\ntoken ya29.a0AfH6SMBx-y and Bearer abc.def\n" + "x" * 9000)
    message = classify_http(400, text, {}).message
    assert len(message) == MESSAGE_CHARS
    assert "\n" not in message
    assert "ya29" not in message
    assert "abc.def" not in message


class RetryableRefresh(google.auth.exceptions.RefreshError):
    retryable = True


EXCEPTION_TABLE = [
    (TimeoutError(), "TRANSIENT", "TIMEOUT"),
    (TimeoutError("read timed out"), "TRANSIENT", "TIMEOUT"),
    (aiohttp.ServerTimeoutError(), "TRANSIENT", "TIMEOUT"),
    (aiohttp.SocketTimeoutError(), "TRANSIENT", "TIMEOUT"),
    (aiohttp.ServerDisconnectedError(), "TRANSIENT", "CONNECTION"),
    (aiohttp.ClientOSError(104, "Connection reset by peer"), "TRANSIENT", "CONNECTION"),
    (aiohttp.ClientPayloadError("Response payload is not completed"), "TRANSIENT", "CONNECTION"),
    (ConnectionResetError(104, "Connection reset by peer"), "TRANSIENT", "CONNECTION"),
    (ssl.SSLError(1, "record layer failure"), "TRANSIENT", "CONNECTION"),
    (json.JSONDecodeError("Expecting value", "<html>", 0), "TRANSIENT", "GARBAGE"),
    (google.auth.exceptions.TransportError("metadata server unavailable"), "TRANSIENT", "CREDENTIALS"),
    (RetryableRefresh("internal failure, invalid JSON"), "TRANSIENT", "CREDENTIALS"),
    (google.auth.exceptions.RefreshError("backend hiccup"), "TRANSIENT", "CREDENTIALS"),
    (google.auth.exceptions.RefreshError("invalid_grant: Bad Request"), "RUN", "CREDENTIALS"),
    (google.auth.exceptions.ReauthFailError("Challenge failed"), "RUN", "CREDENTIALS"),
    (google.auth.exceptions.DefaultCredentialsError("not there"), "RUN", "CREDENTIALS"),
    (google.api_core.exceptions.TooManyRequests("slow down"), "THROTTLED", "QUOTA"),
    (google.api_core.exceptions.Unauthorized("no"), "RUN", "HTTP_401"),
    (KeyError("a bug of ours"), "UNIT", "INTERNAL"),
    (asyncio.CancelledError(), "UNIT", "INTERNAL"),
]


@pytest.mark.parametrize(("error", "kind", "reason"), EXCEPTION_TABLE)
def test_classifies_exceptions(error: BaseException, kind: str, reason: str) -> None:
    failure = classify_exception(error)
    assert (failure.kind.value, failure.status.value, failure.reason) == (kind, "UNAVAILABLE", reason)
    assert type(error).__name__ in failure.message


def test_classifies_exceptions_with_an_http_status() -> None:
    class RefusedError(Exception):
        code = 503
        status = "UNAVAILABLE"

    assert classify_exception(RefusedError("busy")).reason == "HTTP_503"


@given(st.integers(100, 599), st.binary(max_size=200), st.dictionaries(st.text(max_size=9), st.text()))
def test_any_response_has_a_kind_and_a_reason_code(code: int, text: bytes, headers: dict[str, str]) -> None:
    failure = classify_http(code, text, headers)
    assert failure.reason.replace("_", "A").isalnum()
    assert failure.message
    if failure.kind is not FailureKind.UNIT:
        assert failure.status is Status.UNAVAILABLE


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["error", "message", "status", "details", "@type", "reason", "retryDelay"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_document_is_classified(document: object) -> None:
    assert classify_http(403, json.dumps(document), {}).message
