"""Processing of the rows of a batch job, with the configured faults."""

import datetime
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from imagebeam.emulators.batch.answers import LineHandler, RowAnswer, failed_row
from imagebeam.emulators.batch.data.importer import RESULTS
from imagebeam.emulators.batch.faults import JobFaults

Record = dict[str, Any]

#: Fields whose keys are user-defined names.
_NAMES: Final = ("properties", "labels")
_SNAKE: Final = re.compile(r"_([a-z])")


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row of the input.

    Attributes:
        record: Fields; ``request`` is an object or serialized JSON.
        skeleton: Rows with the same skeleton differ in keys and URIs only; None if unknown.
        uris: File URIs, if the request is serialized.
        text: JSON of the request, if it is serialized.
    """

    record: Record
    skeleton: bytes | None = None
    uris: tuple[str, ...] = ()
    text: bytes | None = None

    @property
    def request(self) -> Any:
        """The request as an object."""
        return self.record.get("request") if self.text is None else orjson.loads(self.text)


@dataclass(slots=True)
class RowCounts:
    """Results of some rows.

    Attributes:
        succeeded: Rows with a response, including blocked ones and those copied from an earlier job.
        failed: Rows without a response.
        run: Rows that were processed, that is not copied.
        paid: Billed rows.
        unwritten: Billed rows whose output line is not written.
        uris: File URIs of the billed rows, with repetitions.
    """

    succeeded: int = 0
    failed: int = 0
    run: int = 0
    paid: int = 0
    unwritten: int = 0
    uris: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Number of all rows."""
        return self.succeeded + self.failed


class RowRunner:
    """Processes the rows of one job in order.

    Args:
        handler: Answers the rows.
        model: The model of the job.
        faults: The faults of the job.
        name: Display name of the job.
        seed: Seed of random decisions.
    """

    def __init__(self, handler: LineHandler, model: Any, faults: JobFaults, name: str, seed: int) -> None:
        self._handler = handler
        self._model = model
        self._faults = faults
        self._basis = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=32).digest()
        self._chance = bool(faults.failed or faults.blocked or faults.missing or faults.duplicated)
        self._number = 0

    def run(self, rows: Iterable[InputRow]) -> tuple[list[Record], RowCounts]:
        """Process the next rows; return their output lines and counts."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        lines: list[Record] = []
        counts = RowCounts()
        for row in rows:
            failed, blocked, missing, duplicated = self._draw()
            record = row.record
            if "response" in record:
                if record["response"] and not record.get("status"):
                    counts.succeeded += 1
                    lines.append(record)
                    continue
                record = {key: value for key, value in record.items() if key not in RESULTS}
            answer = failed_row(failed) if failed is not None else None
            if answer is None and row.text is not None and row.skeleton is not None and not blocked:
                answer = self._handler.cached_answer(row.skeleton, row.uris)
            if answer is None:
                answer = self._handler.answer_line(row.request, self._model, row.skeleton, blocked=blocked)
            self._count(counts, answer)
            if not missing:
                line = self._line(record, row, answer, now)
                lines.append(line)
                if duplicated:
                    lines.append(line)
            elif answer.paid:
                counts.unwritten += 1
        return lines, counts

    def _draw(self) -> tuple[int | None, bool, bool, bool]:
        """Return the faults of the next row: its HTTP code, and whether it is blocked, missing or duplicated."""
        self._number += 1
        if not self._chance:
            return None, False, False, False
        drawn = hashlib.blake2b(str(self._number).encode(), key=self._basis, digest_size=16).digest()
        failed, blocked, missing, duplicated = (
            int.from_bytes(drawn[place : place + 4], "big") / 2**32 for place in (0, 4, 8, 12)
        )
        faults = self._faults
        code = None
        if failed < faults.failed:
            code = faults.failed_codes[drawn[15] % len(faults.failed_codes)]
        return code, blocked < faults.blocked, missing < faults.missing, duplicated < faults.duplicated

    def _line(self, record: Record, row: InputRow, answer: RowAnswer, now: str) -> Record:
        faults = self._faults
        line: Record = {}
        if faults.echo_key:
            line.update(record)
            line.pop("request", None)
        if answer.status or not self._handler.omits_status:
            line["status"] = answer.status
            line["processed_time"] = now
        line["request"] = to_camel_case(row.request) if faults.echo_camel else record.get("request")
        line["response"] = answer.response
        return line

    def _count(self, counts: RowCounts, answer: RowAnswer) -> None:
        counts.run += 1
        if answer.status:
            counts.failed += 1
        else:
            counts.succeeded += 1
        if answer.paid:
            counts.paid += 1
            counts.uris += answer.uris


def to_camel_case(value: Any, *, chosen: bool = False) -> Any:
    """Convert the field names of a request to camelCase.

    >>> to_camel_case({"file_data": {"file_uri": "gs://b/o"}, "labels": {"run_id": "r"}})
    {'fileData': {'fileUri': 'gs://b/o'}, 'labels': {'run_id': 'r'}}
    """
    if isinstance(value, list):
        return [to_camel_case(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key if chosen else _SNAKE.sub(lambda found: found[1].upper(), key): to_camel_case(
            item, chosen=key in _NAMES and not chosen
        )
        for key, item in value.items()
    }
