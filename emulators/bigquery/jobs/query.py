"""Queries: the request, the plan, and the result in an anonymous table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import duckdb

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.lookup import CatalogLookup
from imagebeam.emulators.bigquery.catalog.results import QueryResult
from imagebeam.emulators.bigquery.catalog.store import RESULTS
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.errors import translate_error
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import invalid
from imagebeam.emulators.bigquery.dialect.statement import Parameter, Statement, translate_statement
from imagebeam.emulators.bigquery.dialect.types import Field, field_from_duck, quote

#: Called with the connection that runs a query (to interrupt it), and with None when it has finished.
TrackConnection = Callable[[duckdb.DuckDBPyConnection | None], None]


@dataclasses.dataclass(frozen=True, slots=True)
class QueryRequest:
    """A query as a job requests it.

    Attributes:
        sql: BigQuery SQL.
        default: Project and dataset of table names without a dataset.
        parameters: Query parameters by lower-case name.
        maximum_bytes_billed: Limit above which the query fails; None for no limit.
        location: Where the query runs; None for the location of its tables.
        destination: Table for the rows; None for an anonymous one.
        write: ``WRITE_EMPTY``, ``WRITE_APPEND`` or ``WRITE_TRUNCATE`` for the destination.
        create: ``CREATE_IF_NEEDED`` or ``CREATE_NEVER`` for the destination.
    """

    sql: str
    default: tuple[str, str] | None = None
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    maximum_bytes_billed: int | None = None
    location: str | None = None
    destination: TableId | None = None
    write: str = "WRITE_EMPTY"
    create: str = "CREATE_IF_NEEDED"


@dataclasses.dataclass(frozen=True, slots=True)
class QueryPlan:
    """A checked query, before it runs.

    Attributes:
        request: The query.
        statement: The translated statement.
        fields: Columns of its result; empty for DML and DDL.
        bytes_processed: Bytes that it reads.
        bytes_billed: Bytes that BigQuery would bill.
        location: Where it runs.
    """

    request: QueryRequest
    statement: Statement
    fields: tuple[Field, ...]
    bytes_processed: int
    bytes_billed: int
    location: str


def result_fields(catalog: Catalog, sql: str, statement: Statement) -> tuple[Field, ...]:
    """Return the columns of a query's result, without running it."""
    with catalog.store.cursor() as cursor:
        try:
            rows = cursor.execute(f"DESCRIBE {statement.sql}", dict(statement.values)).fetchall()
        except duckdb.Error as problem:
            raise translate_error(problem, sql) from problem
    names: set[str] = set()
    for row in rows:
        if row[0].lower() in names:
            raise invalid(f"Duplicate column names in the result are not supported. Found duplicate(s): {row[0]}")
        names.add(row[0].lower())
    return tuple(field_from_duck(row[0], row[1]) for row in rows)


def run_select(catalog: Catalog, plan: QueryPlan, key: str, track: TrackConnection) -> QueryResult:
    """Run a query into an anonymous table.

    Args:
        catalog: The tables.
        plan: The checked query.
        key: Name of the anonymous table.
        track: Receives the connection.

    Raises:
        ApiError: The error that BigQuery would return.
    """
    name = f"memory.{RESULTS}.{quote(key)}"
    statement = plan.statement
    with catalog.store.cursor() as cursor:
        track(cursor)
        try:
            cursor.execute(f"CREATE TABLE {name} AS {statement.sql}", dict(statement.values))
            count = int((cursor.execute(f"SELECT COUNT(*) FROM {name}").fetchone() or (0,))[0])
            _reject_null_elements(cursor, name, plan.fields)
        except duckdb.Error as problem:
            raise translate_error(problem, plan.request.sql) from problem
        finally:
            track(None)
    return catalog.results.add(key, plan.fields, count, plan.location)


def _reject_null_elements(cursor: duckdb.DuckDBPyConnection, name: str, fields: Sequence[Field]) -> None:
    """Reject arrays with a NULL element, which BigQuery does not write."""
    for field in fields:
        if field.repeated and field.type != "RECORD":
            column = quote(field.name)
            test = f"SELECT 1 FROM {name} WHERE len({column}) <> list_count({column}) LIMIT 1"
            if cursor.execute(test).fetchone():
                cursor.execute(f"DROP TABLE {name}")
                raise invalid(f"Array cannot have a null element; error in writing field {field.name}")


def view_fields(catalog: Catalog, sql: str) -> tuple[Field, ...]:
    """Check the SQL of a view and return its columns."""
    statement = translate_statement(sql, CatalogLookup(catalog), None, {})
    if statement.kind != "SELECT":
        raise invalid("The query of a view must be a SELECT")
    return result_fields(catalog, sql, statement)


def copy_rows(catalog: Catalog, result: QueryResult, table: Table) -> None:
    """Append a result to a table that has its columns."""
    columns = ", ".join(quote(field.name) for field in result.fields)
    name = catalog.store.duck_name(table.ident.dataset, table.ident.table)
    with catalog.store.cursor() as cursor:
        try:
            cursor.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {result.duck}")
        except duckdb.Error as problem:
            raise translate_error(problem, "") from problem
    catalog.touch(table)
