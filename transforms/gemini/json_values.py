"""Reads JSON of a service defensively: a value of another type than documented counts as not reported."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import orjson


def mapping_of(value: Any) -> Mapping[str, Any]:
    """Return an object; an empty one for any other value."""
    return value if isinstance(value, Mapping) else {}


def list_of(value: Any) -> list[Any]:
    """Return a list; an empty one for any other value."""
    return value if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """Return a text; an empty one for any other value."""
    return value if isinstance(value, str) else ""


def integer_of(value: Any) -> int | None:
    """Return an integer, which proto JSON may write as text; None for any other value."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:18])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def utc_time_of(value: Any) -> datetime.datetime | None:
    """Return a time in UTC, with up to nine decimals in the text; None for any other value."""
    try:
        parsed = datetime.datetime.fromisoformat(text_of(value))
        return parsed.astimezone(datetime.UTC) if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)
    except (ValueError, OverflowError):
        return None


def dump_json(value: Any) -> bytes:
    """Return JSON; empty if the value is nested too deep to be written."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return b""


def load_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; None if it is not valid JSON."""
    try:
        return orjson.loads(text.encode("utf-8", "replace") if isinstance(text, str) else text)
    except orjson.JSONDecodeError:
        return None
