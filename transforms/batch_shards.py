"""The shards of a batch run: what one job is about, and where its files are.

A shard is a range of the source query's result: one input file, one job. Everything that is known of it
stands in the run's work directory, under names that depend on run, round and shard only, so that a step that
is done again finds what it did before::

    RUN/batch/r1/0000000000-0.requests.jsonl    the job's input; a table if that is in BigQuery
    RUN/batch/r1/0000000000-0.manifest.jsonl    a SUBMITTED event per unit: the rows of ``outcomes`` to load
    RUN/batch/r1/0000000000-0.problems.jsonl    outcomes of units that cannot be asked about
    RUN/batch/r1/0000000000-0.shard.json        the shard is whole
    RUN/batch/r1/0000000000-0.intent.json       somebody is about to create its job
    RUN/batch/r1/0000000000-0.job.json          its job
    RUN/batch/r1/0000000000-0.matched.json      its output has been read, once
    RUN/batch/r1/0000000000-0.vectors.jsonl     its vectors, if it is about embeddings: the rows to load first
    RUN/batch/r1/0000000000-0.outcomes.jsonl    what came of it: the rows of ``outcomes`` to load
    RUN/batch/r1/0000000000-0.unmatched.jsonl   lines of the output that belong to no unit
    RUN/batch/r1/0000000000-0.collected.json    all of it is in BigQuery
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import orjson

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.counts import failure_key
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import Image, Lane, Unit, UnitKind
from imagebeam.transforms.gemini.batch_requests import ShardLimits, key_of

Place = Literal["gcs", "bigquery"]


@dataclasses.dataclass(frozen=True, slots=True)
class BatchSettings:
    """How a run goes through batch jobs.

    Attributes:
        source: Where the jobs read their requests: files in the work directory, or tables.
        destination: Where they write their answers.
        limits: What one job may hold.
        rounds: How often a unit is asked about at most, 1 to 10, if its job gave no answer.
        deadline_s: Seconds after which jobs are cancelled and the rest goes through the fallback lane; None
            for as long as the service takes (72 hours in the queue, 24 at work).
        fallback: Lane of that rest.
        grace_s: Seconds for which a job that somebody was about to create may still turn up in the list.
    """

    source: Place = "gcs"
    destination: Place = "gcs"
    limits: ShardLimits = ShardLimits()
    rounds: int = 3
    deadline_s: float | None = None
    fallback: Lane = Lane.FLEX
    grace_s: float = 600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """What one job is about.

    Attributes:
        run_id: The run.
        directory: The run's directory.
        round: 1, or more for units that are asked about again.
        name: Its place in the source query's result.
        lines: Units in its input file; without any there is no job.
        size: Bytes of its input file.
        problems: Units that cannot be asked about, by failure.
        skipped: Units left out because the budget ends here.
    """

    run_id: str
    directory: str
    round: int
    name: str
    lines: int = 0
    size: int = 0
    problems: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skipped: int = 0

    @property
    def read(self) -> int:
        """Units of the result that it accounts for."""
        return self.lines + sum(self.problems.values()) + self.skipped

    @property
    def display_name(self) -> str:
        """What its job is called: the same however often it is created."""
        return f"{display_prefix(self.run_id)}r{self.round}-{self.name}"

    def path(self, kind: str) -> str:
        """One of its files, such as ``requests.jsonl``."""
        return storage.join(round_directory(self.directory, self.round), f"{self.name}.{kind}")

    @property
    def output_prefix(self) -> str:
        """Where its job writes files: a place of its own."""
        return storage.join(round_directory(self.directory, self.round), f"{self.name}.output")

    def table(self, outcomes: TableName, kind: str) -> TableName:
        """Its table of ``requests`` or ``results``, beside the table of outcomes."""
        name = f"batch_{self.run_id}_r{self.round}_{self.name}_{kind}".replace("-", "_")
        return dataclasses.replace(outcomes, table=name)

    def job_id(self, what: str) -> str:
        """Id of the BigQuery job that loads something of it: a second one of the id is refused."""
        return f"imagebeam-{self.run_id}-r{self.round}-{self.name}-{what}"


def display_prefix(run_id: str) -> str:
    """How the names of all jobs of a run begin."""
    return f"imagebeam-{run_id}-"


def batch_directory(directory: str) -> str:
    """Where a run keeps what belongs to its batch jobs."""
    return storage.join(directory, "batch")


def round_directory(directory: str, number: int) -> str:
    """Where a round's files are."""
    return storage.join(batch_directory(directory), f"r{number}")


def shard_name(start: int, part: int) -> str:
    """Name of a shard by its first row in the result, and its number among those that a page was cut into."""
    return f"{start:010d}-{part}"


def load_line(row: Mapping[str, Any]) -> bytes:
    """A row of ``outcomes`` as a load job takes it: JSON columns are values, and what is null is left out."""
    values = {name: value for name, value in row.items() if value is not None and value != []}
    for name in ("answer", "extra"):
        if name in values:
            values[name] = orjson.Fragment(values[name])
    return orjson.dumps(values) + b"\n"


def manifest_key(row: Mapping[str, Any]) -> str:
    """The key of a unit's line in the job's files, from its row."""
    return key_of(row["unit_id"], row["input_digest"], row["version"])


def unit_of_row(row: Mapping[str, Any]) -> Unit:
    """The unit of a manifest row: all of it that an outcome tells."""
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


def count_problem(problems: dict[str, int], status: str, reason: str | None) -> None:
    """OutcomeCounts one more unit that cannot be asked about."""
    key = failure_key(status, reason)
    problems[key] = problems.get(key, 0) + 1
