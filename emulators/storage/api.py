"""The operations of the Cloud Storage JSON API on an object store."""

import re
from contextlib import ExitStack
from typing import Any, Final

from imagebeam.emulators.core.access import PROJECT_NUMBER, Access, caller
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.core.tokens import PROJECT
from imagebeam.emulators.storage.listing import list_page, make_token, page_size, read_token
from imagebeam.emulators.storage.object_metadata import StoredObject, digest
from imagebeam.emulators.storage.object_store import ObjectStore, missing
from imagebeam.emulators.storage.parameters import Answer, Call, json_answer
from imagebeam.emulators.storage.resources import (
    Conditions,
    bucket_fields,
    bucket_resource,
    check_query,
    etag,
    merged,
    object_fields,
    object_resource,
    select_fields,
)
from imagebeam.emulators.storage.uploads import Uploads

#: Cloud Storage composes at most this many objects at once.
COMPOSE_LIMIT: Final = 32
#: Larger bodies are sent from their file, piece by piece.
HELD_BYTES: Final = 1 << 20

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class StorageApi:
    """Carries out calls; blocking, safe to use from many threads.

    Args:
        objects: Where buckets and objects are.
        access: Who may do what.
    """

    def __init__(self, objects: ObjectStore, access: Access) -> None:
        self._objects = objects
        self._access = access
        self._uploads = Uploads(objects)

    def run(self, operation: str, call: Call) -> Answer:
        """Carry out one call; ``operation`` is what `operation_of` says of it.

        Raises:
            ApiError: Every error that Cloud Storage would answer with; 501 for what is not built.
        """
        self._enter(operation, call)
        handler = getattr(self, "_" + operation.replace(".", "_").lower())
        result = handler(call)
        if isinstance(result, StoredObject):
            result = object_resource(result, self._objects.digests(result), call.base)
        if isinstance(result, dict):
            fields = call.query.get("fields")
            result = json_answer(select_fields(result, fields) if fields else result)
        answer: Answer = result
        return answer

    # Buckets

    def _buckets_list(self, call: Call) -> dict[str, Any]:
        check_query(call.query, "project", "prefix", "maxResults", "pageToken")
        limit = page_size(call.query)
        prefix = call.query.get("prefix", "")
        after = read_token(call.query["pageToken"])[0].decode() if call.query.get("pageToken") else ""
        names = [name for name in self._objects.buckets() if name.startswith(prefix) and name > after]
        items = [bucket_resource(name, self._objects.bucket(name), call.base) for name in names[:limit]]
        page: dict[str, Any] = {"kind": "storage#buckets", "items": items}
        if len(names) > limit:
            page["nextPageToken"] = make_token(names[limit - 1])
        return page

    def _buckets_insert(self, call: Call) -> dict[str, Any]:
        check_query(call.query, "project")
        body = call.json()
        name = str(body.get("name", ""))
        note = self._objects.create_bucket(name, bucket_fields(body))
        return bucket_resource(name, note, call.base)

    def _buckets_get(self, call: Call) -> dict[str, Any]:
        check_query(call.query)
        return bucket_resource(call.parts[1], self._objects.bucket(call.parts[1]), call.base)

    def _buckets_patch(self, call: Call) -> dict[str, Any]:
        check_query(call.query)
        patch = bucket_fields(call.json())
        old = self._objects.bucket(call.parts[1])["fields"] if call.method == "PATCH" else {}
        note = self._objects.update_bucket(call.parts[1], merged(old, patch))
        return bucket_resource(call.parts[1], note, call.base)

    def _buckets_delete(self, call: Call) -> Answer:
        check_query(call.query)
        self._objects.delete_bucket(call.parts[1])
        return Answer(204)

    def _buckets_testpermissions(self, call: Call) -> dict[str, Any]:
        check_query(call.query, "permissions")
        self._objects.bucket(call.parts[1])
        who = caller(call.text("Authorization"))
        asked = [value for key, value in call.pairs if key == "permissions"]
        granted = [name for name in asked if self._access.allows(name, f"gs://{call.parts[1]}/", who)]
        return {"kind": "storage#testIamPermissionsResponse"} | ({"permissions": granted} if granted else {})

    def _serviceaccount_get(self, call: Call) -> dict[str, Any]:
        return {
            "kind": "storage#serviceAccount",
            "email_address": f"service-{PROJECT_NUMBER}@gs-project-accounts.iam.gserviceaccount.com",
        }

    # Objects

    def _objects_list(self, call: Call) -> dict[str, Any]:
        check_query(
            call.query,
            "prefix",
            "delimiter",
            "includeTrailingDelimiter",
            "startOffset",
            "endOffset",
            "matchGlob",
            "maxResults",
            "pageToken",
            "versions",  # all there are: the live ones
        )
        bucket = call.parts[1]
        page = list_page(self._objects.names(bucket, call.query.get("prefix", "")), call.query)
        found = (self._objects.read(bucket, name) for name in page.names)
        body: dict[str, Any] = {"kind": "storage#objects"}
        items = [object_resource(stored, self._objects.digests(stored), call.base) for stored in found if stored]
        if items:
            body["items"] = items
        if page.prefixes:
            body["prefixes"] = page.prefixes
        if page.next_token:
            body["nextPageToken"] = page.next_token
        return body

    def _objects_insert(self, call: Call) -> StoredObject | Answer:
        if call.method == "DELETE":
            return self._uploads.cancel(call)
        if call.method == "PUT":
            return self._uploads.resume(call)
        return self._uploads.start(call, call.parts[1])

    def _objects_get(self, call: Call) -> StoredObject | Answer:
        check_query(call.query, "conditions", "generation")
        media = call.service == "download" or call.query.get("alt") == "media"
        conditions = Conditions(call.query, headers=_headers(call), reading=True)
        if media:
            return self._download(call, conditions)
        stored = self._require(call.parts[1], call.parts[3])
        conditions(stored)
        return stored

    def _download(self, call: Call, conditions: Conditions) -> Answer:
        opened = self._objects.open(call.parts[1], call.parts[3])
        if opened is None:
            self._require(call.parts[1], call.parts[3])
            raise missing(call.parts[1], call.parts[3])
        stored, stream = opened
        with ExitStack() as held:
            held.enter_context(stream)
            conditions(stored)
            first, last = _byte_range(call.text("Range"), stored.size)
            headers = self._download_headers(call, stored)
            stream.seek(first)
            length = last - first + 1
            code = 200
            if call.text("Range") is not None:
                code = 206
                headers["Content-Range"] = f"bytes {first}-{last}/{stored.size}"
            if length <= HELD_BYTES:
                return Answer(code, stream.read(length), headers)
            held.pop_all()
            return Answer(code, headers=headers, file=stream, length=length)

    def _download_headers(self, call: Call, stored: StoredObject) -> dict[str, str]:
        md5, crc32c = self._objects.digests(stored)
        headers = {
            "Content-Type": stored.content_type,
            "ETag": etag(stored),
            "Accept-Ranges": "bytes",
            "X-Goog-Generation": str(stored.generation),
            "X-Goog-Metageneration": str(stored.metageneration),
            "X-Goog-Hash": f"crc32c={crc32c}" if stored.components else f"crc32c={crc32c},md5={md5}",
            "X-Goog-Storage-Class": "STANDARD",
            "X-Goog-Stored-Content-Encoding": str(stored.fields.get("contentEncoding") or "identity"),
            "X-Goog-Stored-Content-Length": str(stored.size),
        }
        for key, header in (
            ("cacheControl", "Cache-Control"),
            ("contentDisposition", "Content-Disposition"),
            ("contentEncoding", "Content-Encoding"),
            ("contentLanguage", "Content-Language"),
        ):
            if stored.fields.get(key):
                headers[header] = str(stored.fields[key])
        if stored.fields.get("contentEncoding") == "gzip" and "gzip" not in (call.text("Accept-Encoding") or ""):
            raise ApiError(501, "The local Cloud Storage does not implement decompressive transcoding.")
        return headers

    def _objects_patch(self, call: Call) -> StoredObject:
        check_query(call.query, "conditions", "generation")
        bucket, name = call.parts[1], call.parts[3]
        patch = object_fields(call.json())
        old = self._require(bucket, name)
        fields = merged(old.fields if call.method == "PATCH" else {}, patch)
        return self._objects.update(bucket, name, fields, Conditions(call.query, headers=_headers(call)))

    def _objects_delete(self, call: Call) -> Answer:
        check_query(call.query, "conditions", "generation")
        conditions = Conditions(call.query, headers=_headers(call))
        self._objects.delete(call.parts[1], call.parts[3], conditions)
        return Answer(204)

    def _objects_compose(self, call: Call) -> StoredObject:
        check_query(call.query, "conditions")
        bucket, name = call.parts[1], call.parts[3]
        body = call.json()
        for key, value in body.items():
            if key not in ("kind", "sourceObjects", "destination") and value:
                raise ApiError(501, f"The local Cloud Storage does not implement compose with {key!r}.")
        sources = body.get("sourceObjects") or []
        if not 1 <= len(sources) <= COMPOSE_LIMIT:
            raise ApiError(400, f"The number of source components provided must be 1 to {COMPOSE_LIMIT}.")
        data, components = b"", 0
        for source in sources:
            query = {key: str(value) for key, value in source.get("objectPreconditions", {}).items()}
            if source.get("generation"):
                query["generation"] = str(source["generation"])
            stored, piece = self._read(bucket, str(source.get("name")), Conditions(query))
            data += piece
            components += stored.components or 1
        fields = object_fields(body.get("destination") or {})
        return self._store(call, bucket, name, data, fields, components=components)

    def _objects_copy(self, call: Call) -> StoredObject:
        check_query(call.query, "conditions", "source", "sourceGeneration")
        source, data = self._read(call.parts[1], call.parts[3], Conditions(call.query, source=True))
        fields = object_fields(call.json()) or source.fields
        return self._store(call, call.parts[6], call.parts[8], data, fields, components=source.components)

    def _objects_rewrite(self, call: Call) -> dict[str, Any]:
        copied = self._objects_copy(call)
        return {
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": str(copied.size),
            "objectSize": str(copied.size),
            "done": True,
            "resource": object_resource(copied, self._objects.digests(copied), call.base),
        }

    def _objects_move(self, call: Call) -> StoredObject:
        check_query(call.query, "conditions", "source")
        bucket, old = call.parts[1], call.parts[3]
        source, data = self._read(bucket, old, Conditions(call.query, source=True))
        moved = self._store(call, bucket, call.parts[6], data, source.fields, components=source.components)
        if old != call.parts[6]:
            self._objects.delete(bucket, old)
        return moved

    # Shared

    def _enter(self, operation: str, call: Call) -> None:
        """Check whether the API is on, and whether the caller may do this."""
        self._access.require_api("storage.googleapis.com", PROJECT)
        permission = _PERMISSIONS.get(operation)
        if permission is not None:
            bucket = call.parts[1] if len(call.parts) > 1 else ""
            name = call.parts[3] if len(call.parts) > 3 else ""
            self._access.require(permission, f"gs://{bucket}/{name}", caller(call.text("Authorization")))

    def _require(self, bucket: str, name: str) -> StoredObject:
        stored = self._objects.read(bucket, name)
        if stored is None:
            self._objects.bucket(bucket)  # says so, when it is the bucket that is missing
            raise missing(bucket, name)
        return stored

    def _read(self, bucket: str, name: str, conditions: Conditions) -> tuple[StoredObject, bytes]:
        opened = self._objects.open(bucket, name)
        if opened is None:
            self._require(bucket, name)
            raise missing(bucket, name)
        stored, stream = opened
        with stream:
            conditions(stored)
            return stored, stream.read()

    def _store(
        self, call: Call, bucket: str, name: str, data: bytes, fields: dict[str, Any], *, components: int
    ) -> StoredObject:
        temporary = self._objects.temporary()
        temporary.write_bytes(data)
        return self._objects.adopt(
            bucket,
            name,
            temporary,
            fields,
            check=Conditions(call.query),
            components=components,
            digests=digest(data),
        )


