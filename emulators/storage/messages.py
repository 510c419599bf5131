"""Requests and responses of the Cloud Storage API, single or in a batch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote

import orjson

from imagebeam.emulators.core.http import ApiError, parse_object


@dataclass(frozen=True, slots=True)
class StorageRequest:
    """A request below ``/storage/v1/``, ``/upload/storage/v1/`` or ``/download/storage/v1/``.

    Attributes:
        method: HTTP method.
        service: Prefix of ``/storage/v1/``: ``""``, ``"upload"`` or ``"download"``.
        parts: Decoded segments of the path. An object name is one segment, including its slashes.
        pairs: Query parameters in order.
        headers: Request headers with names in any case.
        body: Request body.
        base: URL of the server, for links.
    """

    method: str
    service: str
    parts: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    base: str

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; the last value of a repeated one."""
        return dict(self.pairs)

    def json(self) -> dict[str, Any]:
        """Return the body as an object; raise a 400 if it is not one."""
        return parse_object(self.body) if self.body else {}

    def header(self, name: str) -> str | None:
        """Return a header by name, ignoring case, or None."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class StorageResponse:
    """A response.

    Attributes:
        code: HTTP status.
        body: Body, unless it is read from a file.
        headers: Headers.
        file: File that is open at the start of a large body; the sender closes it.
        length: Size in bytes of the body in the file.
    """

    code: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: BinaryIO | None = None
    length: int = 0

    @property
    def size(self) -> int:
        """Size of the body in bytes."""
        return len(self.body) if self.file is None else self.length

    def read_body(self) -> bytes:
        """Return the body and close its file."""
        if self.file is None:
            return self.body
        with self.file:
            return self.file.read(self.length)


def json_response(body: Any, code: int = 200) -> StorageResponse:
    """Return a response with a JSON body."""
    return StorageResponse(code, orjson.dumps(body), {"Content-Type": "application/json; charset=UTF-8"})


def error_response(problem: ApiError) -> StorageResponse:
    """Return the response for an API error; a 304 has no body."""
    if problem.code == 304:
        return StorageResponse(304)
    response = problem.response()
    body = response.body
    headers = {"Content-Type": "application/json; charset=UTF-8", **(problem.headers or {})}
    return StorageResponse(problem.code, body if isinstance(body, bytes) else b"", headers)


def parse_request(method: str, target: str, headers: Mapping[str, str], body: bytes, base: str) -> StorageRequest:
    """Parse a request target such as ``/storage/v1/b/bucket/o/a%2Fb?alt=media``.

    Raises:
        ApiError: 501 for a path outside this API.
    """
    path, _, query = target.partition("?")
    for service, prefix in (
        ("", "/storage/v1/"),
        ("upload", "/upload/storage/v1/"),
        ("upload", "/resumable/upload/storage/v1/"),
        ("download", "/download/storage/v1/"),
    ):
        if path.startswith(prefix):
            parts = tuple(unquote(part) for part in path[len(prefix) :].split("/"))
            pairs = tuple(parse_qsl(query, keep_blank_values=True))
            return StorageRequest(method, service, parts, pairs, headers, body, base)
    raise ApiError(501, f"The local Cloud Storage does not implement {method} {path}.")
