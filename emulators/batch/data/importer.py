"""The import of a batch job's input file into a table, before any row is processed.

The lines of a file get a common structure, the union of all. Missing fields become null, and a value that a table
cannot hold fails the whole job.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

import orjson

from imagebeam.emulators.batch.faults import Limits

#: Fields of an output line that is used as input to resume a job; not part of the structure.
RESULTS: Final = ("response", "status", "processed_time")
#: Maximum number of cached skeletons. Lines with the same skeleton differ in keys and URIs only.
MAX_CACHED: Final = 256

_KINDS: Final = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "float"}
_HOLE: Final = re.compile(
    rb'("(?:custom_id|key)": ?"|"file(?:Uri|_uri)": ?"gs://)([ !#-\[\]-~]+)(?=")'  # without escape sequences
)


class JobImportError(ValueError):
    """The input cannot be imported. The message becomes part of the job's error."""


class _UnsupportedValueError(ValueError):
    """A value that a table cannot hold. The callers prepend the path of the value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.path: list[str] = []


class FieldSchema:
    """The type of a field in all lines, including the types of nested fields."""

    __slots__ = ("fields", "items", "kind")

    def __init__(self) -> None:
        self.kind = ""
        self.fields: dict[str, FieldSchema] = {}
        self.items: FieldSchema | None = None

    def learn(self, value: Any) -> None:
        """Extend the type to include a value.

        Raises:
            ValueError: A table cannot hold the value together with the earlier ones.
        """
        if value is None:
            return
        kind = _KINDS[type(value)]
        if kind != self.kind:
            if self.kind:
                raise _UnsupportedValueError(f"it is {kind} here and {self.kind} before")
            self.kind = kind
        if kind == "object":
            self._learn_object(value)
        elif kind == "array":
            self._learn_array(value)

    def widen(self, value: Any) -> Any:
        """Return a value as read from the table: keys in alphabetical order, null for missing fields."""
        if value is None or not (self.fields or self.items):
            return value
        if self.items is not None:
            widen = self.items.widen
            return [widen(item) for item in value]
        get = value.get
        return {key: schema.widen(get(key)) for key, schema in self.fields.items()}

    def finish(self) -> None:
        """Sort the fields, as `widen` requires."""
        self.fields = dict(sorted(self.fields.items()))
        for schema in self.fields.values():
            schema.finish()
        if self.items is not None:
            self.items.finish()

    def _learn_object(self, value: dict[str, Any]) -> None:
        if not value:
            raise _UnsupportedValueError("an empty object cannot be imported")
        for key, item in value.items():
            schema = self.fields.get(key)
            if schema is None:
                schema = self.fields[key] = FieldSchema()
            try:
                if key == "type" and type(item) is list:
                    raise _UnsupportedValueError("type must be a boolean or an object, not a list")
                schema.learn(item)
            except _UnsupportedValueError as problem:
                problem.path.insert(0, f".{key}")
                raise

    def _learn_array(self, value: list[Any]) -> None:
        if not value:
            raise _UnsupportedValueError("an empty array cannot be imported")
        if self.items is None:
            self.items = FieldSchema()
        for number, item in enumerate(value):
            try:
                if item is None:
                    raise _UnsupportedValueError("an array cannot have a null element")
                self.items.learn(item)
            except _UnsupportedValueError as problem:
                problem.path.insert(0, f"[{number}]")
                raise


class ImportedFile:
    """An imported file.

    Attributes:
        schema: Structure of the lines, without results.
        rows: Number of lines that are not blank.
    """

    def __init__(self) -> None:
        self.schema = FieldSchema()
        self.rows = 0


def import_lines(lines: Iterable[bytes], limits: Limits) -> ImportedFile:
    """Read all lines of a file, one at a time.

    Args:
        lines: Lines of the file.
        limits: Maximum size of the file.

    Raises:
        JobImportError: The service would reject the file.
    """
    found = ImportedFile()
    known: set[bytes] = set()
    for number, raw in enumerate(lines, 1):
        if raw.isspace():
            continue
        found.rows += 1
        if found.rows > limits.lines:
            raise JobImportError(f"The input has more than {limits.lines} requests.")
        skeleton = skeleton_of(raw)[0]
        if skeleton in known:
            continue
        try:
            _learn(found.schema, raw)
        except _UnsupportedValueError as problem:
            where = f", field {''.join(problem.path).lstrip('.')}" if problem.path else ""
            raise JobImportError(f"Error while reading data in line {number}{where}: {problem}.") from problem
        except ValueError as problem:
            raise JobImportError(f"Error while reading data in line {number}: {problem}.") from problem
        if len(known) < MAX_CACHED:
            known.add(skeleton)
    if not found.rows:
        raise JobImportError("The input has no requests.")
    found.schema.finish()
    return found


def skeleton_of(raw: bytes) -> tuple[bytes, list[bytes]]:
    """Return the skeleton of a line and its keys and URIs, in order.

    Lines with the same skeleton differ in keys and URIs only. ``gs://`` belongs to the skeleton.

    >>> skeleton_of(b'{"key":"k-1","file_uri":"gs://b/1.jpg"}')[1]
    [b'k-1', b'b/1.jpg']
    """
    pieces = _HOLE.split(raw)
    holes = pieces[2::3]
    del pieces[2::3]
    return b"\0".join(pieces), holes


def mark_holes(raw: bytes, mark: bytes) -> bytes:
    """Return a line with ``<mark><number>-`` instead of its keys and URIs (without ``gs://``)."""
    pieces = _HOLE.split(raw)
    pieces[2::3] = [mark + b"%d-" % number for number in range(len(pieces) // 3)]
    return b"".join(pieces)


def _learn(schema: FieldSchema, raw: bytes) -> None:
    line = orjson.loads(raw)
    if not isinstance(line, dict):
        raise _UnsupportedValueError("the line is not a JSON object")
    if not isinstance(line.get("request"), dict):
        raise _UnsupportedValueError("the line has no object request")
    if "response" in line or "status" in line:
        line = {key: value for key, value in line.items() if key not in RESULTS}
    schema.learn(line)
