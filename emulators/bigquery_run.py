"""Running one statement: queries into anonymous tables, DML, DDL; what it cost; what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import duckdb

from imagebeam.emulators import bigquery_errors
from imagebeam.emulators.bigquery_calls import invalid, not_implemented
from imagebeam.emulators.bigquery_catalog import Catalog, Result, Table
from imagebeam.emulators.bigquery_names import TableId
from imagebeam.emulators.bigquery_sql import Parameter, Statement, plan
from imagebeam.emulators.bigquery_store import RESULTS
from imagebeam.emulators.bigquery_types import DUCK_TYPES, REST_NAMES, Field, from_duck, quote
from imagebeam.emulators.http import ApiError

#: On-demand queries are billed in whole megabytes, at least ten for each table.
MEGABYTE: Final = 2**20
LEAST_MEGABYTES: Final = 10
_CHANGES: Final = frozenset(("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE_TABLE"))


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


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did.

    Attributes:
        result: Its rows; DML and DDL have none.
        affected: Rows changed by DML, else None.
    """

    result: Result | None
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
        if catalog.result(ident) is not None:
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
        fields = _describe(catalog, request.sql, statement)
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
    watch: Callable[[duckdb.DuckDBPyConnection | None], None] = lambda _: None,
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
        result = _select(catalog, request, prepared, key, watch)
        if request.destination is not None:
            _to_table(catalog, request, result)
        return Outcome(result)
    if statement.kind in _CHANGES:
        return Outcome(None, _change(catalog, request, statement, watch))
    _define(catalog, request, prepared, key, watch)
    return Outcome(None)


def _location(catalog: Catalog, request: Request, statement: Statement) -> str:
    """Where a query runs: all its datasets have to be in one place, and in the one that was asked for."""
    tables = [*statement.tables, *(item for item in (statement.target, request.destination) if item is not None)]
    where = None
    for ident in tables:
        if ident.dataset == catalog.anonymous:
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


def _describe(catalog: Catalog, sql: str, statement: Statement) -> tuple[Field, ...]:
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


def _select(
    catalog: Catalog,
    request: Request,
    prepared: Plan,
    key: str,
    watch: Callable[[duckdb.DuckDBPyConnection | None], None],
) -> Result:
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
    return catalog.keep_result(key, prepared.fields, count, prepared.location)


def _no_null_elements(cursor: duckdb.DuckDBPyConnection, name: str, fields: Sequence[Field]) -> None:
    """BigQuery writes no array that has a NULL element."""
    for field in fields:
        if field.repeated and field.type != "RECORD":
            column = quote(field.name)
            test = f"SELECT 1 FROM {name} WHERE len({column}) <> list_count({column}) LIMIT 1"
            if cursor.execute(test).fetchone():
                cursor.execute(f"DROP TABLE {name}")
                raise invalid(f"Array cannot have a null element; error in writing field {field.name}")


def _change(
    catalog: Catalog,
    request: Request,
    statement: Statement,
    watch: Callable[[duckdb.DuckDBPyConnection | None], None],
) -> int:
    assert statement.target is not None  # noqa: S101  (a plan of DML always has one)
    sql = statement.sql
    with catalog.store.writing:
        table = catalog.table(statement.target)
        if table.view is not None:
            raise invalid(f"Cannot modify the view {table.ident}")
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


def _define(
    catalog: Catalog,
    request: Request,
    prepared: Plan,
    key: str,
    watch: Callable[[duckdb.DuckDBPyConnection | None], None],
) -> None:
    statement = prepared.statement
    target, options = statement.target, statement.options
    assert target is not None  # noqa: S101  (a plan of DDL always has one)
    if target.project != catalog.project:
        raise ApiError(404, f"Not found: Project {target.project}", reason="notFound")
    if statement.kind == "CREATE_SCHEMA":
        reference = {"datasetReference": {"projectId": target.project, "datasetId": target.dataset}}
        location = {"location": request.location or "US"}
        _if_absent(lambda: catalog.create_dataset(location | reference | options["resource"]), options)
    elif statement.kind == "DROP_SCHEMA":
        _if_present(
            lambda: catalog.delete_dataset(target.project, target.dataset, contents=options["cascade"]), options
        )
    elif statement.kind == "ALTER_TABLE":
        _add_columns(catalog, catalog.table(target), options["added"])
    elif statement.kind.startswith("DROP_"):
        wanted = "VIEW" if statement.kind == "DROP_VIEW" else "TABLE"

        def drop() -> None:
            if catalog.table(target).kind != wanted:
                raise invalid(f"Cannot drop {target} as a {wanted}: it is a {catalog.table(target).kind}")
            catalog.delete_table(target)

        _if_present(drop, options)
    elif statement.kind == "CREATE_VIEW":
        create_view(catalog, target, options)
    else:
        _create_table(catalog, request, prepared, key, watch)


def create_view(catalog: Catalog, target: TableId, options: Mapping[str, Any]) -> None:
    """CREATE [OR REPLACE] VIEW."""
    view = {"query": options["view_query"], "useLegacySql": False}
    fields = view_fields(catalog, options["view_query"])
    body = {"tableReference": target.resource(), "view": view} | options["resource"]
    with catalog.store.writing:
        _replaced(catalog, target, options)
        _if_absent(lambda: catalog.create_table(target.dataset, body, fields), options)


