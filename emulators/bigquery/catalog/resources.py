"""REST resources of datasets and tables: writable properties, validation, and responses."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection, Mapping
from typing import Any, Final

import orjson

from imagebeam.emulators.bigquery.catalog.object_tables import check_external
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.core.http import ApiError

Resource = dict[str, Any]

DATASET_WRITABLE: Final = frozenset(
    ("description", "friendlyName", "labels", "location", "defaultTableExpirationMs", "access")
)
TABLE_WRITABLE: Final = frozenset(
    (
        "description", "friendlyName", "labels", "schema", "expirationTime", "timePartitioning", "clustering", "view",
        "requirePartitionFilter", "externalDataConfiguration", "maxStaleness",
    )
)  # fmt: skip
#: Output-only properties that clients send back unchanged; they are ignored.
_OUTPUT_ONLY: Final = frozenset(
    (
        "kind", "id", "selfLink", "etag", "datasetReference", "tableReference", "creationTime", "lastModifiedTime",
        "location", "type", "numRows", "numBytes", "numLongTermBytes", "numActiveLogicalBytes", "numTotalLogicalBytes",
    )
)  # fmt: skip
_DATASET_NAME: Final = re.compile(r"\w{1,1024}", re.ASCII)
_TABLE_NAME: Final = re.compile(r"[\w\- ]{1,1024}")
_LABEL_KEY: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE: Final = re.compile(r"[a-z0-9_-]{0,63}")


def now_ms() -> int:
    """Return the current time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def check_names(dataset: str, table: str | None) -> None:
    """Validate the name of a dataset, and of a table unless it is None.

    Raises:
        ApiError: 400.
    """
    if not _DATASET_NAME.fullmatch(dataset):
        raise ApiError(
            400,
            f'Invalid dataset ID "{dataset}". Dataset IDs must be alphanumeric (plus underscores) and must be at '
            "most 1024 characters long.",
            reason="invalid",
        )
    if table is not None and not _TABLE_NAME.fullmatch(table):
        raise ApiError(
            400,
            f'Invalid table ID "{table}". Table IDs must be alphanumeric (plus underscores) and must be at most '
            "1024 characters long.",
            reason="invalid",
        )


def writable_properties(body: Mapping[str, Any], writable: Collection[str], kind: str) -> Resource:
    """Return the writable properties of a request's resource.

    Args:
        body: The resource.
        writable: Names of the writable properties.
        kind: Kind of the resource, for messages.

    Raises:
        ApiError: 400 for an invalid property, 501 for one that is not implemented.
    """
    resource: Resource = {}
    for key, value in body.items():
        if key in writable:
            resource[key] = value
        elif key not in _OUTPUT_ONLY and value not in (None, {}, [], "", False):
            raise not_implemented(f"{key!r} of a {kind}")
    view = resource.get("view")
    if view is not None:
        if not isinstance(view, dict) or not view.get("query"):
            raise ApiError(400, "Required parameter is missing: view.query", reason="required")
        if view.get("useLegacySql", True):
            raise not_implemented("views in legacy SQL (useLegacySql)")
    if resource.get("externalDataConfiguration"):
        check_external(resource)
    partitioning = resource.get("timePartitioning")
    if partitioning and partitioning.get("type") not in ("HOUR", "DAY", "MONTH", "YEAR"):
        raise ApiError(400, "Invalid value for timePartitioning.type", reason="invalid")
    return {key: value for key, value in resource.items() if value is not None or key in body}


def merge_properties(old: Mapping[str, Any], changes: Mapping[str, Any], cleared: Collection[str]) -> Resource:
    """Return the properties of a resource after an update.

    Args:
        old: The current properties.
        changes: The changed properties. None removes a property; labels are merged key by key.
        cleared: Properties that are removed first, for an update that replaces them.
    """
    resource = {key: value for key, value in old.items() if key not in cleared}
    for key, value in changes.items():
        if value is None:
            resource.pop(key, None)
        elif key == "labels" and not cleared:
            labels = {**resource.get("labels", {}), **value}
            resource["labels"] = {name: text for name, text in labels.items() if text is not None}
        else:
            resource[key] = value
    return resource


def check_labels(resource: Mapping[str, Any]) -> None:
    """Validate labels.

    Raises:
        ApiError: 400.
    """
    for key, value in (resource.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(str(value or "")):
            raise ApiError(
                400,
                f"Invalid label {key!r}: {value!r}. Keys start with a lowercase letter; keys and values have "
                "lowercase letters, digits, _ and -, at most 63 characters.",
                reason="invalid",
            )


def check_expiration(resource: Mapping[str, Any], now_ms: int) -> None:
    """Validate ``expirationTime``.

    Raises:
        ApiError: 400 if it is in the past.
    """
    expires = resource.get("expirationTime")
    if expires is not None and int(expires) <= now_ms:
        raise ApiError(400, "Invalid value for expirationTime: must be in the future", reason="invalid")


def etag(resource: Mapping[str, Any]) -> str:
    """Return the etag of a resource."""
    return hashlib.md5(orjson.dumps(resource, option=orjson.OPT_SORT_KEYS), usedforsecurity=False).hexdigest()


def check_etag(wanted: str | None, resource: Mapping[str, Any]) -> None:
    """Check the If-Match header of a request against a resource.

    Raises:
        ApiError: 412 if the resource has changed.
    """
    if wanted not in (None, "", "*", etag(resource)):
        raise ApiError(412, "Precondition check failed.", reason="conditionNotMet")


def dataset_resource(project: str, name: str, properties: Resource) -> Resource:
    """Return the REST resource of a dataset."""
    return {
        "kind": "bigquery#dataset",
        "etag": etag(properties),
        "id": f"{project}:{name}",
        "datasetReference": {"projectId": project, "datasetId": name},
        "type": "DEFAULT",
    } | properties


def table_resource(table: Table, location: str, sizes: Mapping[str, int] | None) -> Resource:
    """Return the REST resource of a table.

    Args:
        table: The table or view.
        location: Location of its dataset.
        sizes: Rows and bytes as `Catalog.size` returns them; None for a list response.
    """
    body: Resource = {
        "kind": "bigquery#table",
        "etag": etag(table.resource),
        "id": str(table.ident),
        "tableReference": table.ident.resource(),
        "type": table.kind,
    }
    if sizes is None:
        listed = ("friendlyName", "labels", "expirationTime", "creationTime", "timePartitioning", "clustering")
        body |= {key: table.resource[key] for key in listed if key in table.resource}
        if table.view is not None:
            body["view"] = {"useLegacySql": False}
        return body
    body |= table.resource
    body["location"] = location
    if table.view is None:
        total = str(sum(size for name, size in sizes.items() if name))
        body |= {"numRows": str(sizes[""]), "numBytes": total, "numLongTermBytes": "0"}
    return body
