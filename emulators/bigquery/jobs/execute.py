"""Planning and running one statement."""

from __future__ import annotations

import dataclasses
from typing import Final

import duckdb

from imagebeam.emulators.bigquery.ai.ddl import run_resource_ddl
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.lookup import CatalogLookup
from imagebeam.emulators.bigquery.catalog.results import QueryResult
from imagebeam.emulators.bigquery.dialect.errors import translate_error
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import invalid
from imagebeam.emulators.bigquery.dialect.statement import Statement, translate_statement
from imagebeam.emulators.bigquery.dialect.types import Field
from imagebeam.emulators.bigquery.jobs.ddl import run_ddl
from imagebeam.emulators.bigquery.jobs.query import (
    QueryPlan,
    QueryRequest,
    TrackConnection,
    copy_rows,
    result_fields,
    run_select,
)
from imagebeam.emulators.core.http import ApiError

#: On-demand queries are billed in whole megabytes, at least ten per table.
MEGABYTE: Final = 2**20
MIN_MEGABYTES: Final = 10
_DML: Final = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE_TABLE"))


@dataclasses.dataclass(frozen=True, slots=True)
class StatementOutcome:
    """What a statement did.

    Attributes:
        result: Its rows; None for DML and DDL.
        affected_rows: Number of rows changed by DML, else None.
    """

    result: QueryResult | None
    affected_rows: int | None = None


def plan_query(catalog: Catalog, request: QueryRequest) -> QueryPlan:
    """Check a query without running it.

    Raises:
        ApiError: The error that BigQuery would return for an invalid query.
    """
    statement = translate_statement(request.sql, CatalogLookup(catalog), request.default, request.parameters)
    location = _location(catalog, request, statement)
    fields: tuple[Field, ...] = ()
    processed = billed = 0
    for ident in statement.tables:
        if catalog.results.find(ident) is not None:
            continue
        table = catalog.table(ident)
        if table.view is not None:
            continue
        sizes = catalog.size(table)
        read = sum(
            size for name, size in sizes.items() if name and (statement.columns is None or name in statement.columns)
        )
        processed += read
        if read:
            billed += max(MIN_MEGABYTES, -(-read // MEGABYTE)) * MEGABYTE
    if statement.sql and statement.kind in ("SELECT", "CREATE_TABLE_AS_SELECT"):
        fields = result_fields(catalog, request.sql, statement)
    limit = request.maximum_bytes_billed
    if limit is not None and billed > limit:
        raise ApiError(
            400,
            f"Query exceeded limit for bytes billed: {limit}. {billed} or higher required.",
            reason="bytesBilledLimitExceeded",
        )
    return QueryPlan(request, statement, fields, processed, billed, location)


def run_query(catalog: Catalog, plan: QueryPlan, key: str, track: TrackConnection = lambda _: None) -> StatementOutcome:
    """Run a checked query.

    Args:
        catalog: The tables.
        plan: The checked query.
        key: Name of the anonymous table.
        track: Receives the connection that runs the query.

    Raises:
        ApiError: The error that BigQuery would return.
    """
    request, statement = plan.request, plan.statement
    if statement.kind == "SELECT":
        result = run_select(catalog, plan, key, track)
        if request.destination is not None:
            _write_to_destination(catalog, request, request.destination, result)
        return StatementOutcome(result)
    if "definition" in statement.options:
        run_resource_ddl(catalog, statement.options["definition"], statement.target)
        return StatementOutcome(None)
    if statement.kind in _DML:
        return StatementOutcome(None, _run_dml(catalog, plan, track))
    run_ddl(catalog, plan, key, track)
    return StatementOutcome(None)


def _location(catalog: Catalog, request: QueryRequest, statement: Statement) -> str:
    """Return where a query runs: all its datasets must be in one location, and in the requested one."""
    tables = [
        *statement.tables,
        *statement.models,
        *(item for item in (statement.target, request.destination) if item is not None),
    ]
    found = None
    for ident in tables:
        if ident.dataset == catalog.results.dataset:
            continue
        if statement.kind == "CREATE_SCHEMA":
            break
        location = catalog.dataset(ident.project, ident.dataset).location
        wanted = request.location or found
        if wanted is not None and location.lower() != wanted.lower():
            raise ApiError(
                404,
                f"Not found: Dataset {ident.project}:{ident.dataset} was not found in location {wanted}",
                reason="notFound",
            )
        found = found or location
    return found or request.location or "US"


def _run_dml(catalog: Catalog, plan: QueryPlan, track: TrackConnection) -> int:
    statement = plan.statement
    sql = statement.sql
    with catalog.store.writing:
        table = catalog.table(statement.required_target)
        if table.kind != "TABLE":
            raise invalid(f"Cannot modify the {table.kind.lower()} {table.ident}")
        if statement.kind == "TRUNCATE_TABLE":
            name = catalog.store.duck_name(table.ident.dataset, table.ident.table)
            sql = f"DELETE FROM {name}"
        with catalog.store.cursor() as cursor:
            track(cursor)
            try:
                row = cursor.execute(sql, dict(statement.values)).fetchone()
            except duckdb.Error as problem:
                raise translate_error(problem, plan.request.sql) from problem
            finally:
                track(None)
        catalog.touch(table)
    return int(row[0]) if row else 0


def _write_to_destination(catalog: Catalog, request: QueryRequest, target: TableId, result: QueryResult) -> None:
    """Copy the rows of a query into the destination table of its job."""
    with catalog.store.writing:
        try:
            table = catalog.table(target)
        except ApiError as problem:
            if problem.code != 404 or request.create == "CREATE_NEVER":
                raise
            body = {"tableReference": target.resource()}
            table = catalog.create_table(target.dataset, body, result.fields)
        else:
            if request.write == "WRITE_EMPTY" and catalog.size(table)[""]:
                raise ApiError(409, f"Already Exists: Table {target}", reason="duplicate")
            if request.write == "WRITE_TRUNCATE":
                body = {
                    "tableReference": target.resource(),
                    **{key: table.resource[key] for key in ("description", "labels") if key in table.resource},
                }
                catalog.delete_table(target)
                table = catalog.create_table(target.dataset, body, result.fields)
        copy_rows(catalog, result, table)
