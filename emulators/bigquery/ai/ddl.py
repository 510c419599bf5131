"""DDL of connections, object tables, remote models and vector indexes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.object_tables import OBJECT_FIELDS, check_external
from imagebeam.emulators.bigquery.catalog.registry import parse_connection_id
from imagebeam.emulators.bigquery.catalog.resources import now_ms
from imagebeam.emulators.bigquery.dialect.functions.vector_search import DISTANCES
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented
from imagebeam.emulators.bigquery.dialect.resource_ddl import ResourceDdl
from imagebeam.emulators.bigquery.dialect.types import quote
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.embedding_models import embedding_model

_INDEX_TYPES: Final = ("IVF", "TREE_AH")
_EXTERNAL_OPTIONS: Final = ("object_metadata", "uris", "max_staleness", "metadata_cache_mode", "description")


def run_resource_ddl(catalog: Catalog, ddl: ResourceDdl, target: TableId | None) -> None:
    """Run a statement.

    Args:
        catalog: The tables.
        ddl: The statement.
        target: Full name of its table or model; None for connections.

    Raises:
        ApiError: The error that BigQuery would return.
    """
    if target is None:
        _run_connection_ddl(catalog, ddl)
        return
    if target.project != catalog.project:
        raise ApiError(404, f"Not found: Project {target.project}", reason="notFound")
    _HANDLERS[ddl.kind](catalog, ddl, target)


def _run_connection_ddl(catalog: Catalog, ddl: ResourceDdl) -> None:
    ident = parse_connection_id(ddl.name, catalog.project)
    if ddl.kind == "DROP_CONNECTION":
        catalog.registry.drop("connection", str(ident), label=f"Connection {ident.path}", if_exists=ddl.exists)
        return
    options = dict(ddl.options)
    kind = options.pop("connection_type", None)
    if str(kind or "").upper() != "CLOUD_RESOURCE":
        raise not_implemented(f"connections of type {kind}: write connection_type = 'CLOUD_RESOURCE'")
    _check_options(options, ("friendly_name", "description"), "CREATE CONNECTION")
    names = {"friendly_name": "friendlyName"}
    properties = {names.get(name, name): value for name, value in options.items()}
    catalog.registry.create_connection(ident, if_absent=ddl.exists, replace=ddl.replace, **properties)


def _create_external_table(catalog: Catalog, ddl: ResourceDdl, target: TableId) -> None:
    _check_options(ddl.options, _EXTERNAL_OPTIONS, "CREATE EXTERNAL TABLE")
    dataset = catalog.dataset(target.project, target.dataset)
    connection = catalog.registry.connection_for(ddl.connection, dataset.location)
    config = {
        "objectMetadata": ddl.options.get("object_metadata"),
        "sourceUris": ddl.options.get("uris"),
        "connectionId": str(connection),
        "metadataCacheMode": ddl.options.get("metadata_cache_mode"),
    }
    body: dict[str, Any] = {
        "tableReference": target.resource(),
        "externalDataConfiguration": {key: value for key, value in config.items() if value is not None},
        "maxStaleness": str(ddl.options.get("max_staleness") or 0),
    }
    if ddl.options.get("description"):
        body["description"] = ddl.options["description"]
    check_external(body)
    catalog.object_tables.check_buckets(body)
    with catalog.store.writing:
        present = dataset.tables.get(target.table)
        if present is not None and ddl.replace:
            if present.kind != "EXTERNAL":
                raise invalid(f"Cannot replace {target} with an external table: it is a {present.kind}")
            catalog.delete_table(target)
        elif present is not None and ddl.exists:
            return
        catalog.create_table(target.dataset, body, OBJECT_FIELDS)


def _drop_external_table(catalog: Catalog, ddl: ResourceDdl, target: TableId) -> None:
    try:
        table = catalog.table(target)
    except ApiError as problem:
        if problem.code == 404 and ddl.exists:
            return
        raise
    if table.kind != "EXTERNAL":
        raise invalid(f"Cannot drop {target} as an EXTERNAL TABLE: it is a {table.kind}")
    catalog.delete_table(target)


def _create_model(catalog: Catalog, ddl: ResourceDdl, target: TableId) -> None:
    _check_options(ddl.options, ("endpoint", "remote_service_type"), "CREATE MODEL")
    location = catalog.dataset(target.project, target.dataset).location
    connection = catalog.registry.connection_for(ddl.connection, location)
    endpoint = ddl.options.get("endpoint")
    if not isinstance(endpoint, str) or not endpoint:
        raise not_implemented("remote models without an ENDPOINT")
    name = endpoint.rsplit("/models/", 1)[-1].split(":")[0]
    if embedding_model(name) is None:
        raise not_implemented(f"remote models over {name}, only over embedding models")
    now = str(now_ms())
    body = {
        "model": name,
        "endpoint": endpoint,
        "connection": str(connection),
        "location": location,
        "creationTime": now,
        "lastModifiedTime": now,
    }
    catalog.registry.put(
        "model",
        f"{target.dataset}.{target.table}",
        body,
        label=f"Model {target}",
        replace=ddl.replace,
        if_absent=ddl.exists,
    )


def _drop_model(catalog: Catalog, ddl: ResourceDdl, target: TableId) -> None:
    name = f"{target.dataset}.{target.table}"
    catalog.registry.drop("model", name, label=f"Model {target}", if_exists=ddl.exists)


def _create_vector_index(catalog: Catalog, ddl: ResourceDdl, target: TableId) -> None:
    _check_options(
        ddl.options, ("index_type", "distance_type", "ivf_options", "tree_ah_options"), "CREATE VECTOR INDEX"
    )
    kind = str(ddl.options.get("index_type") or "").upper()
    distance = str(ddl.options.get("distance_type") or "EUCLIDEAN").upper()
    if kind not in _INDEX_TYPES:
        raise invalid(f"Invalid index_type {kind!r}: use {' or '.join(_INDEX_TYPES)}")
    if distance not in DISTANCES:
        raise invalid(f"Invalid distance_type {distance!r}: use {', '.join(DISTANCES)}")
    table = catalog.table(target)
    if table.kind != "TABLE":
        raise invalid(f"Cannot create a vector index on {target}: it is a {table.kind}")
    column = table.field(ddl.columns[0])
    if column is None:
        raise invalid(f"Column {ddl.columns[0]} is not found in table {target}")
    if not (column.repeated and column.type == "FLOAT"):
        raise invalid(f"Column {column.name} of a vector index must be ARRAY<FLOAT64>, not {column.sql_type()}")
    for name in ddl.columns[1:]:
        if table.field(name) is None:
            raise invalid(f"Column {name} is not found in table {target}")
    _check_vector_lengths(catalog, target, column.name)
    name = ddl.name[-1]
    under = f"{target.dataset}.{target.table}."
    others = [key for key in catalog.registry.all("index") if key.startswith(under) and key != under + name]
    if others:
        raise invalid(f"Table {target} has a vector index already: {others[0].removeprefix(under)}")
    body = {
        "dataset": target.dataset,
        "table": target.table,
        "column": column.name,
        "stored": list(ddl.columns[1:]),
        "index_type": kind,
        "distance_type": distance,
        "created_ms": now_ms(),
    }
    catalog.registry.put(
        "index", under + name, body, label=f"Vector index {name}", replace=ddl.replace, if_absent=ddl.exists
    )


def _check_vector_lengths(catalog: Catalog, target: TableId, column: str) -> None:
    """Reject a column whose vectors have different lengths or are empty."""
    name = catalog.store.duck_name(target.dataset, target.table)
    length = f"coalesce(len({quote(column)}), 0)"
    with catalog.store.cursor() as cursor:
        row = cursor.execute(f"SELECT COUNT(DISTINCT {length}), MIN({length}) FROM {name}").fetchone()
    if row is not None and (row[0] > 1 or row[1] == 0):
        raise invalid(f"Column {column} has arrays that are empty or of several lengths: an index needs one length")


def _drop_vector_index(catalog: Catalog, ddl: ResourceDdl, target: TableId) -> None:
    name = f"{target.dataset}.{target.table}.{ddl.name[-1]}"
    catalog.registry.drop("index", name, label=f"Vector index {ddl.name[-1]}", if_exists=ddl.exists)


def _refresh_metadata_cache(catalog: Catalog, _: ResourceDdl, target: TableId) -> None:
    table = catalog.table(target)
    if table.kind != "EXTERNAL":
        raise invalid(f"{target} is not an external table")
    catalog.object_tables.refresh(table, now_ms())


def _check_options(options: Mapping[str, Any], known: Sequence[str], statement: str) -> None:
    for name in options:
        if name not in known:
            raise not_implemented(f"the option {name} of {statement}")


_HANDLERS: Final[Mapping[str, Callable[[Catalog, ResourceDdl, TableId], None]]] = {
    "CREATE_EXTERNAL_TABLE": _create_external_table,
    "DROP_EXTERNAL_TABLE": _drop_external_table,
    "CREATE_MODEL": _create_model,
    "DROP_MODEL": _drop_model,
    "CREATE_VECTOR_INDEX": _create_vector_index,
    "DROP_VECTOR_INDEX": _drop_vector_index,
    "CALL": _refresh_metadata_cache,
}
