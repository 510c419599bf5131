"""Examples for supervised tuning, from answers."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import IO, Any, Final

import orjson

from imagebeam.pipeline.export.formats import Row
from imagebeam.pipeline.export.sql import Answers
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.images import ImageError
from imagebeam.transforms.core.records import Image, Unit, UnitKind
from imagebeam.transforms.engine.image_parts import SNIFF_BYTES, supported_mime
from imagebeam.transforms.gemini.batch_requests import named_types
from imagebeam.transforms.gemini.tuning import build_example, check_task
from imagebeam.transforms.sql.unit_rows import rfc3339
from imagebeam.transforms.tasks.answer_schema import OffSchemaError
from imagebeam.transforms.tasks.task import Task

#: Further columns that the examples are built from.
COLUMNS: Final = ("event.unit_type AS _unit_type", "event.answer AS _answer", "event.extra AS _extra")


class TuningWriter:
    """One example per line.

    Attributes:
        left_out: Reason → answers that are not examples.

    Args:
        file: The open file.
        task: The task.
        answers: The answers.

    Raises:
        UserError: The requests of the task cannot be built again.
    """

    def __init__(self, file: IO[bytes], task: Task, answers: Answers) -> None:
        check_task(task)
        self._file, self._task, self._answers = file, task, answers
        self.left_out: collections.Counter[str] = collections.Counter()

    def write(self, rows: Sequence[Row]) -> None:
        """Write a page of rows."""
        self._file.write(b"".join(map(self._line, rows)))

    def close(self) -> None:
        """Nothing follows the last row."""

    def _line(self, row: Row) -> bytes:
        unit = self._unit(row)
        try:
            example = build_example(self._task, unit, _mime_types(unit), row["_answer"])
        except ImageError as error:
            self.left_out[f"image {error.reason}"] += 1
        except OffSchemaError:
            self.left_out["answer does not match the schema of the task"] += 1
        else:
            return orjson.dumps(example) + b"\n"
        return b""

    def _unit(self, row: Row) -> Unit:
        about: dict[str, Any] = {
            name: row[self._answers.column(name)] for name in ("asset_id", "asset_type", "latitude", "longitude")
        }
        time = rfc3339(row[self._answers.column("capture_time")])
        return Unit(
            row["unit_id"],
            UnitKind(row["_unit_type"]),
            "",
            tuple(Image(row["unit_id"], uri, time) for uri in row["_image_uris"]),
            capture_time=time,
            extra=row["_extra"] or {},
            **about,
        )


def _mime_types(unit: Unit) -> list[str]:
    """Return the types of the images, from their names or else their first bytes, as in a batch job.

    Raises:
        ImageError: An image has no valid URI or no supported type, or cannot be read.
    """
    return [
        named or supported_mime(storage.read_image(image.uri, limit=SNIFF_BYTES), image.uri)
        for named, image in zip(named_types(unit), unit.images, strict=True)
    ]
