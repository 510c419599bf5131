"""The operations of the Cloud Storage JSON API."""

import re
from contextlib import ExitStack
from typing import Any, Final

from imagebeam.emulators.core.access import PROJECT_NUMBER, Access, caller
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.core.tokens import PROJECT
from imagebeam.emulators.storage.listing import list_page, make_token, page_size, read_token
from imagebeam.emulators.storage.messages import StorageRequest, StorageResponse, json_response
from imagebeam.emulators.storage.object_metadata import StoredObject, compute_digests
from imagebeam.emulators.storage.object_store import ObjectStore, object_not_found
from imagebeam.emulators.storage.resources import (
    Conditions,
    bucket_fields,
    bucket_resource,
    check_query,
    etag,
    merge_patch,
    object_fields,
    object_resource,
    select_fields,
)
from imagebeam.emulators.storage.uploads import Uploads

#: Maximum number of objects in a compose request.
COMPOSE_LIMIT: Final = 32
#: Maximum size in bytes of a body that is read into memory; larger ones are streamed.
IN_MEMORY_BYTES: Final = 1 << 20

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class StorageApi:
    """Executes requests. Blocking and thread-safe.

    Args:
        objects: The object store.
        access: The access rules.
    """

    def __init__(self, objects: ObjectStore, access: Access) -> None:
        self._objects = objects
        self._access = access
        self._uploads = Uploads(objects)

    def run(self, operation: str, request: StorageRequest) -> StorageResponse:
        """Execute a request; ``operation`` is the result of `operation_name`.

        Raises:
            ApiError: An error of Cloud Storage, or a 501 for a feature that the local service lacks.
        """
        self._check_access(operation, request)
        handler = getattr(self, "_" + operation.replace(".", "_").lower())
        result = handler(request)
        if isinstance(result, StoredObject):
            result = object_resource(result, self._objects.digests(result), request.base)
        if isinstance(result, dict):
            fields = request.query.get("fields")
            result = json_response(select_fields(result, fields) if fields else result)
        answer: StorageResponse = result
        return answer

    # Buckets

    def _buckets_list(self, request: StorageRequest) -> dict[str, Any]:
        check_query(request.query, "project", "prefix", "maxResults", "pageToken")
        limit = page_size(request.query)
        prefix = request.query.get("prefix", "")
        after = read_token(request.query["pageToken"])[0].decode() if request.query.get("pageToken") else ""
        names = [name for name in self._objects.buckets() if name.startswith(prefix) and name > after]
        items = [bucket_resource(name, self._objects.bucket(name), request.base) for name in names[:limit]]
        page: dict[str, Any] = {"kind": "storage#buckets", "items": items}
        if len(names) > limit:
            page["nextPageToken"] = make_token(names[limit - 1])
        return page

    def _buckets_insert(self, request: StorageRequest) -> dict[str, Any]:
        check_query(request.query, "project")
        body = request.json()
        name = str(body.get("name", ""))
        record = self._objects.create_bucket(name, bucket_fields(body))
        return bucket_resource(name, record, request.base)

    def _buckets_get(self, request: StorageRequest) -> dict[str, Any]:
        check_query(request.query)
        return bucket_resource(request.parts[1], self._objects.bucket(request.parts[1]), request.base)

    def _buckets_patch(self, request: StorageRequest) -> dict[str, Any]:
        check_query(request.query)
        patch = bucket_fields(request.json())
        old = self._objects.bucket(request.parts[1])["fields"] if request.method == "PATCH" else {}
        record = self._objects.update_bucket(request.parts[1], merge_patch(old, patch))
        return bucket_resource(request.parts[1], record, request.base)

    def _buckets_delete(self, request: StorageRequest) -> StorageResponse:
        check_query(request.query)
        self._objects.delete_bucket(request.parts[1])
        return StorageResponse(204)

    def _buckets_testpermissions(self, request: StorageRequest) -> dict[str, Any]:
        check_query(request.query, "permissions")
        self._objects.bucket(request.parts[1])
        account = caller(request.header("Authorization"))
        names = [value for key, value in request.pairs if key == "permissions"]
        granted = [name for name in names if self._access.allows(name, f"gs://{request.parts[1]}/", account)]
        return {"kind": "storage#testIamPermissionsResponse"} | ({"permissions": granted} if granted else {})

    def _serviceaccount_get(self, request: StorageRequest) -> dict[str, Any]:
        return {
            "kind": "storage#serviceAccount",
            "email_address": f"service-{PROJECT_NUMBER}@gs-project-accounts.iam.gserviceaccount.com",
        }

    # Objects

    def _objects_list(self, request: StorageRequest) -> dict[str, Any]:
        check_query(
            request.query,
            "prefix",
            "delimiter",
            "includeTrailingDelimiter",
            "startOffset",
            "endOffset",
            "matchGlob",
            "maxResults",
            "pageToken",
            "versions",  # objects are not versioned: there are live ones only
        )
        bucket = request.parts[1]
        page = list_page(self._objects.names(bucket, request.query.get("prefix", "")), request.query)
        found = (self._objects.read(bucket, name) for name in page.names)
        body: dict[str, Any] = {"kind": "storage#objects"}
        items = [object_resource(stored, self._objects.digests(stored), request.base) for stored in found if stored]
        if items:
            body["items"] = items
        if page.prefixes:
            body["prefixes"] = page.prefixes
        if page.next_token:
            body["nextPageToken"] = page.next_token
        return body

    def _objects_insert(self, request: StorageRequest) -> StoredObject | StorageResponse:
        if request.method == "DELETE":
            return self._uploads.cancel(request)
        if request.method == "PUT":
            return self._uploads.resume(request)
        return self._uploads.start(request, request.parts[1])

    def _objects_get(self, request: StorageRequest) -> StoredObject | StorageResponse:
        check_query(request.query, "conditions", "generation")
        media = request.service == "download" or request.query.get("alt") == "media"
        conditions = Conditions(request.query, headers=_headers(request), reading=True)
        if media:
            return self._download(request, conditions)
        stored = self._require(request.parts[1], request.parts[3])
        conditions(stored)
        return stored

    def _download(self, request: StorageRequest, conditions: Conditions) -> StorageResponse:
        opened = self._objects.open(request.parts[1], request.parts[3])
        if opened is None:
            self._require(request.parts[1], request.parts[3])
            raise object_not_found(request.parts[1], request.parts[3])
        stored, stream = opened
        with ExitStack() as held:
            held.enter_context(stream)
            conditions(stored)
            first, last = _byte_range(request.header("Range"), stored.size)
            headers = self._download_headers(request, stored)
            stream.seek(first)
            length = last - first + 1
            code = 200
            if request.header("Range") is not None:
                code = 206
                headers["Content-Range"] = f"bytes {first}-{last}/{stored.size}"
            if length <= IN_MEMORY_BYTES:
                return StorageResponse(code, stream.read(length), headers)
            held.pop_all()
            return StorageResponse(code, headers=headers, file=stream, length=length)

    def _download_headers(self, request: StorageRequest, stored: StoredObject) -> dict[str, str]:
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
        if stored.fields.get("contentEncoding") == "gzip" and "gzip" not in (request.header("Accept-Encoding") or ""):
            raise ApiError(501, "The local Cloud Storage does not implement decompressive transcoding.")
        return headers

    def _objects_patch(self, request: StorageRequest) -> StoredObject:
        check_query(request.query, "conditions", "generation")
        bucket, name = request.parts[1], request.parts[3]
        patch = object_fields(request.json())
        old = self._require(bucket, name)
        fields = merge_patch(old.fields if request.method == "PATCH" else {}, patch)
        return self._objects.update(bucket, name, fields, Conditions(request.query, headers=_headers(request)))

    def _objects_delete(self, request: StorageRequest) -> StorageResponse:
        check_query(request.query, "conditions", "generation")
        conditions = Conditions(request.query, headers=_headers(request))
        self._objects.delete(request.parts[1], request.parts[3], conditions)
        return StorageResponse(204)

    def _objects_compose(self, request: StorageRequest) -> StoredObject:
        check_query(request.query, "conditions")
        bucket, name = request.parts[1], request.parts[3]
        body = request.json()
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
        return self._store(request, bucket, name, data, fields, components=components)

    def _objects_copy(self, request: StorageRequest) -> StoredObject:
        check_query(request.query, "conditions", "source", "sourceGeneration")
        source, data = self._read(request.parts[1], request.parts[3], Conditions(request.query, source=True))
        fields = object_fields(request.json()) or source.fields
        return self._store(request, request.parts[6], request.parts[8], data, fields, components=source.components)

    def _objects_rewrite(self, request: StorageRequest) -> dict[str, Any]:
        copied = self._objects_copy(request)
        return {
            "kind": "storage#rewriteResponse",
            "totalBytesRewritten": str(copied.size),
            "objectSize": str(copied.size),
            "done": True,
            "resource": object_resource(copied, self._objects.digests(copied), request.base),
        }

    def _objects_move(self, request: StorageRequest) -> StoredObject:
        check_query(request.query, "conditions", "source")
        bucket, old = request.parts[1], request.parts[3]
        source, data = self._read(bucket, old, Conditions(request.query, source=True))
        moved = self._store(request, bucket, request.parts[6], data, source.fields, components=source.components)
        if old != request.parts[6]:
            self._objects.delete(bucket, old)
        return moved

    # Shared

    def _check_access(self, operation: str, request: StorageRequest) -> None:
        """Check that the API is enabled and the caller has the required permission."""
        self._access.require_api("storage.googleapis.com", PROJECT)
        permission = _PERMISSIONS.get(operation)
        if permission is not None:
            bucket = request.parts[1] if len(request.parts) > 1 else ""
            name = request.parts[3] if len(request.parts) > 3 else ""
            self._access.require(permission, f"gs://{bucket}/{name}", caller(request.header("Authorization")))

    def _require(self, bucket: str, name: str) -> StoredObject:
        stored = self._objects.read(bucket, name)
        if stored is None:
            self._objects.bucket(bucket)  # raises if the bucket does not exist
            raise object_not_found(bucket, name)
        return stored

    def _read(self, bucket: str, name: str, conditions: Conditions) -> tuple[StoredObject, bytes]:
        opened = self._objects.open(bucket, name)
        if opened is None:
            self._require(bucket, name)
            raise object_not_found(bucket, name)
        stored, stream = opened
        with stream:
            conditions(stored)
            return stored, stream.read()

    def _store(
        self, request: StorageRequest, bucket: str, name: str, data: bytes, fields: dict[str, Any], *, components: int
    ) -> StoredObject:
        temporary = self._objects.temporary()
        temporary.write_bytes(data)
        return self._objects.store_file(
            bucket,
            name,
            temporary,
            fields,
            check=Conditions(request.query),
            components=components,
            digests=compute_digests(data),
        )


