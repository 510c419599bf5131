"""Classify failed calls, for every lane: what a failure means for its unit and for the run.

The table follows Google's "API errors" page and observed responses:

====================================  ==========  =====================================================
response                              kind        outcome if nothing better follows
====================================  ==========  =====================================================
429, or status RESOURCE_EXHAUSTED     THROTTLED   UNAVAILABLE (QUOTA)
408, 409 ABORTED, 499, 5xx            TRANSIENT   UNAVAILABLE (HTTP_503 ...)
timeout, broken connection,           TRANSIENT   UNAVAILABLE (TIMEOUT, CONNECTION, GARBAGE,
unreadable body, token endpoint                   CREDENTIALS)
400, 403, 404 about the input file    UNIT        IMAGE_ERROR (see :class:`records.ImageReason`)
any other 4xx                         UNIT        BAD_REQUEST (Google's status, such as INVALID_ARGUMENT)
404 that does not name its subject    UNIT        UNAVAILABLE (NOT_FOUND): retried by the next run
401, 403, 404, 407, 501               RUN         none: the run drains and the unit remains
an internal error                     UNIT        UNAVAILABLE (INTERNAL): retried by the next run
====================================  ==========  =====================================================

Exceptions are identified by the names of their classes, so that no client library is imported here.
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import enum
import html
import json
import re
from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.core.records import ImageReason, Status

MESSAGE_CHARS = 500

# Words of the service about the file of a request, in lower case.
_INPUT_FILE = re.compile(
    r"input file|gs://|storage\.objects|storage object|no such object|cloud storage|\bbucket\b|specified key"
)
_SAYS_NOT_FOUND = re.compile(
    r"not found|no such|does not exist|doesn't exist|cannot find|could not find|cannot be found"
)
_SAYS_FORBIDDEN = re.compile(r"permission|denied|forbidden|does not have .*access|not authori[sz]ed")
_ABOUT_THE_API = re.compile(r"\b(?:models?|publisher|endpoint|project|location|region|method|api)\b")
# A 400 about the image itself; the first match wins.
_IMAGE_COMPLAINTS: tuple[tuple[ImageReason, re.Pattern[str]], ...] = (
    (
        ImageReason.TOO_LARGE,
        re.compile(
            r"payload size exceeds|request (?:payload|size).*(?:large|exceed|limit)"
            r"|(?:image|file|object).*(?:too large|too big|exceeds|larger than|size limit)"
        ),
    ),
    (
        ImageReason.UNSUPPORTED,
        re.compile(
            r"mime ?_?type.*(?:unsupported|not supported|invalid)"
            r"|(?:unsupported|invalid) mime ?_?type|(?:unsupported|not supported) image"
            r"|image (?:format|type).*(?:unsupported|not supported)"
        ),
    ),
    (
        ImageReason.UNREADABLE,
        re.compile(
            r"(?:unable|failed) to (?:process|decode|parse|read).*image|(?:cannot|could not) .*image"
            r"|image.*(?:not valid|invalid|corrupt|cannot be|could not be)|invalid image|corrupt.* image"
        ),
    ),
)
_BAD_CREDENTIALS = re.compile(
    r"invalid|unauthori[sz]ed|denied|deleted|disabled|expired|revoked|reauth|not (?:found|have)|could not"
    r" automatically determine"
)
_SECRETS = re.compile(r"(?i)\b(?:ya29\.[\w.-]+|AIza[\w-]{20,}|eyJ[\w-]{20,}\.[\w.-]+|bearer\s+[\w.~+/-]+=*)")

# Reason of a transient failure, by the name of an exception or of its base classes; the first match wins.
_TRANSIENT_EXCEPTIONS: Mapping[str, re.Pattern[str]] = {
    "TIMEOUT": re.compile(r".*(?:Timeout|DeadlineExceeded).*"),
    "GARBAGE": re.compile(r"JSONDecodeError|UnicodeDecodeError|UnknownApiResponseError|DecodingError"),
    "CONNECTION": re.compile(r"ConnectionError|TransportError|ClientError|SSLError|OSError"),
}


class FailureKind(enum.StrEnum):
    """What to do about a failed call."""

    THROTTLED = "THROTTLED"
    """Rejected for quota: lower the rate and retry; not an attempt."""

    TRANSIENT = "TRANSIENT"
    """Retry after a pause."""

    UNIT = "UNIT"
    """Affects this unit only: an immediate retry cannot help."""

    RUN = "RUN"
    """Affects every further call: drain the run."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A classified failure.

    Attributes:
        kind: What to do.
        status: Status of the outcome if there is no better answer; UNAVAILABLE for THROTTLED, TRANSIENT and
            RUN, so that the next run retries the unit.
        reason: Reason code of the outcome.
        message: Message of the service, one line without secrets, at most 500 characters.
        retry_after: Seconds that the service asks to wait; None if it does not.
    """

    kind: FailureKind
    status: Status
    reason: str
    message: str
    retry_after: float | None = None


def classify_http(code: int, body: bytes | str, headers: Mapping[str, str]) -> Failure:
    """Classify an HTTP response other than 200.

    Args:
        code: The HTTP status; it takes precedence over a code in the body.
        body: Google's error document, one wrapped in a list, an HTML page of a proxy, or empty.
        headers: Response headers, names in any case; ``Retry-After`` is read.

    Returns:
        The failure.
    """
    error = _error_document(body)
    status = str(error.get("status") or "")
    message = one_line(str(error.get("message") or "")) or f"HTTP {code} without a message"
    retry_after = _retry_after(error, {name.lower(): value for name, value in headers.items()})
    if code == 429 or status == "RESOURCE_EXHAUSTED":
        return Failure(FailureKind.THROTTLED, Status.UNAVAILABLE, "QUOTA", message, retry_after)
    if code == 501:
        return Failure(FailureKind.RUN, Status.UNAVAILABLE, "UNIMPLEMENTED", message)
    if code in (408, 499) or code >= 500 or code < 400 or status == "ABORTED":
        return Failure(FailureKind.TRANSIENT, Status.UNAVAILABLE, f"HTTP_{code}", message, retry_after)
    if code in (400, 403, 404, 413):
        image = _image_reason(code, message.lower())
        if image is not None:
            return Failure(FailureKind.UNIT, Status.IMAGE_ERROR, image.value, message)
    if code == 404 and status == "NOT_FOUND" and not _ABOUT_THE_API.search(message.lower()):
        # "Requested entity was not found." may mean the image or the model: one missing image must not stop a
        # run, and a missing model must not fail a unit permanently. The breaker stops the run if all units fail.
        return Failure(FailureKind.UNIT, Status.UNAVAILABLE, "NOT_FOUND", message)
    if code in (401, 403, 404, 407):
        return Failure(FailureKind.RUN, Status.UNAVAILABLE, _fatal_reason(code, status, error), message)
    return Failure(FailureKind.UNIT, Status.BAD_REQUEST, _reason_code(status) or f"HTTP_{code}", message)


def classify_exception(error: BaseException) -> Failure:
    """Classify an exception of a client.

    Args:
        error: An exception of asyncio, aiohttp, httpx, requests, google-auth, google-api-core,
            google-genai, or of imagebeam.

    Returns:
        The failure; see the table of the module.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    message = one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    if any(f"{cls.__module__}.".startswith("google.auth.") for cls in type(error).__mro__):
        return _classify_auth(error, names, message)
    code = _http_code(error)
    if code is not None:
        headers, status = getattr(error, "headers", None), getattr(error, "status", None)
        text = json.dumps({"error": {"message": message, "status": status if isinstance(status, str) else ""}})
        return classify_http(code, text, headers if isinstance(headers, Mapping) else {})
    for reason, pattern in _TRANSIENT_EXCEPTIONS.items():
        if any(map(pattern.fullmatch, names)):
            return Failure(FailureKind.TRANSIENT, Status.UNAVAILABLE, reason, message)
    return Failure(FailureKind.UNIT, Status.UNAVAILABLE, "INTERNAL", message)


