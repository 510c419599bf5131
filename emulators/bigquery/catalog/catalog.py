"""Datasets and tables of the local BigQuery: their resources and their DuckDB tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.object_tables import OBJECT_FIELDS, ObjectTables
from imagebeam.emulators.bigquery.catalog.registry import Registry
from imagebeam.emulators.bigquery.catalog.resources import (
    DATASET_WRITABLE,
    TABLE_WRITABLE,
    check_expiration,
    check_labels,
    check_names,
    merge_properties,
    now_ms,
    writable_properties,
)
from imagebeam.emulators.bigquery.catalog.results import QueryResults
from imagebeam.emulators.bigquery.catalog.store import META, Store
from imagebeam.emulators.bigquery.catalog.table import Table, alter_sql, bytes_sql, create_sql
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import Field, parse_fields, quote, schema_resource
from imagebeam.emulators.core.http import ApiError

DEFAULT_LOCATION: Final = "US"

Resource = dict[str, Any]


@dataclasses.dataclass(slots=True)
class Dataset:
    """A dataset.

    Attributes:
        resource: Its properties, in the shape of the API.
        tables: Its tables and views by name.
    """

    resource: Resource
    tables: dict[str, Table] = dataclasses.field(default_factory=dict)

    @property
    def location(self) -> str:
        """Its location."""
        return str(self.resource["location"])


class Catalog:
    """The datasets, tables, views, models and results of a project. Thread-safe.

    Args:
        store: The database.
        object_tables: Rows of object tables; None without Cloud Storage.

    Attributes:
        store: The database.
        project: The project.
        registry: Connections, remote models and vector indexes.
        results: Results of queries.
    """

    def __init__(self, store: Store, object_tables: ObjectTables | None = None) -> None:
        self.store = store
        self.registry = Registry(store)
        self._object_tables = object_tables
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
    def object_tables(self) -> ObjectTables:
        """Rows of object tables.

        Raises:
            ApiError: 501 without Cloud Storage.
        """
        if self._object_tables is None:
            raise not_implemented("object tables while the local cloud is down")
        return self._object_tables

    # Datasets

    def create_dataset(self, body: Resource) -> Dataset:
        """Create a dataset.

        Raises:
            ApiError: 409 if it already exists.
        """
        dataset = str((body.get("datasetReference") or {}).get("datasetId") or "")
        check_names(dataset, None)
        if dataset == META or dataset.startswith("_"):
            raise not_implemented(f"datasets whose name starts with an underscore ({dataset})")
        resource = writable_properties(body, DATASET_WRITABLE, "dataset")
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
            ApiError: 404 for an unknown dataset.
        """
        found = self._datasets.get(dataset) if project == self.project else None
        if found is None:
            raise ApiError(404, f"Not found: Dataset {project}:{dataset}", reason="notFound")
        return found

    def datasets(self) -> list[tuple[str, Dataset]]:
        """Return all datasets, sorted by name."""
        return sorted(self._datasets.items())

    def update_dataset(self, project: str, dataset: str, body: Resource, *, replace: bool) -> Dataset:
        """Update the properties of a dataset.

        Args:
            project: Its project.
            dataset: Its name.
            body: The changed properties; None removes a property.
            replace: Whether properties missing from ``body`` are removed.

        Raises:
            ApiError: 404 for an unknown dataset, 400 for an invalid change.
        """
        with self.store.writing:
            found = self.dataset(project, dataset)
            changes = writable_properties(body, DATASET_WRITABLE, "dataset")
            if "location" in changes and _location(changes["location"]) != found.location:
                raise ApiError(400, "A dataset's location cannot be changed.", reason="invalid")
            resource = merge_properties(found.resource, changes, DATASET_WRITABLE if replace else ())
            check_labels(resource)
            resource["location"] = found.location
            resource["lastModifiedTime"] = str(now_ms())
            self.store.change(keep=(dataset, "", resource))
            found.resource = resource
            return found

    def link_dataset(self, dataset: str, source: Resource) -> None:
        """Link a dataset to another project's dataset, which makes it read-only.

        Args:
            dataset: Its name.
            source: The datasetReference of the source.
        """
        with self.store.writing:
            found = self.dataset(self.project, dataset)
            link = {"linkedDatasetSource": {"sourceDataset": source}, "linkedDatasetMetadata": {"linkState": "LINKED"}}
            resource = {**found.resource, "type": "LINKED", **link}
            self.store.change(keep=(dataset, "", resource))
            found.resource = resource

    def delete_dataset(self, project: str, dataset: str, *, contents: bool) -> None:
        """Delete a dataset.

        Args:
            project: Its project.
            dataset: Its name.
            contents: Whether to delete its tables too.

        Raises:
            ApiError: 404 for an unknown dataset, 400 if it has tables and ``contents`` is false.
        """
        with self.store.writing:
            self._drop_expired(self.dataset(project, dataset))
            if self._datasets[dataset].tables and not contents:
                raise ApiError(400, f"Dataset {project}:{dataset} is still in use", reason="resourceInUse")
            for table in list(self._datasets[dataset].tables.values()):
                self._drop(table)
            self.store.change(f"DROP SCHEMA {quote(project)}.{quote(dataset)}", keep=(dataset, "", None))
            del self._datasets[dataset]
            self.registry.drop_children(dataset)

    # Tables

    def create_table(self, dataset: str, body: Resource, fields: Sequence[Field] | None = None) -> Table:
        """Create a table or view. Of concurrent callers exactly one succeeds.

        Args:
            dataset: Its dataset.
            body: The table resource.
            fields: Its columns, if they are not in ``body``.

        Raises:
            ApiError: 404 for an unknown dataset, 409 if the table already exists, 400 for an invalid resource.
        """
        name = str((body.get("tableReference") or {}).get("tableId") or "")
        check_names(dataset, name)
        resource = writable_properties(body, TABLE_WRITABLE, "table")
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
            parent = self.dataset(self.project, dataset)
            if parent.resource.get("type") == "LINKED":
                raise ApiError(403, f"Access Denied: Dataset {self.project}:{dataset} is linked: it is read-only.")
            self._drop_expired(parent)
            if name in parent.tables:
                raise ApiError(409, f"Already Exists: Table {ident}", reason="duplicate")
            lifetime = parent.resource.get("defaultTableExpirationMs")
            if lifetime and "view" not in resource:
                resource.setdefault("expirationTime", str(now_ms() + int(lifetime)))
            resource["creationTime"] = resource["lastModifiedTime"] = str(now_ms())
            table = Table(ident, resource, columns)
            self.store.change(*create_sql(self.store, table), keep=(dataset, name, resource))
            parent.tables[name] = table
            return table

    def table(self, ident: TableId) -> Table:
        """Return a table or view.

        Raises:
            ApiError: 404 for an unknown or expired table.
        """
        parent = self.dataset(ident.project, ident.dataset)
        found = parent.tables.get(ident.table)
        if found is not None and _expired(found):
            with self.store.writing:
                self._drop_expired(parent)
            found = parent.tables.get(ident.table)
        if found is None:
            raise ApiError(404, f"Not found: Table {ident}", reason="notFound")
        return found

    def tables(self, project: str, dataset: str) -> list[Table]:
        """Return the tables and views of a dataset, sorted by name."""
        parent = self.dataset(project, dataset)
        with self.store.writing:
            self._drop_expired(parent)
            return [parent.tables[name] for name in sorted(parent.tables)]

    def update_table(
        self, ident: TableId, body: Resource, *, replace: bool, fields: Sequence[Field] | None = None
    ) -> Table:
        """Update the properties of a table; columns may be added.

        Args:
            ident: The table.
            body: The changed properties; None removes a property.
            replace: Whether properties missing from ``body`` are removed.
            fields: New columns of a view whose query changes.

        Raises:
            ApiError: 404 for an unknown table, 400 for an invalid change.
        """
        with self.store.writing:
            table = self.table(ident)
            changes = writable_properties(body, TABLE_WRITABLE, "table")
            check_expiration(changes, now_ms())
            resource = merge_properties(table.resource, changes, TABLE_WRITABLE - {"schema", "view"} if replace else ())
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
            ApiError: 404 for an unknown table.
        """
        with self.store.writing:
            self._drop(self.table(ident))

    def touch(self, table: Table) -> None:
        """Mark the rows of a table as changed."""
        table.version += 1

    def size(self, table: Table) -> dict[str, int]:
        """Return the bytes per column, as BigQuery bills them, and under ``""`` the number of rows."""
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

    # Models and object tables

    def remote_model(self, model: TableId) -> Mapping[str, Any]:
        """Return the properties of a remote model.

        Raises:
            ApiError: 404 for an unknown model.
        """
        self.dataset(model.project, model.dataset)
        found = self.registry.get("model", f"{model.dataset}.{model.table}")
        if found is None:
            raise ApiError(404, f"Not found: Model {model}", reason="notFound")
        return found

    def is_object_table(self, table: TableId) -> bool:
        """Return whether a table exists and is an object table."""
        parent = self._datasets.get(table.dataset) if table.project == self.project else None
        found = parent.tables.get(table.table) if parent is not None else None
        return found is not None and found.kind == "EXTERNAL"

    def _drop_expired(self, dataset: Dataset) -> None:
        """Delete the expired tables of a dataset. The caller holds the write lock."""
        for table in [table for table in dataset.tables.values() if _expired(table)]:
            self._drop(table)

    def _drop(self, table: Table) -> None:
        ident = table.ident
        drop = []
        if table.kind == "TABLE" and table.fields:
            drop = [f"DROP TABLE {self.store.duck_name(ident.dataset, ident.table)}"]
        self.store.change(*drop, keep=(ident.dataset, ident.table, None))
        del self._datasets[ident.dataset].tables[ident.table]
        self.registry.drop_children(f"{ident.dataset}.{ident.table}")


def _location(value: Any) -> str:
    """Normalize a location: multi-regions in upper case, regions in lower case."""
    name = str(value or DEFAULT_LOCATION)
    return name.upper() if "-" not in name else name.lower()


def _expired(table: Table) -> bool:
    expires = table.resource.get("expirationTime")
    return expires is not None and int(expires) <= now_ms()
