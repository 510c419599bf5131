"""The PTransform that writes the input files of batch jobs. Each shard of a page is one file and one job."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Self

import apache_beam as beam
import orjson
from apache_beam.pvalue import PCollection

from imagebeam.transforms.batch_shards import (
    TABLE_DAYS,
    BatchSettings,
    Shard,
    load_line,
    load_shard_file,
    round_directory,
    shard_name,
)
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core import images
from imagebeam.transforms.core.counts import failure_key
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.records import Answer, Outcome, Status, Unit, utc_now
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.gemini.batch_requests import key_of
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.image_types import READERS, TypeReader
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.tables import outcome_row
from imagebeam.transforms.sql.unit_rows import UNIT_COLUMNS, unit_from_row
from imagebeam.transforms.start_run import Page

CHUNK = 2_000
REQUESTS_SCHEMA = (
    {"name": "custom_id", "type": "STRING", "mode": "REQUIRED"},
    {"name": "request", "type": "JSON", "mode": "REQUIRED"},
)


@dataclasses.dataclass
class BuildBatchRequests(beam.PTransform[PCollection[Page], PCollection[Shard]]):
    """A PTransform that writes the requests of every page and records its units as submitted.

    The files of a shard depend on its page only: a retried bundle writes the same files again, and skips those that
    are complete. Emits one :class:`Shard` per input file.

    Attributes:
        settings: The run.
        batch: Settings of the batch lane.
        allowed: Units that the budget allows, counted from the first row of the result; None for all.
    """

    settings: RunSettings
    batch: BatchSettings
    allowed: int | None = None

    def expand(self, pages: PCollection[Page]) -> PCollection[Shard]:
        """Apply the transform."""
        shards: PCollection[Shard] = pages | "WriteRequests" >> beam.FlatMap(
            _write_requests, self.settings, self.batch, self.allowed
        )
        return shards


def _write_requests(page: Page, settings: RunSettings, batch: BatchSettings, allowed: int | None) -> Iterator[Shard]:
    with record_failure(settings):
        yield from write_page(settings, batch, page, allowed)


def write_page(settings: RunSettings, batch: BatchSettings, page: Page, allowed: int | None) -> Iterator[Shard]:
    """Write the shards of a page, record their units as submitted, and yield them.

    Raises:
        SystemicError: The files cannot be written, or the lease is lost.
    """
    allowed_rows = page.count if allowed is None else min(page.count, max(0, allowed - page.start))
    bq = BigQueryClient(settings.engine.call_settings.project)
    part = done = 0
    # A shard that an earlier attempt completed stays as it is, also if an image reads differently by now.
    while done < page.count and (complete := read_shard(settings, shard_name(page.start, part))) is not None:
        yield _record(bq, settings, batch, complete)
        part, done = part + 1, done + complete.read
    if done >= page.count:
        return
    rows = bq.read_rows(page.result, page.start + done, max(0, allowed_rows - done), UNIT_COLUMNS)
    known = read_corrected_types(settings)
    template = task_kind(settings.task).build_lines(settings.engine.call_settings.profile, settings.labels())
    watch = _Lease(settings, bq)
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imagebeam-")))
        readers = stack.enter_context(concurrent.futures.ThreadPoolExecutor(READERS))
        types_of = TypeReader(readers, batch.check_types, known)
        shard = stack.enter_context(_Writing(settings, batch, shard_name(page.start, part), directory))
        units = map(unit_from_row, rows)
        while chunk := list(itertools.islice(units, CHUNK)):
            watch.extend()
            for unit, types in types_of.read(chunk):
                if isinstance(types, images.ImageError):
                    shard.add_problem(unit, types)
                    continue
                line = template.line(key_of(unit.unit_id, unit.input_digest, settings.task.version), unit, types)
                if batch.limits.is_full(shard.lines, shard.size, len(line)):
                    yield _record(bq, settings, batch, shard.close())
                    part += 1
                    shard = stack.enter_context(_Writing(settings, batch, shard_name(page.start, part), directory))
                shard.add(unit, line, types_of.sent)
        shard.skipped = page.count - allowed_rows
        yield _record(bq, settings, batch, shard.close())


def read_shard(settings: RunSettings, name: str) -> Shard | None:
    """Return a shard of the run's round; None while it is incomplete."""
    data = storage.read(Shard(settings.run_id, settings.directory, settings.round, name).path("shard.json"))
    return None if data is None else Shard(**orjson.loads(data))


