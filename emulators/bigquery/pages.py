"""Pages of rows: of results and of tables, by start index."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.cells import encode_rows, encoder, sql_cell
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import Field
from imagebeam.emulators.core.http import ApiError

#: Rows of a page when nobody asks for fewer. BigQuery cuts at 10 MB; 10,000 rows of results are about that.
PAGE_ROWS: Final = 10_000
_TOKEN: Final = re.compile(r"rows-(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Which rows a request wants, and how.

    Attributes:
        start: Index of the first row.
        count: How many at most.
        int64_timestamp: Timestamps in microseconds instead of seconds.
    """

    start: int
    count: int
    int64_timestamp: bool

    @classmethod
    def of(cls, query: Mapping[str, str], *, most: int = PAGE_ROWS) -> Window:
        """Read the parameters of a request.

        Raises:
            ApiError: 400 for a bad one.
        """
        start = _number(query, "startIndex", 0)
        token = query.get("pageToken")
        if token:
            match = _TOKEN.fullmatch(token)
            if match is None:
                raise ApiError(400, f"Invalid page token: {token}", reason="invalid")
            if query.get("startIndex") is not None:
                raise ApiError(400, "Only one of startIndex and pageToken can be given.", reason="invalid")
            start = int(match[1])
        count = _number(query, "maxResults", most)
        stamp = query.get("formatOptions.timestampOutputFormat", "INT64")
        if stamp not in ("INT64", "FLOAT64", "TIMESTAMP_OUTPUT_FORMAT_UNSPECIFIED"):
            raise not_implemented(f"formatOptions.timestampOutputFormat={stamp}")
        use = query.get("formatOptions.useInt64Timestamp", "false").lower() == "true"
        return cls(start, min(count, most), use or query.get("formatOptions.timestampOutputFormat") == "INT64")


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Where rows are.

    Attributes:
        duck: DuckDB's name of the table.
        fields: Its columns.
        total: How many rows it has.
        dense: Whether row ids are row numbers: true for results, which nobody changes.
    """

    duck: str
    fields: tuple[Field, ...]
    total: int
    dense: bool


def read_page(catalog: Catalog, rows: Rows, window: Window) -> tuple[list[dict[str, Any]], str | None]:
    """Return the rows of a window in the API's shape, and the token of what follows."""
    count = max(0, min(window.count, rows.total - window.start))
    found: Sequence[Sequence[Any]] = []
    if count and rows.fields:
        cells = ", ".join(sql_cell(field) for field in rows.fields)
        end = window.start + count
        where = f"WHERE rowid >= {window.start} AND rowid < {end}" if rows.dense else ""
        cut = "" if rows.dense else f"LIMIT {count} OFFSET {window.start}"
        with catalog.store.cursor() as cursor:
            found = cursor.execute(f"SELECT {cells} FROM {rows.duck} {where} {cut}").fetchall()
    encoders = [encoder(field, int64_timestamp=window.int64_timestamp) for field in rows.fields]
    end = window.start + len(found)
    return encode_rows(found, encoders), f"rows-{end}" if found and end < rows.total else None


def select_fields(fields: Sequence[Field], selected: str | None) -> tuple[Field, ...]:
    """Return the columns that ``selectedFields`` names, in the order of the table.

    Raises:
        ApiError: 400 for an unknown one, 501 for the field of a RECORD.
    """
    if not selected:
        return tuple(fields)
    names = [name.strip() for name in selected.split(",") if name.strip()]
    known = {field.name.lower() for field in fields}
    for name in names:
        if name.lower() not in known:
            if "." in name:
                raise not_implemented(f"selectedFields of a field in a RECORD ({name})")
            raise ApiError(400, f"Requested entity was not found: no such field: {name}", reason="invalid")
    wanted = {name.lower() for name in names}
    return tuple(field for field in fields if field.name.lower() in wanted)


def _number(query: Mapping[str, str], key: str, default: int) -> int:
    text = query.get(key)
    if text in (None, ""):
        return default
    if not str(text).isdigit():
        raise ApiError(400, f"Invalid value for {key}: {text}", reason="invalid")
    return int(str(text))


def page_of(items: Sequence[Any], query: Mapping[str, str], most: int = 1_000) -> tuple[list[Any], str | None]:
    """Return one page of a listing, and the token of the next."""
    window = Window.of(query, most=most)
    end = window.start + window.count
    return list(items[window.start : end]), f"rows-{end}" if end < len(items) else None
