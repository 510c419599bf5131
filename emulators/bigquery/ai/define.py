"""DDL of connections, object tables, remote models and vector indexes, done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.object_tables import OBJECT_FIELDS, check_external
from imagebeam.emulators.bigquery.catalog.registry import read_connection
from imagebeam.emulators.bigquery.catalog.resources import now_ms
from imagebeam.emulators.bigquery.dialect.definitions import Definition
from imagebeam.emulators.bigquery.dialect.functions.vector import DISTANCES
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import invalid, not_implemented
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.embedding_models import embedding_model

_INDEX_TYPES: Final = ("IVF", "TREE_AH")
_EXTERNAL_OPTIONS: Final = ("object_metadata", "uris", "max_staleness", "metadata_cache_mode", "description")


def define_ai(catalog: Catalog, said: Definition, target: TableId | None) -> None:
    """Do what a statement says.

    Args:
        catalog: The tables.
        said: The statement.
        target: The table or model that it is about, with its full name; None for connections.

    Raises:
        ApiError: What BigQuery would answer.
    """
    if said.kind.endswith("_CONNECTION"):
        _connection(catalog, said)
        return
    assert target is not None  # noqa: S101
    if target.project != catalog.project:
        raise ApiError(404, f"Not found: Project {target.project}", reason="notFound")
    _DO[said.kind](catalog, said, target)


def _connection(catalog: Catalog, said: Definition) -> None:
    ident = read_connection(said.name, catalog.project)
    if said.kind == "DROP_CONNECTION":
        catalog.registry.drop("connection", str(ident), what=f"Connection {ident.path}", if_exists=said.exists)
        return
    options = dict(said.options)
    kind = options.pop("connection_type", None)
    if str(kind or "").upper() != "CLOUD_RESOURCE":
        raise not_implemented(f"connections of type {kind}: write connection_type = 'CLOUD_RESOURCE'")
    _only(options, ("friendly_name", "description"), "CREATE CONNECTION")
    names = {"friendly_name": "friendlyName"}
    more = {names.get(name, name): value for name, value in options.items()}
    catalog.registry.create_connection(ident, if_absent=said.exists, replace=said.replace, **more)


def _external_table(catalog: Catalog, said: Definition, target: TableId) -> None:
    _only(said.options, _EXTERNAL_OPTIONS, "CREATE EXTERNAL TABLE")
    home = catalog.dataset(target.project, target.dataset)
    connection = catalog.registry.connection_for(said.connection, home.location)
    config = {
        "objectMetadata": said.options.get("object_metadata"),
        "sourceUris": said.options.get("uris"),
        "connectionId": str(connection),
        "metadataCacheMode": said.options.get("metadata_cache_mode"),
    }
    body: dict[str, Any] = {
        "tableReference": target.resource(),
        "externalDataConfiguration": {key: value for key, value in config.items() if value is not None},
        "maxStaleness": str(said.options.get("max_staleness") or 0),
    }
    if said.options.get("description"):
        body["description"] = said.options["description"]
    check_external(body)
    catalog.objects.check(body)
    with catalog.store.writing:
        present = home.tables.get(target.table)
        if present is not None and said.replace:
            if present.kind != "EXTERNAL":
                raise invalid(f"Cannot replace {target} with an external table: it is a {present.kind}")
            catalog.delete_table(target)
        elif present is not None and said.exists:
            return
        catalog.create_table(target.dataset, body, OBJECT_FIELDS)


def _drop_external_table(catalog: Catalog, said: Definition, target: TableId) -> None:
    try:
        table = catalog.table(target)
    except ApiError as problem:
        if problem.code == 404 and said.exists:
            return
        raise
    if table.kind != "EXTERNAL":
        raise invalid(f"Cannot drop {target} as an EXTERNAL TABLE: it is a {table.kind}")
    catalog.delete_table(target)


def _model(catalog: Catalog, said: Definition, target: TableId) -> None:
    _only(said.options, ("endpoint", "remote_service_type"), "CREATE MODEL")
    location = catalog.dataset(target.project, target.dataset).location
    connection = catalog.registry.connection_for(said.connection, location)
    endpoint = said.options.get("endpoint")
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
        what=f"Model {target}",
        replace=said.replace,
        if_absent=said.exists,
    )


def _drop_model(catalog: Catalog, said: Definition, target: TableId) -> None:
    name = f"{target.dataset}.{target.table}"
    catalog.registry.drop("model", name, what=f"Model {target}", if_exists=said.exists)


def _vector_index(catalog: Catalog, said: Definition, target: TableId) -> None:
    _only(said.options, ("index_type", "distance_type", "ivf_options", "tree_ah_options"), "CREATE VECTOR INDEX")
    kind = str(said.options.get("index_type") or "").upper()
    distance = str(said.options.get("distance_type") or "EUCLIDEAN").upper()
    if kind not in _INDEX_TYPES:
        raise invalid(f"Invalid index_type {kind!r}: use {' or '.join(_INDEX_TYPES)}")
    if distance not in DISTANCES:
        raise invalid(f"Invalid distance_type {distance!r}: use {', '.join(DISTANCES)}")
    table = catalog.table(target)
    if table.kind != "TABLE":
        raise invalid(f"Cannot create a vector index on {target}: it is a {table.kind}")
    column = table.field(said.columns[0])
    if column is None:
        raise invalid(f"Column {said.columns[0]} is not found in table {target}")
    if not (column.repeated and column.type == "FLOAT"):
        raise invalid(f"Column {column.name} of a vector index must be ARRAY<FLOAT64>, not {column.sql_type()}")
    for name in said.columns[1:]:
        if table.field(name) is None:
            raise invalid(f"Column {name} is not found in table {target}")
    _same_lengths(catalog, target, column.name)
    name = said.name[-1]
    under = f"{target.dataset}.{target.table}."
    others = [key for key in catalog.registry.all("index") if key.startswith(under) and key != under + name]
    if others:
        raise invalid(f"Table {target} has a vector index already: {others[0].removeprefix(under)}")
    body = {
        "dataset": target.dataset,
        "table": target.table,
        "column": column.name,
        "stored": list(said.columns[1:]),
        "index_type": kind,
        "distance_type": distance,
        "created_ms": now_ms(),
    }
    catalog.registry.put(
        "index", under + name, body, what=f"Vector index {name}", replace=said.replace, if_absent=said.exists
    )


def _same_lengths(catalog: Catalog, target: TableId, column: str) -> None:
    """Refuse a column that an index could not be built of."""
    name = catalog.store.duck_name(target.dataset, target.table)
    quoted = '"' + column.replace('"', '""') + '"'
    with catalog.store.cursor() as cursor:
        row = cursor.execute(
            f"SELECT COUNT(DISTINCT coalesce(len({quoted}), 0)), MIN(coalesce(len({quoted}), 0)) FROM {name}"
        ).fetchone()
    if row is not None and (row[0] > 1 or row[1] == 0):
        raise invalid(f"Column {column} has arrays that are empty or of several lengths: an index needs one length")


def _drop_vector_index(catalog: Catalog, said: Definition, target: TableId) -> None:
    name = f"{target.dataset}.{target.table}.{said.name[-1]}"
    catalog.registry.drop("index", name, what=f"Vector index {said.name[-1]}", if_exists=said.exists)


def _refresh(catalog: Catalog, _: Definition, target: TableId) -> None:
    table = catalog.table(target)
    if table.kind != "EXTERNAL":
        raise invalid(f"{target} is not an external table")
    catalog.objects.refresh(table, now_ms())


def _only(options: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in options:
        if name not in known:
            raise not_implemented(f"the option {name} of {where}")


_DO: Final[Mapping[str, Callable[[Catalog, Definition, TableId], None]]] = {
    "CREATE_EXTERNAL_TABLE": _external_table,
    "DROP_EXTERNAL_TABLE": _drop_external_table,
    "CREATE_MODEL": _model,
    "DROP_MODEL": _drop_model,
    "CREATE_VECTOR_INDEX": _vector_index,
    "DROP_VECTOR_INDEX": _drop_vector_index,
    "CALL": _refresh,
}
