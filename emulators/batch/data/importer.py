"""The import of a batch job's input: the service reads all lines into one table before it runs any.

So the lines of a file get one structure: the union of all. What a line does not have is null from then on, and
what a table cannot hold fails the whole job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from imagebeam.emulators.batch.faults import Limits

#: Fields that a line has when it is an output line that is to be resumed; not part of the structure.
RESULTS: Final = ("response", "status", "processed_time")
#: Lines that differ only in keys and URIs are one skeleton; so many are remembered.
REMEMBERED: Final = 256

_KINDS: Final = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "float"}
_HOLE: Final = re.compile(
    rb'("(?:custom_id|key)": ?"|"file(?:Uri|_uri)": ?"gs://)([ !#-\[\]-~]+)(?=")'  # plain text: nothing is escaped
)


class ImportFailed(ValueError):  # noqa: N818  (it says what became of the import)
    """The input cannot be imported; the text says why, as the job's error does."""


class _Refused(ValueError):  # noqa: N818
    """A value that a table cannot hold; ``path`` grows on the way out."""

    def __init__(self, said: str) -> None:
        super().__init__(said)
        self.path: list[str] = []


class Shape:
    """The structure of one place in the lines: what kind of value stands there, and what is below it."""

    __slots__ = ("fields", "items", "kind")

    def __init__(self) -> None:
        self.kind = ""
        self.fields: dict[str, Shape] = {}
        self.items: Shape | None = None

    def learn(self, value: Any) -> None:
        """Take in one more value.

        Raises:
            ValueError: A table cannot hold it beside the others.
        """
        if value is None:
            return
        kind = _KINDS[type(value)]
        if kind != self.kind:
            if self.kind:
                raise _Refused(f"it is {kind} here and {self.kind} before")
            self.kind = kind
        if kind == "object":
            self._learn_object(value)
        elif kind == "array":
            self._learn_array(value)

    def widen(self, value: Any) -> Any:
        """Return a value as the table gives it back: keys in alphabetical order, null for what is missing."""
        if value is None or not (self.fields or self.items):
            return value
        if self.items is not None:
            widen = self.items.widen
            return [widen(item) for item in value]
        get = value.get
        return {key: shape.widen(get(key)) for key, shape in self.fields.items()}

    def finish(self) -> None:
        """Put the fields in order; `widen` needs it."""
        self.fields = dict(sorted(self.fields.items()))
        for shape in self.fields.values():
            shape.finish()
        if self.items is not None:
            self.items.finish()

    def _learn_object(self, value: dict[str, Any]) -> None:
        if not value:
            raise _Refused("an empty object cannot be imported")
        for key, item in value.items():
            shape = self.fields.get(key)
            if shape is None:
                shape = self.fields[key] = Shape()
            try:
                if key == "type" and type(item) is list:
                    raise _Refused("type must be a boolean or an object, and no list")
                shape.learn(item)
            except _Refused as problem:
                problem.path.insert(0, f".{key}")
                raise

    def _learn_array(self, value: list[Any]) -> None:
        if not value:
            raise _Refused("an empty array cannot be imported")
        if self.items is None:
            self.items = Shape()
        for number, item in enumerate(value):
            try:
                if item is None:
                    raise _Refused("an array cannot have a null element")
                self.items.learn(item)
            except _Refused as problem:
                problem.path.insert(0, f"[{number}]")
                raise


class Imported:
    """An imported file.

    Attributes:
        shape: The structure of its lines, without their results.
        rows: Lines that are not blank.
    """

    def __init__(self) -> None:
        self.shape = Shape()
        self.rows = 0


def import_lines(lines: Iterable[bytes], limits: Limits) -> Imported:
    """Read all lines of a file, one at a time.

    Args:
        lines: The file, line by line.
        limits: What one file may hold.

    Raises:
        ImportFailed: The service would not import it.
    """
    found = Imported()
    known: set[bytes] = set()
    for number, raw in enumerate(lines, 1):
        if raw.isspace():
            continue
        found.rows += 1
        if found.rows > limits.lines:
            raise ImportFailed(f"The input has more than {limits.lines} requests.")
        skeleton = skeleton_of(raw)[0]
        if skeleton in known:
            continue
        try:
            _learn(found.shape, raw)
        except _Refused as problem:
            where = f", field {''.join(problem.path).lstrip('.')}" if problem.path else ""
            raise ImportFailed(f"Error while reading data in line {number}{where}: {problem}.") from problem
        except ValueError as problem:
            raise ImportFailed(f"Error while reading data in line {number}: {problem}.") from problem
        if len(known) < REMEMBERED:
            known.add(skeleton)
    if not found.rows:
        raise ImportFailed("The input has no requests.")
    found.shape.finish()
    return found


def skeleton_of(raw: bytes) -> tuple[bytes, list[bytes]]:
    """Return a line without its keys and URIs, and those, in order.

    Two lines with one skeleton differ in nothing else. ``gs://`` belongs to the skeleton.

    >>> skeleton_of(b'{"key":"k-1","file_uri":"gs://b/1.jpg"}')[1]
    [b'k-1', b'b/1.jpg']
    """
    pieces = _HOLE.split(raw)
    holes = pieces[2::3]
    del pieces[2::3]
    return b"\0".join(pieces), holes


def mark_holes(raw: bytes, mark: bytes) -> bytes:
    """Return a line with ``<mark><number>-`` in the place of its keys and URIs (without ``gs://``)."""
    pieces = _HOLE.split(raw)
    pieces[2::3] = [mark + b"%d-" % number for number in range(len(pieces) // 3)]
    return b"".join(pieces)


def _learn(shape: Shape, raw: bytes) -> None:
    line = orjson.loads(raw)
    if not isinstance(line, dict):
        raise _Refused("the line is no JSON object")
    if not isinstance(line.get("request"), dict):
        raise _Refused("the line has no object request")
    if "response" in line or "status" in line:
        line = {key: value for key, value in line.items() if key not in RESULTS}
    shape.learn(line)
