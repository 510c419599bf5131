"""Rows that go into tables: streamed ones (tabledata.insertAll) and whole batches (load jobs)."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.catalog.values import Reader, RowError, arrow_table
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import quote
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError

#: Row ids that are remembered per table; BigQuery remembers them for about a minute.
REMEMBERED_IDS: Final = 50_000
#: Most rows of one request, as in BigQuery.
MOST_ROWS: Final = 50_000
_REQUEST_KEYS: Final = frozenset(
    ("kind", "rows", "skipInvalidRows", "ignoreUnknownValues", "templateSuffix", "traceId")
)
_STOPPED: Final = {"reason": "stopped", "location": "", "debugInfo": "", "message": ""}


class Streamer:
    """tabledata.insertAll.

    Args:
        catalog: The tables.
        faults: Its section ``bigquery.insert_failures`` is applied here.
        counters: Where requests and rows are counted.
    """

    def __init__(self, catalog: Catalog, faults: FaultConfig, counters: Counters) -> None:
        self._catalog = catalog
        self._faults = faults
        self._counters = counters
        self._seen: dict[tuple[TableId, str], OrderedDict[str, None]] = {}
        self._lock = threading.Lock()

    def insert(self, ident: TableId, body: dict[str, Any]) -> dict[str, Any]:
        """Insert rows; return the API's answer with the errors of those that were refused.

        Raises:
            ApiError: 404 for a missing table, 400 for a bad request, 503 when a fault says so.
        """
        self._counters.add("bigquery", "insert_requests")
        for key, value in body.items():
            if key not in _REQUEST_KEYS or (key == "templateSuffix" and value):
                raise not_implemented(f"{key!r} of insertAll")
        rows = body.get("rows")
        if not isinstance(rows, list) or not rows:
            raise ApiError(400, "No rows present in the request.", reason="invalid")
        if len(rows) > MOST_ROWS:
            raise ApiError(400, f"Too many rows present in the request, limit: {MOST_ROWS}.", reason="invalid")
        table = self._catalog.table(ident)
        if table.kind != "TABLE":
            raise ApiError(400, f"Cannot add rows to a table of type {table.kind}: {ident}", reason="invalid")
        if not table.fields:
            raise ApiError(400, f"The destination table has no schema: {ident}", reason="invalid")
        after = self._check_request(rows)
        good, errors = self._read(table, rows, ignore_unknown=_flag(body, "ignoreUnknownValues"))
        if errors and not _flag(body, "skipInvalidRows"):
            for index in good:
                errors[index] = [_STOPPED]
            good = {}
        if good:
            self._write(table, rows, good)
        if after is not None:
            raise after
        answer: dict[str, Any] = {"kind": "bigquery#tableDataInsertAllResponse"}
        if errors:
            answer["insertErrors"] = [{"index": index, "errors": errors[index]} for index in sorted(errors)]
        return answer

    def _check_request(self, rows: Sequence[Any]) -> ApiError | None:
        """Apply the faults of whole requests; the error that is returned comes after the rows are in."""
        for row in rows:
            text = orjson.dumps(row).decode() if self._faults.version else ""
            rule = self._faults.take(
                "bigquery", text, key="insert_failures", when=lambda rule: rule.get("do") != "row_error"
            )
            if rule is not None:
                self._counters.add("bigquery", "insert_faults")
                problem = ApiError(
                    503, "Error encountered during execution. Retrying may solve it.", reason="backendError"
                )
                if rule.get("do") == "lost_answer":
                    return problem
                raise problem
        return None

    def _read(
        self, table: Table, rows: Sequence[Any], *, ignore_unknown: bool
    ) -> tuple[dict[int, list[Any]], dict[int, list[dict[str, str]]]]:
        read = Reader(table.fields, json_text=True, ignore_unknown=ignore_unknown).columns()
        good: dict[int, list[Any]] = {}
        errors: dict[int, list[dict[str, str]]] = {}
        faulty = bool(self._faults.section("bigquery").get("insert_failures"))
        for index, row in enumerate(rows):
            try:
                content = row.get("json") if isinstance(row, dict) else None
                if not isinstance(content, dict):
                    raise RowError("", "Row has no 'json' object.")
                if faulty:
                    self._refuse(content)
                good[index] = read(content)
            except RowError as problem:
                errors[index] = [problem.resource()]
        return good, errors

    def _refuse(self, content: dict[str, Any]) -> None:
        text = orjson.dumps(content).decode()
        rule = self._faults.take(
            "bigquery", text, key="insert_failures", when=lambda rule: rule.get("do") == "row_error"
        )
        if rule is not None:
            raise RowError("", str(rule.get("message") or "The row was refused because a fault says so."))

    def _write(self, table: Table, rows: Sequence[Any], good: dict[int, list[Any]]) -> None:
        """Insert the good rows whose ids are new. One request after the other, so that ids are exact."""
        with self._catalog.store.writing:
            present = self._catalog.table(table.ident)
            # A table that was deleted and made again remembers nothing.
            key = (present.ident, str(present.resource["creationTime"]))
            with self._lock:
                if key not in self._seen:
                    self._seen = {known: ids for known, ids in self._seen.items() if known[0] != present.ident}
                    self._seen[key] = OrderedDict()
                seen = self._seen[key]
            fresh: dict[str, None] = {}
            values = []
            for index, row in good.items():
                row_id = rows[index].get("insertId")
                if row_id is not None and row_id != "":
                    if row_id in seen or row_id in fresh:
                        continue
                    fresh[str(row_id)] = None
                values.append(row)
            append(self._catalog, present, [values])
            seen.update(fresh)
            while len(seen) > REMEMBERED_IDS:
                seen.popitem(last=False)
        self._counters.add("bigquery", "inserted_rows", amount=len(values))
        if len(values) < len(good):
            self._counters.add("bigquery", "deduplicated_rows", amount=len(good) - len(values))


def append(
    catalog: Catalog,
    table: Table,
    batches: Any,
    *,
    truncate: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Put batches of read rows into a table, all or none; return how many rows.

    Args:
        catalog: The tables.
        table: Where they go.
        batches: Iterable of lists of rows, as :class:`Reader` makes them.
        truncate: Delete the rows that are there first, in the same transaction.
        progress: Told the number of rows after every batch.
    """
    name = catalog.store.duck_name(table.ident.dataset, table.ident.table)
    columns = ", ".join(quote(field.name) for field in table.fields)
    count = 0
    with catalog.store.writing, catalog.store.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            if truncate:
                cursor.execute(f"DELETE FROM {name}")
            for rows in batches:
                if not rows:
                    continue
                # Not registered: until its end a transaction keeps every view that it saw, and the rows with it.
                incoming_rows = arrow_table(table.fields, rows)  # noqa: F841  (DuckDB finds it by its name)
                cursor.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM incoming_rows")
                count += len(rows)
                if progress is not None:
                    progress(count)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        catalog.touch(table)
    return count


def _flag(body: dict[str, Any], key: str) -> bool:
    return str(body.get(key, False)).lower() == "true"
