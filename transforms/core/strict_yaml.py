"""YAML that people write, read strictly: every mistake names the file, the key path, and the remedy.

PyYAML takes a key twice without a word and reads ``no`` as false; both have cost somebody an afternoon.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Collection, Hashable, Mapping
from typing import Any, NoReturn

import yaml

from imagebeam.transforms.core.errors import UserError


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - the signature is PyYAML's
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # PyYAML refuses it below
            if key in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} stands here for the second time", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_mapping(text: str, where: str) -> Section:
    """Reads a YAML document whose top is a mapping.

    Args:
        text: The document.
        where: What messages call it: usually its path.

    Returns:
        Its top level.

    Raises:
        UserError: It is no YAML, or no mapping; says the line.
    """
    try:
        # The loader is a SafeLoader: no objects are made.
        document = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line}: not YAML: {error.problem or error.context}") from None
    except Exception as error:
        # PyYAML lets through what its converters raise: ValueError for 2026-13-45, IndexError for !!int "" ...
        raise UserError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UserError(f"{where}: the file must hold keys with values, such as `name: …`; it is {kind(document)}")
    return Section(document, where)


class Section:
    """One mapping of a document, with typed access to its keys.

    Args:
        content: The mapping.
        where: What messages call the document.
        path: The mapping's key path in it, such as ``generation``.
    """

    def __init__(self, content: Mapping[Any, Any], where: str, path: str = "") -> None:
        self.content = content
        self.where = where
        self.path = path

    def __contains__(self, key: str) -> bool:
        """True if the key stands there, even without a value."""
        return key in self.content

    def allow(self, keys: Collection[str]) -> None:
        """Refuses every key that is not one of ``keys``."""
        for key in self.content:
            if key not in keys:
                self.fail(
                    str(key),
                    f"unknown key{suggestion(str(key), keys)}; allowed here: {', '.join(sorted(keys))}",
                )

    def fail(self, key: str, problem: str) -> NoReturn:
        """Raises the UserError about a key; an empty key means the mapping itself."""
        path = ".".join(part for part in (self.path, key) if part)
        raise UserError(f"{self.where}: {path}: {problem}" if path else f"{self.where}: {problem}")

    def text(self, key: str, default: str | None = None) -> str:
        """A non-empty text; required when there is no default."""
        value = self._value(key, default)
        if not isinstance(value, str):
            hint = " (quote it)" if isinstance(value, bool | int | float | datetime.date) else ""
            self.fail(key, f"must be text, not {kind(value)}{hint}")
        if not value.strip() and default is None:
            self.fail(key, "must not be empty")
        return value

    def choice(self, key: str, allowed: Collection[str], default: str | None = None) -> str:
        """One of the allowed words."""
        value = self._value(key, default)
        if not isinstance(value, str) or value not in allowed:
            near = suggestion(str(value), allowed)
            self.fail(key, f"{show(value)} is not one of {', '.join(allowed)}{near}")
        return value

    def whole(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number within a range."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(key, f"must be a whole number from {low} to {high}, not {show(value)}")
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """A number within a range."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            self.fail(key, f"must be a number from {low:g} to {high:g}, not {show(value)}")
        return float(value) + 0.0  # no negative zero

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.content.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, f"must be true or false, not {show(value)}")
        return value

    def date(self, key: str) -> datetime.date:
        """A date such as 2026-11-20."""
        value = self._value(key, None)
        if not isinstance(value, datetime.date) or isinstance(value, datetime.datetime):
            self.fail(key, f"must be a date such as 2026-11-20, not {show(value)}")
        return value

    def words(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """A list of texts."""
        value = self._value(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            self.fail(key, f"must be a list of words, not {show(value)}")
        return tuple(value)

    def section(self, key: str) -> Section:
        """A mapping below this one; an absent one is empty."""
        value = self.content.get(key, {})
        path = ".".join(part for part in (self.path, key) if part)
        if not isinstance(value, dict):
            self.fail(key, f"must hold keys with values, not {kind(value)}")
        return Section(value, self.where, path)

    def _value(self, key: str, default: Any) -> Any:
        value = self.content.get(key, default)
        if value is None:
            self.fail(key, "has no value" if key in self.content else "is missing")
        return value


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a message about an unknown name: the near one, or nothing.

    >>> suggestion("temprature", ["temperature", "seed"])
    '; did you mean temperature?'
    >>> suggestion("xyz", ["temperature", "seed"])
    ''
    """
    folded = {word.lower(): word for word in known}
    found = difflib.get_close_matches(name.lower(), sorted(folded), n=1, cutoff=0.6)
    return f"; did you mean {folded[found[0]]}?" if found else ""


def kind(value: Any) -> str:
    """What a YAML value is, in words for people.

    >>> kind(None), kind([1]), kind(True)
    ('nothing', 'a list', 'true or false')
    """
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true or false"
    names = {
        str: "text", int: "a number", float: "a number", list: "a list", dict: "keys with values",
        datetime.date: "a date", datetime.datetime: "a time",
    }  # fmt: skip
    return names.get(type(value), type(value).__name__)


def show(value: Any) -> str:
    """A value as a message shows it: short.

    >>> show("a" * 99)
    "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value) if isinstance(value, str | int | float) else kind(value)
    return text if len(text) <= 40 else text[:39] + "…"
