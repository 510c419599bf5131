"""HTTP helpers of all services of the local Google Cloud: JSON bodies and Google's error format."""

from typing import Any, Final

import orjson
from aiohttp import web

from imagebeam.transforms.core.errors import ImagebeamError

JSON_TYPE: Final = "application/json"

#: Canonical status names (google.rpc.Code) of the HTTP codes that Google APIs return most.
STATUS_NAMES: Final[dict[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
    412: "FAILED_PRECONDITION",
    416: "OUT_OF_RANGE",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

#: Default error reasons of the older APIs (Cloud Storage, BigQuery).
REASONS: Final[dict[int, str]] = {
    400: "invalid",
    401: "authError",
    403: "forbidden",
    404: "notFound",
    409: "conflict",
    412: "conditionNotMet",
    416: "requestedRangeNotSatisfiable",
    429: "rateLimitExceeded",
    500: "backendError",
    501: "notImplemented",
    503: "backendError",
}


class ApiError(ImagebeamError):
    """An error response of the API; the server's middleware converts it.

    Args:
        code: HTTP code, 400 to 599.
        message: Error message, as it appears in the client's exception.
        status: Canonical name such as ``NOT_FOUND``. Default: from `STATUS_NAMES`.
        reason: Reason code of the older APIs such as ``notFound``. Default: from `REASONS`.
        details: ``details`` of the newer APIs, a list of typed objects.
        headers: Additional response headers such as ``Retry-After``.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: str | None = None,
        reason: str | None = None,
        details: list[dict[str, Any]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.reason = reason
        self.details = details
        self.headers = headers

    def response(self) -> web.Response:
        """Return the HTTP response in Google's error format."""
        return google_error(self.code, self.status, self.message, self.reason, self.details, headers=self.headers)


def json_response(body: Any, *, code: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return ``body`` as JSON (numbers, strings, lists, dicts with string keys, None, booleans)."""
    return web.Response(body=orjson.dumps(body), status=code, headers=headers, content_type=JSON_TYPE)


def google_error(
    code: int,
    status: str | None,
    message: str,
    reason: str | None = None,
    details: list[dict[str, Any]] | None = None,
    *,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """Return an error in the format that all Google JSON APIs share.

    Args:
        code: HTTP code.
        status: Canonical name; None for the one in `STATUS_NAMES`.
        message: Error message.
        reason: Reason code of the older APIs; None for the one in `REASONS`.
        details: Typed objects of the newer APIs; None to leave them out.
        headers: Additional response headers.
    """
    error: dict[str, Any] = {
        "code": code,
        "message": message,
        "status": status or STATUS_NAMES.get(code, "UNKNOWN"),
        "errors": [{"reason": reason or REASONS.get(code, "unknown"), "message": message, "domain": "global"}],
    }
    if details is not None:
        error["details"] = details
    return json_response({"error": error}, code=code, headers=headers)


def not_implemented(what: str) -> web.Response:
    """Return a 501 that names the missing feature."""
    return google_error(501, None, f"The local Google Cloud does not implement {what}.")


async def read_json(request: web.Request) -> dict[str, Any]:
    """Return the JSON object in a request's body; an empty object for an empty body.

    Raises:
        ApiError: 400 if the body is not a JSON object.
    """
    raw = await request.read()
    if not raw:
        return {}
    return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ApiError: 400 if the text is not a JSON object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as problem:
        raise ApiError(400, f"Parse Error: {problem}", reason="parseError") from problem
    if not isinstance(body, dict):
        raise ApiError(400, "Parse Error: the request body must be a JSON object.", reason="parseError")
    return body
