"""Streaming inserts: tabledata.insertAll."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import orjson

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.row_reader import RowError, RowReader
from imagebeam.emulators.bigquery.catalog.rows import append_rows
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError

#: Number of insert ids that are remembered per table. BigQuery remembers them for about a minute.
REMEMBERED_IDS: Final = 50_000
#: Maximum number of rows of one request, as in BigQuery.
MAX_ROWS: Final = 50_000
_REQUEST_KEYS: Final = frozenset(
    ("kind", "rows", "skipInvalidRows", "ignoreUnknownValues", "templateSuffix", "traceId")
)
_STOPPED: Final = {"reason": "stopped", "location": "", "debugInfo": "", "message": ""}


class RowInserter:
    """Inserts rows as tabledata.insertAll does, with deduplication by ``insertId``. Thread-safe.

    Args:
        catalog: The tables.
        faults: Its key ``bigquery.insert_failures`` is applied.
        counters: Counts requests and rows.
    """

    def __init__(self, catalog: Catalog, faults: FaultConfig, counters: Counters) -> None:
        self._catalog = catalog
        self._faults = faults
        self._counters = counters
        self._seen: dict[tuple[TableId, str], OrderedDict[str, None]] = {}
        self._lock = threading.Lock()

    def insert(self, ident: TableId, body: dict[str, Any]) -> dict[str, Any]:
        """Insert rows.

        Args:
            ident: The table.
            body: The request.

        Returns:
            The response, with the errors of rejected rows.

        Raises:
            ApiError: 404 for an unknown table, 400 for an invalid request, 503 for a configured fault.
        """
        self._counters.add("bigquery", "insert_requests")
        for key, value in body.items():
            if key not in _REQUEST_KEYS or (key == "templateSuffix" and value):
                raise not_implemented(f"{key!r} of insertAll")
        rows = body.get("rows")
        if not isinstance(rows, list) or not rows:
            raise ApiError(400, "No rows present in the request.", reason="invalid")
        if len(rows) > MAX_ROWS:
            raise ApiError(400, f"Too many rows present in the request, limit: {MAX_ROWS}.", reason="invalid")
        table = self._catalog.table(ident)
        if table.kind != "TABLE":
            raise ApiError(400, f"Cannot add rows to a table of type {table.kind}: {ident}", reason="invalid")
        if not table.fields:
            raise ApiError(400, f"The destination table has no schema: {ident}", reason="invalid")
        lost_answer = self._apply_request_faults(rows)
        accepted, errors = self._read(table, rows, ignore_unknown=_flag(body, "ignoreUnknownValues"))
        if errors and not _flag(body, "skipInvalidRows"):
            for index in accepted:
                errors[index] = [_STOPPED]
            accepted = {}
        if accepted:
            self._write(table, rows, accepted)
        if lost_answer is not None:
            raise lost_answer
        response: dict[str, Any] = {"kind": "bigquery#tableDataInsertAllResponse"}
        if errors:
            response["insertErrors"] = [{"index": index, "errors": errors[index]} for index in sorted(errors)]
        return response

    def _apply_request_faults(self, rows: Sequence[Any]) -> ApiError | None:
        """Raise the fault of a whole request, or return it when the rows are to be written first."""
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
        read = RowReader(table.fields, json_text=True, ignore_unknown=ignore_unknown).reader()
        accepted: dict[int, list[Any]] = {}
        errors: dict[int, list[dict[str, str]]] = {}
        has_faults = bool(self._faults.section("bigquery").get("insert_failures"))
        for index, row in enumerate(rows):
            try:
                content = row.get("json") if isinstance(row, dict) else None
                if not isinstance(content, dict):
                    raise RowError("", "Row has no 'json' object.")
                if has_faults:
                    self._apply_row_faults(content)
                accepted[index] = read(content)
            except RowError as problem:
                errors[index] = [problem.resource()]
        return accepted, errors

    def _apply_row_faults(self, content: dict[str, Any]) -> None:
        text = orjson.dumps(content).decode()
        rule = self._faults.take(
            "bigquery", text, key="insert_failures", when=lambda rule: rule.get("do") == "row_error"
        )
        if rule is not None:
            raise RowError("", str(rule.get("message") or "The row was rejected by a configured fault."))

    def _write(self, table: Table, rows: Sequence[Any], accepted: dict[int, list[Any]]) -> None:
        """Insert the rows whose ids are new. Requests run one after the other, so that deduplication is exact."""
        with self._catalog.store.writing:
            present = self._catalog.table(table.ident)
            # A table that was deleted and created again starts without ids.
            key = (present.ident, str(present.resource["creationTime"]))
            with self._lock:
                if key not in self._seen:
                    self._seen = {known: ids for known, ids in self._seen.items() if known[0] != present.ident}
                    self._seen[key] = OrderedDict()
                seen = self._seen[key]
            fresh: dict[str, None] = {}
            values = []
            for index, row in accepted.items():
                row_id = rows[index].get("insertId")
                if row_id is not None and row_id != "":
                    if row_id in seen or row_id in fresh:
                        continue
                    fresh[str(row_id)] = None
                values.append(row)
            append_rows(self._catalog, present, [values])
            seen.update(fresh)
            while len(seen) > REMEMBERED_IDS:
                seen.popitem(last=False)
        self._counters.add("bigquery", "inserted_rows", amount=len(values))
        if len(values) < len(accepted):
            self._counters.add("bigquery", "deduplicated_rows", amount=len(accepted) - len(values))


def _flag(body: dict[str, Any], key: str) -> bool:
    return str(body.get(key, False)).lower() == "true"
