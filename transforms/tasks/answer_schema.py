"""The schema of an answer: what a task may ask for, what is sent to Gemini, and whether an answer fits.

The canonical form is Gemini's own ``responseSchema``: an OpenAPI subset with upper-case types and
``propertyOrdering``, because the model writes the properties in that order. JSON Schema's lower-case type
names are taken too. What Gemini or its batch import refuses is refused here, with the remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.core.strict_yaml import Section, show, suggestion

MAX_DEPTH = 5

Schema = Mapping[str, Any]

_TYPES = ("string", "number", "integer", "boolean", "array", "object")
_ALIASES = {
    "str": "string", "text": "string", "int": "integer", "long": "integer", "float": "number",
    "double": "number", "bool": "boolean", "list": "array", "dict": "object", "map": "object",
}  # fmt: skip
_COMMON = ("type", "description", "nullable")
_KEYS = {
    "STRING": (*_COMMON, "enum", "format"),
    "NUMBER": (*_COMMON, "minimum", "maximum"),
    "INTEGER": (*_COMMON, "minimum", "maximum"),
    "BOOLEAN": _COMMON,
    "ARRAY": (*_COMMON, "items", "minItems", "maxItems"),
    "OBJECT": (*_COMMON, "properties", "required", "propertyOrdering"),
}
_FORMATS = ("date", "date-time", "duration", "time")
_BIGQUERY = {"STRING": "STRING", "NUMBER": "FLOAT64", "INTEGER": "INT64", "BOOLEAN": "BOOL"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_INT64 = 2**63
_LARGEST = 1.7976931348623157e308

_REMEDIES = {
    "$ref": "write the schema out where it is used",
    "$defs": "write the schema out where it is used",
    "definitions": "write the schema out where it is used",
    "oneOf": "use one type with `nullable: true`, or an enum",
    "anyOf": "a batch job cannot carry it; use one type with `nullable: true`, or an enum",
    "allOf": "write the properties out in one object",
    "additionalProperties": "leave it out and name every property",
    "const": "use an enum with one value",
    "default": "say it in `description`",
    "title": "use `description`",
    "pattern": "say it in `description`, or use an enum",
    "minLength": "say it in `description`",
    "maxLength": "say it in `description`",
    "exclusiveMinimum": "use `minimum`",
    "exclusiveMaximum": "use `maximum`",
    "multipleOf": "use type integer, or say it in `description`",
    "uniqueItems": "say it in `description`",
    "prefixItems": "use an object with named properties",
    "example": "say it in `description`",
    "examples": "say it in `description`",
}


class OffSchemaError(ValueError):
    """An answer does not fit its schema; the message says where and how."""


def read_schema(section: Section) -> dict[str, Any]:
    """Checks the schema of a task and gives its canonical form.

    Args:
        section: The task's key ``schema``.

    Returns:
        The ``responseSchema`` to send: upper-case types, ``propertyOrdering`` as in the file, ``required`` in
        that order, nothing that says the default.

    Raises:
        UserError: It is no schema that Gemini takes; names the key path and the remedy.
    """
    schema = _read(section, 1)
    if schema["type"] != "OBJECT":
        section.fail("type", "the answer must be an object: its properties become the columns of the view")
    _check_columns(section.section("properties"), schema["propertyOrdering"])
    return schema


def bigquery_type(schema: Schema) -> str:
    """The column type that holds a value of a schema in the typed view."""
    scalar = _BIGQUERY.get(schema["type"])
    if scalar is not None:
        return scalar
    items = schema.get("items", {})
    if items.get("type") in _BIGQUERY and not items.get("nullable"):
        return f"ARRAY<{_BIGQUERY[items['type']]}>"
    # Objects, arrays of them, and arrays that may hold null, which BigQuery arrays cannot.
    return "JSON"


def fit_answer(schema: Schema, value: Any) -> Any:
    """Checks an answer against its schema.

    Args:
        schema: The canonical schema.
        value: The parsed JSON.

    Returns:
        The answer; whole numbers written as ``3.0`` become integers where the schema wants them. Properties
        that the schema does not name are kept.

    Raises:
        OffSchemaError: It does not fit.
    """
    return _fit(schema, value, "")


# -- reading a schema --------------------------------------------------------------------------------------


def _read(section: Section, depth: int) -> dict[str, Any]:
    for key in section.content:
        if key in _REMEDIES:
            section.fail(key, f"Gemini does not take {key} in an answer schema: {_REMEDIES[key]}")
    kind = _read_type(section)
    section.allow(_KEYS[kind])
    if depth > MAX_DEPTH:
        section.fail("", f"the schema is nested deeper than {MAX_DEPTH} levels: make it flatter")
    schema: dict[str, Any] = {"type": kind}
    if "description" in section:
        schema["description"] = section.text("description").strip()
    if section.flag("nullable", default=False):
        schema["nullable"] = True
    if kind == "STRING":
        _read_string(section, schema)
    elif kind in ("NUMBER", "INTEGER"):
        _read_bounds(section, schema, whole=kind == "INTEGER")
    elif kind == "ARRAY":
        _read_array(section, schema, depth)
    elif kind == "OBJECT":
        _read_object(section, schema, depth)
    return schema


def _read_type(section: Section) -> str:
    value = section.content.get("type")
    if isinstance(value, list):
        section.fail("type", "a list of types is not taken: name one type, and `nullable: true` beside it")
    if value is None and "enum" in section:
        section.fail("type", "is missing: an enum needs `type: string`")
    if value is None:
        section.fail("type", f"is missing; it is one of {', '.join(_TYPES)}")
    name = str(value).lower()
    if name == "null":
        section.fail("type", "null is no type here: name the type, and `nullable: true` beside it")
    if name not in _TYPES:
        near = f"; did you mean {_ALIASES[name]}?" if name in _ALIASES else suggestion(name, _TYPES)
        section.fail("type", f"{show(value)} is not one of {', '.join(_TYPES)}{near}")
    return name.upper()


def _read_string(section: Section, schema: dict[str, Any]) -> None:
    if "format" in section:
        schema["format"] = section.choice("format", _FORMATS)
    if "enum" not in section:
        return
    values = section.content["enum"]
    if not isinstance(values, list) or not values:
        section.fail("enum", "must be a list of at least one value")
    for value in values:
        if value is None:
            section.fail("enum", "null is not taken: leave it out, and write `nullable: true` beside the type")
        if not isinstance(value, str):
            # YAML 1.1 reads no, off, yes and on as booleans.
            section.fail("enum", f"{show(value)} is no text: values must be text, so put it in quotes")
        if not value.strip():
            section.fail("enum", "an empty value is not taken: name it, for instance none")
    if len(set(values)) < len(values):
        section.fail("enum", "a value stands twice")
    schema["enum"] = list(values)


def _read_bounds(section: Section, schema: dict[str, Any], *, whole: bool) -> None:
    for key in ("minimum", "maximum"):
        if key in section:
            schema[key] = section.whole(key, -_INT64, _INT64 - 1) if whole else section.number(key, -_LARGEST, _LARGEST)
    _check_order(section, schema, "minimum", "maximum")


def _read_array(section: Section, schema: dict[str, Any], depth: int) -> None:
    if not section.content.get("items"):
        section.fail("items", "is missing: say what the array holds, such as `items: {type: string}`")
    schema["items"] = _read(section.section("items"), depth + 1)
    for key in ("minItems", "maxItems"):
        if key in section:
            schema[key] = section.whole(key, 0, 10_000)
    _check_order(section, schema, "minItems", "maxItems")


def _read_object(section: Section, schema: dict[str, Any], depth: int) -> None:
    properties = section.section("properties")
    if not properties.content:
        section.fail("properties", "an object needs at least one property; for free text use type string")
    for name in properties.content:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            properties.fail(str(name), "a property's name is letters, digits and _, and starts with a letter")
    ordering = section.words("propertyOrdering", tuple(properties.content))
    required = section.words("required", ())
    for key, names in (("propertyOrdering", ordering), ("required", required)):
        for name in names:
            if name not in properties.content:
                section.fail(key, f"{name} is not a property{suggestion(name, properties.content)}")
        if len(set(names)) < len(names):
            section.fail(key, "a name stands twice")
    if len(ordering) < len(properties.content):
        section.fail("propertyOrdering", "must name every property, or be left out: the file's order counts then")
    schema["properties"] = {name: _read(properties.section(name), depth + 1) for name in ordering}
    if required:
        schema["required"] = [name for name in ordering if name in required]
    schema["propertyOrdering"] = list(ordering)


def _check_order(section: Section, schema: Schema, low: str, high: str) -> None:
    if low in schema and high in schema and schema[low] > schema[high]:
        section.fail(low, f"{schema[low]:g} is more than {high}, which is {schema[high]:g}")


def _check_columns(properties: Section, names: list[str]) -> None:
    """Top-level properties become columns beside ours, and BigQuery's columns ignore case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() == "unit_id":
            properties.fail(name, "the view has a column of that name already: use another")
        if name.lower() in seen:
            properties.fail(name, f"differs from {seen[name.lower()]} only in case, which BigQuery ignores")
        seen[name.lower()] = name


