"""Rows of a batch job on their way from the input to the output: run, echoed, and lost as the faults say."""

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

#: What stands below them are names that people chose.
_NAMES: Final = ("properties", "labels")
_SNAKE: Final = re.compile(r"_([a-z])")


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row of the input.

    Attributes:
        record: Its fields; ``request`` as it was imported, an object or a fragment of JSON.
        like: Rows with the same ``like`` differ in keys and URIs only; ``None`` tells nothing.
        uris: Files of a request that is a fragment.
        text: The JSON of a request that is a fragment.
    """

    record: Record
    like: bytes | None = None
    uris: tuple[str, ...] = ()
    text: bytes | None = None

    @property
    def request(self) -> Any:
        """The request as it was imported, never a fragment."""
        return self.record.get("request") if self.text is None else orjson.loads(self.text)


@dataclass(slots=True)
class Tally:
    """What became of some rows.

    Attributes:
        succeeded: Rows with an answer, blocked ones and those carried over from an earlier job among them.
        failed: Rows without one.
        run: Rows that were really run.
        paid: Those that are billed.
        unwritten: Those of them whose line is not written.
        uris: Files of the billed rows, one entry for each row.
    """

    succeeded: int = 0
    failed: int = 0
    run: int = 0
    paid: int = 0
    unwritten: int = 0
    uris: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """All rows."""
        return self.succeeded + self.failed


class RowRunner:
    """Runs the rows of one job, in their order.

    Args:
        handler: Answers them.
        model: Who is asked.
        faults: What goes wrong.
        name: Display name of the job.
        seed: Of what chance decides.
    """

    def __init__(self, handler: LineHandler, model: Any, faults: JobFaults, name: str, seed: int) -> None:
        self._handler = handler
        self._model = model
        self._faults = faults
        self._basis = hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=32).digest()
        self._chance = bool(faults.failed or faults.blocked or faults.missing or faults.duplicated)
        self._number = 0

    def run(self, rows: Iterable[InputRow]) -> tuple[list[Record], Tally]:
        """Run the next rows; return their lines of the output and what became of them."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        lines: list[Record] = []
        tally = Tally()
        for row in rows:
            failed, blocked, missing, duplicated = self._draw()
            record = row.record
            if "response" in record:
                if record["response"] and not record.get("status"):
                    tally.succeeded += 1
                    lines.append(record)
                    continue
                record = {key: value for key, value in record.items() if key not in RESULTS}
            answer = failed_row(failed) if failed is not None else None
            if answer is None and row.text is not None and row.like is not None and not blocked:
                answer = self._handler.recall(row.like, row.uris)
            if answer is None:
                answer = self._handler.answer_line(row.request, self._model, row.like, blocked=blocked)
            self._count(tally, answer)
            if not missing:
                line = self._line(record, row, answer, now)
                lines.append(line)
                if duplicated:
                    lines.append(line)
            elif answer.paid:
                tally.unwritten += 1
        return lines, tally

    def _draw(self) -> tuple[int | None, bool, bool, bool]:
        """Return the code with which the next row fails, and whether it is blocked, missing, written twice."""
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
        if answer.status or not self._handler.plain:
            line["status"] = answer.status
            line["processed_time"] = now
        line["request"] = camel(row.request) if faults.echo_camel else record.get("request")
        line["response"] = answer.response
        return line

    def _count(self, tally: Tally, answer: RowAnswer) -> None:
        tally.run += 1
        if answer.status:
            tally.failed += 1
        else:
            tally.succeeded += 1
        if answer.paid:
            tally.paid += 1
            tally.uris += answer.uris


def camel(value: Any, *, chosen: bool = False) -> Any:
    """Return a request with its field names in camelCase.

    >>> camel({"file_data": {"file_uri": "gs://b/o"}, "labels": {"run_id": "r"}})
    {'fileData': {'fileUri': 'gs://b/o'}, 'labels': {'run_id': 'r'}}
    """
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key if chosen else _SNAKE.sub(lambda found: found[1].upper(), key): camel(
            item, chosen=key in _NAMES and not chosen
        )
        for key, item in value.items()
    }
