"""Reading JSON rows (streamed or loaded): BigQuery's validation and conversion of values."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import orjson
import pyarrow as pa

from imagebeam.emulators.bigquery.dialect.functions import geography
from imagebeam.emulators.bigquery.dialect.functions.library import canonical_json, json_of_value
from imagebeam.emulators.bigquery.dialect.types import BIGNUMERIC_SCALE, Field

_TIMESTAMP: Final = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.(\d{1,6}))?)?"
    r" ?(Z|UTC|[+-]\d{1,2}(?::?\d{2})?)?",
    re.IGNORECASE,
)
_TIME: Final = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.(\d{1,6}))?")
_INTEGER: Final = re.compile(r"[+-]?\d+")
_UTC: Final = datetime.UTC
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_INT64: Final = range(-(2**63), 2**63)
#: Digits before and after the decimal point; those of BIGNUMERIC are limited by DuckDB.
_SCALES: Final = {"NUMERIC": (29, 9), "BIGNUMERIC": (38 - BIGNUMERIC_SCALE, BIGNUMERIC_SCALE)}

Convert = Callable[[Any], Any]


class RowError(Exception):
    """A row that is invalid for its table.

    Args:
        location: Path of the field, such as ``outer.inner``; empty for the whole row.
        message: BigQuery's message.
    """

    def __init__(self, location: str, message: str) -> None:
        super().__init__(message)
        self.location = location
        self.message = message

    def resource(self) -> dict[str, str]:
        """Return the error in the shape of the API."""
        return {"reason": "invalid", "location": self.location, "debugInfo": "", "message": self.message}


@dataclasses.dataclass(frozen=True, slots=True)
class RowReader:
    """Reads JSON rows for one table.

    Attributes:
        fields: The columns of the table.
        json_text: Whether JSON columns contain JSON text (streamed rows) or the value itself (load jobs).
        ignore_unknown: Whether unknown fields are ignored instead of rejected.
    """

    fields: tuple[Field, ...]
    json_text: bool
    ignore_unknown: bool = False

    def reader(self) -> Callable[[Mapping[str, Any]], list[Any]]:
        """Return the function that converts a row to its values, in the order of the columns.

        The function raises `RowError`.
        """
        return _record_reader(self.fields, self, "")


def _record_reader(fields: Sequence[Field], settings: RowReader, path: str) -> Callable[[Mapping[str, Any]], list[Any]]:
    positions = {field.name.lower(): index for index, field in enumerate(fields)}
    readers = [_field_reader(field, settings, path + field.name) for field in fields]
    empty: list[Any] = [[] if field.repeated else None for field in fields]
    required = [(index, path + field.name) for index, field in enumerate(fields) if field.mode == "REQUIRED"]

    def read(row: Mapping[str, Any]) -> list[Any]:
        values: list[Any] = list(empty)
        for name, value in row.items():
            position = positions.get(name)
            if position is None:
                position = positions.get(name.lower())
                if position is None:
                    if settings.ignore_unknown:
                        continue
                    raise RowError(path + name, f"no such field: {path}{name}.")
            if value is not None:
                values[position] = readers[position](value)
        for index, name in required:
            if values[index] is None:
                raise RowError(name, f"Missing required field: {name}.")
        return values

    return read


def _field_reader(field: Field, settings: RowReader, path: str) -> Convert:
    if field.repeated:
        convert_item = _field_reader(dataclasses.replace(field, mode="NULLABLE"), settings, path)

        def repeated(value: Any) -> list[Any]:
            if not isinstance(value, list):
                raise RowError(path, f"Repeated field must be imported as a JSON array. Field: {path}.")
            if field.type == "FLOAT" and set(map(type, value)) == {float}:
                return value  # the fast path for vectors
            if any(item is None for item in value):
                raise RowError(path, f"Only optional fields can be set to NULL. Field: {path}; Value: NULL")
            return [convert_item(item) for item in value]

        return repeated
    if field.type == "RECORD":
        names = [sub.name for sub in field.fields]
        inner = _record_reader(field.fields, settings, path + ".")

        def record(value: Any) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise RowError(path, f"This field: {path} is not a record.")
            return dict(zip(names, inner(value), strict=True))

        return record
    if field.type == "JSON" and not settings.json_text:
        return json_of_value
    convert = _CONVERTERS[field.type]

    def scalar(value: Any) -> Any:
        if isinstance(value, dict):
            raise RowError(path, f"This field: {path} is not a record.")
        if isinstance(value, list):
            raise RowError(path, f"Array specified for non-repeated field: {path}.")
        try:
            return convert(value)
        except (ValueError, OverflowError, ArithmeticError) as problem:
            raise RowError(path, str(problem)) from None

    return scalar


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _integer(value: Any) -> int:
    number: int | None = None
    if isinstance(value, float) and value.is_integer():
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        number = int(value)
    if number is None or number not in _INT64:
        raise ValueError(f"Cannot convert value to integer (bad value): {value}")
    return number


def _float(value: Any) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise ValueError(f"Cannot convert value to floating point (bad value): {value}")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false", "t", "f", "1", "0"):
        return value.lower() in ("true", "t", "1")
    raise ValueError(f"Cannot convert value to boolean (bad value): {value}")


def _number(name: str) -> Convert:
    integer_digits, fraction_digits = _SCALES[name]

    def convert(value: Any) -> decimal.Decimal:
        try:
            if isinstance(value, bool):
                raise decimal.InvalidOperation
            number = decimal.Decimal(str(value).strip())
        except decimal.InvalidOperation:
            raise ValueError(f"Invalid {name} value: {value}") from None
        if not number.is_finite():
            raise ValueError(f"Invalid {name} value: {value}")
        exponent = number.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -fraction_digits:
            trimmed = number.normalize()
            if -int(trimmed.as_tuple().exponent) > fraction_digits:
                raise ValueError(
                    f"Invalid {name} value: {value}: it has more than {fraction_digits} digits after the point"
                )
            number = trimmed
        if number and number.adjusted() >= integer_digits:
            raise ValueError(
                f"Invalid {name} value: {value}: it has more than {integer_digits} digits before the point"
            )
        return number

    return convert


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:  # neither base64 nor ASCII
            pass
    raise ValueError(f"Could not decode base64 string to bytes. Value: {str(value)[:80]}")


def _parse_datetime(value: Any, kind: str) -> tuple[datetime.datetime, str | None]:
    match = _TIMESTAMP.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"Could not parse '{value}' as a {kind}. Required format is YYYY-MM-DD HH:MM[:SS[.SSSSSS]]")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        naive = datetime.datetime(  # noqa: DTZ001  (the caller applies the zone)
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0").ljust(6, "0")),
        )
    except ValueError as problem:
        raise ValueError(f"Could not parse '{value}' as a {kind}: {problem}") from None
    return naive, zone


def _timestamp(value: Any) -> datetime.datetime:
    """Convert RFC 3339 and similar formats, or a number of seconds since 1970."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            naive, zone = _parse_datetime(value, "timestamp")
            return (naive - _offset(zone)).replace(tzinfo=_UTC)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        try:
            micros = value * 1_000_000 if isinstance(value, int) else round(value * 1e6)
            return _EPOCH + datetime.timedelta(microseconds=micros)
        except OverflowError:
            pass
    raise ValueError(f"Could not parse '{value}' as a timestamp. Required format is YYYY-MM-DD HH:MM[:SS[.SSSSSS]]")