# -- checking an answer ------------------------------------------------------------------------------------


def _fit(schema: Schema, value: Any, path: str) -> Any:
    if value is None:
        if schema.get("nullable"):
            return None
        raise _off(path, "is null")
    kind = schema["type"]
    if kind == "OBJECT":
        return _fit_object(schema, value, path)
    if kind == "ARRAY":
        return _fit_array(schema, value, path)
    if kind in ("NUMBER", "INTEGER"):
        return _fit_number(schema, value, path)
    if kind == "BOOLEAN":
        if not isinstance(value, bool):
            raise _off(path, f"{show(value)} is not true or false")
        return value
    if not isinstance(value, str):
        raise _off(path, f"{show(value)} is no text")
    if "enum" in schema and value not in schema["enum"]:
        raise _off(path, f"{show(value)} is not one of {', '.join(schema['enum'])}")
    return value


def _fit_object(schema: Schema, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _off(path, f"{show(value)} is no object")
    for name in schema.get("required", ()):
        if name not in value:
            raise _off(_join(path, name), "is missing")
    properties = schema["properties"]
    return {
        name: _fit(properties[name], item, _join(path, name)) if name in properties else item
        for name, item in value.items()
    }


def _fit_array(schema: Schema, value: Any, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise _off(path, f"{show(value)} is no array")
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        raise _off(path, f"{len(value)} items are too few or too many")
    return [_fit(schema["items"], item, f"{path}[{number}]") for number, item in enumerate(value)]


def _fit_number(schema: Schema, value: Any, path: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _off(path, f"{show(value)} is no number")
    number: int | float = value
    if schema["type"] == "INTEGER":
        if isinstance(value, float) and not value.is_integer():
            raise _off(path, f"{value} is not whole")
        number = int(value)
        if not -_INT64 <= number < _INT64:
            raise _off(path, f"{show(value)} needs more than 64 bits")
    if number < schema.get("minimum", number) or number > schema.get("maximum", number):
        raise _off(path, f"{number} is out of range")
    return number


def _off(path: str, problem: str) -> OffSchemaError:
    return OffSchemaError(f"{path or 'the answer'}: {problem}")


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