def operation_of(call: Call) -> str:
    """Return the name of the operation that a call's method and path stand for.

    Raises:
        ApiError: 501 when it is none that the local service has.
    """
    for service, method, template, operation in _OPERATIONS:
        wanted = template.split("/")
        if (service, method, len(wanted)) == (call.service, call.method, len(call.parts)) and all(
            part in ("*", given) for part, given in zip(wanted, call.parts, strict=True)
        ):
            return operation
    path = "/".join((f"/{call.service}" if call.service else "", "storage/v1", *call.parts))
    raise ApiError(501, f"The local Cloud Storage does not implement {call.method} {path}.")


_OPERATIONS: Final = (
    ("", "GET", "b", "buckets.list"),
    ("", "POST", "b", "buckets.insert"),
    ("", "GET", "b/*", "buckets.get"),
    ("", "PATCH", "b/*", "buckets.patch"),
    ("", "PUT", "b/*", "buckets.patch"),
    ("", "DELETE", "b/*", "buckets.delete"),
    ("", "GET", "b/*/iam/testPermissions", "buckets.testPermissions"),
    ("", "GET", "projects/*/serviceAccount", "serviceAccount.get"),
    ("", "GET", "b/*/o", "objects.list"),
    ("", "GET", "b/*/o/*", "objects.get"),
    ("download", "GET", "b/*/o/*", "objects.get"),
    ("", "PATCH", "b/*/o/*", "objects.patch"),
    ("", "PUT", "b/*/o/*", "objects.patch"),
    ("", "DELETE", "b/*/o/*", "objects.delete"),
    ("", "POST", "b/*/o/*/compose", "objects.compose"),
    ("", "POST", "b/*/o/*/copyTo/b/*/o/*", "objects.copy"),
    ("", "POST", "b/*/o/*/rewriteTo/b/*/o/*", "objects.rewrite"),
    ("", "POST", "b/*/o/*/moveTo/o/*", "objects.move"),
    ("upload", "POST", "b/*/o", "objects.insert"),
    ("upload", "PUT", "b/*/o", "objects.insert"),
    ("upload", "DELETE", "b/*/o", "objects.insert"),
)


