"""Validation and normalization of ``responseSchema``, an OpenAPI subset."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import orjson

from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.vertex.generate.fields import Fields, invalid, read_fields

_TYPES: Final = ("STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT")
_FORMATS: Final = {
    "STRING": ("date", "date-time", "duration", "time", "enum"),
    "NUMBER": ("float", "double"),
    "INTEGER": ("int32", "int64"),
}
#: Fields that affect the answer (Google, "Structured output").
_EFFECTIVE: Final = (
    "type", "anyOf", "enum", "format", "items", "maximum", "maxItems", "minimum", "minItems", "nullable",
    "properties", "description", "propertyOrdering", "required",
)  # fmt: skip
#: Fields that the API accepts and the model ignores.
_IGNORED: Final = (
    "title", "default", "example", "pattern", "minLength", "maxLength", "minProperties", "maxProperties",
)  # fmt: skip
_MAX_DEPTH: Final = 32

Schema = Mapping[str, Any]


def check_schema(schema: Any) -> Schema:
    """Return a schema in camelCase with upper-case types and without fields that the model ignores.

    Args:
        schema: ``generationConfig.responseSchema`` as sent.

    Raises:
        ApiError: 400 for a schema outside the subset.
    """
    return _check_text(orjson.dumps(schema))


@lru_cache(maxsize=64)  # all requests of a task have the same schema
def _check_text(text: bytes) -> Schema:
    return _check(orjson.loads(text), "generation_config.response_schema", 0)


def _check(schema: Any, path: str, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ApiError(400, f"The specified schema exceeds the maximum allowed nesting depth: {path[:200]}")
    given = read_fields(schema, (*_EFFECTIVE, *_IGNORED), path)
    node: dict[str, Any] = {}
    if "anyOf" in given:
        branches = given.pop("anyOf")
        if not isinstance(branches, list) or not branches:
            raise invalid(f"{path}.any_of", "must be a list of schemas")
        node["anyOf"] = [_check(branch, f"{path}.any_of[{index}]", depth + 1) for index, branch in enumerate(branches)]
    elif not isinstance(given.get("type"), str) or given["type"].upper() not in _TYPES:
        raise invalid(f"{path}.type", f"must be one of {', '.join(_TYPES)}, not {given.get('type')!r}")
    else:
        node["type"] = given["type"].upper()
    for name, check in _CHECKS.items():
        if given.get(name) is not None:
            node[name] = check(given, path)
    kind = node.get("type")
    if kind == "OBJECT":
        node["properties"] = _properties(given, path, depth)
        _check_names(given, node, path)
    elif kind == "ARRAY":
        if "items" not in given:
            raise invalid(f"{path}.items", "missing field")
        node["items"] = _check(given["items"], f"{path}.items", depth + 1)
    for name in ("properties", "items", "minItems", "maxItems", "required", "propertyOrdering"):
        if kind is not None and name in given and name not in _FIELDS_OF_TYPE.get(kind, ()):
            raise invalid(f"{path}.{name}", f"is not allowed for type {kind}")
    return node


_FIELDS_OF_TYPE: Final = {
    "OBJECT": ("properties", "required", "propertyOrdering"),
    "ARRAY": ("items", "minItems", "maxItems"),
}


def _properties(given: Fields, path: str, depth: int) -> dict[str, Any]:
    properties = given.get("properties")
    if not isinstance(properties, dict) or not properties:
        raise invalid(f"{path}.properties", "should be non-empty for OBJECT type")
    return {name: _check(value, f"{path}.properties[{name}]", depth + 1) for name, value in properties.items()}


def _check_names(given: Fields, node: dict[str, Any], path: str) -> None:
    """Check that lists of property names contain existing properties only."""
    for key in ("required", "propertyOrdering"):
        names = given.get(key)
        if names is None:
            continue
        if not isinstance(names, list) or len(set(map(str, names))) != len(names):
            raise invalid(f"{path}.{key}", "must be a list of distinct names")
        for index, name in enumerate(names):
            if not isinstance(name, str) or name not in node["properties"]:
                raise invalid(f"{path}.{key}[{index}]", "property is not defined")
        node[key] = names


def _enum(given: Fields, path: str) -> list[str]:
    values = given["enum"]
    if str(given.get("type")).upper() != "STRING":
        raise invalid(f"{path}.enum", "only allowed for STRING type")
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise invalid(f"{path}.enum", "must be a list of strings")
    for index, value in enumerate(values):
        if not value:
            raise invalid(f"{path}.enum[{index}]", "cannot be empty")
    return list(values)


def _format(given: Fields, path: str) -> str:
    kind = str(given.get("type")).upper()
    if given["format"] not in _FORMATS.get(kind, ()):
        known = ", ".join(f"'{name}'" for name in _FORMATS.get(kind, ())) or "no format"
        raise invalid(f"{path}.format", f"only {known} supported for {kind} type")
    return str(given["format"])


def _text(given: Fields, path: str) -> str:
    if not isinstance(given["description"], str):
        raise invalid(f"{path}.description", "must be a string")
    return str(given["description"])


def _flag(given: Fields, path: str) -> bool:
    if not isinstance(given["nullable"], bool):
        raise invalid(f"{path}.nullable", "must be true or false")
    return bool(given["nullable"])


def _bound(name: str) -> Callable[[Fields, str], float]:
    def check(given: Fields, path: str) -> float:
        value = given[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise invalid(f"{path}.{name}", "must be a number")
        if str(given.get("type")).upper() not in ("NUMBER", "INTEGER"):
            raise invalid(f"{path}.{name}", "only allowed for NUMBER and INTEGER type")
        return value

    return check


def _size(name: str) -> Callable[[Fields, str], int]:
    def check(given: Fields, path: str) -> int:
        value = given[name]
        value = int(value) if isinstance(value, str) and value.isdecimal() else value  # int64 in proto JSON
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise invalid(f"{path}.{name}", "must be an integer ≥ 0")
        return value

    return check


_CHECKS: Final[Mapping[str, Callable[[Fields, str], Any]]] = {
    "description": _text,
    "nullable": _flag,
    "format": _format,
    "enum": _enum,
    "minimum": _bound("minimum"),
    "maximum": _bound("maximum"),
    "minItems": _size("minItems"),
    "maxItems": _size("maxItems"),
}
