"""State of a batch run in its work directory. Any process can continue the run from it."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Sequence
from typing import TypeVar

import orjson
import pydantic

from imagebeam.pipeline.batch.upgrade import FORMAT, upgrade
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.batch_shards import BatchSettings, Shard, batch_directory, display_prefix, round_directory
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.counts import OutcomeCounts, SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.run_settings import RunSettings

RUNS, RUN_FILE, SUMMARY_FILE = "runs", "batch/run.json", "summary.json"
_PREPARED_FILE, _REMAINDER_FILE, _CANCELED_FILE = "prepared.json", "rest.json", "cancelled.json"


@dataclasses.dataclass(frozen=True, slots=True)
class BatchRun:
    """A batch run: everything that another process needs to continue it.

    Attributes:
        run: The run.
        batch: Settings of its jobs.
        created_at: Start of the run, RFC 3339 in UTC.
        max_failure_percent: The run ends with exit code 5 if more of its units failed, in percent.
        runner: Beam runner of the steps that write requests and collect answers.
        beam_args: Beam options.
    """

    run: RunSettings
    batch: BatchSettings
    created_at: str
    max_failure_percent: float
    runner: str
    beam_args: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """The directory with the state of its jobs."""
        return batch_directory(self.run.directory)

    @property
    def work_dir(self) -> str:
        """The work directory that holds the run."""
        return self.run.directory.rpartition(f"/{RUNS}/")[0]

    @property
    def job_prefix(self) -> str:
        """Common prefix of the display names of its jobs."""
        return display_prefix(self.run.run_id, self.batch.display_name)

    @property
    def age_s(self) -> float:
        """Seconds since the run started."""
        return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(self.created_at)).total_seconds()

    def in_round(self, number: int) -> RunSettings:
        """Return the run's settings for a round."""
        return dataclasses.replace(self.run, round=number)


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A round whose requests are written.

    Attributes:
        source: Counts of the source query.
        shards: Its shards, in the order of their names.
    """

    source: SourceCounts
    shards: Sequence[Shard] = ()


def save_run(run: BatchRun) -> None:
    """Write the run file, which makes the run visible to ``imagebeam batch``."""
    write_record(storage.join(run.run.directory, RUN_FILE), run)


def load_run(work_dir: str, run_id: str) -> BatchRun:
    """Read a batch run of a work directory, also one that the previous version wrote.

    Raises:
        UserError: The run does not exist, or a newer version wrote it.
    """
    run = read_record(storage.join(work_dir, RUNS, run_id, RUN_FILE), BatchRun)
    if run is None:
        raise UserError(f"--run_id={run_id}: unknown batch run in {work_dir}")
    return run


def list_run_ids(work_dir: str, *, ended: bool = False) -> list[str]:
    """List the open batch runs of a work directory in the order of their ids; with ``ended`` all batch runs."""
    names = set(storage.list_names(storage.join(work_dir, RUNS)))
    found = sorted(name.removesuffix(f"/{RUN_FILE}") for name in names if name.endswith(f"/{RUN_FILE}"))
    return [run_id for run_id in found if ended or f"{run_id}/{SUMMARY_FILE}" not in names]


def newest_round(run: BatchRun) -> int:
    """Return the newest round that has files; 1 if none has."""
    found = (re.match(r"r(\d+)/", name) for name in storage.list_names(run.directory))
    return max((int(match[1]) for match in found if match), default=1)


def save_prepared(run: RunSettings, prepared: Prepared) -> None:
    """Record that all requests of a round are written."""
    write_record(storage.join(round_directory(run.directory, run.round), _PREPARED_FILE), prepared)


def load_prepared(run: BatchRun, number: int) -> Prepared | None:
    """Read a round whose requests are written; None while they are not."""
    return read_record(storage.join(round_directory(run.run.directory, number), _PREPARED_FILE), Prepared)


def prepare_from_complete_shards(run: BatchRun, number: int) -> Prepared:
    """Close a round with the shards that are complete, as if the source had only their units.

    For a canceled run: the other shards have no job, and their units were never submitted.
    """
    directory = round_directory(run.run.directory, number)
    names = [name for name in storage.list_names(directory) if name.endswith(".shard.json") and "/" not in name]
    found = (read_record(storage.join(directory, name), Shard) for name in names)
    shards = tuple(shard for shard in found if shard is not None)
    units = sum(shard.read for shard in shards)
    prepared = Prepared(SourceCounts(units_in=units, remaining=units), shards)
    save_prepared(run.in_round(number), prepared)
    return prepared


def save_remainder(run: RunSettings, counts: OutcomeCounts) -> None:
    """Record the outcomes of the units that the fallback lane processed."""
    write_record(storage.join(batch_directory(run.directory), _REMAINDER_FILE), counts)


def load_remainder(run: BatchRun) -> OutcomeCounts | None:
    """Read the outcomes of the fallback lane; None if it did not run to its end."""
    return read_record(storage.join(run.directory, _REMAINDER_FILE), OutcomeCounts)


def cancel(run: BatchRun) -> None:
    """Mark a run as canceled: no more jobs are created for it."""
    storage.create(storage.join(run.directory, _CANCELED_FILE), b"{}")


def is_canceled(run: BatchRun) -> bool:
    """Return whether the run is marked as canceled."""
    return storage.read(storage.join(run.directory, _CANCELED_FILE)) is not None


_T = TypeVar("_T")


def write_record(path: str, value: object) -> None:
    """Write a dataclass as JSON, with the number of its format."""
    document = pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")
    storage.write(path, orjson.dumps({"format": FORMAT, **document}))


def read_record(path: str, kind: type[_T]) -> _T | None:
    """Read a dataclass from JSON, also of an older format; None if the file does not exist."""
    document = read_json(path)
    return None if document is None else pydantic.TypeAdapter(kind).validate_python(upgrade(document))
