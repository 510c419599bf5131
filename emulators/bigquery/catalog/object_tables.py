"""Object tables: Cloud Storage objects as rows with a metadata cache, and the metadata of an ObjectRef."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import fnmatch
import hashlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

from imagebeam.emulators.bigquery.catalog.store import Store
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented
from imagebeam.emulators.bigquery.dialect.types import Field, quote
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_metadata import StoredObject
from imagebeam.emulators.storage.object_store import ObjectStore

#: Columns of every object table.
OBJECT_FIELDS: Final = (
    Field("uri", "STRING"),
    Field("generation", "INTEGER"),
    Field("content_type", "STRING"),
    Field("size", "INTEGER"),
    Field("md5_hash", "STRING"),
    Field("updated", "TIMESTAMP"),
    Field("metadata", "RECORD", "REPEATED", (Field("name", "STRING"), Field("value", "STRING"))),
    Field(
        "ref",
        "RECORD",
        fields=(
            Field("uri", "STRING"),
            Field("version", "STRING"),
            Field("authorizer", "STRING"),
            Field("details", "JSON"),
        ),
    ),
)
#: Minimum and maximum of a nonzero max_staleness, in milliseconds.
STALENESS_MS: Final = (30 * 60 * 1000, 7 * 24 * 3600 * 1000)
_SCHEMA: Final = "objects"
#: Number of listings per table that are kept: a query planned with an older listing can still run.
_KEPT_LISTINGS: Final = 4
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_ARROW: Final = pa.schema(
    [
        ("uri", pa.string()),
        ("generation", pa.int64()),
        ("content_type", pa.string()),
        ("size", pa.int64()),
        ("md5_hash", pa.string()),
        ("updated", pa.timestamp("us", tz="UTC")),
        ("metadata", pa.list_(pa.struct([("name", pa.string()), ("value", pa.string())]))),
        (
            "ref",
            pa.struct(
                [("uri", pa.string()), ("version", pa.string()), ("authorizer", pa.string()), ("details", pa.string())]
            ),
        ),
    ]
)


def check_external(resource: Mapping[str, Any]) -> None:
    """Check the ``externalDataConfiguration`` of a table.

    Raises:
        ApiError: 400 for an invalid configuration, 501 for external tables other than object tables.
    """
    config = resource["externalDataConfiguration"]
    if str(config.get("objectMetadata") or "").upper() != "SIMPLE":
        raise not_implemented("external tables other than object tables (object_metadata = 'SIMPLE')")
    if not config.get("connectionId"):
        raise invalid("An object table needs WITH CONNECTION")
    uris = config.get("sourceUris")
    if not isinstance(uris, list) or not uris:
        raise invalid("Required option is missing: uris")
    for uri in uris:
        _check_pattern(uri)
    mode, staleness = config.get("metadataCacheMode"), int(resource.get("maxStaleness") or 0)
    if mode not in (None, "AUTOMATIC", "MANUAL"):
        raise invalid(f"Invalid value for metadata_cache_mode: {mode}. Use AUTOMATIC or MANUAL")
    if staleness and not STALENESS_MS[0] <= staleness <= STALENESS_MS[1]:
        raise invalid("max_staleness must be 0 or between 30 minutes and 7 days")
    if staleness and mode is None:
        raise invalid("metadata_cache_mode must be set when max_staleness is greater than 0")


def _check_pattern(uri: Any) -> None:
    if not isinstance(uri, str) or not re.fullmatch(r"gs://[^/*]+/.+", uri):
        raise invalid(f"Invalid uri {uri!r}: write gs://bucket/path")
    if uri.count("*") > 1:
        raise invalid(f"Invalid uri {uri!r}: it may have one * only")


@dataclasses.dataclass(slots=True)
class _Cache:
    """Listings of one table.

    Attributes:
        names: Names of the listings in DuckDB, newest last.
        read_ms: When the newest listing was read, in milliseconds since 1970.
    """

    names: list[str]
    read_ms: int


class ObjectTables:
    """Lists buckets into DuckDB tables in memory. Thread-safe.

    Args:
        store: The database.
        objects: The objects.
    """

    def __init__(self, store: Store, objects: ObjectStore) -> None:
        self._store = store
        self._objects = objects
        self._lock = threading.RLock()
        self._caches: dict[str, _Cache] = {}
        with store.cursor() as cursor:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS memory.{_SCHEMA}")

    def current(self, table: Table, now_ms: int) -> str:
        """Return the DuckDB name of a table's rows; list the bucket if the cache is older than max_staleness."""
        key = f"{table.ident} {table.resource['creationTime']}"
        staleness = int(table.resource.get("maxStaleness") or 0)
        with self._lock:
            cache = self._caches.get(key)
            if cache is None or now_ms - cache.read_ms >= staleness:
                cache = self._list(key, table, now_ms)
            return cache.names[-1]

    def refresh(self, table: Table, now_ms: int) -> None:
        """List the bucket now (``BQ.REFRESH_EXTERNAL_METADATA_CACHE``).

        Raises:
            ApiError: 400 if the cache mode of the table is not MANUAL.
        """
        if table.resource["externalDataConfiguration"].get("metadataCacheMode") != "MANUAL":
            raise invalid(f"The metadata cache of {table.ident} is not refreshed manually")
        with self._lock:
            self._list(f"{table.ident} {table.resource['creationTime']}", table, now_ms)

    def check_buckets(self, resource: Mapping[str, Any]) -> None:
        """Check that the buckets of a table exist.

        Raises:
            ApiError: 404 for an unknown bucket.
        """
        for uri in resource["externalDataConfiguration"]["sourceUris"]:
            bucket = uri.removeprefix("gs://").partition("/")[0]
            if bucket not in self._objects.buckets():
                raise ApiError(404, f"Not found: URI {uri}: the bucket {bucket} does not exist", reason="notFound")

    def details(self, uri: str) -> dict[str, Any]:
        """Return the ``details`` of OBJ.FETCH_METADATA: the metadata of an object, or an error."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        stored = self._objects.read(bucket, name) if uri.startswith("gs://") else None
        if stored is None:
            return {"errors": [{"code": 404, "message": f"No such object: {uri}", "source": "OBJ.FETCH_METADATA"}]}
        return {"gcs_metadata": self._metadata(stored)}

    def _metadata(self, stored: StoredObject) -> dict[str, Any]:
        return {
            "content_type": stored.content_type,
            "md5_hash": self._md5(stored),
            "size": stored.size,
            "updated": stored.updated_us,
        }

    def _md5(self, stored: StoredObject) -> str | None:
        if stored.components:
            return None
        return base64.b64decode(self._objects.digests(stored)[0]).hex()

    def _list(self, key: str, table: Table, now_ms: int) -> _Cache:
        rows = list(self._rows(table.resource["externalDataConfiguration"]))
        digest = hashlib.sha256(orjson.dumps([key, rows], default=str)).hexdigest()[:32]
        name = f"memory.{_SCHEMA}.{quote(digest)}"
        cache = self._caches.setdefault(key, _Cache([], now_ms))
        cache.read_ms = now_ms
        if name in cache.names:
            cache.names.remove(name)
        else:
            self._write(name, rows)
        cache.names.append(name)
        while len(cache.names) > _KEPT_LISTINGS:
            with self._store.cursor() as cursor:
                cursor.execute(f"DROP TABLE IF EXISTS {cache.names.pop(0)}")
        return cache

    def _write(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        columns = ", ".join(f"CAST({quote(field.name)} AS {field.duck_type()}) AS {quote(field.name)}"
                            for field in OBJECT_FIELDS)  # fmt: skip
        with self._store.cursor() as cursor:
            cursor.register("listed_objects", pa.Table.from_pylist(list(rows), schema=_ARROW))
            cursor.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT {columns} FROM listed_objects")
            cursor.unregister("listed_objects")

    def _rows(self, config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        seen = set()
        for uri in config["sourceUris"]:
            bucket, _, pattern = uri.removeprefix("gs://").partition("/")
            prefix, star, _ = pattern.partition("*")
            wanted = re.compile(fnmatch.translate(pattern.replace("[", "[[]").replace("?", "[?]")))
            for stored in self._objects.list(bucket, prefix):
                if stored.uri in seen or not (wanted.match(stored.name) if star else stored.name == pattern):
                    continue
                seen.add(stored.uri)
                yield self._row(stored, str(config["connectionId"]))

    def _row(self, stored: StoredObject, connection: str) -> dict[str, Any]:
        metadata = stored.fields.get("metadata") or {}
        return {
            "uri": stored.uri,
            "generation": stored.generation,
            "content_type": stored.content_type,
            "size": stored.size,
            "md5_hash": None if stored.components else self._objects.digests(stored)[0],
            "updated": _EPOCH + datetime.timedelta(microseconds=stored.updated_us),
            "metadata": [{"name": name, "value": value} for name, value in sorted(metadata.items())],
            "ref": {
                "uri": stored.uri,
                "version": str(stored.generation),
                "authorizer": connection,
                "details": orjson.dumps({"gcs_metadata": self._metadata(stored)}).decode(),
            },
        }
