"""What is known of a batch run, in its work directory: a supervisor has no state of its own."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import pydantic

from imagebeam.pipeline.batch.upgrade import FORMAT, upgrade
from imagebeam.transforms.batch_shards import BatchSettings, Shard, batch_directory, round_directory
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.run_settings import RunSettings

RUNS, RUN_FILE, PREPARED_FILE, SUMMARY_FILE = "runs", "batch/run.json", "prepared.json", "summary.json"


@dataclasses.dataclass(frozen=True, slots=True)
class BatchRun:
    """A run that goes through batch jobs: all that any later process needs to go on with it.

    Attributes:
        run: The run.
        batch: How it goes through jobs.
        created_at: When it began, RFC 3339 in UTC.
        max_failure_percent: More failures end it with exit code 5.
        runner: Beam runner of the steps that prepare and collect.
        beam_args: Options of Beam.
    """

    run: RunSettings
    batch: BatchSettings
    created_at: str
    max_failure_percent: float = 20.0
    runner: str = "FnApiRunner"
    beam_args: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """Where it keeps what belongs to its jobs."""
        return batch_directory(self.run.directory)

    def age_s(self, now: datetime.datetime) -> float:
        """Seconds since it began."""
        return (now - datetime.datetime.fromisoformat(self.created_at)).total_seconds()

    def in_round(self, number: int) -> RunSettings:
        """The run's settings in a round."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Rest:
    """What the fallback lane did with the units that no job answered.

    Attributes:
        read: Units that it took.
        ok: Units answered.
        failed: Units that failed, by failure.
        skipped: Units that it did not get to.
        calls: Calls sent.
        stop: Why it stopped early, if it did.
    """

    read: int = 0
    ok: int = 0
    failed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    calls: int = 0
    stop: str | None = None


def save_run(run: BatchRun) -> None:
    """Makes a batch run known to whoever looks into the work directory."""
    storage.write(storage.join(run.run.directory, RUN_FILE), _dump(_RUN, run))


def load_run(work_dir: str, run_id: str) -> BatchRun:
    """A batch run of a work directory.

    Raises:
        UserError: There is none of that name.
    """
    data = storage.read(storage.join(work_dir, RUNS, run_id, RUN_FILE))
    if data is None:
        raise UserError(f"--run_id={run_id}: there is no batch run of that name in {work_dir}")
    return _RUN.validate_python(upgrade(orjson.loads(data)))


def run_ids(work_dir: str, *, ended: bool = False) -> list[str]:
    """The batch runs of a work directory, the oldest name first; by default those that are open."""
    names = set(storage.list_names(storage.join(work_dir, RUNS)))
    found = sorted(name.removesuffix(f"/{RUN_FILE}") for name in names if name.endswith(f"/{RUN_FILE}"))
    return [run_id for run_id in found if ended or f"{run_id}/{SUMMARY_FILE}" not in names]


def rounds_begun(run: BatchRun) -> int:
    """The newest round of which there is anything; 1 before that."""
    begun = {name.partition("/")[0] for name in storage.list_names(run.directory)}
    numbers = [int(name[1:]) for name in begun if name[:1] == "r" and name[1:].isdigit()]
    return max(numbers, default=1)


def save_prepared(run: RunSettings, prepared: Prepared) -> None:
    """Says that all requests of a round are written."""
    path = storage.join(round_directory(run.directory, run.round), PREPARED_FILE)
    storage.write(path, _dump(_PREPARED, prepared))


def prepared(run: BatchRun, number: int) -> Prepared | None:
    """A round whose requests are written; None while they are not."""
    data = storage.read(storage.join(round_directory(run.run.directory, number), PREPARED_FILE))
    return None if data is None else _PREPARED.validate_python(upgrade(orjson.loads(data)))


def abandon(run: BatchRun, number: int) -> Prepared:
    """Makes do with the shards of a round that are whole: the others were never heard of, and nothing was bought."""
    directory = round_directory(run.run.directory, number)
    whole = (storage.read(storage.join(directory, name)) for name in storage.list_names(directory) if _is_shard(name))
    shards = tuple(_SHARD.validate_json(data) for data in whole if data is not None)
    read = sum(shard.read for shard in shards)
    found = Prepared(SourceCounts(units_in=read, remaining=read), shards)
    save_prepared(run.in_round(number), found)
    return found


def _is_shard(name: str) -> bool:
    return name.endswith(".shard.json") and "/" not in name


def save_rest(run: RunSettings, rest: Rest) -> None:
    """Keeps what the fallback lane did."""
    storage.write(storage.join(batch_directory(run.directory), "rest.json"), _REST.dump_json(rest))


def rest_of(run: BatchRun) -> Rest | None:
    """What the fallback lane did; None if it did not end yet, or was not needed."""
    data = storage.read(storage.join(run.directory, "rest.json"))
    return None if data is None else _REST.validate_json(data)


def cancel(run: BatchRun) -> None:
    """Marks a run as cancelled: nothing more is bought for it."""
    storage.create(storage.join(run.directory, "cancelled.json"), b"{}")


def is_cancelled(run: BatchRun) -> bool:
    """True if somebody cancelled it."""
    return storage.read(storage.join(run.directory, "cancelled.json")) is not None


def _dump(adapter: pydantic.TypeAdapter[Any], value: object) -> bytes:
    return orjson.dumps({"format": FORMAT, **adapter.dump_python(value, mode="json")})


_RUN = pydantic.TypeAdapter(BatchRun)
_PREPARED = pydantic.TypeAdapter(Prepared)
_SHARD = pydantic.TypeAdapter(Shard)
_REST = pydantic.TypeAdapter(Rest)
