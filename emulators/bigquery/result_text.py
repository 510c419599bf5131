"""Formatting of query results: an aligned table, CSV, or a JSON array."""

import base64
import csv
import datetime
import decimal
import io
import json
import unicodedata
from collections.abc import Sequence
from typing import Any, Final

#: Formats of `render`.
FORMATS: Final = ("table", "csv", "json")
#: Maximum width of a cell of a table. CSV and JSON are never truncated.
MAX_CELL_WIDTH: Final = 60


def render(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> str:
    """Return a query result as text that ends with a newline.

    Args:
        columns: Column names.
        rows: Values as a BigQuery client returns them.
        form: One of `FORMATS`.

    >>> print(render(["name", "n"], [("a", 1), (None, 22)], "table"), end="")
    name   n
    ----  --
    a      1
    NULL  22
    (2 rows)
    >>> print(render(["name", "n"], [("a", 1), (None, 22)], "csv"), end="")
    name,n
    a,1
    ,22
    """
    if form == "json":
        return json.dumps([dict(zip(columns, map(_plain, row), strict=True)) for row in rows], indent=1) + "\n"
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(["" if value is None else _text(value) for value in row] for row in rows)
        return out.getvalue()
    return _table(columns, rows)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [["NULL" if value is None else _truncate(_text(value)) for value in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(columns, *cells, strict=True)]
    right = [_is_number([row[index] for row in rows]) for index in range(len(columns))]

    def line(texts: Sequence[str]) -> str:
        padded = []
        for text, width, number in zip(texts, widths, right, strict=True):
            gap = " " * (width - _width(text))
            padded.append(gap + text if number else text + gap)
        return "  ".join(padded).rstrip()

    count = f"({len(rows)} row{'' if len(rows) == 1 else 's'})"
    lines = [line(columns), line(["-" * width for width in widths]), *map(line, cells), count]
    return "\n".join(lines) + "\n"


def _is_number(values: Sequence[Any]) -> bool:
    kinds = (int, float, decimal.Decimal)
    return all(value is None or (isinstance(value, kinds) and not isinstance(value, bool)) for value in values)


def _plain(value: Any) -> Any:
    """Return a value for JSON: decimals, times and bytes become strings."""
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return f"{value.normalize():f}" if value.is_finite() else str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _text(value: Any) -> str:
    plain = _plain(value)
    if isinstance(plain, str):
        return plain
    return json.dumps(plain, ensure_ascii=False)


def _truncate(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_CELL_WIDTH else flat[: MAX_CELL_WIDTH - 1] + "…"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
