"""Whole runs through batch jobs, for the tests of the batch lane."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import google.cloud.storage as storage
from jobs import Job, run_cli

QUICK = ("--batch_poll_s=0.1", "--batch_grace_s=1")


def work_dir(job: Job) -> str:
    """A work directory in a bucket."""
    name = f"{job.name.replace('_', '-')}-work"
    client = storage.Client()
    if client.lookup_bucket(name) is None:
        client.create_bucket(name)
    return f"gs://{name}/work"


def batch_arguments(job: Job, *more: str, task: str = "image_quality") -> list[str]:
    return job.arguments("--lane=batch", f"--work_dir={work_dir(job)}", *QUICK, *more, task=task)


def batch(job: Job, *more: str, task: str = "image_quality") -> dict[str, Any]:
    """Runs a job through the batch lane; its summary, exit code and what it said."""
    return job.run("--lane=batch", f"--work_dir={work_dir(job)}", *QUICK, *more, task=task)


def command(job: Job, name: str, *more: str) -> tuple[int, str, str]:
    """``imagebeam batch NAME``; exit code, output, errors."""
    poll = () if name == "status" else ("--batch_poll_s=0.1",)
    return run_cli(["batch", name, f"--work_dir={work_dir(job)}", *poll, *more])


def summary_of(job: Job) -> dict[str, Any]:
    """``batch collect --json``, to the end: the summary of the one run that is open."""
    code, out, err = command(job, "collect", "--json")
    assert out.strip().startswith("{"), f"exit code {code}: {err}"
    return {**json.loads(out), "exit_code": code, "err": err}


def fault(job: Job, *rules: Mapping[str, Any], **more: Any) -> None:
    job.cloud.faults(batch={"jobs": list(rules), **more})


def created(job: Job) -> dict[str, int]:
    """How often jobs were created, by what follows the run's id in their names: ``r1-0000000000-0``."""
    found: dict[str, int] = {}
    for name, times in job.cloud.counters().get("batch", {}).get("created", {}).items():
        short = name[name.rindex("-r") + 1 :]
        found[short] = found.get(short, 0) + times
    return found


def paid(job: Job) -> dict[str, int]:
    """How often each image was paid for in batch jobs."""
    return dict(job.cloud.counters().get("batch", {}).get("paid_per_uri", {}))


def answers(job: Job, results: str | None = None) -> list[dict[str, Any]]:
    """What stands for every unit, in the order of their ids."""
    rows = job.query(
        f"SELECT unit_id, input_digest, status, reason, TO_JSON_STRING(answer) AS answer FROM {results or job.results}"
        ".outcomes QUALIFY ROW_NUMBER() OVER (PARTITION BY unit_id, input_digest ORDER BY status = 'OK' DESC, "
        "answered_at DESC) = 1 ORDER BY unit_id"
    )
    return [{**row, "answer": json.loads(row["answer"] or "null")} for row in rows]


def statuses(job: Job) -> list[tuple[str, str | None]]:
    return [(row["status"], row["reason"]) for row in answers(job)]


def rows_of(count: int, *places: int, **more: Any) -> Sequence[Mapping[str, Any]]:
    """So many plain rows, and those at the places with something of their own."""
    return [dict(more) if index in places else {} for index in range(count)]
