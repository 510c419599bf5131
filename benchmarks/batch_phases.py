"""Durations of the phases of a batch run, derived from the times of its objects."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import google.cloud.storage as storage
import orjson

from benchmarks.batch_report import Phase


def phases(bucket: str, run: str, jobs: Sequence[Mapping[str, Any]], began: float, ended: float) -> list[Phase]:
    """Return the phases of a run, in order.

    Each round is prepared, its jobs run, and they are collected as they end. The wait is the time during which there
    was nothing to collect.

    Args:
        bucket: Bucket of the work directory.
        run: Run directory in the bucket.
        jobs: Resources of all jobs.
        began: Start time of the run in seconds since 1970.
        ended: End time of the run in seconds since 1970.
    """
    made = {blob.name.removeprefix(f"{run}/batch/"): blob for blob in storage.Client().list_blobs(bucket, prefix=run)}
    times = {name: blob.updated.timestamp() for name, blob in made.items()}
    ends = {job["displayName"]: _seconds(job["endTime"]) for job in jobs}
    found = [Phase("check and announce", times["run.json"] - began)]
    now = times["run.json"]
    number = 1
    while (whole := f"r{number}/prepared.json") in times:
        shards = [shard for shard in orjson.loads(made[whole].download_as_bytes())["shards"] if shard["lines"]]
        rows = sum(shard["lines"] for shard in shards)
        found.append(Phase(f"prepare round {number}", times[whole] - now, rows))
        now, waited, worked = times[whole], 0.0, 0.0
        collected = {shard["name"]: times[f"r{number}/{shard['name']}.collected.json"] for shard in shards}
        for name, at in sorted(collected.items(), key=lambda item: item[1]):
            end = max(now, next(end for job, end in ends.items() if job.endswith(f"-r{number}-{name}")))
            waited += end - now
            worked += at - end
            now = at
        found.append(Phase(f"wait for jobs of round {number}", waited))
        found.append(Phase(f"collect round {number}", worked, rows))
        number += 1
    found.append(Phase("recount and finish", ended - now))
    return found


def _seconds(time: str) -> float:
    return datetime.datetime.fromisoformat(time).timestamp()
