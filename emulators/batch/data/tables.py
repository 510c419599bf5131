"""BigQuery tables as input and output of batch jobs."""

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from imagebeam.emulators.batch.data.importer import RESULTS, ImportedFile, JobImportError
from imagebeam.emulators.batch.data.output import encode_value
from imagebeam.emulators.batch.data.rows import InputRow, Record
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.rows import append_rows
from imagebeam.emulators.bigquery.catalog.table import Table
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.types import Field, quote
from imagebeam.emulators.core.http import ApiError

#: Rows per query.
PAGE_ROWS: Final = 2_000
#: Unsupported types of input columns (Google, "Batch inference for BigQuery").
UNSUPPORTED_TYPES: Final = ("RECORD", "DATETIME", "GEOGRAPHY", "RANGE")

_OF_KINDS: Final = {"string": "STRING", "boolean": "BOOLEAN", "integer": "INTEGER", "float": "FLOAT"}
_ADDED: Final = (Field("response", "JSON"), Field("status", "STRING"), Field("processed_time", "TIMESTAMP"))


def check_location(catalog: Catalog, table: TableId, location: str) -> None:
    """Check that a table is in the region of the job.

    Raises:
        ApiError: 404 if the dataset does not exist, 400 if it is in a multi-region or another region.
    """
    dataset_location = catalog.dataset(table.project, table.dataset).location
    named = f"Dataset {table.project}:{table.dataset} is in {dataset_location}"
    if "-" not in dataset_location:
        raise ApiError(400, f"{named}: batch prediction does not support BigQuery tables in a multi-region.")
    if dataset_location.lower() != location.lower():
        raise ApiError(400, f"{named} and the job in {location}: they must be in the same region.")


class TableSource:
    """An input table.

    Args:
        catalog: The tables.
        ident: The table.
        max_rows: Maximum number of rows.

    Attributes:
        total: Number of rows.
        fields: Columns without the results of an earlier job.

    Raises:
        JobImportError: The table cannot be an input.
    """

    def __init__(self, catalog: Catalog, ident: TableId, max_rows: int) -> None:
        self._catalog = catalog
        try:
            self._table = catalog.table(ident)
        except ApiError as problem:
            raise JobImportError(problem.message) from problem
        names = {field.name.lower() for field in self._table.fields}
        if self._table.view is not None:
            raise JobImportError(f"{ident} is a view: only tables are supported.")
        if "request" not in names:
            raise JobImportError(f"Table {ident} has no column request.")
        if ("response" in names) != ("status" in names):
            raise JobImportError(f"Table {ident} must not have only one of the columns response and status.")
        for field in self._table.fields:
            if field.repeated or field.type in UNSUPPORTED_TYPES:
                raise JobImportError(
                    f"Column {field.name} of table {ident} has type {field.sql_type()}: not supported."
                )
        self.total = catalog.size(self._table)[""]
        if not 1 <= self.total <= max_rows:
            raise JobImportError(f"Table {ident} has {self.total} rows: 1 to {max_rows} requests are supported.")
        self.fields = tuple(field for field in self._table.fields if field.name.lower() not in RESULTS)

    def rows(self) -> Iterator[InputRow]:
        """Read the rows page by page."""
        fields = self._table.fields
        name = self._catalog.store.duck_name(self._table.ident.dataset, self._table.ident.table)
        columns = ", ".join(quote(field.name) for field in fields)
        names = [field.name.lower() if field.name.lower() in (*RESULTS, "request") else field.name for field in fields]
        place = -1
        while True:
            with self._catalog.store.cursor() as cursor:
                page = cursor.execute(
                    f"SELECT rowid, {columns} FROM {name} WHERE rowid > ? ORDER BY rowid LIMIT ?", [place, PAGE_ROWS]
                ).fetchall()
            if not page:
                return
            place = page[-1][0]
            for _, *values in page:
                record = dict(zip(names, values, strict=True))
                for key in ("request", "response"):
                    if isinstance(record.get(key), str):
                        record[key] = _parsed(record[key])
                yield InputRow(record)


def columns_of(imported: ImportedFile) -> tuple[Field, ...]:
    """Return the table columns of an imported file."""
    fields = imported.schema.fields
    return tuple(Field(name, _OF_KINDS.get(schema.kind, "JSON")) for name, schema in fields.items())


class TableOutput:
    """An output table with the columns of the input and ``response``, ``status`` and ``processed_time``.

    Args:
        catalog: The tables.
        ident: The table, which is created if missing.
        fields: Columns of the input.

    Raises:
        ApiError: 400 if the table exists with other columns.
    """

    def __init__(self, catalog: Catalog, ident: TableId, fields: Sequence[Field]) -> None:
        self._catalog = catalog
        self._ident = ident
        self._table = self._find((*fields, *_ADDED))

    @property
    def info(self) -> dict[str, Any]:
        """``outputInfo`` of the job."""
        ident = self._ident
        return {
            "bigqueryOutputDataset": f"bq://{ident.project}.{ident.dataset}",
            "bigqueryOutputTable": f"bq://{ident.project}.{ident.dataset}.{ident.table}",
        }

    def write(self, lines: Sequence[Record]) -> None:
        """Append rows."""
        if lines:
            append_rows(self._catalog, self._table, [[self._values(line) for line in lines]])

    def finish(self) -> None:
        """Do nothing: written rows are complete."""

    def discard(self) -> None:
        """Do nothing: written rows are kept."""

    def _find(self, fields: Sequence[Field]) -> Table:
        plain_fields = [Field(field.name, field.type) for field in fields]
        with self._catalog.store.writing:
            try:
                table = self._catalog.table(self._ident)
            except ApiError as problem:
                if problem.code != 404:
                    raise
                return self._catalog.create_table(
                    self._ident.dataset, {"tableReference": self._ident.resource()}, plain_fields
                )
        for field in plain_fields:
            found = table.field(field.name)
            if found is None or found.type != field.type or found.repeated:
                raise ApiError(400, f"Table {self._ident} has no column {field.name} of type {field.sql_type()}.")
        return table

    def _values(self, line: Record) -> list[Any]:
        known = {key.lower(): value for key, value in line.items()}
        return [_cell(field, known.get(field.name.lower())) for field in self._table.fields]


def _cell(field: Field, value: Any) -> Any:
    if field.name.lower() in ("request", "response") and value is not None:
        return None if value == {} else orjson.dumps(value, default=encode_value).decode()
    if field.type == "JSON" and isinstance(value, dict | list):
        return orjson.dumps(value, default=encode_value).decode()
    if field.type == "TIMESTAMP" and isinstance(value, str):
        return datetime.datetime.fromisoformat(value)
    return value


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
