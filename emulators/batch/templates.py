"""Fast import of lines that differ in keys and URIs only: one line becomes a template for the others.

The result equals that of parsing each line. This lets a rehearsal process a million rows in a minute.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from imagebeam.emulators.batch.answers import uris_of
from imagebeam.emulators.batch.data.importer import MAX_CACHED, RESULTS, FieldSchema, mark_holes, skeleton_of
from imagebeam.emulators.batch.data.rows import InputRow

_MARK: Final = b"imagebeam-hole-"
_MARKED: Final = re.compile(_MARK + rb"(\d+)-")


@dataclass(frozen=True, slots=True)
class _Template:
    """A line with holes for keys and URIs.

    Attributes:
        constants: Constant top-level fields.
        keys: Top-level fields that are holes, with the index of the hole.
        pieces: Text of the request between its holes.
        places: Index of the hole after each piece except the last.
        uris: Indices of the holes that are file URIs without ``gs://``.
    """

    constants: dict[str, Any]
    keys: tuple[tuple[str, int], ...]
    pieces: tuple[bytes, ...]
    places: tuple[int, ...]
    uris: tuple[int, ...]

    def fill(self, skeleton: bytes, holes: list[bytes]) -> InputRow:
        """Return the row for the contents of the holes."""
        record = dict(self.constants)
        for key, place in self.keys:
            record[key] = holes[place].decode()
        text = list(self.pieces)
        for number, place in enumerate(self.places):
            text[number] += holes[place]
        request = b"".join(text)
        record["request"] = orjson.Fragment(request)
        uris = dict.fromkeys("gs://" + holes[place].decode() for place in self.uris)
        return InputRow(record, skeleton, tuple(uris), request)


class TemplateReader:
    """Parses the lines of one file.

    Args:
        schema: Common structure of the lines.
    """

    def __init__(self, schema: FieldSchema) -> None:
        self._schema = schema
        self._templates: dict[bytes, _Template | None] = {}

    def read(self, raw: bytes) -> InputRow:
        """Return the row of a line."""
        skeleton, holes = skeleton_of(raw)
        template = self._templates.get(skeleton)
        if template is not None:
            return template.fill(skeleton, holes)
        row = read_line(self._schema, raw, skeleton)
        if skeleton not in self._templates and len(self._templates) < MAX_CACHED:
            self._templates[skeleton] = _template(self._schema, raw, len(holes))
        return row


def read_line(schema: FieldSchema, raw: bytes, skeleton: bytes | None = None) -> InputRow:
    """Return the row of a line, with null for missing fields and keys in alphabetical order.

    Args:
        schema: Common structure of the lines of the file.
        raw: The line.
        skeleton: Skeleton of the line, see `InputRow`.
    """
    line = orjson.loads(raw)
    record = schema.widen(line)
    if "response" in line or "status" in line:
        record |= {key: line[key] for key in RESULTS if key in line}
    return InputRow(record, skeleton)


def _template(schema: FieldSchema, raw: bytes, holes: int) -> _Template | None:
    """Return the template of a line, or None for a line with results or with ambiguous holes."""
    if _MARK in raw:
        return None
    record = read_line(schema, mark_holes(raw, _MARK)).record
    if any(key in record for key in RESULTS):
        return None
    request = record.pop("request")
    keys, constants = [], {}
    for key, value in record.items():
        marked = _MARKED.fullmatch(value.encode()) if isinstance(value, str) else None
        if marked is None:
            constants[key] = value
        else:
            keys.append((key, int(marked[1])))
    pieces = _MARKED.split(orjson.dumps(request))
    uris = [_MARKED.fullmatch(uri.removeprefix("gs://").encode()) for uri in uris_of(request)]
    places = tuple(int(number) for number in pieces[1::2])
    used = sorted((*places, *(number for _, number in keys)))
    if used != list(range(holes)) or _MARK in orjson.dumps(constants) or None in uris:
        return None
    files = tuple(int(found[1]) for found in uris if found is not None)
    return _Template(constants, tuple(keys), tuple(pieces[::2]), places, files)