def read_corrected_types(settings: RunSettings) -> dict[str, str]:
    """Return the types of images that earlier rounds found, by URI."""
    found: dict[str, str] = {}
    for number in range(1, settings.round):
        directory = round_directory(settings.directory, number)
        for name in storage.list_names(directory):
            if name.endswith(".retype.json"):
                found |= orjson.loads(storage.read(storage.join(directory, name)) or b"{}")
    return found


def _record(bq: BigQueryClient, settings: RunSettings, batch: BatchSettings, shard: Shard) -> Shard:
    """Load into BigQuery what a complete shard needs there. Idempotent."""
    register(bq, settings, shard)
    if shard.lines and batch.source == "bigquery":
        table = shard.table(settings.outcomes, "requests")
        options = {"schema": REQUESTS_SCHEMA, "replace": True, "location": batch.dataset_location}
        load_shard_file(bq, settings, shard, "requests", table, **options)
        bq.expire_table(table, days=TABLE_DAYS)
    return shard


def register(bq: BigQueryClient, settings: RunSettings, shard: Shard) -> None:
    """Record the units of a shard as submitted, so that no other run sends them. Idempotent."""
    for kind, wanted in (("manifest", shard.lines), ("problems", sum(shard.problems.values()))):
        if wanted:
            load_shard_file(bq, settings, shard, kind, settings.outcomes)


class _Writing:
    """A shard that is being written, in local files until it is complete."""

    def __init__(self, settings: RunSettings, batch: BatchSettings, name: str, directory: Path) -> None:
        self._shard = Shard(
            settings.run_id,
            settings.directory,
            settings.round,
            name,
            dataset=batch.dataset,
            output_table=batch.output_table,
            title=batch.display_name,
        )
        self._types: dict[str, str] = {}
        self._at = utc_now()
        self._columns = settings.engine.call_settings.columns(settings.run_id)
        self._files: dict[str, IO[bytes]] = {
            kind: (directory / f"{name}.{kind}").open("wb") for kind in ("requests.jsonl", "manifest.jsonl")
        }
        self._directory = directory
        self._problems: collections.Counter[str] = collections.Counter()
        self.lines = self.size = 0
        self.skipped = 0

    def add(self, unit: Unit, line: bytes, types: Mapping[str, str]) -> None:
        """Add a unit and its line; ``types`` are those that differ from the names of images."""
        uris = [image.uri for image in unit.images if image.uri is not None]
        self._types |= {uri: types[uri] for uri in uris if uri in types}
        self._files["requests.jsonl"].write(line)
        self._files["manifest.jsonl"].write(self._row(Outcome(unit, Answer(Status.SUBMITTED), answered_at=self._at)))
        self.lines += 1
        self.size += len(line)

    def add_problem(self, unit: Unit, problem: images.ImageError) -> None:
        """Add a unit that cannot be sent: its outcome is known."""
        if "problems.jsonl" not in self._files:
            self._files["problems.jsonl"] = (self._directory / f"{self._shard.name}.problems.jsonl").open("wb")
        answer = Answer(Status.IMAGE_ERROR, problem.reason.value, problem.message)
        self._files["problems.jsonl"].write(self._row(Outcome(unit, answer, answered_at=self._at)))
        self._problems[failure_key(answer.status.value, answer.reason)] += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def close(self) -> Shard:
        """Upload the files, then the object that marks the shard as complete."""
        for file in self._files.values():
            file.close()
        shard = dataclasses.replace(
            self._shard, lines=self.lines, size=self.size, problems=dict(self._problems), skipped=self.skipped
        )
        for kind in self._files:
            storage.upload(shard.path(kind), self._directory / f"{shard.name}.{kind}")
            (self._directory / f"{shard.name}.{kind}").unlink()
        if self._types:
            storage.write(shard.path("types.json"), orjson.dumps(self._types))
        storage.create(shard.path("shard.json"), orjson.dumps(dataclasses.asdict(shard)))
        return shard

    def _row(self, outcome: Outcome) -> bytes:
        columns: Mapping[str, Any] = self._columns
        return load_line(outcome_row(outcome, **columns))


class _Lease:
    """Extends the run's lease while a long page is written."""

    def __init__(self, settings: RunSettings, bq: BigQueryClient) -> None:
        self._table = settings.lease
        self._run_id = settings.run_id
        self._bq = bq
        self._next = time.monotonic() + lease.EXTEND_EVERY_S

    def extend(self) -> None:
        """Extend the lease every 30 seconds.

        Raises:
            SystemicError: Another run holds the lease.
        """
        if self._table is None or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + lease.EXTEND_EVERY_S
        if not lease.extend(self._bq, self._table, self._run_id):
            raise SystemicError(f"lease lost: table {self._table.dotted} is held by another run")
