"""Uploads of load jobs whose rows come with the request: in one part, or in resumable chunks."""

from __future__ import annotations

import dataclasses
import re
import threading
import uuid
from collections.abc import Mapping
from typing import Any, Final

from imagebeam.emulators.core.http import ApiError, parse_object
from imagebeam.emulators.storage.uploads import split_related

_RANGE: Final = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")


@dataclasses.dataclass(frozen=True, slots=True)
class UploadState:
    """State of an upload after a request.

    Attributes:
        response: Code and headers of the response while the upload is incomplete, else None.
        metadata: The job, when the upload is complete.
        data: All bytes, when the upload is complete.
    """

    response: tuple[int, dict[str, str]] | None = None
    metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: bytes = b""


class Uploads:
    """Uploads in progress. Thread-safe."""

    def __init__(self) -> None:
        self._sessions: dict[str, tuple[dict[str, Any], bytearray]] = {}
        self._lock = threading.Lock()

    def receive(self, method: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> UploadState:
        """Receive one request of an upload.

        Raises:
            ApiError: 400 for a malformed request, 404 for an unknown upload.
        """
        kind = query.get("uploadType")
        if method == "PUT":
            return self._chunk(query.get("upload_id", ""), headers.get("Content-Range"), body)
        if kind == "multipart":
            metadata, data = split_related(body, headers.get("Content-Type", ""))
            metadata.pop("contentType", None)
            return UploadState(metadata=metadata, data=data)
        if kind == "resumable":
            identifier = uuid.uuid4().hex
            with self._lock:
                self._sessions[identifier] = (parse_object(body), bytearray())
            return UploadState((200, {"Location": f"uploadType=resumable&upload_id={identifier}"}))
        raise ApiError(400, f"Invalid uploadType: {kind!r}", reason="invalid")

    def _chunk(self, identifier: str, header: str | None, body: bytes) -> UploadState:
        with self._lock:
            session = self._sessions.get(identifier)
            if session is None:
                raise ApiError(404, f"No such upload: {identifier!r}", reason="notFound")
            metadata, received = session
            match = _RANGE.fullmatch((header or f"bytes 0-{len(body) - 1}/{len(body)}").strip())
            if match is None:
                raise ApiError(400, f"Failed to parse Content-Range header {header!r}.", reason="invalid")
            if match[1] is not None:
                first = int(match[1])
                if first > len(received):
                    raise ApiError(400, f"The chunk starts at {first}, but {len(received)} bytes have arrived.")
                received += body[len(received) - first :]
            if match[3] == "*" or len(received) < int(match[3]):
                headers = {"Range": f"bytes=0-{len(received) - 1}"} if received else {}
                return UploadState((308, headers))
            del self._sessions[identifier]
            return UploadState(metadata=metadata, data=bytes(received))
