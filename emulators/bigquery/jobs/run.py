"""Running one statement: what it may cost, where it runs, what it does."""

from __future__ import annotations

import dataclasses
from typing import Final

import duckdb

from imagebeam.emulators.bigquery.ai.define import define_ai
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.results import QueryResult
from imagebeam.emulators.bigquery.dialect import errors as bigquery_errors
from imagebeam.emulators.bigquery.dialect.nodes import invalid
from imagebeam.emulators.bigquery.dialect.statement import Statement, plan
from imagebeam.emulators.bigquery.dialect.types import Field
from imagebeam.emulators.bigquery.jobs.ddl import define
from imagebeam.emulators.bigquery.jobs.select import Plan, Request, Watch, copy_rows, describe, select
from imagebeam.emulators.core.http import ApiError

#: On-demand queries are billed in whole megabytes, at least ten for each table.
MEGABYTE: Final = 2**20
LEAST_MEGABYTES: Final = 10
_CHANGES: Final = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE_TABLE"))


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did.

    Attributes:
        result: Its rows; DML and DDL have none.
        affected: Rows changed by DML, else None.
    """

    result: QueryResult | None
    affected: int | None = None


def prepare(catalog: Catalog, request: Request) -> Plan:
    """Check a query without running it.

    Raises:
        ApiError: What BigQuery would answer to a wrong query.
    """
    statement = plan(request.sql, catalog, request.default, request.parameters)
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
            billed += max(LEAST_MEGABYTES, -(-read // MEGABYTE)) * MEGABYTE
    if statement.sql and statement.kind in ("SELECT", "CREATE_TABLE_AS_SELECT"):
        fields = describe(catalog, request.sql, statement)
    limit = request.maximum_bytes_billed
    if limit is not None and billed > limit:
        raise ApiError(
            400,
            f"Query exceeded limit for bytes billed: {limit}. {billed} or higher required.",
            reason="bytesBilledLimitExceeded",
        )
    return Plan(statement, fields, processed, billed, location)


def run(
    catalog: Catalog,
    request: Request,
    prepared: Plan,
    key: str,
    watch: Watch = lambda _: None,
) -> Outcome:
    """Run a checked query.

    Args:
        catalog: The tables.
        request: What was asked.
        prepared: The same, checked.
        key: Name for the anonymous table.
        watch: Given the connection while it works (to interrupt it), then None.

    Raises:
        ApiError: What BigQuery would answer.
    """
    statement = prepared.statement
    if statement.kind == "SELECT":
        result = select(catalog, request, prepared, key, watch)
        if request.destination is not None:
            _to_table(catalog, request, result)
        return Outcome(result)
    if "definition" in statement.options:
        define_ai(catalog, statement.options["definition"], statement.target)
        return Outcome(None)
    if statement.kind in _CHANGES:
        return Outcome(None, _change(catalog, request, statement, watch))
    define(catalog, request, prepared, key, watch)
    return Outcome(None)


def _location(catalog: Catalog, request: Request, statement: Statement) -> str:
    """Where a query runs: all its datasets have to be in one place, and in the one that was asked for."""
    tables = [
        *statement.tables,
        *statement.models,
        *(item for item in (statement.target, request.destination) if item is not None),
    ]
    where = None
    for ident in tables:
        if ident.dataset == catalog.results.dataset:
            continue
        if statement.kind == "CREATE_SCHEMA":
            break
        here = catalog.dataset(ident.project, ident.dataset).location
        wanted = request.location or where
        if wanted is not None and here.lower() != wanted.lower():
            raise ApiError(
                404,
                f"Not found: Dataset {ident.project}:{ident.dataset} was not found in location {wanted}",
                reason="notFound",
            )
        where = where or here
    return where or request.location or "US"


def _change(
    catalog: Catalog,
    request: Request,
    statement: Statement,
    watch: Watch,
) -> int:
    assert statement.target is not None  # noqa: S101  (a plan of DML always has one)
    sql = statement.sql
    with catalog.store.writing:
        table = catalog.table(statement.target)
        if table.kind != "TABLE":
            raise invalid(f"Cannot modify the {table.kind.lower()} {table.ident}")
        if statement.kind == "TRUNCATE_TABLE":
            name = catalog.store.duck_name(table.ident.dataset, table.ident.table)
            sql = f"DELETE FROM {name}"
        with catalog.store.cursor() as cursor:
            watch(cursor)
            try:
                row = cursor.execute(sql, dict(statement.values)).fetchone()
            except duckdb.Error as problem:
                raise bigquery_errors.translate(problem, request.sql) from problem
            finally:
                watch(None)
        catalog.touch(table)
    return int(row[0]) if row else 0


def _to_table(catalog: Catalog, request: Request, result: QueryResult) -> None:
    """Copy a query's rows into the table that the job named."""
    target = request.destination
    assert target is not None  # noqa: S101
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
