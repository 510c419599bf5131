"""Whole runs of the batch lane."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import google.cloud.storage as storage
from support.jobs import Job, run_cli

QUICK = ("--batch_poll_s=0.1", "--batch_grace_s=1")


def work_dir(job: Job) -> str:
    """Return a work directory in a bucket, which is created if missing."""
    name = f"{job.name.replace('_', '-')}-work"
    client = storage.Client()
    if client.lookup_bucket(name) is None:
        client.create_bucket(name)
    return f"gs://{name}/work"


def batch_arguments(job: Job, *more: str, task: str = "image_quality") -> list[str]:
    return job.arguments("--lane=batch", f"--work_dir={work_dir(job)}", *QUICK, *more, task=task)


def batch(job: Job, *more: str, task: str = "image_quality") -> dict[str, Any]:
    """Run a job in the batch lane; return its summary with ``exit_code`` and ``err``."""
    return job.run("--lane=batch", f"--work_dir={work_dir(job)}", *QUICK, *more, task=task)


def command(job: Job, name: str, *more: str) -> tuple[int, str, str]:
    """Run ``imagebeam batch NAME``; return exit code, standard output and standard error."""
    poll = ("--batch_poll_s=0.1",) if name in {"collect", "cancel"} else ()
    return run_cli(["batch", name, f"--work_dir={work_dir(job)}", *poll, *more])


def summary_of(job: Job) -> dict[str, Any]:
    """Run ``batch collect --json`` to the end; return the summary of the open run."""
    code, out, err = command(job, "collect", "--json")
    assert out.strip().startswith("{"), f"exit code {code}: {err}"
    return {**json.loads(out), "exit_code": code, "err": err}


def fault(job: Job, *rules: Mapping[str, Any], **more: Any) -> None:
    job.cloud.faults(batch={"jobs": list(rules), **more})


def created(job: Job) -> dict[str, int]:
    """Return the number of created jobs by the part of their name after the run ID: ``r1-0000000000-0``."""
    found: dict[str, int] = {}
    for name, times in job.cloud.counters().get("batch", {}).get("created", {}).items():
        short = name[name.rindex("-r") + 1 :]
        found[short] = found.get(short, 0) + times
    return found


def paid(job: Job) -> dict[str, int]:
    """Return how often each image was paid in batch jobs."""
    return dict(job.cloud.counters().get("batch", {}).get("paid_per_uri", {}))


def answers(job: Job, results: str | None = None) -> list[dict[str, Any]]:
    """Return the outcome of every unit, in the order of unit IDs."""
    rows = job.query(
        f"SELECT unit_id, input_digest, status, reason, TO_JSON_STRING(answer) AS answer FROM {results or job.results}"
        ".outcomes QUALIFY ROW_NUMBER() OVER (PARTITION BY unit_id, input_digest ORDER BY status = 'OK' DESC, "
        "answered_at DESC) = 1 ORDER BY unit_id"
    )
    return [{**row, "answer": json.loads(row["answer"] or "null")} for row in rows]


def statuses(job: Job) -> list[tuple[str, str | None]]:
    return [(row["status"], row["reason"]) for row in answers(job)]


def rows_of(count: int, *places: int, **more: Any) -> Sequence[Mapping[str, Any]]:
    """Return plain rows, and rows with the given fields at some positions."""
    return [dict(more) if index in places else {} for index in range(count)]
