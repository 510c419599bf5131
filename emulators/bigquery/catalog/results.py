"""Results of queries: anonymous tables in memory."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.resources import now_ms
from imagebeam.emulators.bigquery.catalog.store import RESULTS, Store
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.types import Field, quote, schema_resource

#: Number of finished queries whose results are kept; the oldest are dropped first.
KEPT_RESULTS: Final = 1_000
_LIFETIME_MS: Final = 86_400_000


@dataclasses.dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows of a finished query.

    Attributes:
        ident: The anonymous table.
        duck: Its name in DuckDB.
        fields: Its columns.
        rows: Number of rows.
        created_ms: Creation time in milliseconds since 1970.
        location: Location of the query.
    """

    ident: TableId
    duck: str
    fields: tuple[Field, ...]
    rows: int
    created_ms: int
    location: str

    def resource(self) -> dict[str, Any]:
        """Return the anonymous table as the REST API shows it."""
        return {
            "kind": "bigquery#table",
            "id": str(self.ident),
            "etag": self.ident.table,
            "tableReference": self.ident.resource(),
            "type": "TABLE",
            "schema": schema_resource(self.fields),
            "numRows": str(self.rows),
            "numBytes": "0",
            "location": self.location,
            "creationTime": str(self.created_ms),
            "expirationTime": str(self.created_ms + _LIFETIME_MS),
        }


class QueryResults:
    """Results of finished queries. Thread-safe.

    Args:
        store: The database.

    Attributes:
        dataset: Name of the anonymous dataset.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.dataset = "_" + hashlib.sha256(store.project.encode()).hexdigest()[:40]
        self._results: dict[str, QueryResult] = {}
        self._lock = threading.Lock()

    def add(self, key: str, fields: tuple[Field, ...], rows: int, location: str) -> QueryResult:
        """Register the table ``results.<key>`` of a finished query; drop the oldest results."""
        ident = TableId(self._store.project, self.dataset, key)
        result = QueryResult(ident, f"memory.{RESULTS}.{quote(key)}", fields, rows, now_ms(), location)
        with self._lock:
            self._results[key] = result
            oldest = list(self._results.values())[:-KEPT_RESULTS]
        for item in oldest:
            self.drop(item)
        return result

    def drop(self, result: QueryResult) -> None:
        """Drop the rows of a query, if they still exist."""
        with self._lock:
            self._results.pop(result.ident.table, None)
        with self._store.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {result.duck}")

    def find(self, ident: TableId) -> QueryResult | None:
        """Return the result with this anonymous table, or None when it is unknown or dropped."""
        return self._results.get(ident.table) if ident.dataset == self.dataset else None
