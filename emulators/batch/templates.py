"""Importing many lines that differ in keys and URIs only: the first is read, the others are filled in.

This is what lets a rehearsal run a million rows in a minute; what comes out is the same as line by line.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from imagebeam.emulators.batch.answers import uris_of
from imagebeam.emulators.batch.data.importer import REMEMBERED, RESULTS, Shape, mark_holes, skeleton_of
from imagebeam.emulators.batch.data.rows import InputRow

_MARK: Final = b"imagebeam-hole-"
_MARKED: Final = re.compile(_MARK + rb"(\d+)-")


@dataclass(frozen=True, slots=True)
class _Template:
    """A line with holes.

    Attributes:
        constants: Top-level fields that are always the same.
        keys: Top-level fields that are a hole, and which.
        pieces: The request around its holes.
        places: Which hole comes after each piece but the last.
        uris: Which holes are its files, without ``gs://``.
    """

    constants: dict[str, Any]
    keys: tuple[tuple[str, int], ...]
    pieces: tuple[bytes, ...]
    places: tuple[int, ...]
    uris: tuple[int, ...]

    def fill(self, like: bytes, holes: list[bytes]) -> InputRow:
        """Return the row of a line."""
        record = dict(self.constants)
        for key, place in self.keys:
            record[key] = holes[place].decode()
        text = list(self.pieces)
        for number, place in enumerate(self.places):
            text[number] += holes[place]
        request = b"".join(text)
        record["request"] = orjson.Fragment(request)
        uris = dict.fromkeys("gs://" + holes[place].decode() for place in self.uris)
        return InputRow(record, like, tuple(uris), request)


class TemplateReader:
    """Reads the lines of one file.

    Args:
        shape: The structure of all its lines.
    """

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._templates: dict[bytes, _Template | None] = {}

    def read(self, raw: bytes) -> InputRow:
        """Return a line as it was imported."""
        like, holes = skeleton_of(raw)
        template = self._templates.get(like)
        if template is not None:
            return template.fill(like, holes)
        row = read_line(self._shape, raw, like)
        if like not in self._templates and len(self._templates) < REMEMBERED:
            self._templates[like] = _template(self._shape, raw, len(holes))
        return row


def read_line(shape: Shape, raw: bytes, like: bytes | None = None) -> InputRow:
    """Return a line as it was imported: null for what it lacks, keys in alphabetical order.

    Args:
        shape: The structure of all lines of the file.
        raw: The line.
        like: What the row has in common with others, see `InputRow`.
    """
    line = orjson.loads(raw)
    record = shape.widen(line)
    if "response" in line or "status" in line:
        record |= {key: line[key] for key in RESULTS if key in line}
    return InputRow(record, like)


def _template(shape: Shape, raw: bytes, holes: int) -> _Template | None:
    """Make a template of a line; ``None`` for one that has results, or whose holes are not where they seem."""
    if _MARK in raw:
        return None
    record = read_line(shape, mark_holes(raw, _MARK)).record
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
