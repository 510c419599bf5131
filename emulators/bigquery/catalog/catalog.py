"""Datasets and tables of the local BigQuery: their resources, and the DuckDB tables under them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.information_schema import information_query
from imagebeam.emulators.bigquery.catalog.object_tables import OBJECT_FIELDS, ObjectTables
from imagebeam.emulators.bigquery.catalog.registry import Registry
from imagebeam.emulators.bigquery.catalog.resources import (
    DATASET_WRITABLE,
    TABLE_WRITABLE,
    check_expiration,
    check_labels,
    check_names,
    kept,
    merged,
    now_ms,
)
from imagebeam.emulators.bigquery.catalog.results import QueryResults
from imagebeam.emulators.bigquery.catalog.store import META, Store
from imagebeam.emulators.bigquery.catalog.table import Table, alter_sql, bytes_sql, create_sql
from imagebeam.emulators.bigquery.dialect.names import Relation, TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import Field, parse_fields, quote, schema_resource
from imagebeam.emulators.core.http import ApiError

DEFAULT_LOCATION: Final = "US"

Resource = dict[str, Any]


@dataclasses.dataclass(slots=True)
class Dataset:
    """A dataset: its kept properties and its tables by name."""

    resource: Resource
    tables: dict[str, Table] = dataclasses.field(default_factory=dict)

    @property
    def location(self) -> str:
        """Where it lives."""
        return str(self.resource["location"])


class Catalog:
    """What there is, and how it comes and goes. Every method is safe from any thread.

    Args:
        store: The file.
        objects: Rows of object tables; None when there is no Cloud Storage beside it.
    """

    def __init__(self, store: Store, objects: ObjectTables | None = None) -> None:
        self.store = store
        self.registry = Registry(store)
        self._objects = objects
        self.project = store.project
        self.results = QueryResults(store)
        self._datasets: dict[str, Dataset] = {}
        for dataset, name, body in store.load():
            if not name:
                self._datasets[dataset] = Dataset(body)
            else:
                ident = TableId(self.project, dataset, name)
                fields = parse_fields((body.get("schema") or {}).get("fields") or [])
                self._datasets[dataset].tables[name] = Table(ident, body, fields)

    @property
    def objects(self) -> ObjectTables:
        """Rows of object tables."""
        if self._objects is None:
            raise not_implemented("object tables while the local cloud is down")
        return self._objects

    # Datasets

    def create_dataset(self, body: Resource) -> Dataset:
        """Make a dataset.

        Raises:
            ApiError: 409 when it is there already.
        """
        dataset = str((body.get("datasetReference") or {}).get("datasetId") or "")
        check_names(dataset, None)
        if dataset == META or dataset.startswith("_"):
            raise not_implemented(f"datasets whose name starts with an underscore ({dataset})")
        resource = kept(body, DATASET_WRITABLE, "dataset")
        check_labels(resource)
        resource["location"] = _location(resource.get("location"))
        with self.store.writing:
            if dataset in self._datasets:
                raise ApiError(409, f"Already Exists: Dataset {self.project}:{dataset}", reason="duplicate")
            resource["creationTime"] = resource["lastModifiedTime"] = str(now_ms())
            create = f"CREATE SCHEMA {quote(self.project)}.{quote(dataset)}"
            self.store.change(create, keep=(dataset, "", resource))
            self._datasets[dataset] = Dataset(resource)
            return self._datasets[dataset]

    def dataset(self, project: str, dataset: str) -> Dataset:
        """Return a dataset.

        Raises:
            ApiError: 404 when there is none.
        """
        found = self._datasets.get(dataset) if project == self.project else None
        if found is None:
            raise ApiError(404, f"Not found: Dataset {project}:{dataset}", reason="notFound")
        return found

    def datasets(self) -> list[tuple[str, Dataset]]:
        """Return all datasets, by name."""
        return sorted(self._datasets.items())

    def update_dataset(self, project: str, dataset: str, body: Resource, *, replace: bool) -> Dataset:
        """Patch or replace a dataset's properties."""
        with self.store.writing:
            found = self.dataset(project, dataset)
            changes = kept(body, DATASET_WRITABLE, "dataset")
            if "location" in changes and _location(changes["location"]) != found.location:
                raise ApiError(400, "A dataset's location cannot be changed.", reason="invalid")
            resource = merged(found.resource, changes, DATASET_WRITABLE if replace else ())
            check_labels(resource)
            resource["location"] = found.location
            resource["lastModifiedTime"] = str(now_ms())
            self.store.change(keep=(dataset, "", resource))
            found.resource = resource
            return found

    def link_dataset(self, dataset: str, source: Resource) -> None:
        """Make a dataset a linked one, of another project's dataset: from now on nothing in it can be changed."""
        with self.store.writing:
            found = self.dataset(self.project, dataset)
            of = {"linkedDatasetSource": {"sourceDataset": source}, "linkedDatasetMetadata": {"linkState": "LINKED"}}
            resource = {**found.resource, "type": "LINKED", **of}
            self.store.change(keep=(dataset, "", resource))
            found.resource = resource

    def delete_dataset(self, project: str, dataset: str, *, contents: bool) -> None:
        """Delete a dataset.

        Raises:
            ApiError: 404, or 400 when it has tables and ``contents`` is not set.
        """
        with self.store.writing:
            self._sweep(self.dataset(project, dataset))
            if self._datasets[dataset].tables and not contents:
                raise ApiError(400, f"Dataset {project}:{dataset} is still in use", reason="resourceInUse")
            for table in list(self._datasets[dataset].tables.values()):
                self._drop(table)
            self.store.change(f"DROP SCHEMA {quote(project)}.{quote(dataset)}", keep=(dataset, "", None))
            del self._datasets[dataset]
            self.registry.forget_under(dataset)

    # Tables

    def create_table(self, dataset: str, body: Resource, fields: Sequence[Field] | None = None) -> Table:
        """Make a table or view: at most one of many callers succeeds.

        Args:
            dataset: Its dataset.
            body: The API's table resource.
            fields: Its columns, when they are not in ``body``.

        Raises:
            ApiError: 404 no such dataset, 409 it is there already, 400 a bad definition.
        """
        name = str((body.get("tableReference") or {}).get("tableId") or "")
        check_names(dataset, name)
        resource = kept(body, TABLE_WRITABLE, "table")
        check_labels(resource)
        check_expiration(resource, now_ms())
        columns = (
            tuple(fields) if fields is not None else parse_fields((resource.get("schema") or {}).get("fields") or [])
        )
        if resource.get("externalDataConfiguration"):
            columns = OBJECT_FIELDS
        resource["schema"] = schema_resource(columns)
        ident = TableId(self.project, dataset, name)
        with self.store.writing:
            home = self.dataset(self.project, dataset)
            if home.resource.get("type") == "LINKED":
                raise ApiError(403, f"Access Denied: Dataset {self.project}:{dataset} is linked: it is read-only.")
            self._sweep(home)
            if name in home.tables:
                raise ApiError(409, f"Already Exists: Table {ident}", reason="duplicate")
            lifetime = home.resource.get("defaultTableExpirationMs")
            if lifetime and "view" not in resource:
                resource.setdefault("expirationTime", str(now_ms() + int(lifetime)))
            resource["creationTime"] = resource["lastModifiedTime"] = str(now_ms())
            table = Table(ident, resource, columns)
            self.store.change(*create_sql(self.store, table), keep=(dataset, name, resource))
            home.tables[name] = table
            return table

    def table(self, ident: TableId) -> Table:
        """Return a table or view.

        Raises:
            ApiError: 404 when there is none, or its expiration has passed.
        """
        home = self.dataset(ident.project, ident.dataset)
        found = home.tables.get(ident.table)
        if found is not None and _expired(found):
            with self.store.writing:
                self._sweep(home)
            found = home.tables.get(ident.table)
        if found is None:
            raise ApiError(404, f"Not found: Table {ident}", reason="notFound")
        return found

    def tables(self, project: str, dataset: str) -> list[Table]:
        """Return a dataset's tables and views, by name."""
        home = self.dataset(project, dataset)
        with self.store.writing:
            self._sweep(home)
            return [home.tables[name] for name in sorted(home.tables)]

    def update_table(
        self, ident: TableId, body: Resource, *, replace: bool, fields: Sequence[Field] | None = None
    ) -> Table:
        """Patch or replace a table's properties; new columns may be added.

        Args:
            ident: The table.
            body: The changed properties; None removes one.
            replace: Whether properties that are not in ``body`` are removed.
            fields: New columns of a view whose query changes.
        """
        with self.store.writing:
            table = self.table(ident)
            changes = kept(body, TABLE_WRITABLE, "table")
            check_expiration(changes, now_ms())
            resource = merged(table.resource, changes, TABLE_WRITABLE - {"schema", "view"} if replace else ())
            check_labels(resource)
            if bool(resource.get("view")) != bool(table.view):
                raise ApiError(400, f"Cannot change the type of {ident}", reason="invalid")
            columns, statements = table.fields, []
            if fields is not None:
                columns = tuple(fields)
            elif table.kind == "TABLE" and changes.get("schema"):
                columns = parse_fields(changes["schema"].get("fields") or [])
                statements = alter_sql(self.store, table, columns)
            resource["schema"] = schema_resource(columns)
            resource["lastModifiedTime"] = str(now_ms())
            self.store.change(*statements, keep=(ident.dataset, ident.table, resource))
            table.resource, table.fields = resource, columns
            return table

    def delete_table(self, ident: TableId) -> None:
        """Delete a table or view.

        Raises:
            ApiError: 404 when there is none.
        """
        with self.store.writing:
            self._drop(self.table(ident))

    def touch(self, table: Table) -> None:
        """Note that a table's rows changed."""
        table.version += 1

    def size(self, table: Table) -> dict[str, int]:
        """Return bytes per column (as BigQuery bills them), and the number of rows under ``""``."""
        known = table.sizes
        if known is not None and known[0] == table.version:
            return known[1]
        version = table.version
        sizes = {"": 0}
        if table.kind == "TABLE" and table.fields:
            parts = ", ".join(bytes_sql(field) for field in table.fields)
            name = self.store.duck_name(table.ident.dataset, table.ident.table)
            with self.store.cursor() as cursor:
                row = cursor.execute(f"SELECT COUNT(*), {parts} FROM {name}").fetchone()
            counted = [int(value or 0) for value in row or (0, *(0 for _ in table.fields))]
            sizes = {"": counted[0]} | {
                field.name.lower(): size for field, size in zip(table.fields, counted[1:], strict=True)
            }
        table.sizes = (version, sizes)
        return sizes

    # What a query asks for

    def relation(self, table: TableId) -> Relation:
        """Look a name in a query up.

        Raises:
            ApiError: 404 as BigQuery's jobs word it.
        """
        result = self.results.find(table)
        if result is not None:
            return Relation(duck=result.duck)
        try:
            location = self.dataset(table.project, table.dataset).location
        except ApiError as problem:
            message = f"{problem.message} was not found in location {DEFAULT_LOCATION}"
            raise ApiError(404, message, reason="notFound") from problem
        try:
            found = self.table(table)
        except ApiError as problem:
            message = f"{problem.message} was not found in location {location}"
            raise ApiError(404, message, reason="notFound") from problem
        if found.view is not None:
            return Relation(view=found.view)
        if found.kind == "EXTERNAL":
            return Relation(duck=self.objects.current(found, now_ms()))
        if not found.fields:
            raise ApiError(400, f"Table {table} does not have a schema.", reason="invalid")
        return Relation(duck=self.store.duck_name(table.dataset, table.table))

    def remote_model(self, model: TableId) -> Mapping[str, Any]:
        """Return a remote model.

        Raises:
            ApiError: 404 when there is none.
        """
        self.dataset(model.project, model.dataset)
        found = self.registry.get("model", f"{model.dataset}.{model.table}")
        if found is None:
            raise ApiError(404, f"Not found: Model {model}", reason="notFound")
        return found

    def is_object_table(self, table: TableId) -> bool:
        """Say whether a table is there and an object table."""
        home = self._datasets.get(table.dataset) if table.project == self.project else None
        found = home.tables.get(table.table) if home is not None else None
        return found is not None and found.kind == "EXTERNAL"

    def information_schema(self, project: str, dataset: str, view: str) -> str:
        """Return the rows of an INFORMATION_SCHEMA view of a dataset as a DuckDB query."""
        if not dataset:
            raise not_implemented(f"INFORMATION_SCHEMA.{view} without a dataset")
        return information_query(view, project, dataset, self.tables(project, dataset), self.registry)

    def _sweep(self, home: Dataset) -> None:
        """Delete the tables whose expiration has passed. Needs the write lock."""
        for table in [table for table in home.tables.values() if _expired(table)]:
            self._drop(table)

    def _drop(self, table: Table) -> None:
        ident = table.ident
        drop = []
        if table.kind == "TABLE" and table.fields:
            drop = [f"DROP TABLE {self.store.duck_name(ident.dataset, ident.table)}"]
        self.store.change(*drop, keep=(ident.dataset, ident.table, None))
        del self._datasets[ident.dataset].tables[ident.table]
        self.registry.forget_under(f"{ident.dataset}.{ident.table}")


def _location(value: Any) -> str:
    """Multi-regions in capitals, regions in small letters, as BigQuery shows them."""
    name = str(value or DEFAULT_LOCATION)
    return name.upper() if "-" not in name else name.lower()


def _expired(table: Table) -> bool:
    expires = table.resource.get("expirationTime")
    return expires is not None and int(expires) <= now_ms()
