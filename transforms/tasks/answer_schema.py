"""Answer schemas: read and validate the schema of a task, and validate answers against it.

The canonical form is Gemini's ``responseSchema``: an OpenAPI subset with uppercase types and ``propertyOrdering``,
because the model writes properties in that order. Lowercase JSON Schema types are accepted too. Keywords that Gemini
or its batch import rejects are rejected here, with a fix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from types import UnionType
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
#: Type → supported keywords.
KEYWORDS = {
    "STRING": (*_COMMON, "enum", "format"),
    "NUMBER": (*_COMMON, "minimum", "maximum"),
    "INTEGER": (*_COMMON, "minimum", "maximum"),
    "BOOLEAN": _COMMON,
    "ARRAY": (*_COMMON, "items", "minItems", "maxItems"),
    "OBJECT": (*_COMMON, "properties", "required", "propertyOrdering"),
}
FORMATS = ("date", "date-time", "duration", "time")
_BIGQUERY = {"STRING": "STRING", "NUMBER": "FLOAT64", "INTEGER": "INT64", "BOOLEAN": "BOOL"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
_INT64 = 2**63
_LARGEST = 1.7976931348623157e308

_INLINE = "inline the referenced schema"
_DESCRIBE = "describe it in `description`"
#: Unsupported keyword → what to use instead.
UNSUPPORTED = {
    "$ref": _INLINE,
    "$defs": _INLINE,
    "definitions": _INLINE,
    "oneOf": "use one type with `nullable: true`, or an enum",
    "anyOf": "batch jobs do not support it; use one type with `nullable: true`, or an enum",
    "allOf": "merge the properties into one object",
    "additionalProperties": "remove it, and list every property",
    "const": "use an enum with one value",
    "default": _DESCRIBE,
    "title": "use `description`",
    "pattern": f"{_DESCRIBE}, or use an enum",
    "minLength": _DESCRIBE,
    "maxLength": _DESCRIBE,
    "exclusiveMinimum": "use `minimum`",
    "exclusiveMaximum": "use `maximum`",
    "multipleOf": f"use type integer, or {_DESCRIBE}",
    "uniqueItems": _DESCRIBE,
    "prefixItems": "use an object with named properties",
    "example": _DESCRIBE,
    "examples": _DESCRIBE,
}


class OffSchemaError(ValueError):
    """An answer does not match its schema; the message has the path and the reason."""


def read_schema(section: Section) -> dict[str, Any]:
    """Validate the schema of a task and return its canonical form.

    Args:
        section: Key ``schema`` of the task.

    Returns:
        The ``responseSchema`` to send: uppercase types, ``propertyOrdering`` as in the file, ``required`` in that
        order, no default values.

    Raises:
        UserError: Gemini does not support the schema; the message has the key path and the fix.
    """
    schema = _read(section, 1)
    if schema["type"] != "OBJECT":
        section.fail("type", "the answer must be an object: its properties become the columns of the view")
    _check_columns(section.section("properties"), schema["propertyOrdering"])
    return schema


def bigquery_type(schema: Schema) -> str:
    """Return the column type for values of a schema in the typed view."""
    scalar = _BIGQUERY.get(schema["type"])
    if scalar is not None:
        return scalar
    items = schema.get("items", {})
    if items.get("type") in _BIGQUERY and not items.get("nullable"):
        return f"ARRAY<{_BIGQUERY[items['type']]}>"
    # Objects, arrays of objects, and arrays of nullable values, because BigQuery arrays cannot contain NULL.
    return "JSON"


def fit_answer(schema: Schema, value: Any, path: str = "") -> Any:
    """Validate an answer against its schema.

    Args:
        schema: The canonical schema.
        value: The parsed JSON.
        path: Path of the value in the answer, for messages.

    Returns:
        The answer, with numbers such as ``3.0`` converted to integers where the schema requires them. Properties that
        are not in the schema are kept.

    Raises:
        OffSchemaError: The answer does not match the schema.
    """
    if value is None:
        if schema.get("nullable"):
            return None
        raise _off(path, "is null")
    kind = schema["type"]
    expected, name = _JSON_TYPES[kind]
    if not isinstance(value, expected) or (isinstance(value, bool) and kind != "BOOLEAN"):
        raise _off(path, f"{show(value)} is not {name}")
    if "enum" in schema and value not in schema["enum"]:
        raise _off(path, f"{show(value)} is not one of {', '.join(schema['enum'])}")
    fit = _FITS.get(kind)
    return fit(schema, value, path) if fit else value


# -- reading a schema --------------------------------------------------------------------------------------


def _read(section: Section, depth: int) -> dict[str, Any]:
    for key in section.content:
        if key in UNSUPPORTED:
            section.fail(key, f"Gemini does not support {key} in an answer schema: {UNSUPPORTED[key]}")
    kind = _read_type(section)
    section.allow(KEYWORDS[kind])
    if depth > MAX_DEPTH:
        section.fail("", f"the schema is nested deeper than {MAX_DEPTH} levels: flatten it")
    schema: dict[str, Any] = {"type": kind}
    if "description" in section:
        schema["description"] = section.text("description").strip()
    if section.flag("nullable", default=False):
        schema["nullable"] = True
    if kind == "STRING":
        _read_string(section, schema)
    elif kind == "NUMBER":
        _read_range(section, schema, "minimum", "maximum", lambda key: section.number(key, -_LARGEST, _LARGEST))
    elif kind == "INTEGER":
        _read_range(section, schema, "minimum", "maximum", lambda key: section.whole(key, -_INT64, _INT64 - 1))
    elif kind == "ARRAY":
        if not section.content.get("items"):
            section.fail("items", "is missing: add the type of the items, such as `items: {type: string}`")
        schema["items"] = _read(section.section("items"), depth + 1)
        _read_range(section, schema, "minItems", "maxItems", lambda key: section.whole(key, 0, 10_000))
    elif kind == "OBJECT":
        _read_object(section, schema, depth)
    return schema


def _read_type(section: Section) -> str:
    value = section.content.get("type")
    if isinstance(value, list):
        section.fail("type", "must be one type, not a list; for null add `nullable: true`")
    if value is None:
        fix = ": an enum needs `type: string`" if "enum" in section else f"; use one of {', '.join(_TYPES)}"
        section.fail("type", f"is missing{fix}")
    name = str(value).lower()
    if name == "null":
        section.fail("type", "null is not a type: use the type of the value, and add `nullable: true`")
    if name not in _TYPES:
        near = f"; did you mean {_ALIASES[name]}?" if name in _ALIASES else suggestion(name, _TYPES)
        section.fail("type", f"{show(value)} is not one of {', '.join(_TYPES)}{near}")
    return name.upper()


def _read_string(section: Section, schema: dict[str, Any]) -> None:
    if "format" in section:
        schema["format"] = section.choice("format", FORMATS)
    if "enum" not in section:
        return
    values = section.content["enum"]
    if not isinstance(values, list) or not values:
        section.fail("enum", "must be a list of at least one value")
    for value in values:
        if value is None:
            section.fail("enum", "null is not supported: remove it, and add `nullable: true` to the type")
        if not isinstance(value, str):
            # YAML 1.1 reads no, off, yes and on as booleans.
            section.fail("enum", f"{show(value)} is not a string: put it in quotes")
        if not value.strip():
            section.fail("enum", "an empty value is not supported: use a word such as none")
    if len(set(values)) < len(values):
        section.fail("enum", "contains a value twice")
    schema["enum"] = list(values)


def _read_range(section: Section, schema: dict[str, Any], low: str, high: str, read: Callable[[str], float]) -> None:
    for key in (low, high):
        if key in section:
            schema[key] = read(key)
    if low in schema and high in schema and schema[low] > schema[high]:
        section.fail(low, f"{schema[low]:g} is greater than {high}, which is {schema[high]:g}")


def _read_object(section: Section, schema: dict[str, Any], depth: int) -> None:
    properties = section.section("properties")
    if not properties.content:
        section.fail("properties", "an object needs at least one property; for free text use type string")
    for name in properties.content:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            properties.fail(str(name), "must be letters, digits and _, and start with a letter")
    ordering = section.words("propertyOrdering", tuple(properties.content))
    required = section.words("required", ())
    for key, names in (("propertyOrdering", ordering), ("required", required)):
        for name in names:
            if name not in properties.content:
                section.fail(key, f"{name} is not a property{suggestion(name, properties.content)}")
        if len(set(names)) < len(names):
            section.fail(key, "contains a name twice")
    if len(ordering) < len(properties.content):
        section.fail("propertyOrdering", "must list every property; remove it to use the order in the file")
    schema["properties"] = {name: _read(properties.section(name), depth + 1) for name in ordering}
    if required:
        schema["required"] = [name for name in ordering if name in required]
    schema["propertyOrdering"] = list(ordering)


def _check_columns(properties: Section, names: list[str]) -> None:
    """Check that property names can be column names of the view, which ignore case."""
    seen: dict[str, str] = {}
    for name in names:
        if name.lower() == "unit_id":
            properties.fail(name, "the view already has a column of that name: use another name")
        if name.lower() in seen:
            properties.fail(name, f"differs from {seen[name.lower()]} only in case, which BigQuery ignores")
        seen[name.lower()] = name


# -- checking an answer ------------------------------------------------------------------------------------


def _fit_object(schema: Schema, value: dict[str, Any], path: str) -> dict[str, Any]:
    paths = {name: f"{path}.{name}" if path else name for name in (*schema.get("required", ()), *value)}
    for name in schema.get("required", ()):
        if name not in value:
            raise _off(paths[name], "is missing")
    properties = schema["properties"]
    return {
        name: fit_answer(properties[name], item, paths[name]) if name in properties else item
        for name, item in value.items()
    }


def _fit_array(schema: Schema, value: list[Any], path: str) -> list[Any]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        raise _off(path, f"has {len(value)} items, too few or too many")
    return [fit_answer(schema["items"], item, f"{path}[{number}]") for number, item in enumerate(value)]


def _fit_number(schema: Schema, value: float, path: str) -> int | float:
    if not math.isfinite(value):
        raise _off(path, f"{show(value)} is not a number")
    number: int | float = value
    if schema["type"] == "INTEGER":
        if isinstance(value, float) and not value.is_integer():
            raise _off(path, f"{value} is not an integer")
        number = int(value)
        if not -_INT64 <= number < _INT64:
            raise _off(path, f"{show(value)} does not fit into 64 bits")
    if number < schema.get("minimum", number) or number > schema.get("maximum", number):
        raise _off(path, f"{number} is out of range")
    return number


def _off(path: str, problem: str) -> OffSchemaError:
    return OffSchemaError(f"{path or 'the answer'}: {problem}")


#: Type → Python types of its JSON values, and its name in messages.
_JSON_TYPES: Mapping[str, tuple[type | UnionType, str]] = {
    "STRING": (str, "a string"),
    "NUMBER": (int | float, "a number"),
    "INTEGER": (int | float, "a number"),
    "BOOLEAN": (bool, "true or false"),
    "ARRAY": (list, "an array"),
    "OBJECT": (dict, "an object"),
}
_FITS: Mapping[str, Callable[[Schema, Any, str], Any]] = {
    "NUMBER": _fit_number,
    "INTEGER": _fit_number,
    "ARRAY": _fit_array,
    "OBJECT": _fit_object,
}
