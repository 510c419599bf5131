"""How long each part of a batch run took, read off what it left behind: objects have their times."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import google.cloud.storage as storage
import orjson

from benchmarks.batch_figures import Phase


def phases(bucket: str, run: str, jobs: Sequence[Mapping[str, Any]], began: float, ended: float) -> list[Phase]:
    """The phases of a run, in order.

    A round is prepared, then its jobs run, then they are collected, one by one as they end: what is waited for
    is the time in which there was nothing to collect.

    Args:
        bucket: Of the work directory.
        run: The run's directory in it.
        jobs: All jobs, as the service shows them.
        began: When the run was started, seconds since 1970.
        ended: When it had ended.
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
