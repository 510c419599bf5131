"""Read YAML strictly: every error has the file, the key path and the fix.

PyYAML silently accepts duplicate keys and reads ``no`` as false.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any, NoReturn, TypeVar

import yaml

from imagebeam.transforms.core.errors import UserError

_T = TypeVar("_T")


class _Loader(yaml.SafeLoader):
    """SafeLoader that rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - the signature is PyYAML's
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # PyYAML rejects it below
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_mapping(text: str, source: str) -> Section:
    """Parse a YAML document whose top level is a mapping.

    Args:
        text: The document.
        source: Name of the document in messages, usually its path.

    Returns:
        Its top level.

    Raises:
        UserError: It is not YAML, or not a mapping; the message gives the line.
    """
    try:
        # The loader is a SafeLoader: it creates no objects.
        document = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{source}{line}: not YAML: {error.problem or error.context}") from None
    except Exception as error:
        # PyYAML's converters raise other exceptions: ValueError for 2026-13-45, IndexError for !!int "" ...
        raise UserError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{source}: expected keys with values, such as `name: …`, not {kind(document)}")
    return Section(document, source)


class Section:
    """A mapping of a document, with typed access to its keys.

    Args:
        content: The mapping.
        source: Name of the document in messages.
        path: Key path of the mapping in the document, such as ``generation``.
    """

    def __init__(self, content: Mapping[Any, Any], source: str, path: str = "") -> None:
        self.content = content
        self.source = source
        self.path = path

    def __contains__(self, key: str) -> bool:
        """Return True if the key exists, even without a value."""
        return key in self.content

    def allow(self, keys: Collection[str]) -> None:
        """Raise a UserError if the mapping has a key that is not one of ``keys``."""
        for key in self.content:
            if key not in keys:
                self.fail(
                    str(key),
                    f"unknown key{suggestion(str(key), keys)}; expected one of {', '.join(sorted(keys))}",
                )

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raise a UserError about a key; an empty key means the mapping itself."""
        raise UserError(": ".join(part for part in (self.source, self._path(key), problem) if part))

    def text(self, key: str, default: str | None = None) -> str:
        """Return a text; required and not empty if there is no default."""
        value = self._value(key, default)
        if not isinstance(value, str):
            hint = " (quote it)" if isinstance(value, bool | int | float | datetime.date) else ""
            self.fail(key, f"must be text, not {kind(value)}{hint}")
        if not value.strip() and default is None:
            self.fail(key, "must not be empty")
        return value

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        """Return one of the allowed values."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in allowed:
            near = suggestion(str(value), allowed)
            self.fail(key, f"{show(value)} is not one of {', '.join(allowed)}{near}")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer within a range."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(key, f"must be a whole number from {low} to {high}, not {show(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Return a number within a range."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(key, f"must be a number from {low:g} to {high:g}, not {show(value)}")
        return float(value) + 0.0  # no negative zero

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a boolean."""
        value = self.content.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, not {show(value)}")
        return value

    def date(self, key: str) -> datetime.date:
        """Return a date such as 2026-11-20."""
        value = self._value(key, None)
        if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
            self.fail(key, f"must be a date such as 2026-11-20, not {show(value)}")
        return value

    def words(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Return a list of strings."""
        value = self._value(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            self.fail(key, f"must be a list of strings, not {show(value)}")
        return tuple(value)

    def wholes(self, key: str, allowed: Collection[str], low: int, high: int) -> dict[str, int]:
        """Return a nested mapping of allowed names to integers within a range; an absent one is empty."""
        found = self.section(key)
        found.allow(allowed)
        return {name: found.whole(name, low, high) for name in found.content}

    def sections(self, key: str, allowed: Collection[str], read: Callable[[Section], _T]) -> dict[str, _T]:
        """Return a nested mapping of allowed names to what is read from their mappings; an absent one is empty."""
        found = self.section(key)
        found.allow(allowed)
        return {name: read(found.section(name)) for name in found.content}

    def section(self, key: str) -> Section:
        """Return a nested mapping; an absent one is empty."""
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            self.fail(key, f"must be keys with values, not {kind(value)}")
        return Section(value, self.source, self._path(key))

    def _path(self, key: str) -> str:
        return ".".join(part for part in (self.path, key) if part)

    def _value(self, key: str, default: Any) -> Any:
        value = self.content.get(key, default)
        if value is None:
            self.fail(key, "has no value" if key in self.content else "is missing")
        return value


def suggestion(name: str, known: Collection[str]) -> str:
    """Return the end of a message about an unknown name: a similar known name, or nothing.

    >>> suggestion("temprature", ["temperature", "seed"])
    '; did you mean temperature?'
    >>> suggestion("xyz", ["temperature", "seed"])
    ''
    """
    folded = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), sorted(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[found[0]]}?" if found else ""


def kind(value: Any) -> str:
    """Return the kind of a YAML value, for messages.

    >>> kind(None), kind([1]), kind(True)
    ('nothing', 'a list', 'true or false')
    """
    names = {
        type(None): "nothing", bool: "true or false", str: "text", int: "a number", float: "a number",
        list: "a list", dict: "keys with values",
        datetime.date: "a date", datetime.datetime: "a time",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def show(value: Any) -> str:
    """Return a value for a message, shortened.

    >>> show("a" * 99)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, str | int | float) else kind(value)
    return text if len(text) <= 40 else text[:39] + "…"
