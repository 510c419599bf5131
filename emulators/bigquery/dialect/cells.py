"""Encoding of DuckDB values as cells of REST responses."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from imagebeam.emulators.bigquery.dialect.functions.geography import to_wkt
from imagebeam.emulators.bigquery.dialect.types import Field, number_text, quote

_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)

Encode = Callable[[Any], Any]


def sql_cell(field: Field) -> str:
    """Return the DuckDB expression that reads a column for `encoder`, with timestamps as integers."""
    column = quote(field.name)
    if field.type == "TIMESTAMP" and not field.repeated:
        return f"epoch_us({column})"
    return column


def encoder(field: Field, *, int64_timestamp: bool = True, top: bool = True) -> Encode:
    """Return the function that encodes a DuckDB value as the ``v`` of a cell.

    Args:
        field: The column.
        int64_timestamp: Whether timestamps are microseconds (``formatOptions.useInt64Timestamp``), else seconds in
            floating point.
        top: Whether the value comes from a column of `sql_cell`, else from inside an ARRAY or STRUCT.
    """
    if field.repeated:
        item = encoder(dataclasses.replace(field, mode="NULLABLE"), int64_timestamp=int64_timestamp, top=False)
        return lambda values: [{"v": item(value)} for value in values or ()]
    if field.type == "RECORD":
        inner = [(sub.name, encoder(sub, int64_timestamp=int64_timestamp, top=False)) for sub in field.fields]

        def record(value: Mapping[str, Any] | None) -> Any:
            if value is None:
                return None
            return {"f": [{"v": encode(value[name])} for name, encode in inner]}

        return record
    if field.type == "TIMESTAMP":
        return _timestamp_encoder(int64_timestamp=int64_timestamp, raw=top)
    scalar = _SCALARS[field.type]
    return lambda value: None if value is None else scalar(value)


def _timestamp_encoder(*, int64_timestamp: bool, raw: bool) -> Encode:
    def encode(value: Any) -> str | None:
        if value is None:
            return None
        micros = value if raw else (value - _EPOCH) // _MICROSECOND
        return str(micros) if int64_timestamp else repr(micros / 1e6)

    return encode


def _float(value: float) -> str:
    text = repr(float(value))
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, text)


def _numeric(value: Any) -> str:
    exact = value if isinstance(value, decimal.Decimal) else decimal.Decimal(value)
    if -exact.as_tuple().exponent > 9:  # type: ignore[operator]
        exact = exact.quantize(decimal.Decimal("1e-9"), rounding=decimal.ROUND_HALF_UP)
    return number_text(exact)


def _encode_bytes(value: bytes) -> str:
    return base64.b64encode(value).decode()


_SCALARS: Final[dict[str, Encode]] = {
    "STRING": str,
    "JSON": str,
    "INTEGER": lambda value: str(int(value)),
    "FLOAT": _float,
    "BOOLEAN": lambda value: "true" if value else "false",
    "NUMERIC": _numeric,
    "BIGNUMERIC": number_text,
    "BYTES": _encode_bytes,
    "DATE": lambda value: value.isoformat(),
    "TIME": lambda value: value.isoformat(),
    "DATETIME": lambda value: value.isoformat(),
    "GEOGRAPHY": lambda value: to_wkt(bytes(value)),
}


def encode_rows(rows: Sequence[Sequence[Any]], encoders: Sequence[Encode]) -> list[dict[str, Any]]:
    """Return rows in the shape ``{"f": [{"v": ...}]}``."""
    return [{"f": [{"v": encode(value)} for encode, value in zip(encoders, row, strict=True)]} for row in rows]
