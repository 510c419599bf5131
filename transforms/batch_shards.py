"""The shards of a batch run and their files.

A shard is a range of the source query's result: one input file, one job. Its state
is in the run's work directory, under names that depend on run, round and shard only, so that a repeated step finds its
earlier results::

    RUN/batch/r1/0000000000-0.requests.jsonl    the job's input; a table with a BigQuery source
    RUN/batch/r1/0000000000-0.manifest.jsonl    a SUBMITTED event per unit: the rows of ``outcomes`` to load
    RUN/batch/r1/0000000000-0.problems.jsonl    outcomes of units that cannot be sent
    RUN/batch/r1/0000000000-0.types.json        types of images that are not those of their names
    RUN/batch/r1/0000000000-0.shard.json        marks the shard as complete
    RUN/batch/r1/0000000000-0.intent.json       written just before its job is created
    RUN/batch/r1/0000000000-0.job.json          resource name of its job
    RUN/batch/r1/0000000000-0.matched.json      counts of its output, written once
    RUN/batch/r1/0000000000-0.vectors.jsonl     its vectors, for an embedding task: the rows to load first
    RUN/batch/r1/0000000000-0.outcomes.jsonl    its outcomes: the rows of ``outcomes`` to load
    RUN/batch/r1/0000000000-0.unmatched.jsonl   output lines without a unit
    RUN/batch/r1/0000000000-0.retype.json       types of rejected images for the next rounds
    RUN/batch/r1/0000000000-0.collected.json    counts; written when everything is in BigQuery
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.load_jobs import LoadJob, run_load_job
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Image, Lane, Unit, UnitKind
from imagebeam.transforms.gemini.batch_requests import DISPLAY_NAME, ShardLimits, key_of
from imagebeam.transforms.image_types import TypeCheck
from imagebeam.transforms.run_settings import RunSettings

Place = Literal["gcs", "bigquery"]

#: Lifetime of the tables of requests, from their creation, and of results, from their first collection.
TABLE_DAYS: Final = 30


@dataclasses.dataclass(frozen=True, slots=True)
class BatchSettings:
    """Settings of the batch lane.

    Attributes:
        source: Where jobs read requests: files in the work directory, or tables.
        destination: Where jobs write answers.
        limits: Limits of one job.
        rounds: Maximum number of rounds of jobs, 1 to 10; units without an answer go to the next round.
        deadline_s: Seconds after which jobs are canceled and the remaining units go through the fallback lane; None
            for no deadline (Vertex AI allows 72 hours in the queue and 24 hours of running).
        fallback: Lane of the remaining units.
        grace_s: Seconds to wait for a job whose creation was interrupted to appear in the list of jobs, before it is
            created again.
        dataset: ``project.dataset`` of the tables of jobs; empty for the results dataset.
        dataset_location: Its location; empty for the one of the results dataset.
        output_table: Name of the table of answers, which does not expire; empty for one per job.
        display_name: Start of the display names of jobs.
        check_types: Images whose first bytes are compared with the type of their names.
    """

    source: Place
    destination: Place
    limits: ShardLimits
    rounds: int
    deadline_s: float | None
    fallback: Lane
    grace_s: float
    dataset: str = ""
    dataset_location: str = ""
    output_table: str = ""
    display_name: str = DISPLAY_NAME
    check_types: TypeCheck = "sample"


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A range of the source query's result that is sent as one batch job.

    Attributes:
        run_id: The run.
        directory: The run's directory.
        round: Round of jobs, from 1.
        name: Name, see :func:`shard_name`.
        lines: Units in its input file; a shard without lines has no job.
        size: Bytes of its input file.
        problems: Units that cannot be sent, by ``STATUS/REASON``.
        skipped: Units not sent because the budget is used up.
        dataset: ``project.dataset`` of its tables; empty for the results dataset.
        output_table: Name of the table of answers of the first job; empty for a name of its own.
        title: Start of the display name.
    """

    run_id: str
    directory: str
    round: int
    name: str
    lines: int = 0
    size: int = 0
    problems: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    dataset: str = ""
    output_table: str = ""
    title: str = DISPLAY_NAME

    @property
    def read(self) -> int:
        """Units of the result that the shard covers."""
        return self.lines + sum(self.problems.values()) + self.skipped

    @property
    def display_name(self) -> str:
        """Display name of its job, the same at every attempt to create it."""
        return f"{display_prefix(self.run_id, self.title)}r{self.round}-{self.name}"

    def path(self, kind: str) -> str:
        """Return the path of one of its files, such as ``requests.jsonl``."""
        return storage.join(round_directory(self.directory, self.round), f"{self.name}.{kind}")

    @property
    def output_prefix(self) -> str:
        """Directory of its job's output files."""
        return storage.join(round_directory(self.directory, self.round), f"{self.name}.output")

    def table(self, outcomes: TableName, kind: str) -> TableName:
        """Return its table of ``requests`` or ``results``, by default in the dataset of the outcomes."""
        name = f"batch_{self.run_id}_r{self.round}_{self.name}_{kind}".replace("-", "_")
        if kind == "results" and self.output_table:
            first = self.round == 1 and self.name == shard_name(0, 0)
            name = self.output_table if first else f"{self.output_table}_r{self.round}_{self.name}".replace("-", "_")
        project, _, dataset = self.dataset.rpartition(".")
        return TableName(project or outcomes.project, dataset or outcomes.dataset, name)

    def job_id(self, what: str) -> str:
        """Return the id of the BigQuery job that loads one of its files; BigQuery rejects a second job with this id."""
        return f"imagebeam-{self.run_id}-r{self.round}-{self.name}-{what}"