def view_fields(catalog: Catalog, sql: str) -> tuple[Field, ...]:
    """Check the SQL of a view and return its columns."""
    statement = plan(sql, catalog, None, {})
    if statement.kind != "SELECT":
        raise invalid("The query of a view must be a SELECT")
    return _describe(catalog, sql, statement)


def _create_table(
    catalog: Catalog,
    request: Request,
    prepared: Plan,
    key: str,
    watch: Callable[[duckdb.DuckDBPyConnection | None], None],
) -> None:
    statement = prepared.statement
    target, options = statement.target, statement.options
    assert target is not None  # noqa: S101
    fields = tuple(options.get("fields") or ())
    body = {"tableReference": target.resource()} | options["resource"]
    result = None
    if statement.kind == "CREATE_TABLE_AS_SELECT":
        if fields:
            raise not_implemented("a column list in CREATE TABLE ... AS SELECT")
        result = _select(catalog, request, prepared, key, watch)
        fields = prepared.fields
    with catalog.store.writing:
        _replaced(catalog, target, options)
        table = _if_absent(lambda: catalog.create_table(target.dataset, body, fields), options)
        if result is not None and table is not None:
            _copy(catalog, result, table)


def _replaced(catalog: Catalog, target: TableId, options: Mapping[str, Any]) -> None:
    if options.get("replace"):
        _if_present(lambda: catalog.delete_table(target), {"exists": True})


def _if_absent(create: Callable[[], Any], options: Mapping[str, Any]) -> Any:
    """Do it, or with IF NOT EXISTS nothing when it is there."""
    try:
        return create()
    except ApiError as problem:
        if problem.code == 409 and options.get("exists"):
            return None
        raise


def _if_present(drop: Callable[[], Any], options: Mapping[str, Any]) -> None:
    """Do it, or with IF EXISTS nothing when there is nothing."""
    try:
        drop()
    except ApiError as problem:
        if problem.code != 404 or not options.get("exists"):
            raise


def _add_columns(catalog: Catalog, table: Table, added: Sequence[tuple[Field, bool]]) -> None:
    new = []
    for field, if_absent in added:
        if table.field(field.name) is None:
            new.append(field)
        elif not if_absent:
            raise invalid(f"Column already exists: {field.name}")
    fields = [field.resource() for field in (*table.fields, *new)]
    catalog.update_table(table.ident, {"schema": {"fields": fields}}, replace=False)


def _to_table(catalog: Catalog, request: Request, result: Result) -> None:
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
        _copy(catalog, result, table)


def _copy(catalog: Catalog, result: Result, table: Table) -> None:
    columns = ", ".join(quote(field.name) for field in result.fields)
    name = catalog.store.duck_name(table.ident.dataset, table.ident.table)
    with catalog.store.cursor() as cursor:
        try:
            cursor.execute(f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {result.duck}")
        except duckdb.Error as problem:
            raise bigquery_errors.translate(problem, "") from problem
    catalog.touch(table)


def read_parameters(items: Sequence[Mapping[str, Any]], mode: str | None) -> dict[str, Parameter]:
    """Read the API's queryParameters.

    Raises:
        ApiError: 501 for positional ones and for types that are not implemented, 400 for bad ones.
    """
    if items and str(mode or "NAMED").upper() != "NAMED":
        raise not_implemented("positional query parameters: give them names")
    parameters: dict[str, Parameter] = {}
    for item in items:
        name = str(item.get("name") or "")
        if not name:
            raise not_implemented("positional query parameters: give them names")
        kind = item.get("parameterType") or {}
        parameters[name.lower()] = Parameter(_duck_type(kind), _value(kind, item.get("parameterValue") or {}))
    return parameters


def _duck_type(kind: Mapping[str, Any]) -> str:
    name = str(kind.get("type") or "").upper()
    if name == "ARRAY":
        return _duck_type(kind["arrayType"]) + "[]"
    if name in ("STRUCT", "RECORD"):
        inner = ", ".join(f"{quote(item.get('name') or '')} {_duck_type(item['type'])}" for item in kind["structTypes"])
        return f"STRUCT({inner})"
    found = DUCK_TYPES.get(REST_NAMES.get(name, ""))
    if found is None:
        raise not_implemented(f"query parameters of type {name}")
    return found


def _value(kind: Mapping[str, Any], value: Mapping[str, Any]) -> Any:
    name = str(kind.get("type") or "").upper()
    if name == "ARRAY":
        items = value.get("arrayValues")
        return [] if items is None else [_value(kind["arrayType"], item) for item in items]
    if name in ("STRUCT", "RECORD"):
        values = value.get("structValues")
        if values is None:
            return None
        return {item["name"]: _value(item["type"], values.get(item["name"]) or {}) for item in kind["structTypes"]}
    given = value.get("value")
    if given is None:
        return None
    if name == "BYTES":
        import base64

        return base64.b64decode(given)
    if name == "JSON":
        from imagebeam.emulators.bigquery_functions import canonical_json

        return canonical_json(given)
    return str(given)
