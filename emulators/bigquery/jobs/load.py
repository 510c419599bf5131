"""Load jobs: newline-delimited JSON from ``gs://`` or from the request."""

from __future__ import annotations

import dataclasses
import fnmatch
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import orjson

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.row_reader import RowError, RowReader
from imagebeam.emulators.bigquery.catalog.rows import append_rows
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import Field, parse_fields, schema_resource
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_store import ObjectStore

#: Maximum number of rows of a batch, and of bytes of their JSON: rows with vectors are long.
BATCH_ROWS: Final = 5_000
BATCH_BYTES: Final = 8_000_000
_KEYS: Final = frozenset(
    (
        "destinationTable", "sourceUris", "schema", "sourceFormat", "writeDisposition", "createDisposition",
        "autodetect", "maxBadRecords", "ignoreUnknownValues", "encoding", "timePartitioning", "clustering",
        "destinationTableProperties", "schemaUpdateOptions",
    )
)  # fmt: skip
_WRITES: Final = ("WRITE_APPEND", "WRITE_TRUNCATE", "WRITE_EMPTY")
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_TIMESTAMP: Final = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(\.\d{1,6})?( ?(Z|UTC|[+-]\d{2}:?\d{2}))?")


@dataclasses.dataclass(frozen=True, slots=True)
class LoadOutcome:
    """Statistics of a finished load job."""

    files: int
    file_bytes: int
    rows: int
    bad_rows: int


