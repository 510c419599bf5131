"""Parsing of proto JSON as Google's servers do it: keys in camelCase or snake_case, no unknown fields."""

import re
from functools import lru_cache
from typing import Any

from imagebeam.emulators.core.http import ApiError

Fields = dict[str, Any]


def read_fields(value: Any, known: tuple[str, ...], path: str) -> Fields:
    """Return an object with its keys in camelCase and without fields that are null.

    Args:
        value: JSON value, which must be an object.
        known: Fields of the message, in camelCase.
        path: Path of the value, for messages; empty for the request itself.

    Raises:
        ApiError: 400 for an unknown or repeated field.
    """
    if not isinstance(value, dict):
        raise invalid(path or "the request", "must be an object")
    spellings = _spellings(known)
    fields: Fields = {}
    for key, item in value.items():
        name = spellings.get(key)
        if name is None:
            raise unknown_name(key, path)
        if name in fields:
            raise invalid(f"{path}.{key}" if path else key, f"is set twice, also as {name}")
        if item is not None:
            fields[name] = item
    return fields


def unknown_name(key: str, path: str) -> ApiError:
    """Return the error of Google's JSON parser for an unknown field."""
    where = f" at '{path}'" if path else ""
    message = f'Invalid JSON payload received. Unknown name "{key}"{where}: Cannot find field.'
    violation = {"field": path, "description": message} if path else {"description": message}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return ApiError(400, message, details=details)


def invalid(path: str, problem: str) -> ApiError:
    """Return the error for a field with an invalid value."""
    return ApiError(400, f"Invalid value at '{path}': {problem}")


@lru_cache(maxsize=256)
def _spellings(known: tuple[str, ...]) -> dict[str, str]:
    snake = {re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name): name for name in known}
    return snake | {name: name for name in known}
