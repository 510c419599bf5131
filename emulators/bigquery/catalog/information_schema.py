"""INFORMATION_SCHEMA views of a dataset."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.registry import Registry
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.names import values_query
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented

_TABLE_COLUMNS: Final = {"table_catalog": "VARCHAR", "table_schema": "VARCHAR", "table_name": "VARCHAR"}
_TABLE_TYPES: Final = {"TABLE": "BASE TABLE"}


def information_query(view: str, project: str, dataset: str, tables: Sequence[Table], registry: Registry) -> str:
    """Return a DuckDB query of the rows of a view.

    Raises:
        ApiError: 501 for a view that is not implemented.
    """
    if view == "TABLES":
        rows: list[tuple[Any, ...]] = [
            (project, dataset, table.ident.table, _TABLE_TYPES.get(table.kind, table.kind),
             _timestamp(table.resource["creationTime"]))
            for table in tables
        ]  # fmt: skip
        return values_query(_TABLE_COLUMNS | {"table_type": "VARCHAR", "creation_time": "TIMESTAMPTZ"}, rows)
    if view == "COLUMNS":
        columns = _TABLE_COLUMNS | {
            "column_name": "VARCHAR",
            "ordinal_position": "BIGINT",
            "is_nullable": "VARCHAR",
            "data_type": "VARCHAR",
        }
        return values_query(columns, list(_column_rows(project, dataset, tables)))
    if view == "VECTOR_INDEXES":
        columns = {
            "index_catalog": "VARCHAR",
            "index_schema": "VARCHAR",
            "table_name": "VARCHAR",
            "index_name": "VARCHAR",
            "index_status": "VARCHAR",
            "creation_time": "TIMESTAMPTZ",
            "coverage_percentage": "BIGINT",
            "unindexed_row_count": "BIGINT",
            "total_storage_bytes": "BIGINT",
            "disable_reason": "VARCHAR",
        }
        return values_query(columns, list(_index_rows(project, dataset, registry)))
    raise not_implemented(f"INFORMATION_SCHEMA.{view}")


def _index_rows(project: str, dataset: str, registry: Registry) -> Iterator[tuple[Any, ...]]:
    """Yield the vector indexes. An index is complete when it is created: searches do not use it."""
    for name, body in registry.all("index").items():
        if body["dataset"] == dataset:
            created = _timestamp(str(body["created_ms"]))
            index = name.rpartition(".")[2]
            yield project, dataset, body["table"], index, "ACTIVE", created, 100, 0, 0, None


def _timestamp(milliseconds: str) -> str:
    seconds, rest = divmod(int(milliseconds), 1000)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest:03d}+00"


def _column_rows(project: str, dataset: str, tables: Sequence[Table]) -> Iterator[tuple[Any, ...]]:
    for table in tables:
        for position, field in enumerate(table.fields, 1):
            nullable = "NO" if field.mode == "REQUIRED" else "YES"
            yield project, dataset, table.ident.table, field.name, position, nullable, field.sql_type()
