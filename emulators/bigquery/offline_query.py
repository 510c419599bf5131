"""Queries of the database file while the local BigQuery is down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.store import Store
from imagebeam.emulators.bigquery.dialect.functions.geography import to_wkt
from imagebeam.emulators.bigquery.jobs.execute import plan_query
from imagebeam.emulators.bigquery.jobs.query import QueryRequest, run_select
from imagebeam.emulators.core.http import ApiError
from imagebeam.transforms.core.errors import UserError


def query_database(database: Path, project: str, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Run a query on the file of a local BigQuery that is down. The file is not changed.

    Args:
        database: The file.
        project: Its project.
        sql: One SELECT statement in BigQuery SQL.

    Returns:
        Names of the columns, and the rows as Python values.

    Raises:
        UserError: The query is invalid, or the file is in use.
    """
    try:
        store = Store(database, project, read_only=True)
    except duckdb.Error as problem:
        raise UserError(f"{database} cannot be opened: {str(problem).splitlines()[0]}") from problem
    try:
        catalog = Catalog(store)
        plan = plan_query(catalog, QueryRequest(sql))
        if plan.statement.kind != "SELECT":
            raise UserError(f"the local BigQuery is not running: only SELECT is supported, not {plan.statement.kind}")
        result = run_select(catalog, plan, "result", lambda _: None)
        with store.cursor() as cursor:
            rows = cursor.execute(f"SELECT * FROM {result.duck}").fetchall()
    except ApiError as problem:
        raise UserError(f"the query failed: {problem.message}") from problem
    finally:
        store.close()
    return [field.name for field in result.fields], _to_readable(result.fields, rows)


def _to_readable(fields: Any, rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows with geography as WKT instead of WKB."""
    columns = [index for index, field in enumerate(fields) if field.type == "GEOGRAPHY" and not field.repeated]
    if not columns:
        return rows
    return [
        tuple(to_wkt(value) if index in columns and value is not None else value for index, value in enumerate(row))
        for row in rows
    ]