# -- HTTP --------------------------------------------------------------------------------------------------


def _error_document(body: bytes | str) -> Mapping[str, Any]:
    """Return the ``error`` object of Google's error model, whatever wraps it; other text as its message."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    try:
        document = json.loads(text)
    except ValueError:
        return {"message": _text_of_page(text)}
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, dict):
        return {"message": text}
    error = document.get("error", document)
    if isinstance(error, dict):
        return error
    # The token endpoint follows OAuth: the error is a code, with a description beside it.
    return {"message": f"{error}: {document.get('error_description', '')}".rstrip(": ")}


def _text_of_page(text: str) -> str:
    """Return the title of an HTML page, or the text unchanged."""
    if not re.search(r"<(?:!doctype|html|head|body)", text, re.IGNORECASE):
        return text
    found = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return html.unescape(found.group(1) if found else re.sub(r"<[^>]*>", " ", text))


def _image_reason(code: int, message: str) -> ImageReason | None:
    """Return the image's problem, if the message is about the request's file and not about the API."""
    if code == 413:
        return ImageReason.TOO_LARGE
    about_file = _INPUT_FILE.search(message) is not None
    if about_file and (code == 404 or (code == 400 and _SAYS_NOT_FOUND.search(message))):
        return ImageReason.NOT_FOUND
    if about_file and (code == 403 or _SAYS_FORBIDDEN.search(message)):
        return ImageReason.FORBIDDEN
    if code != 400:
        return None
    return next((reason for reason, pattern in _IMAGE_COMPLAINTS if pattern.search(message)), None)


def _fatal_reason(code: int, status: str, error: Mapping[str, Any]) -> str:
    """Return the reason of ErrorInfo such as SERVICE_DISABLED, MODEL_NOT_FOUND, or else Google's status."""
    for detail in _details(error):
        if str(detail.get("@type", "")).endswith("google.rpc.ErrorInfo") and detail.get("reason"):
            return _reason_code(str(detail["reason"])) or f"HTTP_{code}"
    message = str(error.get("message", "")).lower()
    if code == 404 and re.search(r"\bmodels?\b|endpoint", message):
        return "MODEL_NOT_FOUND"
    if code == 403 and re.search(r"has not been used|it is disabled|api.*(?:not enabled|disabled)", message):
        return "SERVICE_DISABLED"
    return _reason_code(status) or f"HTTP_{code}"


