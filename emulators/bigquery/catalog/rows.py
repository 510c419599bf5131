"""Appending rows to tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.row_reader import arrow_table
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.types import quote


def append_rows(
    catalog: Catalog, table: Table, batches: Iterable[Sequence[Sequence[Any]]], *, truncate: bool = False
) -> int:
    """Append batches of rows to a table in one transaction.

    Args:
        catalog: The tables.
        table: The table.
        batches: Rows as `RowReader` makes them.
        truncate: Whether to delete the existing rows in the same transaction.

    Returns:
        Number of appended rows.
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
                # Not registered: a transaction keeps every registered view, and its rows, until it ends.
                incoming_rows = arrow_table(table.fields, rows)  # noqa: F841  (DuckDB finds it by its name)
                cursor.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM incoming_rows")
                count += len(rows)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise
        catalog.touch(table)
    return count
