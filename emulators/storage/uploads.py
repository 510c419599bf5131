"""Simple, multipart and resumable uploads."""

import os
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from imagebeam.emulators.core.http import ApiError, parse_object
from imagebeam.emulators.storage.messages import StorageRequest, StorageResponse
from imagebeam.emulators.storage.object_metadata import StoredObject, compute_file_digests
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.storage.resources import Conditions, check_query, object_fields

#: Chunks of a resumable upload, except the last, are stored in multiples of this size in bytes.
CHUNK: Final = 256 * 1024

_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^;\s]+))', re.IGNORECASE)


@dataclass(slots=True)
class _Session:
    bucket: str
    name: str
    metadata: dict[str, Any]
    conditions: Conditions
    path: Path
    received: int = 0
    stored: StoredObject | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Uploads:
    """Receives uploads and stores the completed objects."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._sessions: dict[str, _Session] = {}

    def start(self, request: StorageRequest, bucket: str) -> StoredObject | StorageResponse:
        """Handle the POST of an upload; return the object, or for a resumable upload the URL for its chunks.

        Raises:
            ApiError: 400 for an invalid request, 404 for a missing bucket, 412 if a precondition failed.
        """
        check_query(request.query, "conditions", "ifMetaGenerationNotMatch")
        self._objects.bucket(bucket)
        kind = request.query.get("uploadType")
        if kind == "resumable":
            return self._begin(request, bucket)
        if kind == "multipart":
            metadata, data = split_related(request.body, request.header("Content-Type") or "")
        elif kind == "media":
            metadata, data = {"contentType": request.header("Content-Type")}, request.body
        else:
            raise ApiError(400, f"Invalid uploadType: {kind!r}")
        name = _name(request, metadata)
        temporary = self._objects.temporary()
        temporary.write_bytes(data)
        return self._finish(bucket, name, metadata, Conditions(request.query), temporary)

    def resume(self, request: StorageRequest) -> StoredObject | StorageResponse:
        """Store a chunk of a resumable upload; return the object once complete, else the received range.

        Raises:
            ApiError: 404 for an unknown upload, 400 for an invalid chunk, 412 if a precondition failed.
        """
        identifier = request.query.get("upload_id", "")
        session = self._sessions.get(identifier)
        if session is None:
            raise ApiError(404, f"No such upload: {identifier!r}")
        with session.lock:
            if session.stored is not None:
                return session.stored
            first, total = self._append(session, request)
            if total is None or session.received < total:
                return _incomplete(session.received)
            if session.received > total:
                raise ApiError(400, f"{session.received} bytes were sent from {first}, but {total} were announced.")
            session.metadata.update(_hash_header(request.header("x-goog-hash") or ""))
            try:
                session.stored = self._finish(
                    session.bucket, session.name, session.metadata, session.conditions, session.path
                )
            except ApiError:
                del self._sessions[identifier]
                raise
            return session.stored

    def cancel(self, request: StorageRequest) -> StorageResponse:
        """Cancel a resumable upload. As in Cloud Storage, the response is a 499."""
        session = self._sessions.pop(request.query.get("upload_id", ""), None)
        if session is None:
            raise ApiError(404, f"No such upload: {request.query.get('upload_id')!r}")
        session.path.unlink(missing_ok=True)
        return StorageResponse(499)

    def _begin(self, request: StorageRequest, bucket: str) -> StorageResponse:
        metadata = request.json()
        metadata.setdefault("contentType", request.header("x-upload-content-type"))
        name = _name(request, metadata)
        identifier = uuid.uuid4().hex
        path = self._objects.temporary()
        path.touch()
        object_fields(metadata)
        self._sessions[identifier] = _Session(bucket, name, metadata, Conditions(request.query), path)
        query = urlencode({"uploadType": "resumable", "upload_id": identifier})
        location = f"{request.base}/upload/storage/v1/b/{bucket}/o?{query}"
        return StorageResponse(200, b"", {"Location": location, "X-GUploader-UploadID": identifier})

    def _append(self, session: _Session, request: StorageRequest) -> tuple[int, int | None]:
        """Append the new bytes of a chunk; return the start of the chunk and the total size, if known."""
        header = request.header("Content-Range")
        total: int | None
        if header is None:
            first, total = 0, len(request.body)
        else:
            match = _RANGE.fullmatch(header.strip())
            if match is None:
                raise ApiError(400, f"Failed to parse Content-Range header {header!r}.")
            total = None if match[3] == "*" else int(match[3])
            if match[1] is None:
                return session.received, total
            first = int(match[1])
            if int(match[2]) - first + 1 != len(request.body):
                raise ApiError(400, f"Content-Range {header!r} does not fit a body of {len(request.body)} bytes.")
        if first > session.received:
            raise ApiError(400, f"The chunk starts at {first}, but {session.received} bytes have arrived.")
        new = request.body[session.received - first :]
        if total is None:
            new = new[: len(new) // CHUNK * CHUNK]
        with session.path.open("r+b") as stream:
            stream.seek(0, os.SEEK_END)
            stream.write(new)
        session.received += len(new)
        return first, total

    def _finish(
        self,
        bucket: str,
        name: str,
        metadata: Mapping[str, Any],
        conditions: Conditions,
        temporary: Path,
    ) -> StoredObject:
        digests = compute_file_digests(temporary)
        for key, actual in zip(("md5Hash", "crc32c"), digests, strict=True):
            announced = metadata.get(key)
            if announced and announced != actual:
                temporary.unlink(missing_ok=True)
                raise ApiError(400, f"Provided {key} {announced!r} doesn't match calculated {key} {actual!r}.")
        fields = object_fields(metadata)
        return self._objects.store_file(bucket, name, temporary, fields, check=conditions, digests=digests)


def split_related(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """Return the metadata and content of a ``multipart/related`` upload.

    Raises:
        ApiError: 400 if the body does not have exactly these two parts.
    """
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise ApiError(400, "A multipart upload needs a Content-Type with a boundary.")
    mark = b"--" + (match[1] or match[2]).encode()
    head, start, rest = body.partition(mark)
    first, between, second = rest.partition(b"\r\n" + mark)
    data_part, end, _ = second.rpartition(b"\r\n" + mark + b"--")
    if head.strip() or not (start and between and end):
        raise ApiError(400, "A multipart upload needs a metadata part and a media part.")
    _, _, header = first.partition(b"\r\n\r\n")
    headers, _, data = data_part.partition(b"\r\n\r\n")
    metadata = parse_object(header)
    for line in headers.decode("latin-1").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-type":
            metadata.setdefault("contentType", value.strip())
    return metadata, data


def _name(request: StorageRequest, metadata: Mapping[str, Any]) -> str:
    name = metadata.get("name") or request.query.get("name")
    if not isinstance(name, str):
        raise ApiError(400, "Required parameter: name", reason="required")
    return name


def _hash_header(header: str) -> dict[str, str]:
    """Return the checksums in an ``x-goog-hash`` header by metadata field."""
    keys = {"md5": "md5Hash", "crc32c": "crc32c"}
    pairs = (part.strip().partition("=") for part in header.split(",") if "=" in part)
    return {keys[kind]: value for kind, _, value in pairs if kind in keys}


def _incomplete(received: int) -> StorageResponse:
    headers = {"Range": f"bytes=0-{received - 1}"} if received else {}
    return StorageResponse(308, b"", headers)
