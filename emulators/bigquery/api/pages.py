"""Pages of rows and of lists, by start index."""

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

#: Maximum number of rows of a page. BigQuery's limit is 10 MB, about 10,000 rows of results.
PAGE_ROWS: Final = 10_000
_TOKEN: Final = re.compile(r"rows-(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class PageRequest:
    """The page that a request selects.

    Attributes:
        start: Index of the first row.
        count: Maximum number of rows.
        int64_timestamp: Whether timestamps are in microseconds (else in seconds).
    """

    start: int
    count: int
    int64_timestamp: bool

    @classmethod
    def parse(cls, query: Mapping[str, str], *, limit: int = PAGE_ROWS) -> PageRequest:
        """Parse the parameters of a request.

        Args:
            query: The parameters.
            limit: Maximum number of rows of a page, also the default.

        Raises:
            ApiError: 400 for an invalid parameter, 501 for a timestamp format that is not implemented.
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
        count = _number(query, "maxResults", limit)
        timestamps = query.get("formatOptions.timestampOutputFormat", "INT64")
        if timestamps not in ("INT64", "FLOAT64", "TIMESTAMP_OUTPUT_FORMAT_UNSPECIFIED"):
            raise not_implemented(f"formatOptions.timestampOutputFormat={timestamps}")
        int64 = query.get("formatOptions.useInt64Timestamp", "false").lower() == "true"
        return cls(start, min(count, limit), int64 or query.get("formatOptions.timestampOutputFormat") == "INT64")


@dataclasses.dataclass(frozen=True, slots=True)
class RowSource:
    """A table to read rows from.

    Attributes:
        duck: Name of the table in DuckDB.
        fields: The columns to read.
        total: Number of rows.
        dense: Whether row ids are row numbers: true for query results, which never change.
    """

    duck: str
    fields: tuple[Field, ...]
    total: int
    dense: bool


def read_page(catalog: Catalog, source: RowSource, page: PageRequest) -> tuple[list[dict[str, Any]], str | None]:
    """Return the rows of a page in the shape of the API, and the token of the next page (None for the last)."""
    count = max(0, min(page.count, source.total - page.start))
    found: Sequence[Sequence[Any]] = []
    if count and source.fields:
        cells = ", ".join(sql_cell(field) for field in source.fields)
        where = f"WHERE rowid >= {page.start} AND rowid < {page.start + count}" if source.dense else ""
        limit = "" if source.dense else f"LIMIT {count} OFFSET {page.start}"
        with catalog.store.cursor() as cursor:
            found = cursor.execute(f"SELECT {cells} FROM {source.duck} {where} {limit}").fetchall()
    encoders = [encoder(field, int64_timestamp=page.int64_timestamp) for field in source.fields]
    end = page.start + len(found)
    return encode_rows(found, encoders), f"rows-{end}" if found and end < source.total else None


def select_fields(fields: Sequence[Field], selected: str | None) -> tuple[Field, ...]:
    """Return the columns that ``selectedFields`` names, in the order of the table.

    Args:
        fields: The columns of the table.
        selected: Comma-separated names; None or empty for all columns.

    Raises:
        ApiError: 400 for an unknown column, 501 for a field of a RECORD.
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


def paginate(items: Sequence[Any], query: Mapping[str, str], limit: int = 1_000) -> tuple[list[Any], str | None]:
    """Return one page of a list, and the token of the next page (None for the last)."""
    page = PageRequest.parse(query, limit=limit)
    end = page.start + page.count
    return list(items[page.start : end]), f"rows-{end}" if end < len(items) else None
