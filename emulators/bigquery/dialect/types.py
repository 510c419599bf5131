"""Types of BigQuery and DuckDB: schemas of the REST API, column types of the database file."""

from __future__ import annotations

import dataclasses
import decimal
from collections.abc import Iterable
from typing import Any, Final

import duckdb

from imagebeam.emulators.core.http import ApiError

#: Type names that the REST API accepts, to those that it returns.
REST_NAMES: Final[dict[str, str]] = {
    "STRING": "STRING",
    "BYTES": "BYTES",
    "INTEGER": "INTEGER",
    "INT64": "INTEGER",
    "FLOAT": "FLOAT",
    "FLOAT64": "FLOAT",
    "BOOLEAN": "BOOLEAN",
    "BOOL": "BOOLEAN",
    "NUMERIC": "NUMERIC",
    "DECIMAL": "NUMERIC",
    "BIGNUMERIC": "BIGNUMERIC",
    "BIGDECIMAL": "BIGNUMERIC",
    "TIMESTAMP": "TIMESTAMP",
    "DATE": "DATE",
    "TIME": "TIME",
    "DATETIME": "DATETIME",
    "GEOGRAPHY": "GEOGRAPHY",
    "JSON": "JSON",
    "RECORD": "RECORD",
    "STRUCT": "RECORD",
}
#: DuckDB types by REST name. BIGNUMERIC has 76 digits, DuckDB 38: 18 before and 20 after the decimal point.
DUCK_TYPES: Final[dict[str, str]] = {
    "STRING": "VARCHAR",
    "BYTES": "BLOB",
    "INTEGER": "BIGINT",
    "FLOAT": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "NUMERIC": "DECIMAL(38,9)",
    "BIGNUMERIC": "DECIMAL(38,20)",
    "TIMESTAMP": "TIMESTAMP WITH TIME ZONE",
    "DATE": "DATE",
    "TIME": "TIME",
    "DATETIME": "TIMESTAMP",
    "GEOGRAPHY": "GEOMETRY",
    "JSON": "JSON",
}
BIGNUMERIC_SCALE: Final = 20
#: Type names in SQL, INFORMATION_SCHEMA and messages, where they differ from the REST names.
SQL_NAMES: Final[dict[str, str]] = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "RECORD": "STRUCT"}
_FIELD_KEYS: Final = frozenset(
    ("name", "type", "mode", "fields", "description", "maxLength", "precision", "scale", "policyTags")
)
_MODES: Final = ("NULLABLE", "REQUIRED", "REPEATED")
_INTEGERS: Final = frozenset(
    ("bigint", "integer", "hugeint", "smallint", "tinyint", "ubigint", "uinteger", "usmallint", "utinyint", "uhugeint")
)
_FROM_DUCK: Final[dict[str, str]] = {
    "double": "FLOAT",
    "float": "FLOAT",
    "boolean": "BOOLEAN",
    "blob": "BYTES",
    "timestamp with time zone": "TIMESTAMP",
    "timestamp": "DATETIME",
    "date": "DATE",
    "time": "TIME",
    "geometry": "GEOGRAPHY",
    "uuid": "STRING",
    "null": "INTEGER",  # BigQuery's type of a bare NULL
}


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One column, or one field of a RECORD.

    Attributes:
        name: Its name, as written; BigQuery compares names case-insensitively.
        type: Its REST type, such as ``INTEGER`` or ``RECORD``.
        mode: ``NULLABLE``, ``REQUIRED`` or ``REPEATED``.
        fields: Fields of a RECORD.
        properties: Further properties of the schema, such as the description.
    """

    name: str
    type: str
    mode: str = "NULLABLE"
    fields: tuple[Field, ...] = ()
    properties: tuple[tuple[str, Any], ...] = ()

    @property
    def repeated(self) -> bool:
        """Whether it is an ARRAY."""
        return self.mode == "REPEATED"

    def resource(self) -> dict[str, Any]:
        """Return the field in the shape of the REST API."""
        body: dict[str, Any] = {"name": self.name, "type": self.type, "mode": self.mode}
        if self.type == "RECORD":
            body["fields"] = [field.resource() for field in self.fields]
        return body | dict(self.properties)

    def duck_type(self) -> str:
        """Return the DuckDB type."""
        if self.type == "RECORD":
            inner = ", ".join(f"{quote(field.name)} {field.duck_type()}" for field in self.fields)
            name = f"STRUCT({inner})"
        else:
            name = DUCK_TYPES[self.type]
        return f"{name}[]" if self.repeated else name

    def sql_type(self) -> str:
        """Return the type in BigQuery SQL."""
        name = SQL_NAMES.get(self.type, self.type)
        if self.type == "RECORD":
            name += "<" + ", ".join(f"{field.name} {field.sql_type()}" for field in self.fields) + ">"
        return f"ARRAY<{name}>" if self.repeated else name


def quote(name: str) -> str:
    """Return a name as a DuckDB identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a string as a DuckDB literal."""
    return "'" + text.replace("'", "''") + "'"


def parse_fields(fields: Any) -> tuple[Field, ...]:
    """Parse the ``fields`` of a schema.

    Raises:
        ApiError: 400 for an invalid schema, 501 for one that is not implemented.
    """
    if not isinstance(fields, list):
        raise ApiError(400, "Invalid value for: schema.fields is not a list", reason="invalid")
    parsed = tuple(_parse_field(field) for field in fields)
    seen: set[str] = set()
    for field in parsed:
        if field.name.lower() in seen:
            raise ApiError(400, f"Duplicate field name: {field.name}", reason="invalid")
        seen.add(field.name.lower())
    return parsed


def _parse_field(body: Any) -> Field:
    if not isinstance(body, dict) or not body.get("name") or not body.get("type"):
        raise ApiError(400, "Invalid value for: each field of a schema needs a name and a type", reason="invalid")
    for key in body:
        if key not in _FIELD_KEYS:
            raise ApiError(501, f"The local BigQuery does not implement {key!r} of the field {body['name']!r}.")
    name, type_name = str(body["name"]), str(body["type"]).upper()
    kind = REST_NAMES.get(type_name)
    if kind is None:
        if type_name in ("INTERVAL", "RANGE", "FOREIGN"):
            raise ApiError(501, f"The local BigQuery does not implement the type {type_name} (field {name!r}).")
        raise ApiError(400, f"Invalid value for type: {type_name} is not a valid value", reason="invalid")
    mode = str(body.get("mode") or "NULLABLE").upper()
    if mode not in _MODES:
        raise ApiError(400, f"Invalid value for mode: {mode} is not a valid value", reason="invalid")
    inner = parse_fields(body.get("fields") or []) if kind == "RECORD" else ()
    if kind == "RECORD" and not inner:
        raise ApiError(400, f"Field {name} is type RECORD but has no schema", reason="invalid")
    extra = ((key, body[key]) for key in sorted(body) if key not in ("name", "type", "mode", "fields"))
    return Field(name, kind, mode, inner, tuple(item for item in extra if item[1] is not None))


def schema_resource(fields: Iterable[Field]) -> dict[str, Any]:
    """Return a schema in the shape of the REST API."""
    return {"fields": [field.resource() for field in fields]}


def field_from_duck(name: str, kind: str) -> Field:
    """Return a DuckDB result column as a BigQuery field.

    Args:
        name: Name of the column.
        kind: Its DuckDB type.

    Raises:
        ApiError: 501 for a type that is not implemented, such as INTERVAL.
    """
    return _from_type(name, duckdb.sqltype(kind))


def _from_type(name: str, kind: Any) -> Field:
    type_id, sql = str(kind.id), str(kind)
    if type_id == "list":
        item = _from_type(name, dict(kind.children)["child"])
        if item.repeated:
            raise ApiError(
                400, f"Cannot construct array with element type ARRAY (column {name})", reason="invalidQuery"
            )
        return dataclasses.replace(item, mode="REPEATED")
    if type_id == "struct":
        fields = tuple(_from_type(child, inner) for child, inner in kind.children)
        return Field(name, "RECORD", fields=fields)
    if type_id == "decimal":
        scale = dict(kind.children)["scale"]
        return Field(name, "BIGNUMERIC" if scale == BIGNUMERIC_SCALE else "NUMERIC")
    if type_id in _INTEGERS:
        return Field(name, "INTEGER")
    if type_id == "varchar":
        return Field(name, "JSON" if sql == "JSON" else "STRING")
    if type_id in _FROM_DUCK:
        return Field(name, _FROM_DUCK[type_id])
    raise ApiError(501, f"The local BigQuery does not implement results of type {sql} (column {name!r}).")


def number_text(value: decimal.Decimal) -> str:
    """Return a NUMERIC without exponent and trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