def _offset(zone: str | None) -> datetime.timedelta:
    if zone is None or zone.upper() in ("Z", "UTC"):
        return datetime.timedelta()
    digits = zone[1:].replace(":", "")
    hours, minutes = (digits[:-2], digits[-2:]) if len(digits) > 2 else (digits, "0")
    amount = datetime.timedelta(hours=int(hours), minutes=int(minutes))
    return -amount if zone[0] == "-" else amount


def _datetime(value: Any) -> datetime.datetime:
    naive, zone = _parse_datetime(value, "datetime")
    if zone:
        raise ValueError(f"Could not parse '{value}' as a datetime: it has a time zone")
    return naive


def _date(value: Any) -> datetime.date:
    match = re.fullmatch(r"(\d{4})-(\d{1,2})-(\d{1,2})", value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"Could not parse '{value}' as a date. Required format is YYYY-MM-DD")
    return datetime.date(int(match[1]), int(match[2]), int(match[3]))


def _time(value: Any) -> datetime.time:
    match = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"Could not parse '{value}' as a time. Required format is HH:MM:SS[.SSSSSS]")
    return datetime.time(int(match[1]), int(match[2]), int(match[3]), int((match[4] or "0").ljust(6, "0")))


def _json_text(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    try:
        return canonical_json(text)
    except orjson.JSONDecodeError as problem:
        raise ValueError(f"Invalid JSON value: {problem}: {text[:80]}") from None


def _geography(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"Invalid geography value: {value}")  # noqa: TRY004  (an error of the row)
    return geography.full_wkt(geography.parse(value))


_CONVERTERS: Final[dict[str, Convert]] = {
    "STRING": _string,
    "INTEGER": _integer,
    "FLOAT": _float,
    "BOOLEAN": _boolean,
    "NUMERIC": _number("NUMERIC"),
    "BIGNUMERIC": _number("BIGNUMERIC"),
    "BYTES": _bytes,
    "TIMESTAMP": _timestamp,
    "DATETIME": _datetime,
    "DATE": _date,
    "TIME": _time,
    "JSON": _json_text,
    "GEOGRAPHY": _geography,
}

_ARROW: Final[dict[str, pa.DataType]] = {
    "STRING": pa.string(),
    "INTEGER": pa.int64(),
    "FLOAT": pa.float64(),
    "BOOLEAN": pa.bool_(),
    "NUMERIC": pa.decimal128(38, 9),
    "BIGNUMERIC": pa.decimal128(38, BIGNUMERIC_SCALE),
    "BYTES": pa.binary(),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
    "DATETIME": pa.timestamp("us"),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "JSON": pa.string(),
    "GEOGRAPHY": pa.string(),
}


def arrow_type(field: Field) -> pa.DataType:
    """Return the Arrow type of a column for its import into DuckDB."""
    arrow = _ARROW.get(field.type)
    if arrow is None:
        arrow = pa.struct([(sub.name, arrow_type(sub)) for sub in field.fields])
    return pa.list_(arrow) if field.repeated else arrow


def arrow_table(fields: Sequence[Field], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Return rows that `RowReader` converted as an Arrow table."""
    columns = zip(*rows, strict=True) if rows else [() for _ in fields]
    arrays = [pa.array(list(column), arrow_type(field)) for field, column in zip(fields, columns, strict=True)]
    return pa.Table.from_arrays(arrays, names=[field.name for field in fields])
