"""Cloud Storage of the local Google Cloud: HTTP routes, batches, faults and counters."""

import asyncio
import email
import re
import uuid
from email.message import Message
from http import HTTPStatus
from typing import Any, BinaryIO, Final

from aiohttp import web

from imagebeam.emulators.core.access import Access
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.api import StorageApi, operation_of
from imagebeam.emulators.storage.object_metadata import StoredObject
from imagebeam.emulators.storage.object_store import ObjectStore
from imagebeam.emulators.storage.parameters import Answer, Call, error_answer, parse_target

__all__ = ["ObjectStore", "StorageService", "StoredObject"]

#: google-cloud-storage sends at most this many calls in a batch.
BATCH_LIMIT: Final = 1000
#: Bytes of a file that are held at once while it is sent.
PIECE_BYTES: Final = 1 << 20

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class StorageService:
    """Serves an object store as the Cloud Storage JSON API.

    Faults (section ``storage``): ``rules``, a list of ``{"match": part of gs://bucket/name, "operations":
    ["objects.insert", ...], "do": "http", "code": 503, "message": ..., "retry_after": seconds, "times": N}``.

    Counters (branch ``storage``): ``requests``, ``by_operation``, ``by_status``, ``bytes_read``,
    ``bytes_written``, ``faults``. A call within a batch counts like any other.
    """

    def __init__(self, objects: ObjectStore, faults: FaultConfig, counters: Counters) -> None:
        self._api = StorageApi(objects, Access(faults))
        self._faults = faults
        self._counters = counters
        faults.register("storage", _check_faults)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes; object names are taken from the undecoded path, so that ``%2F`` stays theirs."""
        prefixes = (
            "/storage/v1",
            "/upload/storage/v1",
            "/resumable/upload/storage/v1",
            "/download/storage/v1",
        )
        return [
            web.route("*", "/batch/storage/v1", self._handle_batch),
            *(web.route("*", prefix + "/{path:.*}", self._handle) for prefix in prefixes),
        ]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        base = f"http://{request.host}"
        answer = await asyncio.to_thread(
            self._answer, request.method, request.raw_path, dict(request.headers), body, base
        )
        if answer.file is not None:
            return await _send_file(request, answer, answer.file)
        return web.Response(status=answer.code, body=answer.body, headers=answer.headers)

    async def _handle_batch(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        content_type = request.headers.get("Content-Type", "")
        answer = await asyncio.to_thread(self._batch, content_type, body, f"http://{request.host}")
        return web.Response(status=answer.code, body=answer.body, headers=answer.headers)

    def _answer(self, method: str, target: str, headers: dict[str, str], body: bytes, base: str) -> Answer:
        operation = "unknown"
        try:
            call = parse_target(method, target, headers, body, base)
            operation = operation_of(call)
            self._fail_on_request(operation, call)
            answer = self._api.run(operation, call)
        except ApiError as problem:
            answer = error_answer(problem)
        self._counters.add("storage", "requests")
        self._counters.add("storage", "by_operation", operation)
        self._counters.add("storage", "by_status", str(answer.code))
        if operation == "objects.insert":
            self._counters.add("storage", "bytes_written", amount=len(body))
        elif operation == "objects.get":
            self._counters.add("storage", "bytes_read", amount=answer.size)
        return answer

    def _batch(self, content_type: str, body: bytes, base: str) -> Answer:
        message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        parts = message.get_payload()
        if not message.is_multipart() or not isinstance(parts, list) or len(parts) > BATCH_LIMIT:
            return error_answer(ApiError(400, f"A batch is multipart/mixed with at most {BATCH_LIMIT} calls."))
        boundary = f"batch_{uuid.uuid4().hex}"
        pieces: list[bytes] = []
        for part in parts:
            answer = self._batched(part, base) if isinstance(part, Message) else Answer(400)
            identifier = part.get("Content-ID", "") if isinstance(part, Message) else ""
            reason = _PHRASES.get(answer.code, "Error")
            body_of_part = answer.whole()
            head = [
                f"--{boundary}",
                "Content-Type: application/http",
                f"Content-ID: <response-{identifier.strip('<>')}>",
                "",
                f"HTTP/1.1 {answer.code} {reason}",
                *(f"{name}: {value}" for name, value in answer.headers.items()),
                f"Content-Length: {len(body_of_part)}",
                "",
                "",
            ]
            pieces.append("\r\n".join(head).encode() + body_of_part + b"\r\n")
        pieces.append(f"--{boundary}--\r\n".encode())
        return Answer(200, b"".join(pieces), {"Content-Type": f"multipart/mixed; boundary={boundary}"})

    def _batched(self, part: "Message[str, str]", base: str) -> Answer:
        payload = part.get_payload(decode=True)
        raw = payload if isinstance(payload, bytes) else b""
        head, *rest = _HEAD_END.split(raw, maxsplit=1)
        lines = head.decode("utf-8", "replace").splitlines()
        words = lines[0].split(" ") if lines else []
        if len(words) < 2:
            return error_answer(ApiError(400, "A call of the batch has no request line."))
        target = re.sub(r"^https?://[^/]+", "", words[1])
        headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if not target.startswith("/storage/v1/"):
            return error_answer(ApiError(400, f"A batch cannot hold {words[0]} {target}."))
        return self._answer(words[0], target, headers, rest[0].rstrip(b"\r\n") if rest else b"", base)

    def _fail_on_request(self, operation: str, call: Call) -> None:
        bucket = call.parts[1] if len(call.parts) > 1 else ""
        name = call.parts[3] if len(call.parts) > 3 else call.query.get("name", "")
        if operation == "objects.insert" and not name:
            found = re.search(rb'"name":\s*"((?:[^"\\]|\\.)*)"', call.body[:4096])
            name = found[1].decode("utf-8", "replace") if found else ""

        def fits(rule: dict[str, Any]) -> bool:
            return not rule.get("operations") or operation in rule["operations"]

        rule = self._faults.take("storage", f"gs://{bucket}/{name}", when=fits)
        if rule is not None:
            self._counters.add("storage", "faults")
            wait = rule.get("retry_after")
            raise ApiError(
                int(rule.get("code", 503)),
                str(rule.get("message", "Injected fault.")),
                headers=None if wait is None else {"Retry-After": str(wait)},
            )


async def _send_file(request: web.Request, answer: Answer, file: BinaryIO) -> web.StreamResponse:
    """Send a body that is in a file, piece by piece."""
    with file:
        response = web.StreamResponse(status=answer.code, headers=answer.headers)
        response.content_length = left = answer.length
        await response.prepare(request)
        while left and (piece := await asyncio.to_thread(file.read, min(PIECE_BYTES, left))):
            await response.write(piece)
            left -= len(piece)
        await response.write_eof()
        return response


def _check_faults(settings: dict[str, Any]) -> None:
    check_keys(settings, ("rules",), "section storage")
    for rule in settings.get("rules", ()):
        known = ("match", "operations", "do", "code", "message", "retry_after", "times")
        check_keys(rule, known, "a storage rule")
        if rule.get("do", "http") != "http" or not 400 <= int(rule.get("code", 503)) <= 599:
            raise ValueError("a storage rule does 'http' with a code from 400 to 599")
