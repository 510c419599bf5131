"""The runs of a work directory that have batch jobs, of both kinds, and what the commands do with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import google.api_core.exceptions as api_errors

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch.follow import Followed, FollowedBatch
from imagebeam.pipeline.batch.state import RUN_FILE, RUNS, SUMMARY_FILE, BatchRun
from imagebeam.pipeline.batch.status import format_status, status_to_json
from imagebeam.pipeline.batch_input import state as input_state
from imagebeam.pipeline.batch_input import supervisor as input_supervisor
from imagebeam.pipeline.batch_input.state import INPUT_FILE, InputRun
from imagebeam.pipeline.batch_input.supervisor import FollowedInput
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.batch_jobs import BatchJobs
from imagebeam.transforms.core.errors import UserError, first_line

Run = BatchRun | InputRun


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A run of the work directory.

    Attributes:
        run_id: The run.
        kind: What it processes: a task, or ``input``.
        state: ``open``, or how it ended.
        created_at: When it started, RFC 3339 in UTC.
        rows: Units or rows with an answer or a failure; None while the run is open.
        output: Where its answers are.
    """

    run_id: str
    kind: str
    state: str
    created_at: str
    rows: int | None
    output: str


def run_id_of(run: Run) -> str:
    """Return the id of a run."""
    return run.run_id if isinstance(run, InputRun) else run.run.run_id


def load_runs(work_dir: str, run_id: str | None, *, ended: bool = False) -> list[Run]:
    """Load the named run, or all open runs; with ``ended`` all runs.

    Raises:
        UserError: The run does not exist, or the work directory cannot be read.
    """
    try:
        names = set(storage.list_names(storage.join(work_dir, RUNS))) if run_id is None else ()
        if run_id is not None:
            return [_load(work_dir, run_id)]
        found = {name.partition("/")[0] for name in names if name.endswith((f"/{RUN_FILE}", f"/{INPUT_FILE}"))}
        return [_load(work_dir, name) for name in sorted(found) if ended or f"{name}/{SUMMARY_FILE}" not in names]
    except (api_errors.NotFound, api_errors.Forbidden) as error:
        raise UserError(f"--work_dir={work_dir} cannot be read: {first_line(error)}") from None


def _load(work_dir: str, run_id: str) -> Run:
    return input_state.load_run(work_dir, run_id) or batch_state.load_run(work_dir, run_id)


def followed(run: Run) -> Followed:
    """Return a run as one that can be followed."""
    return FollowedInput(run) if isinstance(run, InputRun) else FollowedBatch(run)


def read_summary(run: Run) -> Mapping[str, Any] | None:
    """Return the summary of a run; None while it is open."""
    return read_json(run.summary_path if isinstance(run, InputRun) else run.run.summary_path)


def cancel(run: Run) -> None:
    """Mark a run as canceled."""
    if isinstance(run, InputRun):
        input_state.cancel(run)
    else:
        batch_state.cancel(run)


def read_status(run: Run) -> tuple[list[str], dict[str, Any]]:
    """Return the status of a run as text and as JSON values, without changing anything.

    Raises:
        UncertainError: Vertex AI does not respond.
    """
    if isinstance(run, InputRun):
        status = input_supervisor.read_status(run, input_supervisor.jobs_client(run))
        return status.lines(), status.to_json()
    found = supervisor.read_status(run, batch_state.newest_round(run), supervisor.jobs_client(run))
    return format_status(found), status_to_json(found)


def list_runs(runs: Sequence[Run]) -> list[Listed]:
    """Describe runs, the newest first."""
    found = [_listed(run, read_summary(run)) for run in runs]
    return sorted(found, key=lambda run: (run.created_at, run.run_id), reverse=True)


def _listed(run: Run, summary: Mapping[str, Any] | None) -> Listed:
    if isinstance(run, InputRun):
        ended = "" if summary is None else str(summary["state"]).removeprefix("JOB_STATE_").lower()
        output = (summary or {}).get("output") or run.destination
        return Listed(run.run_id, "input", ended or "open", run.created_at, (summary or {}).get("rows"), output)
    if summary is None:
        return Listed(run.run.run_id, run.run.task.name, "open", run.created_at, None, run.run.answers.dotted)
    counted = summary.get("counted") or {}
    ended = str(summary.get("stop") or "ended").partition(":")[0]
    units = counted.get("ok", 0) + sum(counted.get("failed", {}).values())
    return Listed(run.run.run_id, run.run.task.name, ended, run.created_at, units, run.run.answers.dotted)


def delete_jobs(run: Run) -> int:
    """Delete the Vertex AI jobs of a run that has ended; their output is kept.

    Returns:
        The number of deleted jobs.

    Raises:
        UserError: The run has not ended.
        UncertainError: Vertex AI does not respond.
    """
    if read_summary(run) is None:
        raise UserError(
            f"run {run_id_of(run)} has not ended; `imagebeam batch cancel --run_id={run_id_of(run)}` ends it"
        )
    if isinstance(run, InputRun):
        jobs = input_supervisor.jobs_client(run)
        found = jobs.labeled(input_state.LABEL, run.labels[input_state.LABEL])
    else:
        jobs = supervisor.jobs_client(run)
        found = jobs.named(run.job_prefix)
    return _delete(jobs, [job.name for job in found if job.rule.terminal])


def _delete(jobs: BatchJobs, names: Sequence[str]) -> int:
    return sum(jobs.delete(name) for name in names)


def delete_files(run: Run) -> int:
    """Delete the files of a run in the work directory; return their number."""
    directory = run.directory if isinstance(run, InputRun) else run.run.directory
    names = storage.list_names(directory)
    for name in names:
        storage.delete(storage.join(directory, name))
    return len(names)
