"""Conversion of query parameters of the API to DuckDB values."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from imagebeam.emulators.bigquery.dialect.functions.library import canonical_json
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.statement import Parameter
from imagebeam.emulators.bigquery.dialect.types import DUCK_TYPES, REST_NAMES, quote
from imagebeam.emulators.core.http import ApiError


def convert_parameters(items: Sequence[Mapping[str, Any]], mode: str | None) -> dict[str, Parameter]:
    """Convert ``queryParameters``.

    Args:
        items: The parameters.
        mode: The ``parameterMode``.

    Returns:
        The parameters by lower-case name.

    Raises:
        ApiError: 501 for positional parameters and for types that are not implemented.
    """
    if items and str(mode or "NAMED").upper() != "NAMED":
        raise not_implemented("positional query parameters: give them names")
    parameters: dict[str, Parameter] = {}
    for item in items:
        name = str(item.get("name") or "")
        if not name:
            raise not_implemented("positional query parameters: give them names")
        kind = item.get("parameterType") or {}
        parameters[name.lower()] = Parameter(_duck_type(kind), _value(kind, item.get("parameterValue") or {}))
    return parameters


def _duck_type(kind: Mapping[str, Any]) -> str:
    name = str(kind.get("type") or "").upper()
    if name == "ARRAY":
        return _duck_type(kind["arrayType"]) + "[]"
    if name in ("STRUCT", "RECORD"):
        inner = ", ".join(f"{quote(item.get('name') or '')} {_duck_type(item['type'])}" for item in kind["structTypes"])
        return f"STRUCT({inner})"
    found = DUCK_TYPES.get(REST_NAMES.get(name, ""))
    if found is None:
        raise not_implemented(f"query parameters of type {name}")
    return found


def _value(kind: Mapping[str, Any], value: Mapping[str, Any]) -> Any:
    name = str(kind.get("type") or "").upper()
    if name == "ARRAY":
        items = value.get("arrayValues")
        return [] if items is None else [_value(kind["arrayType"], item) for item in items]
    if name in ("STRUCT", "RECORD"):
        values = value.get("structValues")
        if values is None:
            return None
        return {item["name"]: _value(item["type"], values.get(item["name"]) or {}) for item in kind["structTypes"]}
    text = value.get("value")
    if text is None:
        return None
    if name == "BYTES":
        return base64.b64decode(text)
    if name == "JSON":
        return canonical_json(text)
    return str(text)


def whole_number(value: Any, name: str) -> int | None:
    """Parse an INT64 of a query configuration; return None if it is missing or not positive.

    Raises:
        ApiError: 400 for any other string, such as ``None``, which google-cloud-bigquery sends.
    """
    if value is None:
        return None
    if not str(value).lstrip("-").isdigit():
        message = f"Invalid value at 'job.configuration.query.{name}' (TYPE_INT64), \"{value}\""
        raise ApiError(400, message, reason="invalid")
    return int(value) if int(value) > 0 else None
