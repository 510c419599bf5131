"""Bucket and object resources of the JSON API, preconditions and field selectors."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_metadata import StoredObject

#: Writable object fields that are stored.
OBJECT_FIELDS: Final = (
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "customTime",
    "metadata",
    "storageClass",
)
#: Output-only object fields, which are ignored in requests.
OBJECT_OUTPUT: Final = frozenset(
    [
        "kind",
        "id",
        "selfLink",
        "mediaLink",
        "name",
        "bucket",
        "generation",
        "metageneration",
        "size",
        "md5Hash",
        "crc32c",
        "etag",
        "timeCreated",
        "updated",
        "timeStorageClassUpdated",
        "timeFinalized",
        "componentCount",
        "owner",
    ]
)
#: Writable bucket fields that are stored. None of them affects the local service.
BUCKET_FIELDS: Final = ("iamConfiguration", "labels", "location", "softDeletePolicy", "storageClass")
BUCKET_OUTPUT: Final = frozenset(
    [
        "kind",
        "id",
        "selfLink",
        "name",
        "projectNumber",
        "metageneration",
        "etag",
        "timeCreated",
        "updated",
        "locationType",
        "generation",
        "owner",
        "satisfiesPZS",
        "satisfiesPZI",
    ]
)

#: Query parameters without an effect here: response format, billing, visibility.
_IGNORED: Final = frozenset(
    [
        "alt",
        "prettyPrint",
        "projection",
        "userProject",
        "quotaUser",
        "key",
        "uploadType",
        "name",
        "upload_id",
        "fields",
    ]
)
_CONDITIONS: Final = frozenset(
    ["ifgenerationmatch", "ifgenerationnotmatch", "ifmetagenerationmatch", "ifmetagenerationnotmatch"]
)
_SOURCE_CONDITIONS: Final = frozenset(
    [
        "ifsourcegenerationmatch",
        "ifsourcegenerationnotmatch",
        "ifsourcemetagenerationmatch",
        "ifsourcemetagenerationnotmatch",
    ]
)


def timestamp(microseconds: int) -> str:
    """Format a time as RFC 3339 with milliseconds, as in the JSON API."""
    moment = datetime.fromtimestamp(microseconds / 1e6, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def object_resource(stored: StoredObject, digests: tuple[str, str], base: str) -> dict[str, Any]:
    """Return an object resource of the JSON API.

    Args:
        stored: The object.
        digests: Its MD5 and CRC32C.
        base: URL of the server, for links.
    """
    path = f"b/{stored.bucket}/o/{quote(stored.name, safe='')}"
    md5, crc32c = digests
    created = timestamp(stored.generation)
    resource = {
        "kind": "storage#object",
        "id": f"{stored.bucket}/{stored.name}/{stored.generation}",
        "selfLink": f"{base}/storage/v1/{path}",
        "mediaLink": f"{base}/download/storage/v1/{path}?generation={stored.generation}&alt=media",
        "name": stored.name,
        "bucket": stored.bucket,
        "generation": str(stored.generation),
        "metageneration": str(stored.metageneration),
        "storageClass": "STANDARD",
        "size": str(stored.size),
        "crc32c": crc32c,
        "etag": etag(stored),
        "timeCreated": created,
        "updated": timestamp(stored.updated_us),
        "timeStorageClassUpdated": created,
        "timeFinalized": created,
        **stored.fields,
        "contentType": stored.content_type,
    }
    if stored.components:
        resource["componentCount"] = stored.components
    else:
        resource["md5Hash"] = md5
    return resource


def bucket_resource(name: str, record: Mapping[str, Any], base: str) -> dict[str, Any]:
    """Return a bucket resource of the JSON API; ``record`` is the bucket's metadata in the object store."""
    location = str(record["fields"].get("location") or "US").upper()
    created = timestamp(record["created_us"])
    return {
        "kind": "storage#bucket",
        "id": name,
        "selfLink": f"{base}/storage/v1/b/{name}",
        "name": name,
        "projectNumber": PROJECT_NUMBER,
        "metageneration": str(record["metageneration"]),
        "etag": f"C{record['metageneration']}=",
        "timeCreated": created,
        "updated": timestamp(record["updated_us"]),
        "storageClass": "STANDARD",
        "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}},
        "softDeletePolicy": {"retentionDurationSeconds": "0", "effectiveTime": created},
        **record["fields"],
        "location": location,
        "locationType": "multi-region" if location in {"US", "EU", "ASIA"} else "region",
    }


def etag(stored: StoredObject) -> str:
    """Return the ETag, which changes with the object's content and metadata."""
    return f"G{stored.generation}M{stored.metageneration}="


def object_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the writable metadata of a request.

    Raises:
        ApiError: 501 for a field that the local service does not support.
    """
    return _fields(body, OBJECT_FIELDS, OBJECT_OUTPUT, "object field")


def bucket_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the writable fields of a bucket request; raise a 501 for an unsupported one."""
    return _fields(body, BUCKET_FIELDS, BUCKET_OUTPUT, "bucket field")


