"""Queries: what is asked, what it will return, and its rows in an anonymous table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import duckdb

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.results import QueryResult
from imagebeam.emulators.bigquery.catalog.store import RESULTS
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect import errors as bigquery_errors
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import invalid
from imagebeam.emulators.bigquery.dialect.statement import Parameter, Statement, plan
from imagebeam.emulators.bigquery.dialect.types import Field, from_duck, quote

#: Is given the connection that works for a query (to interrupt it), and None when it has done so.
Watch = Callable[[duckdb.DuckDBPyConnection | None], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """A query as a job asks for it.

    Attributes:
        sql: BigQuery SQL.
        default: Project and dataset of names without one.
        parameters: By lower-case name.
        maximum_bytes_billed: Refuse the query when it would be billed for more.
        location: Where it runs; None for where its tables are.
        destination: A real table for the rows, or None.
        write: ``WRITE_EMPTY``, ``WRITE_APPEND`` or ``WRITE_TRUNCATE`` for the destination.
        create: ``CREATE_IF_NEEDED`` or ``CREATE_NEVER``.
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
class Plan:
    """A checked query, before it runs.

    Attributes:
        statement: What to do.
        fields: Columns of its result; empty for DML and DDL.
        bytes_processed: What it reads.
        bytes_billed: What BigQuery would bill for that.
        location: Where it runs.
    """

    statement: Statement
    fields: tuple[Field, ...]
    bytes_processed: int
    bytes_billed: int
    location: str


def describe(catalog: Catalog, sql: str, statement: Statement) -> tuple[Field, ...]:
    """Return the columns that a query will have, without running it."""
    with catalog.store.cursor() as cursor:
        try:
            rows = cursor.execute(f"DESCRIBE {statement.sql}", dict(statement.values)).fetchall()
        except duckdb.Error as problem:
            raise bigquery_errors.translate(problem, sql) from problem
    names: set[str] = set()
    for row in rows:
        if row[0].lower() in names:
            raise invalid(f"Duplicate column names in the result are not supported. Found duplicate(s): {row[0]}")
        names.add(row[0].lower())
    return tuple(from_duck(row[0], row[1]) for row in rows)


def select(
    catalog: Catalog,
    request: Request,
    prepared: Plan,
    key: str,
    watch: Watch,
) -> QueryResult:
    """Run a query into an anonymous table."""
    name = f"memory.{RESULTS}.{quote(key)}"
    statement = prepared.statement
    with catalog.store.cursor() as cursor:
        watch(cursor)
        try:
            cursor.execute(f"CREATE TABLE {name} AS {statement.sql}", dict(statement.values))
            count = int((cursor.execute(f"SELECT COUNT(*) FROM {name}").fetchone() or (0,))[0])
            _no_null_elements(cursor, name, prepared.fields)
        except duckdb.Error as problem:
            raise bigquery_errors.translate(problem, request.sql) from problem
        finally:
            watch(None)
    return catalog.results.add(key, prepared.fields, count, prepared.location)


def _no_null_elements(cursor: duckdb.DuckDBPyConnection, name: str, fields: Sequence[Field]) -> None:
    """BigQuery writes no array that has a NULL element."""
    for field in fields:
        if field.repeated and field.type != "RECORD":
            column = quote(field.name)
            test = f"SELECT 1 FROM {name} WHERE len({column}) <> list_count({column}) LIMIT 1"
            if cursor.execute(test).fetchone():
                cursor.execute(f"DROP TABLE {name}")
                raise invalid(f"Array cannot have a null element; error in writing field {field.name}")


def view_fields(catalog: Catalog, sql: str) -> tuple[Field, ...]:
    """Check the SQL of a view and return its columns."""
    statement = plan(sql, catalog, None, {})
    if statement.kind != "SELECT":
        raise invalid("The query of a view must be a SELECT")
    return describe(catalog, sql, statement)


def copy_rows(catalog: Catalog, result: QueryResult, table: Table) -> None:
    """Append a result to a table that has its columns."""
    columns = ", ".join(quote(field.name) for field in result.fields)
    name = catalog.store.duck_name(table.ident.dataset, table.ident.table)
    with catalog.store.cursor() as cursor:
        try:
            cursor.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {result.duck}")
        except duckdb.Error as problem:
            raise bigquery_errors.translate(problem, "") from problem
    catalog.touch(table)