@dataclasses.dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a load job.

    Attributes:
        name: Name in messages.
        size: Size in bytes.
        content: Its bytes, or the path of a file that may be larger than the memory.
    """

    name: str
    size: int
    content: bytes | Path

    def open(self) -> BinaryIO:
        """Open the file for reading line by line."""
        return self.content.open("rb") if isinstance(self.content, Path) else io.BytesIO(self.content)


def check_load(config: Mapping[str, Any]) -> TableId:
    """Validate a load configuration and return its destination.

    Raises:
        ApiError: 400 for an invalid configuration, 501 for one that is not implemented.
    """
    for key, value in config.items():
        if key not in _KEYS and value not in (None, False, "", [], {}):
            raise not_implemented(f"{key!r} of a load job")
    source_format = str(config.get("sourceFormat") or "CSV")
    if source_format != "NEWLINE_DELIMITED_JSON":
        raise not_implemented(f"load jobs of format {source_format}: use NEWLINE_DELIMITED_JSON")
    if str(config.get("encoding") or "UTF-8").upper() != "UTF-8":
        raise not_implemented(f"the encoding {config['encoding']}")
    if config.get("writeDisposition", "WRITE_APPEND") not in _WRITES:
        raise not_implemented(f"writeDisposition {config['writeDisposition']}")
    for option in config.get("schemaUpdateOptions") or ():
        if option not in ("ALLOW_FIELD_ADDITION", "ALLOW_FIELD_RELAXATION"):
            raise ApiError(400, f"Invalid value for schemaUpdateOptions: {option}", reason="invalid")
    table = config.get("destinationTable") or {}
    if not all(table.get(key) for key in ("projectId", "datasetId", "tableId")):
        raise ApiError(400, "Required parameter is missing: destinationTable", reason="required")
    return TableId(table["projectId"], table["datasetId"], table["tableId"])


def run_load(catalog: Catalog, objects: ObjectStore, config: Mapping[str, Any], upload: bytes | None) -> LoadOutcome:
    """Run a load job.

    Args:
        catalog: The tables.
        objects: Where ``gs://`` URIs are read.
        config: The checked ``configuration.load``.
        upload: Rows that came with the request, else None.

    Raises:
        ApiError: The error of the job. The table is then unchanged.
    """
    if upload is not None:
        sources: Sequence[SourceFile] = [SourceFile("upload", len(upload), upload)]
    else:
        sources = _sources(objects, config.get("sourceUris") or [])
    target = check_load(config)
    schema = parse_fields((config.get("schema") or {}).get("fields") or []) if config.get("schema") else None
    with catalog.store.writing:
        table, created = _destination(catalog, target, config, schema, sources)
        try:
            return _append_files(catalog, table, config, sources)
        except BaseException:
            if created:
                catalog.delete_table(target)
            raise


def _sources(objects: ObjectStore, uris: Sequence[str]) -> list[SourceFile]:
    if not uris:
        raise ApiError(400, "Required parameter is missing: sourceUris", reason="required")
    found: list[SourceFile] = []
    for uri in uris:
        match = re.fullmatch(r"gs://([^/]+)/(.+)", uri)
        if match is None:
            raise ApiError(400, f"Source URI must be a Google Cloud Storage location: {uri}", reason="invalid")
        bucket, name = match.groups()
        if name.count("*") > 1:
            raise ApiError(400, f"Only one wildcard is allowed in a source URI: {uri}", reason="invalid")
        if "*" in name:
            pattern = "".join(f"[{char}]" if char in "?[" else char for char in name)
            prefix = name.partition("*")[0]
            stored = [item for item in objects.list(bucket, prefix) if fnmatch.fnmatchcase(item.name, pattern)]
        else:
            one = objects.read(bucket, name)
            stored = [one] if one is not None else []
        if not stored:
            raise ApiError(404, f"Not found: URI {uri}", reason="notFound")
        found += [SourceFile(item.uri, item.size, item.path) for item in stored]
    return found


def _destination(
    catalog: Catalog,
    target: TableId,
    config: Mapping[str, Any],
    schema: tuple[Field, ...] | None,
    sources: Sequence[SourceFile],
) -> tuple[Table, bool]:
    """Return the table, created if necessary, and whether it was created."""
    write = config.get("writeDisposition", "WRITE_APPEND")
    try:
        table = catalog.table(target)
    except ApiError as problem:
        catalog.dataset(target.project, target.dataset)
        if problem.code != 404 or config.get("createDisposition") == "CREATE_NEVER":
            raise
        fields = schema if schema is not None else _detect_fields(config, sources)
        body: dict[str, Any] = {"tableReference": target.resource()}
        body |= {key: config[key] for key in ("timePartitioning", "clustering") if config.get(key)}
        body |= config.get("destinationTableProperties") or {}
        return catalog.create_table(target.dataset, body, fields), True
    if table.view is not None:
        raise ApiError(400, f"Cannot load into the view {target}", reason="invalid")
    if write == "WRITE_EMPTY" and catalog.size(table)[""]:
        raise ApiError(409, f"Already Exists: Table {target}", reason="duplicate")
    if schema is None and (not table.fields or (config.get("autodetect") and write == "WRITE_TRUNCATE")):
        schema = _detect_fields(config, sources)
    if schema is None:
        return table, False
    if write == "WRITE_TRUNCATE" and [field.duck_type() for field in schema] != [f.duck_type() for f in table.fields]:
        properties = {
            key: table.resource[key] for key in ("description", "labels", "clustering") if key in table.resource
        }
        catalog.delete_table(target)
        return catalog.create_table(target.dataset, {"tableReference": target.resource()} | properties, schema), False
    known = {field.name.lower() for field in table.fields}
    added = [field for field in schema if field.name.lower() not in known]
    if added and table.fields and "ALLOW_FIELD_ADDITION" not in (config.get("schemaUpdateOptions") or ()):
        raise ApiError(
            400,
            f"Provided Schema does not match Table {target}. Cannot add fields (field: {added[0].name})",
            reason="invalid",
        )
    if added:
        resource = {"schema": schema_resource((*table.fields, *added))}
        table = catalog.update_table(target, resource, replace=False)
    return table, False


def _append_files(
    catalog: Catalog, table: Table, config: Mapping[str, Any], sources: Sequence[SourceFile]
) -> LoadOutcome:
    allowed = int(config.get("maxBadRecords") or 0)
    ignore = str(config.get("ignoreUnknownValues", False)).lower() == "true"
    read = RowReader(table.fields, json_text=False, ignore_unknown=ignore).reader()
    bad: list[str] = []

    def batches() -> Iterator[list[list[Any]]]:
        batch: list[list[Any]] = []
        size = 0
        for source in sources:
            with source.open() as lines:
                for number, line in enumerate(lines, 1):
                    if not line.strip():
                        continue
                    try:
                        row = orjson.loads(line)
                        if not isinstance(row, dict):
                            raise RowError("", "the line is not a JSON object")
                        batch.append(read(row))
                    except (orjson.JSONDecodeError, RowError) as problem:
                        bad.append(f"{source.name}, line {number}: {problem}")
                        if len(bad) > allowed:
                            raise ApiError(
                                400,
                                "Error while reading data, error message: JSON table encountered too many errors, "
                                "giving up. "
                                f"Rows: {number}; errors: {len(bad)}. {bad[0]}",
                                reason="invalid",
                            ) from problem
                    size += len(line)
                    if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
                        yield batch
                        batch, size = [], 0
        yield batch

    truncate = config.get("writeDisposition") == "WRITE_TRUNCATE"
    rows = append_rows(catalog, table, batches(), truncate=truncate)
    return LoadOutcome(len(sources), sum(source.size for source in sources), rows, len(bad))


def _detect_fields(config: Mapping[str, Any], sources: Sequence[SourceFile]) -> tuple[Field, ...]:
    """Infer the columns from the rows, as ``autodetect`` does."""
    if not config.get("autodetect"):
        raise ApiError(400, "No schema specified on job or table.", reason="invalid")
    rows = []
    for source in sources:
        with source.open() as lines:
            for line in lines:
                if line.strip():
                    try:
                        row = orjson.loads(line)
                    except orjson.JSONDecodeError:
                        continue
                    if isinstance(row, dict):
                        rows.append(row)
    fields = _fields_of_rows(rows)
    if not fields:
        raise ApiError(400, "Unable to generate schema: the files have no rows", reason="invalid")
    return fields


def _fields_of_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[Field, ...]:
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    fields = [_field_of_values(name, [item for item in items if item is not None]) for name, items in values.items()]
    return tuple(field for field in fields if field is not None)


def _field_of_values(name: str, values: Sequence[Any]) -> Field | None:
    if any(isinstance(value, list) for value in values):
        items = [item for value in values if isinstance(value, list) for item in value]
        inner = _field_of_values(name, items)
        return dataclasses.replace(inner, mode="REPEATED") if inner is not None else None
    if values and all(isinstance(value, dict) for value in values):
        inner_fields = _fields_of_rows(values)
        return Field(name, "RECORD", fields=inner_fields) if inner_fields else None
    if not values:
        return Field(name, "STRING")
    return Field(name, _type_of(values))


def _type_of(values: Sequence[Any]) -> str:
    if all(isinstance(value, bool) for value in values):
        return "BOOLEAN"
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values):
        return "INTEGER" if all(isinstance(value, int) for value in values) else "FLOAT"
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) == len(values):
        if all(_DATE.fullmatch(text) for text in texts):
            return "DATE"
        if all(_TIMESTAMP.fullmatch(text) for text in texts):
            return "TIMESTAMP"
    return "STRING"
