"""DDL of datasets, tables and views."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented
from imagebeam.emulators.bigquery.dialect.types import Field, schema_resource
from imagebeam.emulators.bigquery.jobs.query import (
    QueryPlan,
    TrackConnection,
    copy_rows,
    run_select,
    view_fields,
)
from imagebeam.emulators.core.http import ApiError


def run_ddl(catalog: Catalog, plan: QueryPlan, key: str, track: TrackConnection) -> None:
    """Run a DDL statement.

    Args:
        catalog: The tables.
        plan: The checked statement.
        key: Name of the anonymous table of a CREATE TABLE ... AS SELECT.
        track: Receives the connection that runs the query.

    Raises:
        ApiError: The error that BigQuery would return.
    """
    statement = plan.statement
    target, options = statement.required_target, statement.options
    if target.project != catalog.project:
        raise ApiError(404, f"Not found: Project {target.project}", reason="notFound")
    if statement.kind == "CREATE_SCHEMA":
        reference = {"datasetReference": {"projectId": target.project, "datasetId": target.dataset}}
        location = {"location": plan.request.location or "US"}
        _create_if_absent(lambda: catalog.create_dataset(location | reference | options["resource"]), options)
    elif statement.kind == "DROP_SCHEMA":
        _drop_if_present(
            lambda: catalog.delete_dataset(target.project, target.dataset, contents=options["cascade"]), options
        )
    elif statement.kind == "ALTER_TABLE":
        _add_columns(catalog, catalog.table(target), options["added"])
    elif statement.kind.startswith("DROP_"):
        wanted = statement.kind.removeprefix("DROP_")

        def drop() -> None:
            if catalog.table(target).kind != wanted:
                raise invalid(f"Cannot drop {target} as a {wanted}: it is a {catalog.table(target).kind}")
            catalog.delete_table(target)

        _drop_if_present(drop, options)
    elif statement.kind == "CREATE_VIEW":
        create_view(catalog, target, options)
    else:
        _create_table(catalog, plan, key, track)


def create_view(catalog: Catalog, target: TableId, options: Mapping[str, Any]) -> None:
    """Run CREATE [OR REPLACE] VIEW."""
    view = {"query": options["view_query"], "useLegacySql": False}
    fields = view_fields(catalog, options["view_query"])
    body = {"tableReference": target.resource(), "view": view} | options["resource"]
    with catalog.store.writing:
        _drop_if_replaced(catalog, target, options)
        _create_if_absent(lambda: catalog.create_table(target.dataset, body, fields), options)


def _create_table(catalog: Catalog, plan: QueryPlan, key: str, track: TrackConnection) -> None:
    statement = plan.statement
    target, options = statement.required_target, statement.options
    fields = tuple(options.get("fields") or ())
    body = {"tableReference": target.resource()} | options["resource"]
    result = None
    if statement.kind == "CREATE_TABLE_AS_SELECT":
        if fields:
            raise not_implemented("a column list in CREATE TABLE ... AS SELECT")
        result = run_select(catalog, plan, key, track)
        fields = plan.fields
    try:
        with catalog.store.writing:
            _drop_if_replaced(catalog, target, options)
            table = _create_if_absent(lambda: catalog.create_table(target.dataset, body, fields), options)
            if result is not None and table is not None:
                copy_rows(catalog, result, table)
    finally:
        if result is not None:
            catalog.results.drop(result)  # its rows are in the table now


def _drop_if_replaced(catalog: Catalog, target: TableId, options: Mapping[str, Any]) -> None:
    if options.get("replace"):
        _drop_if_present(lambda: catalog.delete_table(target), {"exists": True})


def _create_if_absent(create: Callable[[], Any], options: Mapping[str, Any]) -> Any:
    """Call ``create``; with IF NOT EXISTS ignore that the object exists."""
    try:
        return create()
    except ApiError as problem:
        if problem.code == 409 and options.get("exists"):
            return None
        raise


def _drop_if_present(drop: Callable[[], Any], options: Mapping[str, Any]) -> None:
    """Call ``drop``; with IF EXISTS ignore that the object does not exist."""
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
    resource = {"schema": schema_resource((*table.fields, *new))}
    catalog.update_table(table.ident, resource, replace=False)