def operation_name(request: StorageRequest) -> str:
    """Return the name of the operation of a request, by method and path.

    Raises:
        ApiError: 501 if the local service does not implement the operation.
    """
    for service, method, template, operation in _OPERATIONS:
        wanted = template.split("/")
        if (service, method, len(wanted)) == (request.service, request.method, len(request.parts)) and all(
            part in ("*", given) for part, given in zip(wanted, request.parts, strict=True)
        ):
            return operation
    path = "/".join((f"/{request.service}" if request.service else "", "storage/v1", *request.parts))
    raise ApiError(501, f"The local Cloud Storage does not implement {request.method} {path}.")


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


#: Required permissions. Other operations are not checked.
_PERMISSIONS: Final = {
    name: f"storage.{permission}"
    for name, permission in {
        "buckets.get": "buckets.get", "buckets.insert": "buckets.create", "objects.list": "objects.list",
        "objects.get": "objects.get", "objects.insert": "objects.create", "objects.delete": "objects.delete",
    }.items()
}  # fmt: skip


def _headers(request: StorageRequest) -> dict[str, str]:
    pairs = ((name, request.header(name)) for name in ("If-Match", "If-None-Match"))
    return {name: value for name, value in pairs if value is not None}


def _byte_range(header: str | None, size: int) -> tuple[int, int]:
    """Return the first and last byte of a ``Range`` header.

    Raises:
        ApiError: 416 if the range is outside the object, 501 for several ranges.
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
