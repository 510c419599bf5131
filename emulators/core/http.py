"""What every service of the local Google Cloud needs of HTTP: JSON in, JSON out, Google's error shape."""

from typing import Any, Final

import orjson
from aiohttp import web

from imagebeam.transforms.core.errors import ImagebeamError

JSON_TYPE: Final = "application/json"

#: Canonical status names of the HTTP codes that the Google APIs use most (google.rpc.Code).
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

#: Reasons of the older APIs (Cloud Storage, BigQuery), where a caller gives none.
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
    """An answer that is an error of the API; the server's middleware turns it into the response.

    Args:
        code: HTTP code, 400 to 599.
        message: Text for the person who reads the client's exception.
        status: Canonical name such as ``NOT_FOUND``; by default the usual one of the code.
        reason: Reason code of the older APIs such as ``notFound``; by default the usual one of the code.
        details: ``details`` of the newer APIs (a list of typed objects).
        headers: Extra response headers, for example ``Retry-After``.
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
        """Return the error as the response that a Google client understands."""
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
    """Return an error in the shape that all Google JSON APIs share.

    Args:
        code: HTTP code.
        status: Canonical name; ``None`` takes the usual one of the code.
        message: Text for a person.
        reason: Reason code of the older APIs; ``None`` takes the usual one of the code.
        details: Typed objects of the newer APIs; absent when ``None``.
        headers: Extra response headers.
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
    """Return the 501 that names what the local Google Cloud does not do."""
    return google_error(501, None, f"The local Google Cloud does not implement {what}.")


async def read_json(request: web.Request) -> dict[str, Any]:
    """Return the request's body as an object; an empty body is an empty object.

    Raises:
        ApiError: 400, when the body is no JSON object.
    """
    raw = await request.read()
    if not raw:
        return {}
    return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Return JSON text as an object.

    Raises:
        ApiError: 400, when the text is no JSON object.
    """
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as problem:
        raise ApiError(400, f"Parse Error: {problem}", reason="parseError") from problem
    if not isinstance(body, dict):
        raise ApiError(400, "Parse Error: the request body must be a JSON object.", reason="parseError")
    return body
