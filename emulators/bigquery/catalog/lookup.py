"""Lookups of the names in a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebeam.emulators.bigquery.catalog.catalog import DEFAULT_LOCATION, Catalog
from imagebeam.emulators.bigquery.catalog.information_schema import information_query
from imagebeam.emulators.bigquery.catalog.resources import now_ms
from imagebeam.emulators.bigquery.dialect.names import Relation, TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.core.http import ApiError


class CatalogLookup:
    """Implements `TableLookup` on the catalog.

    Args:
        catalog: The catalog.

    Attributes:
        project: The project.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.project = catalog.project

    def relation(self, table: TableId) -> Relation:
        """Return what a table name refers to.

        Raises:
            ApiError: 404 with the message of BigQuery's query jobs.
        """
        catalog = self._catalog
        result = catalog.results.find(table)
        if result is not None:
            return Relation(duck=result.duck)
        try:
            location = catalog.dataset(table.project, table.dataset).location
        except ApiError as problem:
            raise _not_found(problem, DEFAULT_LOCATION) from problem
        try:
            found = catalog.table(table)
        except ApiError as problem:
            raise _not_found(problem, location) from problem
        if found.view is not None:
            return Relation(view=found.view)
        if found.kind == "EXTERNAL":
            return Relation(duck=catalog.object_tables.current(found, now_ms()))
        if not found.fields:
            raise ApiError(400, f"Table {table} does not have a schema.", reason="invalid")
        return Relation(duck=catalog.store.duck_name(table.dataset, table.table))

    def information_schema(self, project: str, dataset: str, view: str) -> str:
        """Return a DuckDB query of the rows of an INFORMATION_SCHEMA view of a dataset.

        Raises:
            ApiError: 501 for a view that is not implemented.
        """
        if not dataset:
            raise not_implemented(f"INFORMATION_SCHEMA.{view} without a dataset")
        tables = self._catalog.tables(project, dataset)
        return information_query(view, project, dataset, tables, self._catalog.registry)

    def remote_model(self, model: TableId) -> Mapping[str, Any]:
        """Return the properties of a remote model.

        Raises:
            ApiError: 404 for an unknown model.
        """
        return self._catalog.remote_model(model)

    def is_object_table(self, table: TableId) -> bool:
        """Return whether a table exists and is an object table."""
        return self._catalog.is_object_table(table)


def _not_found(problem: ApiError, location: str) -> ApiError:
    return ApiError(404, f"{problem.message} was not found in location {location}", reason="notFound")
