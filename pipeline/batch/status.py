"""Status of a batch run and its jobs, as a record, as text and as JSON."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from imagebeam.transforms.batch_shards import Shard
from imagebeam.transforms.collect_batch import Collected
from imagebeam.transforms.core.text import format_duration, format_usd
from imagebeam.transforms.gemini.job_states import BatchJob


@dataclasses.dataclass(frozen=True, slots=True)
class JobStatus:
    """A shard and its job.

    Attributes:
        shard: The shard.
        phase: State of the job in one or two words, such as ``waiting``, ``running``, ``ended`` or ``collected``.
        job: The job as last read; None before it exists.
        collected: Its outcomes; None before they are collected.
        note: An error or a remark; empty for none.
    """

    shard: Shard
    phase: str
    job: BatchJob | None = None
    collected: Collected | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class RunStatus:
    """A batch run and its jobs.

    Attributes:
        run_id: The run.
        round: Its newest round.
        jobs: The jobs of all rounds.
        summary: The run's summary; None while the run is open.
        waiting_for: Why nothing was done, such as another process that works on the run; empty otherwise.
    """

    run_id: str
    round: int = 1
    jobs: Sequence[JobStatus] = ()
    summary: Mapping[str, Any] | None = None
    waiting_for: str = ""


def format_status(status: RunStatus, *, times: bool = True) -> list[str]:
    """Return the status as text, one line for the run and one per job.

    Args:
        status: The status.
        times: Show how long each job has taken.
    """
    if status.waiting_for:
        return [f"run {status.run_id}: {status.waiting_for}"]
    now = datetime.datetime.now(datetime.UTC) if times else None
    lines = [f"run      {status.run_id}, round {status.round}: {len(status.jobs)} jobs"]
    for job in status.jobs:
        lines.append(f"job      {_format_job(job, now)}")
        if job.job is not None and job.job.name:
            lines.append(f"         {job.job.name} to {_output(job)}")
    return lines


def status_to_json(status: RunStatus) -> dict[str, Any]:
    """Return the status as JSON values."""
    return {
        "run_id": status.run_id,
        "round": status.round,
        "jobs": [
            {
                "name": each.shard.display_name,
                "round": each.shard.round,
                "units": each.shard.lines,
                "phase": each.phase,
                "job": each.job.name if each.job else None,
                "state": each.job.state if each.job else None,
                "output": _output(each),
                "collected": _collected_to_json(each.collected) if each.collected else None,
                "note": each.note,
            }
            for each in status.jobs
        ],
    }


def _output(status: JobStatus) -> str:
    """Return where the answers of a job are, or will be."""
    return (status.job.output if status.job is not None else "") or status.shard.output_prefix


def _collected_to_json(collected: Collected) -> dict[str, Any]:
    cost = collected.cost_usd
    return {**dataclasses.asdict(collected), "cost_usd": None if cost is None else str(cost)}


def _format_job(status: JobStatus, now: datetime.datetime | None) -> str:
    parts = [f"{status.shard.display_name}  {status.phase:<11}", f"{status.shard.lines:>9,} units"]
    collected, job = status.collected, status.job
    if collected is not None:
        parts += _format_collected(collected)
    elif job is not None:
        if now is not None and (age := job.age_s(now)) is not None:
            parts.append(format_duration(age - age % 10))
        if job.successful is not None:
            parts.append(f"{job.successful:,} rows done")
    if status.note:
        parts.append(status.note)
    return "  ".join(parts)


def _format_collected(collected: Collected) -> list[str]:
    failed, again = sum(collected.failed.values()), sum(collected.again.values())
    parts = [f"{collected.ok:,} OK, {failed:,} failed, {again:,} without an answer", format_usd(collected.cost_usd)]
    lines = {
        "duplicate lines": collected.duplicates,
        "lines without a unit": collected.unmatched,
        "lines matched by image": collected.by_uri,
    }
    parts += [f"{count:,} {name}" for name, count in lines.items() if count]
    reported = (collected.told_ok or 0) + (collected.told_failed or 0)
    if collected.told_ok is not None and reported > collected.lines:
        parts.append(f"the service reports {reported:,} rows, the output has {collected.lines:,}")
    return parts
