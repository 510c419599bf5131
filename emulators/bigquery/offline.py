"""Queries on the file of a local BigQuery that is down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.store import Store
from imagebeam.emulators.bigquery.dialect.functions.geography import to_wkt
from imagebeam.emulators.bigquery.jobs.run import prepare, run
from imagebeam.emulators.bigquery.jobs.select import Request
from imagebeam.emulators.core.http import ApiError
from imagebeam.transforms.core.errors import UserError


def run_sql(database: Path, project: str, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a query on the file of a local BigQuery that is down; nothing is changed.

    Args:
        database: The file.
        project: The project that it holds.
        sql: BigQuery SQL, one SELECT.

    Returns:
        Names of the columns, and the rows as Python values.

    Raises:
        UserError: The query is wrong, or the file is in use.
    """
    try:
        store = Store(database, project, read_only=True)
    except duckdb.Error as problem:
        raise UserError(f"{database} cannot be opened: {str(problem).splitlines()[0]}") from problem
    try:
        catalog = Catalog(store)
        request = Request(sql)
        prepared = prepare(catalog, request)
        if prepared.statement.kind != "SELECT":
            raise UserError(f"the local BigQuery is down, so it can only be read: {prepared.statement.kind} is refused")
        result = run(catalog, request, prepared, "answer").result
        assert result is not None  # noqa: S101  (a SELECT has one)
        with store.cursor() as cursor:
            rows = cursor.execute(f"SELECT * FROM {result.duck}").fetchall()
    except ApiError as problem:
        raise UserError(f"the query failed: {problem.message}") from problem
    finally:
        store.close()
    return [field.name for field in result.fields], _shown(result.fields, rows)


def _shown(fields: Any, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Values that a person can read: geography as WKT instead of WKB."""
    places = [index for index, field in enumerate(fields) if field.type == "GEOGRAPHY" and not field.repeated]
    if not places:
        return rows
    return [
        tuple(to_wkt(value) if index in places and value is not None else value for index, value in enumerate(row))
        for row in rows
    ]
