"""The three ways to upload an object: in one piece, with its metadata, and in resumable chunks."""

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
from imagebeam.emulators.storage.object_metadata import StoredObject, digest_of
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.storage.parameters import Answer, Call
from imagebeam.emulators.storage.resources import Conditions, check_query, object_fields

#: All chunks of a resumable upload but the last are kept in multiples of this many bytes.
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
    """Takes uploads and hands whole objects to the store."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._sessions: dict[str, _Session] = {}

    def start(self, call: Call, bucket: str) -> StoredObject | Answer:
        """Do an upload that a POST starts: the finished object, or where to send the chunks.

        Raises:
            ApiError: 400 for a malformed request, 404 no such bucket, 412 precondition not met.
        """
        check_query(call.query, "conditions", "ifMetaGenerationNotMatch")
        self._objects.bucket(bucket)
        kind = call.query.get("uploadType")
        if kind == "resumable":
            return self._begin(call, bucket)
        if kind == "multipart":
            metadata, data = split_related(call.body, call.text("Content-Type") or "")
        elif kind == "media":
            metadata, data = {"contentType": call.text("Content-Type")}, call.body
        else:
            raise ApiError(400, f"Invalid uploadType: {kind!r}")
        name = _name(call, metadata)
        temporary = self._objects.temporary()
        temporary.write_bytes(data)
        return self._finish(bucket, name, metadata, Conditions(call.query), temporary)

    def resume(self, call: Call) -> StoredObject | Answer:
        """Take a chunk of a resumable upload, or tell how much has arrived.

        Raises:
            ApiError: 404 for an unknown upload, 400 for a chunk that does not fit, 412.
        """
        identifier = call.query.get("upload_id", "")
        session = self._sessions.get(identifier)
        if session is None:
            raise ApiError(404, f"No such upload: {identifier!r}")
        with session.lock:
            if session.stored is not None:
                return session.stored
            first, total = self._append(session, call)
            if total is None or session.received < total:
                return _incomplete(session.received)
            if session.received > total:
                raise ApiError(400, f"{session.received} bytes were sent from {first}, but {total} announced.")
            session.metadata.update(_announced(call.text("x-goog-hash") or ""))
            try:
                session.stored = self._finish(
                    session.bucket, session.name, session.metadata, session.conditions, session.path
                )
            except ApiError:
                del self._sessions[identifier]
                raise
            return session.stored

    def cancel(self, call: Call) -> Answer:
        """Forget a resumable upload; Cloud Storage answers 499 to that."""
        session = self._sessions.pop(call.query.get("upload_id", ""), None)
        if session is None:
            raise ApiError(404, f"No such upload: {call.query.get('upload_id')!r}")
        session.path.unlink(missing_ok=True)
        return Answer(499)

    def _begin(self, call: Call, bucket: str) -> Answer:
        metadata = call.json()
        metadata.setdefault("contentType", call.text("x-upload-content-type"))
        name = _name(call, metadata)
        identifier = uuid.uuid4().hex
        path = self._objects.temporary()
        path.touch()
        object_fields(metadata)
        self._sessions[identifier] = _Session(bucket, name, metadata, Conditions(call.query), path)
        query = urlencode({"uploadType": "resumable", "upload_id": identifier})
        location = f"{call.base}/upload/storage/v1/b/{bucket}/o?{query}"
        return Answer(200, b"", {"Location": location, "X-GUploader-UploadID": identifier})

    def _append(self, session: _Session, call: Call) -> tuple[int, int | None]:
        """Keep what is new in a chunk; return where it starts and the total size, if that is known."""
        header = call.text("Content-Range")
        total: int | None
        if header is None:
            first, total = 0, len(call.body)
        else:
            match = _RANGE.fullmatch(header.strip())
            if match is None:
                raise ApiError(400, f"Failed to parse Content-Range header {header!r}.")
            total = None if match[3] == "*" else int(match[3])
            if match[1] is None:
                return session.received, total
            first = int(match[1])
            if int(match[2]) - first + 1 != len(call.body):
                raise ApiError(400, f"Content-Range {header!r} does not fit a body of {len(call.body)} bytes.")
        if first > session.received:
            raise ApiError(400, f"The chunk starts at {first}, but {session.received} bytes have arrived.")
        new = call.body[session.received - first :]
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
        digests = digest_of(temporary)
        for key, actual in zip(("md5Hash", "crc32c"), digests, strict=True):
            announced = metadata.get(key)
            if announced and announced != actual:
                temporary.unlink(missing_ok=True)
                raise ApiError(400, f"Provided {key} {announced!r} doesn't match calculated {key} {actual!r}.")
        return self._objects.adopt(bucket, name, temporary, object_fields(metadata), check=conditions, digests=digests)


def split_related(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """Return metadata and bytes of a ``multipart/related`` upload.

    Raises:
        ApiError: 400 when the body has not exactly these two parts.
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
    _, _, text = first.partition(b"\r\n\r\n")
    headers, _, data = data_part.partition(b"\r\n\r\n")
    metadata = parse_object(text)
    for line in headers.decode("latin-1").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-type":
            metadata.setdefault("contentType", value.strip())
    return metadata, data


def _name(call: Call, metadata: Mapping[str, Any]) -> str:
    name = metadata.get("name") or call.query.get("name")
    if not isinstance(name, str):
        raise ApiError(400, "Required parameter: name", reason="required")
    return name


def _announced(header: str) -> dict[str, str]:
    """Return the checksums of an ``x-goog-hash`` header by their metadata field."""
    keys = {"md5": "md5Hash", "crc32c": "crc32c"}
    pairs = (part.strip().partition("=") for part in header.split(",") if "=" in part)
    return {keys[kind]: value for kind, _, value in pairs if kind in keys}


def _incomplete(received: int) -> Answer:
    headers = {"Range": f"bytes=0-{received - 1}"} if received else {}
    return Answer(308, b"", headers)
