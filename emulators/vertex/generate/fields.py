"""Reading proto JSON as Google's servers do: camelCase or snake_case, and nothing unknown."""

import re
from functools import lru_cache
from typing import Any

from imagebeam.emulators.core.http import ApiError

Fields = dict[str, Any]


def read_fields(value: Any, known: tuple[str, ...], path: str) -> Fields:
    """Return an object with its keys in camelCase; a field that is null counts as absent.

    Args:
        value: A JSON value that must be an object.
        known: Fields of the message, camelCase.
        path: Where it stands, for messages; empty for the request itself.

    Raises:
        ApiError: 400, for a field that the message does not have or has twice.
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
            raise invalid(f"{path}.{key}" if path else key, f"is there twice, also as {name}")
        if item is not None:
            fields[name] = item
    return fields


def unknown_name(key: str, path: str) -> ApiError:
    """Return the error of Google's JSON parser for a field that does not exist."""
    where = f" at '{path}'" if path else ""
    said = f'Invalid JSON payload received. Unknown name "{key}"{where}: Cannot find field.'
    violation = {"field": path, "description": said} if path else {"description": said}
    details = [{"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
    return ApiError(400, said, details=details)


def invalid(path: str, problem: str) -> ApiError:
    """Return the error for a field whose value is not good."""
    return ApiError(400, f"Invalid value at '{path}': {problem}")


@lru_cache(maxsize=256)
def _spellings(known: tuple[str, ...]) -> dict[str, str]:
    snake = {re.sub(r"([A-Z])", lambda found: "_" + found[1].lower(), name): name for name in known}
    return snake | {name: name for name in known}