def display_prefix(run_id: str, title: str = DISPLAY_NAME) -> str:
    """Return the common prefix of the display names of a run's jobs, by which they are found."""
    return f"{title}-{run_id}-"


def batch_directory(directory: str) -> str:
    """Return the directory of a run's batch jobs."""
    return storage.join(directory, "batch")


def round_directory(directory: str, number: int) -> str:
    """Return the directory of a round."""
    return storage.join(batch_directory(directory), f"r{number}")


def shard_name(start: int, part: int) -> str:
    """Return the name of a shard: its first row in the result, and its number within the page."""
    return f"{start:010d}-{part}"


def load_line(row: Mapping[str, Any]) -> bytes:
    """Return a row of ``outcomes`` for a load job: JSON columns as values, without nulls."""
    values = {name: value for name, value in row.items() if value is not None and value != []}
    for name in ("answer", "extra"):
        if name in values:
            values[name] = orjson.Fragment(values[name])
    return orjson.dumps(values) + b"\n"


def load_shard_file(
    bq: BigQueryClient, settings: RunSettings, shard: Shard, kind: str, table: TableName, **options: Any
) -> None:
    """Load one of a shard's ``.jsonl`` files into a table, once; ``options`` are further fields of :class:`LoadJob`."""
    path, job_id = shard.path(f"{kind}.jsonl"), shard.job_id(kind)
    location = options.pop("location", "") or settings.location
    run_load_job(bq, LoadJob(path, table, job_id, location, settings.labels(), **options))


def manifest_key(row: Mapping[str, Any]) -> str:
    """Return the key of a unit's line from its manifest row."""
    return key_of(row["unit_id"], row["input_digest"], row["version"])


def unit_of_row(row: Mapping[str, Any]) -> Unit:
    """Return the unit of a manifest row, with the fields that ``outcomes`` stores."""
    ids, uris = row.get("observation_ids", []), row.get("image_uris", [])
    uris = [*uris, *([None] * (len(ids) - len(uris)))]
    return Unit(
        unit_id=row["unit_id"],
        unit_type=UnitKind(row["unit_type"]),
        input_digest=row["input_digest"],
        images=tuple(Image(observation, uri) for observation, uri in zip(ids, uris, strict=True)),
        asset_id=row.get("asset_id"),
        asset_type=row.get("asset_type"),
        snapshot_id=row.get("snapshot_id"),
        capture_time=row.get("capture_time"),
        latitude=row.get("latitude"),
        longitude=row.get("longitude"),
        map_url=row.get("map_url"),
        extra=row.get("extra") or {},
    )
