"""The PTransform that collects the output of batch jobs: match it with the manifest of its shard, and record it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import tempfile
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final

import apache_beam as beam
import orjson
import pydantic
from apache_beam.pvalue import PCollection

from imagebeam.transforms.batch_shards import (
    TABLE_DAYS,
    Shard,
    load_line,
    load_shard_file,
    manifest_key,
    unit_of_row,
)
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.batch_output import answer_files, read_file_lines, read_table_lines
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import OutcomeCounts, count_outcome
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Answer, ImageReason, Status, Usage, utc_now
from imagebeam.transforms.engine.recorder import VectorTable
from imagebeam.transforms.engine.retry_policy import may_be_image_type
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.gemini.batch_matching import Matched, Missing, ShardMatcher, Unmatched
from imagebeam.transforms.gemini.batch_responses import OutputLine, build_outcome, parse_answer
from imagebeam.transforms.gemini.job_states import BatchJob, Step
from imagebeam.transforms.image_types import READERS, TypeCorrector
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.tables import outcome_row

#: Rejected units whose images are compared together.
REJECTED_CHUNK: Final = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """A shard whose job has ended.

    Attributes:
        shard: The shard.
        job: Its job, as last read.
    """

    shard: Shard
    job: BatchJob


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """Counts of the units of a shard.

    Attributes:
        name: The shard.
        round: Its round.
        ok: Units answered.
        failed: Units with a permanent failure, by ``STATUS/REASON``.
        again: Units that another round may answer, by ``STATUS/REASON``.
        usage: Tokens.
        cost_usd: Their list price; None if unknown.
        lines: Lines of the output.
        by_uri: Units matched by their images, because the service did not echo their keys.
        duplicates: Additional lines of a unit that is already matched.
        unmatched: Lines that match no unit.
        missing: Units without a line in the output.
        told_ok: Rows that succeeded according to the service; None if it does not report them.
        told_failed: Rows that failed according to the service; None if it does not report them.
        state: The job's last state.
        error: Error that the job reports; empty for none.
        error_code: Its google.rpc.Code; None if it is not reported.
    """

    name: str
    round: int = 1
    ok: int = 0
    failed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    again: Mapping[str, int] = dataclasses.field(default_factory=dict)
    usage: Usage = Usage()
    cost_usd: Decimal | None = Decimal(0)
    lines: int = 0
    by_uri: int = 0
    duplicates: int = 0
    unmatched: int = 0
    missing: int = 0
    told_ok: int | None = None
    told_failed: int | None = None
    state: str = ""
    error: str = ""
    error_code: int | None = None

    @property
    def units(self) -> int:
        """Units accounted for."""
        return self.ok + sum(self.failed.values()) + sum(self.again.values())


@dataclasses.dataclass
class CollectBatch(beam.PTransform[PCollection[Ended], PCollection[Collected]]):
    """A PTransform that parses and records the output of every job.

    Idempotent: collecting a shard again does not duplicate rows.
    """

    settings: RunSettings

    def expand(self, ended: PCollection[Ended]) -> PCollection[Collected]:
        """Apply the transform."""
        collected: PCollection[Collected] = (
            ended | "SpreadShards" >> beam.Reshuffle() | "Collect" >> beam.Map(_collect, self.settings)
        )
        return collected


def _collect(ended: Ended, settings: RunSettings) -> Collected:
    with record_failure(settings):
        return collect(settings, ended)


def collect(settings: RunSettings, ended: Ended) -> Collected:
    """Collect a shard: load its outcomes into BigQuery with one load job, then mark it as collected.

    Vectors are loaded first, with another load job, so that no outcome lacks its vector.

    Raises:
        SystemicError: Its files cannot be read, or its outcomes cannot be loaded.
    """
    shard = ended.shard
    if (done := read_collected(shard)) is not None:
        return done
    bq = BigQueryClient(settings.engine.call_settings.project)
    # Matched once: the load job below reads these files, whatever the output contains later.
    found = _read_counts(shard, "matched.json")
    if found is None:
        with tempfile.TemporaryDirectory(prefix="imagebeam-") as name:
            directory = Path(name)
            found = _match(settings, ended, bq, directory)
            for kind in ("outcomes.jsonl", "unmatched.jsonl", "vectors.jsonl", "retype.json"):
                if (directory / kind).stat().st_size:
                    storage.upload(shard.path(kind), directory / kind)
        storage.write(shard.path("matched.json"), _COLLECTED.dump_json(found))
    if found.ok and (vectors := _vector_table(settings)) is not None:
        load_shard_file(bq, settings, shard, "vectors", vectors.table)
    load_shard_file(bq, settings, shard, "outcomes", settings.outcomes)
    storage.write(shard.path("collected.json"), _COLLECTED.dump_json(found))
    return found


def _vector_table(settings: RunSettings) -> VectorTable | None:
    destination = settings.engine.destination
    if destination is None or destination.vectors is None:
        return None
    return VectorTable(destination.vectors, settings.task, settings.run_id)


def read_collected(shard: Shard) -> Collected | None:
    """Return the counts of a collected shard; None if it is not collected."""
    return _read_counts(shard, "collected.json")


def _read_counts(shard: Shard, kind: str) -> Collected | None:
    data = storage.read(shard.path(kind))
    return None if data is None else _COLLECTED.validate_json(data)


def _match(settings: RunSettings, ended: Ended, bq: BigQueryClient, directory: Path) -> Collected:
    """Write the outcomes, vectors and unmatched lines of a shard to local files, and return the counts."""
    shard, call_settings = ended.shard, settings.engine.call_settings
    at, columns = utc_now(), call_settings.columns(settings.run_id)
    manifest = directory / "manifest.jsonl"
    if not storage.download(shard.path("manifest.jsonl"), manifest):
        raise SystemicError(
            f"{shard.path('manifest.jsonl')} is missing: the output of job {ended.job.name} cannot be matched"
        )
    matcher = ShardMatcher(_entries(manifest), functools.partial(parse_answer, task=call_settings.task), _uris)
    sums, table = {again: OutcomeCounts() for again in (False, True)}, _vector_table(settings)
    with (
        (directory / "outcomes.jsonl").open("wb") as outcomes,
        (directory / "unmatched.jsonl").open("wb") as unmatched,
        (directory / "vectors.jsonl").open("wb") as vectors,
        (directory / "retype.json").open("wb") as retype,
        concurrent.futures.ThreadPoolExecutor(READERS) as readers,
    ):
        corrector = TypeCorrector(readers, orjson.loads(storage.read(shard.path("types.json")) or b"{}"))
        rejected: list[Matched] = []

        def record(found: Matched | Missing) -> None:
            if isinstance(found, Matched) and may_be_image_type(found.answer):
                rejected.append(found)
                if len(rejected) >= REJECTED_CHUNK:
                    record_rejected()
            else:
                write(found, found.answer if isinstance(found, Matched) else missing_answer(ended.job))

        def record_rejected() -> None:
            uris, answers = [_uris(found.entry) for found in rejected], [found.answer for found in rejected]
            for found, answer in zip(rejected, corrector.correct(uris, answers), strict=True):
                write(found, answer)
            rejected.clear()

        def write(found: Matched | Missing, answer: Answer) -> None:
            # Events are ordered by time: a failure comes after the unit was submitted, whatever the clocks say.
            answered_at = (found.answered_at if isinstance(found, Matched) and answer.ok else None) or at
            unit = unit_of_row(orjson.loads(found.entry))
            outcome = build_outcome(unit, answer, call_settings.profile, attempts=shard.round, answered_at=answered_at)
            # Same rule as in the query of remaining units: the next run retries these.
            again = outcome.status is Status.UNAVAILABLE or outcome.reason == ImageReason.FORBIDDEN
            sums[again] = sums[again] + count_outcome(outcome)
            if table is not None and answer.ok:
                vectors.write(load_line(table.row(outcome)))
            outcomes.write(load_line(outcome_row(outcome, **columns)))

        for line in _lines(settings, ended, bq, directory):
            found = matcher.feed_line(line)
            if isinstance(found, Unmatched):
                unmatched.write(orjson.dumps({"cause": found.cause, "line": found.text}) + b"\n")
            elif found is not None:
                record(found)
        for rest in matcher.finish():
            record(rest)
        record_rejected()
        if corrector.corrected:
            retype.write(orjson.dumps(corrector.corrected))
    counts, job, both = matcher.counts, ended.job, sums[False] + sums[True]
    return Collected(
        name=shard.name,
        round=shard.round,
        ok=both.ok,
        failed=dict(sums[False].failed),
        again=dict(sums[True].failed),
        usage=both.usage,
        cost_usd=both.cost_usd,
        lines=counts.lines,
        by_uri=counts.by_uri,
        duplicates=counts.duplicates,
        unmatched=counts.unmatched,
        missing=counts.missing,
        told_ok=job.successful,
        told_failed=job.failed,
        state=job.state,
        error=job.error,
        error_code=job.error_code,
    )


def missing_answer(job: BatchJob) -> Answer:
    """Return the failure of a unit without a row in the job's output; another round may answer it."""
    reason = "NO_ANSWER" if job.rule.step is Step.COLLECT else job.rule.phase.upper().replace(" ", "_")
    detail = f": {job.error}" if job.error else ""
    message = f"the batch job ({job.rule.phase}) returned no answer for this unit{detail}"[:500]
    return Answer(Status.UNAVAILABLE, reason, message, retryable=True)