#: What a caller needs for an operation; for the others nothing is checked.
_PERMISSIONS: Final = {
    name: f"storage.{permission}"
    for name, permission in {
        "buckets.get": "buckets.get", "buckets.insert": "buckets.create", "objects.list": "objects.list",
        "objects.get": "objects.get", "objects.insert": "objects.create", "objects.delete": "objects.delete",
    }.items()
}  # fmt: skip


def _headers(call: Call) -> dict[str, str]:
    pairs = ((name, call.text(name)) for name in ("If-Match", "If-None-Match"))
    return {name: value for name, value in pairs if value is not None}


def _byte_range(header: str | None, size: int) -> tuple[int, int]:
    """Return the first and last byte that a ``Range`` header asks for.

    Raises:
        ApiError: 416 when the object has no such byte, 501 for several ranges.
    """
    if header is None:
        return 0, size - 1
    match = _RANGE.fullmatch(header.strip())
    if match is None or not (match[1] or match[2]):
        raise ApiError(501, f"The local Cloud Storage does not implement Range {header!r}.")
    if match[1]:
        first, last = int(match[1]), min(int(match[2]), size - 1) if match[2] else size - 1
    else:
        first, last = max(size - int(match[2]), 0), size - 1
    if first >= size or (match[2] and match[1] and int(match[2]) < first):
        raise ApiError(
            416,
            f"Request range not satisfiable: {header} of {size} bytes.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, last