def merge_patch(old: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``old`` with a JSON merge patch applied: null removes a field, objects are merged."""
    result = dict(old)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            below = result.get(key)
            result[key] = merge_patch(below if isinstance(below, dict) else {}, value)
        else:
            result[key] = value
    return result


def check_query(query: Mapping[str, str], *known: str) -> None:
    """Reject query parameters that the local service does not support.

    Raises:
        ApiError: 501 that names the parameter.
    """
    for name, value in query.items():
        lower = name.lower()
        if name in _IGNORED or name in known or value in {"", "false", "False"}:
            continue
        if (lower in _CONDITIONS and "conditions" in known) or (lower in _SOURCE_CONDITIONS and "source" in known):
            continue
        raise ApiError(501, f"The local Cloud Storage does not implement query parameter {name!r}.")


class Conditions:
    """The preconditions of a request.

    Args:
        query: Query parameters.
        source: Whether to use the ``ifSource…`` parameters.
        headers: Headers with ``If-Match`` and ``If-None-Match``.
        reading: Whether the request is a read: a failed "not match" is then a 304 instead of a 412.

    Raises:
        ApiError: 400 if a generation is not a number.
    """

    def __init__(
        self,
        query: Mapping[str, str],
        *,
        source: bool = False,
        headers: Mapping[str, str] | None = None,
        reading: bool = False,
    ) -> None:
        infix = "source" if source else ""
        numbers = {name.lower(): _number(name, value) for name, value in query.items() if name.lower().startswith("if")}
        self._generation = numbers.get(f"if{infix}generationmatch")
        self._not_generation = numbers.get(f"if{infix}generationnotmatch")
        self._metageneration = numbers.get(f"if{infix}metagenerationmatch")
        self._not_metageneration = numbers.get(f"if{infix}metagenerationnotmatch")
        self._exact = _number("generation", query["generation"]) if query.get("generation") else None
        if source:
            exact = query.get("sourceGeneration")
            self._exact = _number("sourceGeneration", exact) if exact else None
        self._match = (headers or {}).get("If-Match")
        self._none_match = (headers or {}).get("If-None-Match")
        self._unmodified = 304 if reading else 412

    def __call__(self, current: StoredObject | None) -> None:
        """Check the current object.

        Raises:
            ApiError: 304 or 412 for a failed precondition, 404 if the requested generation does not exist.
        """
        generation = current.generation if current else 0
        metageneration = current.metageneration if current else 0
        if self._exact is not None and self._exact != generation:
            raise ApiError(404, f"No such object generation: {self._exact}")
        if self._generation not in (None, generation) or self._metageneration not in (None, metageneration):
            raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")
        if self._not_generation == generation or (current is not None and self._not_metageneration == metageneration):
            raise ApiError(self._unmodified, "At least one of the pre-conditions you specified did not hold.")
        if current is not None:
            tags = {etag(current), f'"{etag(current)}"', "*"}
            if self._match is not None and not tags & _tags(self._match):
                raise ApiError(412, "At least one of the pre-conditions you specified did not hold.")
            if self._none_match is not None and tags & _tags(self._none_match):
                raise ApiError(self._unmodified, "The object was not modified.")


def select_fields(resource: dict[str, Any], selector: str) -> dict[str, Any]:
    """Return the part of a resource that a selector such as ``items(name,size),nextPageToken`` selects.

    Raises:
        ApiError: 400 for an invalid selector.
    """
    tree, rest = _selector(selector, 0)
    if rest != len(selector):
        raise ApiError(400, f"Invalid field selection {selector}")
    selected = _select(resource, tree)
    return selected if isinstance(selected, dict) else {}


def _select(value: Any, tree: dict[str, Any]) -> Any:
    if not tree or "*" in tree:
        return value
    if isinstance(value, list):
        return [_select(item, tree) for item in value]
    if isinstance(value, dict):
        return {key: _select(value[key], below) for key, below in tree.items() if key in value}
    return value


def _selector(text: str, position: int) -> tuple[dict[str, Any], int]:
    tree: dict[str, Any] = {}
    while True:
        match = re.compile(r"\s*([\w*]+(?:/[\w*]+)*)").match(text, position)
        if match is None:
            raise ApiError(400, f"Invalid field selection {text}")
        position = match.end()
        branch = tree
        for name in match[1].split("/"):
            branch = branch.setdefault(name, {})
        if text[position : position + 1] == "(":
            below, position = _selector(text, position + 1)
            if text[position : position + 1] != ")":
                raise ApiError(400, f"Invalid field selection {text}")
            branch.update(below)
            position += 1
        if text[position : position + 1] != ",":
            return tree, position
        position += 1


def _fields(body: Mapping[str, Any], known: tuple[str, ...], output: frozenset[str], what: str) -> dict[str, Any]:
    for name, value in body.items():
        if name not in known and name not in output and value not in (None, False, {}, []):
            raise ApiError(501, f"The local Cloud Storage does not implement {what} {name!r}.")
    return {name: body[name] for name in known if name in body}


def _number(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ApiError(400, f"Invalid value for query parameter {name}: {value!r}") from None


def _tags(header: str) -> set[str]:
    return {tag.strip() for tag in header.split(",")}