def _entries(manifest: Path) -> Iterator[tuple[str, bytes]]:
    with manifest.open("rb") as lines:
        for line in lines:
            entry = line.rstrip(b"\n")
            yield manifest_key(orjson.loads(entry)), entry


def _uris(entry: bytes) -> list[str]:
    return list(orjson.loads(entry).get("image_uris", []))


def _lines(settings: RunSettings, ended: Ended, bq: BigQueryClient, directory: Path) -> Iterator[OutputLine]:
    """Return the lines of a job's output."""
    if ended.job.output_table is not None:
        if not ended.shard.output_table:
            bq.expire_table(ended.shard.table(settings.outcomes, "results"), days=TABLE_DAYS)
        name = TableName.parse(ended.job.output_table, settings.engine.call_settings.project)
        return read_table_lines(bq, name)
    return read_file_lines(output_files(ended), directory)


def output_files(ended: Ended) -> list[str]:
    """List the files with a job's answers.

    They are in the directory that the service reports, else in every directory below the shard's prefix: only its
    jobs write there, and if a unit has two answers, only one counts.
    """
    prefix = ended.shard.output_prefix
    if ended.job.output_directory:
        return answer_files(ended.job.output_directory)
    made = {name.partition("/")[0] for name in storage.list_names(prefix) if name.startswith("prediction-")}
    return [path for name in sorted(made) for path in answer_files(storage.join(prefix, name))]


_COLLECTED = pydantic.TypeAdapter(Collected)
