"""File formats of ``imagebeam export``. Each writes pages of rows, so that memory does not grow with the result."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import IO, Any, Final, Protocol

import orjson

from imagebeam.transforms.sql.unit_rows import rfc3339

Row = Mapping[str, Any]
#: Columns of a result as REST JSON: name, type and mode.
Fields = Sequence[Mapping[str, Any]]

CONTENT_TYPES: Final = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "jsonl": "application/x-ndjson",
    "geojson": "application/geo+json",
    "tuning_jsonl": "application/x-ndjson",
}


class RowWriter(Protocol):
    """Writes rows to an open binary file."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write a page of rows."""

    def close(self) -> None:
        """Write what follows the last row; the file remains open."""


class JsonLinesWriter:
    """One JSON object per line. Arrays and JSON answers stay nested, NUMERIC becomes a number."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, rows: Sequence[Row]) -> None:
        """Write a page of rows."""
        self._file.write(b"".join(_json(row) + b"\n" for row in rows))

    def close(self) -> None:
        """Nothing follows the last row."""


class CsvWriter:
    """CSV with a header.

    NULL is an empty cell, BOOL ``true`` or ``false``, TIMESTAMP an RFC 3339 time in UTC. Arrays and JSON are JSON text
    in one cell.
    """

    def __init__(self, file: IO[bytes], fields: Fields) -> None:
        self._file = file
        self._names = [str(field["name"]) for field in fields]
        self._is_json = {str(field["name"]): _is_nested(field) for field in fields}
        self._write([self._names])

    def write(self, rows: Sequence[Row]) -> None:
        """Write a page of rows."""
        self._write([[self._cell(name, row[name]) for name in self._names] for row in rows])

    def close(self) -> None:
        """Nothing follows the last row."""

    def _cell(self, name: str, value: Any) -> str:
        if value is None:
            return ""
        if self._is_json[name]:
            return _json(value).decode()
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, datetime.datetime):
            return str(rfc3339(value))
        return f"{value:f}" if isinstance(value, Decimal) else str(value)

    def _write(self, lines: Sequence[Sequence[str]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(lines)
        self._file.write(text.getvalue().encode("utf-8"))


class GeoJsonWriter:
    """A FeatureCollection with a point per answer; all columns are properties.

    An answer without a valid position has no geometry, as RFC 7946 defines it.

    Attributes:
        without_position: Answers without a valid position so far.
    """

    def __init__(self, file: IO[bytes], latitude: str, longitude: str) -> None:
        self._file, self._latitude, self._longitude = file, latitude, longitude
        self._between = b"\n"
        self.without_position = 0
        file.write(b'{"type":"FeatureCollection","features":[')

    def write(self, rows: Sequence[Row]) -> None:
        """Write a page of rows."""
        for row in rows:
            latitude, longitude = row[self._latitude], row[self._longitude]
            valid = None not in (latitude, longitude) and abs(latitude) <= 90 and abs(longitude) <= 180
            self.without_position += not valid
            feature = {
                "type": "Feature",
                "id": row["unit_id"],
                "geometry": {"type": "Point", "coordinates": [longitude, latitude]} if valid else None,
                "properties": row,
            }
            self._file.write(self._between + _json(feature))
            self._between = b",\n"

    def close(self) -> None:
        """Close the collection."""
        self._file.write(b"\n]}\n")


class ParquetWriter:
    """Parquet with the types of BigQuery; each page is a row group. JSON columns are text."""

    def __init__(self, file: IO[bytes], fields: Fields) -> None:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        types = {
            "STRING": pa.string(),
            "INTEGER": pa.int64(),
            "FLOAT": pa.float64(),
            "BOOLEAN": pa.bool_(),
            "NUMERIC": pa.decimal128(38, 9),
            "TIMESTAMP": pa.timestamp("us", tz="UTC"),
            "JSON": pa.string(),
        }
        self._json = [str(field["name"]) for field in fields if field["type"] == "JSON"]
        self._schema = pa.schema([
            pa.field(
                str(field["name"]),
                pa.list_(types[field["type"]]) if field.get("mode") == "REPEATED" else types[field["type"]],
            )
            for field in fields
        ])  # fmt: skip
        self._table = pa.Table
        self._writer = parquet.ParquetWriter(file, self._schema)

    def write(self, rows: Sequence[Row]) -> None:
        """Write a page of rows."""
        as_text = dict.fromkeys(self._json)
        made = [
            {**row, **{name: None if row[name] is None else _json(row[name]).decode() for name in as_text}}
            for row in rows
        ]
        self._writer.write_table(self._table.from_pylist(made, schema=self._schema))

    def close(self) -> None:
        """Write the footer."""
        self._writer.close()


def _is_nested(field: Mapping[str, Any]) -> bool:
    return field.get("mode") == "REPEATED" or field["type"] == "JSON"


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=_other, option=orjson.OPT_UTC_Z)


def _other(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} in an answer")
