"""HTTP routes, batch requests, faults and counters of the local Cloud Storage."""

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
from imagebeam.emulators.storage.api import StorageApi, operation_name
from imagebeam.emulators.storage.messages import StorageRequest, StorageResponse, error_response, parse_request
from imagebeam.emulators.storage.object_store import ObjectStore

#: Maximum number of requests in a batch.
BATCH_LIMIT: Final = 1000
#: Chunk size in bytes when a file is sent.
CHUNK_BYTES: Final = 1 << 20

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class StorageService:
    """Serves an object store as the Cloud Storage JSON API.

    Faults (section ``storage``): ``rules``, a list of ``{"match": part of gs://bucket/name, "operations":
    ["objects.insert", ...], "do": "http", "code": 503, "message": ..., "retry_after": seconds, "times": N}``.

    Counters (branch ``storage``): ``requests``, ``by_operation``, ``by_status``, ``bytes_read``,
    ``bytes_written``, ``faults``. Requests in a batch are counted like single ones.
    """

    def __init__(self, objects: ObjectStore, faults: FaultConfig, counters: Counters) -> None:
        self._api = StorageApi(objects, Access(faults))
        self._faults = faults
        self._counters = counters
        faults.register("storage", _check_faults)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes. They do not decode the path, so that ``%2F`` in object names is preserved."""
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
        result = await asyncio.to_thread(
            self._respond, request.method, request.raw_path, dict(request.headers), body, base
        )
        if result.file is not None:
            return await _send_file(request, result, result.file)
        return web.Response(status=result.code, body=result.body, headers=result.headers)

    async def _handle_batch(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        content_type = request.headers.get("Content-Type", "")
        result = await asyncio.to_thread(self._batch, content_type, body, f"http://{request.host}")
        return web.Response(status=result.code, body=result.body, headers=result.headers)

    def _respond(self, method: str, target: str, headers: dict[str, str], body: bytes, base: str) -> StorageResponse:
        operation = "unknown"
        try:
            request = parse_request(method, target, headers, body, base)
            operation = operation_name(request)
            self._raise_fault(operation, request)
            result = self._api.run(operation, request)
        except ApiError as problem:
            result = error_response(problem)
        self._counters.add("storage", "requests")
        self._counters.add("storage", "by_operation", operation)
        self._counters.add("storage", "by_status", str(result.code))
        if operation == "objects.insert":
            self._counters.add("storage", "bytes_written", amount=len(body))
        elif operation == "objects.get":
            self._counters.add("storage", "bytes_read", amount=result.size)
        return result

    def _batch(self, content_type: str, body: bytes, base: str) -> StorageResponse:
        message = email.message_from_bytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
        parts = message.get_payload()
        if not message.is_multipart() or not isinstance(parts, list) or len(parts) > BATCH_LIMIT:
            return error_response(ApiError(400, f"A batch is multipart/mixed with at most {BATCH_LIMIT} requests."))
        boundary = f"batch_{uuid.uuid4().hex}"
        pieces: list[bytes] = []
        for part in parts:
            result = self._run_batched(part, base) if isinstance(part, Message) else StorageResponse(400)
            identifier = part.get("Content-ID", "") if isinstance(part, Message) else ""
            reason = _PHRASES.get(result.code, "Error")
            body_of_part = result.read_body()
            head = [
                f"--{boundary}",
                "Content-Type: application/http",
                f"Content-ID: <response-{identifier.strip('<>')}>",
                "",
                f"HTTP/1.1 {result.code} {reason}",
                *(f"{name}: {value}" for name, value in result.headers.items()),
                f"Content-Length: {len(body_of_part)}",
                "",
                "",
            ]
            pieces.append("\r\n".join(head).encode() + body_of_part + b"\r\n")
        pieces.append(f"--{boundary}--\r\n".encode())
        return StorageResponse(200, b"".join(pieces), {"Content-Type": f"multipart/mixed; boundary={boundary}"})

    def _run_batched(self, part: "Message[str, str]", base: str) -> StorageResponse:
        payload = part.get_payload(decode=True)
        raw = payload if isinstance(payload, bytes) else b""
        head, *rest = _HEAD_END.split(raw, maxsplit=1)
        lines = head.decode("utf-8", "replace").splitlines()
        words = lines[0].split(" ") if lines else []
        if len(words) < 2:
            return error_response(ApiError(400, "A request in the batch has no request line."))
        target = re.sub(r"^https?://[^/]+", "", words[1])
        headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if not target.startswith("/storage/v1/"):
            return error_response(ApiError(400, f"A batch cannot contain {words[0]} {target}."))
        return self._respond(words[0], target, headers, rest[0].rstrip(b"\r\n") if rest else b"", base)

    def _raise_fault(self, operation: str, request: StorageRequest) -> None:
        bucket = request.parts[1] if len(request.parts) > 1 else ""
        name = request.parts[3] if len(request.parts) > 3 else request.query.get("name", "")
        if operation == "objects.insert" and not name:
            found = re.search(rb'"name":\s*"((?:[^"\\]|\\.)*)"', request.body[:4096])
            name = found[1].decode("utf-8", "replace") if found else ""

        def matches(rule: dict[str, Any]) -> bool:
            return not rule.get("operations") or operation in rule["operations"]

        rule = self._faults.take("storage", f"gs://{bucket}/{name}", when=matches)
        if rule is not None:
            self._counters.add("storage", "faults")
            wait = rule.get("retry_after")
            raise ApiError(
                int(rule.get("code", 503)),
                str(rule.get("message", "Injected fault.")),
                headers=None if wait is None else {"Retry-After": str(wait)},
            )


async def _send_file(request: web.Request, result: StorageResponse, file: BinaryIO) -> web.StreamResponse:
    """Send a body from a file in chunks."""
    with file:
        response = web.StreamResponse(status=result.code, headers=result.headers)
        response.content_length = left = result.length
        await response.prepare(request)
        while left and (piece := await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))):
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
            raise ValueError("a storage rule must have the action 'http' and a code from 400 to 599")
