"""Examples for supervised tuning, from answers."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Final

import orjson

from imagebeam.pipeline.export.formats import Row
from imagebeam.pipeline.export.settings import ExportSettings
from imagebeam.pipeline.export.sql import Answers
from imagebeam.pipeline.run.resolved_run import check_prompt_fields, read_source
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.images import ImageError
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import ImageReason, Unit
from imagebeam.transforms.engine.image_parts import SNIFF_BYTES, supported_mime
from imagebeam.transforms.gemini.batch_requests import named_types
from imagebeam.transforms.gemini.tuning import build_example
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.remaining_query import build_units_query
from imagebeam.transforms.sql.selection import QuerySpec
from imagebeam.transforms.sql.unit_rows import unit_from_row
from imagebeam.transforms.tasks.answer_schema import OffSchemaError
from imagebeam.transforms.tasks.task import Task

#: Further columns of the answers.
COLUMNS: Final = ("event.answer AS _answer", "event.input_digest AS _input_digest")
#: Threads that read the first bytes of images.
READERS: Final = 16
_NOT_FOUND: Final = "not in the source with the same images"


def tuning_query(answers: Answers, units: Query) -> Query:
    """Return the query of the answers, each with its unit as the source has it; NULL where the source has not.

    Args:
        answers: The answers, with :data:`COLUMNS`.
        units: Query of the units of the source.
    """
    found = answers.matching_query()
    return Query(
        f"SELECT answers._answer, units.*\nFROM (\n{found.sql}\n) AS answers\nLEFT JOIN (\n{units.sql}\n) AS units\n"
        "ON units.unit_id = answers.unit_id AND units.input_digest = answers._input_digest\n"
        f"ORDER BY answers.unit_id{answers.limit_clause()}",
        (*found.parameters, *units.parameters),
    )


def units_query(settings: ExportSettings, task: Task, bq: BigQueryClient, location: str) -> Query:
    """Return the query of the units of the source.

    Raises:
        UserError: The source does not exist, lacks a column, or is in another location than the results.
    """
    info = read_source(settings, settings.project, bq)
    if info.location.upper() != location.upper():
        raise UserError(f"the source is in {info.location} and --results in {location}; one query cannot read both")
    check_prompt_fields(task, info.source.kept(settings.keep_columns))
    return build_units_query(
        QuerySpec(
            source=info.source,
            filters=Filters(),
            unit=task.unit,
            max_images=task.max_images,
            task=task.name,
            version=task.version,
            keep_columns=settings.keep_columns,
        )
    )


class TuningWriter:
    """One example per line.

    Attributes:
        left_out: Reason → answers that are not examples.

    Args:
        file: The open file.
        task: The task.
    """

    def __init__(self, file: IO[bytes], task: Task) -> None:
        self._file, self._task = file, task
        self.left_out: collections.Counter[str] = collections.Counter()

    def write(self, rows: Sequence[Row]) -> None:
        """Write a page of rows."""
        units = [None if row["unit_id"] is None else unit_from_row(row) for row in rows]
        with ThreadPoolExecutor(READERS) as readers:
            types = list(readers.map(_mime_types, units))
        self._file.write(b"".join(map(self._line, rows, units, types)))

    def close(self) -> None:
        """Nothing follows the last row."""

    def _line(self, row: Row, unit: Unit | None, types: Sequence[str] | ImageError) -> bytes:
        if unit is None:
            self.left_out[_NOT_FOUND] += 1
        elif isinstance(types, ImageError):
            self.left_out[f"image {types.reason}"] += 1
        else:
            try:
                return orjson.dumps(build_example(self._task, unit, types, row["_answer"])) + b"\n"
            except OffSchemaError:
                self.left_out["answer does not match the schema of the task"] += 1
        return b""


def _mime_types(unit: Unit | None) -> Sequence[str] | ImageError:
    """Return the types of the images by their first bytes; by their names, if only the service may read them."""
    if unit is None:
        return ()
    found: list[str] = []
    try:
        for image, named in zip(unit.images, named_types(unit), strict=True):
            try:
                found.append(supported_mime(storage.read_image(image.uri, limit=SNIFF_BYTES), image.uri))
            except ImageError as error:
                if error.reason is not ImageReason.FORBIDDEN or named is None:
                    raise
                found.append(named)
    except ImageError as error:
        return error
    return found