def _details(error: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    details = error.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []


def _retry_after(error: Mapping[str, Any], headers: Mapping[str, str]) -> float | None:
    """Return seconds from the ``Retry-After`` header (a number or a date), else from RetryInfo."""
    value = str(headers.get("retry-after", "")).strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", value):
        return float(value)
    until, now = _date(value), _date(str(headers.get("date", "")))
    if until and now:
        # Relative to the server's clock, because ours may be wrong.
        return max(0.0, (until - now).total_seconds())
    for detail in _details(error):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
        if found:
            return float(found.group(1))
    return None


def _date(text: str) -> datetime.datetime | None:
    try:
        parsed = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)


def _reason_code(status: str) -> str | None:
    """Return the status if it is a code; None for a phrase such as ``Bad Request``."""
    return status if re.fullmatch(r"[A-Z][A-Z0-9_]*", status) else None


# -- exceptions --------------------------------------------------------------------------------------------


def _classify_auth(error: BaseException, names: set[str], message: str) -> Failure:
    """Invalid credentials concern the run; a failing token endpoint is transient."""
    lasting = "DefaultCredentialsError" in names or _BAD_CREDENTIALS.search(message.lower()) is not None
    transient = "TransportError" in names or getattr(error, "retryable", False) or not lasting
    kind = FailureKind.TRANSIENT if transient else FailureKind.RUN
    return Failure(kind, Status.UNAVAILABLE, "CREDENTIALS", message)


def _http_code(error: BaseException) -> int | None:
    """Return the HTTP status, which some exceptions have as ``code`` or ``status``."""
    values = (getattr(error, name, None) for name in ("code", "status"))
    return next((int(value) for value in values if isinstance(value, int) and 100 <= value <= 599), None)


def one_line(text: str) -> str:
    """Return a message for tables and logs: one line without secrets, at most 500 characters."""
    line = _SECRETS.sub("[secret]", " ".join(text.split()))
    return line if len(line) <= MESSAGE_CHARS else line[: MESSAGE_CHARS - 1] + "…"
