"""One call of the Cloud Storage API, whether it came by itself or in a batch, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote

import orjson

from imagebeam.emulators.core.http import ApiError, parse_object


@dataclass(frozen=True, slots=True)
class Call:
    """A request below ``/storage/v1/``, ``/upload/storage/v1/`` or ``/download/storage/v1/``.

    Attributes:
        method: HTTP method.
        service: What precedes ``/storage/v1/``: ``""``, ``"upload"`` or ``"download"``.
        parts: Decoded segments of the path; an object name is one segment, slashes and all.
        pairs: Query parameters in order.
        headers: Request headers; names in any case.
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
        """The query parameters; of a repeated one the last."""
        return dict(self.pairs)

    def json(self) -> dict[str, Any]:
        """Return the body as an object; 400 when it is none."""
        return parse_object(self.body) if self.body else {}

    def text(self, name: str) -> str | None:
        """Return a header whatever the case of its name."""
        wanted = name.lower()
        return next((value for key, value in self.headers.items() if key.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: code, body and headers.

    Attributes:
        code: HTTP status.
        body: The bytes, unless they come from a file.
        headers: Its headers.
        file: Open where the body begins, for one that is too large to hold; whoever sends it closes it.
        length: Bytes of the file that are the body.
    """

    code: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: BinaryIO | None = None
    length: int = 0

    @property
    def size(self) -> int:
        """Bytes of the body, wherever they are."""
        return len(self.body) if self.file is None else self.length

    def whole(self) -> bytes:
        """Return the body, and close its file."""
        if self.file is None:
            return self.body
        with self.file:
            return self.file.read(self.length)


def json_answer(body: Any, code: int = 200) -> Answer:
    """Return ``body`` as a JSON answer."""
    return Answer(code, orjson.dumps(body), {"Content-Type": "application/json; charset=UTF-8"})


def error_answer(problem: ApiError) -> Answer:
    """Return an API error as an answer; 304 has no body."""
    if problem.code == 304:
        return Answer(304)
    response = problem.response()
    body = response.body
    headers = {"Content-Type": "application/json; charset=UTF-8", **(problem.headers or {})}
    return Answer(problem.code, body if isinstance(body, bytes) else b"", headers)


def parse_target(method: str, target: str, headers: Mapping[str, str], body: bytes, base: str) -> Call:
    """Return the call of a request target such as ``/storage/v1/b/bucket/o/a%2Fb?alt=media``.

    Raises:
        ApiError: 501, for a path that is not of this API.
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
            return Call(method, service, parts, pairs, headers, body, base)
    raise ApiError(501, f"The local Cloud Storage does not implement {method} {path}.")
