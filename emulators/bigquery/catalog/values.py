"""Values of rows that come in as JSON (streamed or loaded), checked as BigQuery checks them."""

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
import pyarrow as pa  # type: ignore[import-untyped]

from imagebeam.emulators.bigquery.dialect.functions import geography
from imagebeam.emulators.bigquery.dialect.functions.translate import canonical_json, json_of_value
from imagebeam.emulators.bigquery.dialect.types import BIGNUMERIC_SCALE, Field

_MOMENT: Final = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[T ](\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.(\d{1,6}))?)?"
    r" ?(Z|UTC|[+-]\d{1,2}(?::?\d{2})?)?",
    re.IGNORECASE,
)
_TIME: Final = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\.(\d{1,6}))?")
_INTEGER: Final = re.compile(r"[+-]?\d+")
_UTC: Final = datetime.UTC
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_INT64: Final = range(-(2**63), 2**63)
#: BigQuery: 29 digits before and 9 after the point; BIGNUMERIC here as far as DuckDB goes.
_SCALES: Final = {"NUMERIC": (29, 9), "BIGNUMERIC": (38 - BIGNUMERIC_SCALE, BIGNUMERIC_SCALE)}

Read = Callable[[Any], Any]


class RowError(Exception):
    """A row that the table does not take.

    Args:
        location: Path of the field, such as ``outer.inner``; empty for the row as a whole.
        message: BigQuery's words.
    """

    def __init__(self, location: str, message: str) -> None:
        super().__init__(message)
        self.location = location
        self.message = message

    def resource(self) -> dict[str, str]:
        """Return the error as the API shows it."""
        return {"reason": "invalid", "location": self.location, "debugInfo": "", "message": self.message}


@dataclasses.dataclass(frozen=True, slots=True)
class Reader:
    """Reads JSON rows for one table.

    Attributes:
        fields: The table's columns.
        json_text: Whether a JSON column is given as JSON text (streamed rows) or as the value itself (loads).
        ignore_unknown: Whether fields that the table lacks are skipped instead of refused.
    """

    fields: tuple[Field, ...]
    json_text: bool
    ignore_unknown: bool = False

    def columns(self) -> Callable[[Mapping[str, Any]], list[Any]]:
        """Return the function that makes a row's values, in the order of the columns.

        The function raises :class:`RowError`.
        """
        return _record_reader(self.fields, self, "")


def _record_reader(fields: Sequence[Field], reader: Reader, path: str) -> Callable[[Mapping[str, Any]], list[Any]]:
    places = {field.name.lower(): index for index, field in enumerate(fields)}
    readers = [_field_reader(field, reader, path + field.name) for field in fields]
    empty: list[Any] = [[] if field.repeated else None for field in fields]
    required = [(index, path + field.name) for index, field in enumerate(fields) if field.mode == "REQUIRED"]

    def read(row: Mapping[str, Any]) -> list[Any]:
        values: list[Any] = list(empty)
        for name, value in row.items():
            place = places.get(name)
            if place is None:
                place = places.get(name.lower())
                if place is None:
                    if reader.ignore_unknown:
                        continue
                    raise RowError(path + name, f"no such field: {path}{name}.")
            if value is not None:
                values[place] = readers[place](value)
        for index, name in required:
            if values[index] is None:
                raise RowError(name, f"Missing required field: {name}.")
        return values

    return read


def _field_reader(field: Field, reader: Reader, path: str) -> Read:
    if field.repeated:
        one = _field_reader(dataclasses.replace(field, mode="NULLABLE"), reader, path)

        def repeated(value: Any) -> list[Any]:
            if not isinstance(value, list):
                raise RowError(path, f"Repeated field must be imported as a JSON array. Field: {path}.")
            if field.type == "FLOAT" and set(map(type, value)) == {float}:
                return value  # a vector: most of what there is to read
            if any(item is None for item in value):
                raise RowError(path, f"Only optional fields can be set to NULL. Field: {path}; Value: NULL")
            return [one(item) for item in value]

        return repeated
    if field.type == "RECORD":
        names = [sub.name for sub in field.fields]
        inner = _record_reader(field.fields, reader, path + ".")

        def record(value: Any) -> dict[str, Any]:
            if not isinstance(value, dict):
                raise RowError(path, f"This field: {path} is not a record.")
            return dict(zip(names, inner(value), strict=True))

        return record
    if field.type == "JSON" and not reader.json_text:
        return json_of_value
    parse = _PARSERS[field.type]

    def scalar(value: Any) -> Any:
        if isinstance(value, dict):
            raise RowError(path, f"This field: {path} is not a record.")
        if isinstance(value, list):
            raise RowError(path, f"Array specified for non-repeated field: {path}.")
        try:
            return parse(value)
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


def _number(name: str) -> Read:
    before, after = _SCALES[name]

    def parse(value: Any) -> decimal.Decimal:
        try:
            if isinstance(value, bool):
                raise decimal.InvalidOperation
            number = decimal.Decimal(str(value).strip())
        except decimal.InvalidOperation:
            raise ValueError(f"Invalid {name} value: {value}") from None
        if not number.is_finite():
            raise ValueError(f"Invalid {name} value: {value}")
        exponent = number.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -after:
            trimmed = number.normalize()
            if -int(trimmed.as_tuple().exponent) > after:
                raise ValueError(f"Invalid {name} value: {value}: it has more than {after} digits after the point")
            number = trimmed
        if number and number.adjusted() >= before:
            raise ValueError(f"Invalid {name} value: {value}: it has more than {before} digits before the point")
        return number

    return parse


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:  # no base64, or no ASCII at all
            pass
    raise ValueError(f"Could not decode base64 string to bytes. Value: {str(value)[:80]}")


def _moment_parts(value: Any, what: str) -> tuple[datetime.datetime, str | None]:
    match = _MOMENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"Could not parse '{value}' as a {what}. Required format is YYYY-MM-DD HH:MM[:SS[.SSSSSS]]")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        naive = datetime.datetime(  # noqa: DTZ001  (the zone follows)
            int(year),
            int(month),
            int(day),
            int(hour or 0),
            int(minute or 0),
            int(second or 0),
            int((fraction or "0").ljust(6, "0")),
        )
    except ValueError as problem:
        raise ValueError(f"Could not parse '{value}' as a {what}: {problem}") from None
    return naive, zone


def _timestamp(value: Any) -> datetime.datetime:
    """RFC 3339 and its looser kin, or seconds since 1970 (as BigQuery takes numbers)."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            naive, zone = _moment_parts(value, "timestamp")
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
    naive, zone = _moment_parts(value, "datetime")
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


_PARSERS: Final[dict[str, Read]] = {
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
    """Return the Arrow type that carries a column into DuckDB."""
    kind = _ARROW.get(field.type)
    if kind is None:
        kind = pa.struct([(sub.name, arrow_type(sub)) for sub in field.fields])
    return pa.list_(kind) if field.repeated else kind


def arrow_table(fields: Sequence[Field], rows: Sequence[Sequence[Any]]) -> pa.Table:
    """Return rows (as :class:`Reader` makes them) as an Arrow table."""
    columns = zip(*rows, strict=True) if rows else [() for _ in fields]
    arrays = [pa.array(list(column), arrow_type(field)) for field, column in zip(fields, columns, strict=True)]
    return pa.Table.from_arrays(arrays, names=[field.name for field in fields])
