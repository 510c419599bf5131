"""State of a job on the user's own input, in the work directory. Any process can continue the run from it.

::

RUN/batch/input.json       the run
RUN/batch/intent-1.json    written just before the job is created; the next one before it is created again
RUN/batch/job.json         resource name of the job
RUN/batch/cancelled.json   the run is canceled
RUN/batch/errors.jsonl     the rows without an answer
RUN/summary.json           written at the end
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
from typing import Final

import orjson

from imagebeam.pipeline.batch.state import RUNS, SUMMARY_FILE, read_record, write_record
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.batch_shards import batch_directory
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import utc_now
from imagebeam.transforms.gemini.job_states import BatchJob
from imagebeam.transforms.run_settings import run_labels
from imagebeam.transforms.tasks.model_profiles import Price

INPUT_FILE: Final = "batch/input.json"
#: Label by which the job of a run is found.
LABEL: Final = "imagebeam_run"
_CANCELED_FILE: Final = "cancelled.json"


@dataclasses.dataclass(frozen=True, slots=True)
class InputRun:
    """A job on an input that the user already has: everything that another process needs to continue it.

    Attributes:
        run_id: The run.
        directory: Its directory in the work directory.
        project: Project that is billed.
        location: Location of the job.
        model: Name of the model.
        job_model: The same for the job: the model of an endpoint.
        source: ``gs://`` file or ``bq://`` table of the requests.
        destination: ``gs://`` directory or ``bq://`` table of the answers.
        display_name: Display name of the job.
        created_at: Start of the run, RFC 3339 in UTC.
        grace_s: Seconds to wait for a job whose creation was interrupted, before it is created again.
        price: Price of the batch lane; None if it is unknown.
    """

    run_id: str
    directory: str
    project: str
    location: str
    model: str
    job_model: str
    source: str
    destination: str
    display_name: str
    created_at: str
    grace_s: float
    price: Price | None = None

    @property
    def work_dir(self) -> str:
        """The work directory that holds the run."""
        return self.directory.rpartition(f"/{RUNS}/")[0]

    @property
    def summary_path(self) -> str:
        """The run's summary.json."""
        return storage.join(self.directory, SUMMARY_FILE)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of the job."""
        return {LABEL: run_labels(self.run_id, "")[LABEL]}

    def path(self, name: str) -> str:
        """Return the path of one of its files."""
        return storage.join(batch_directory(self.directory), name)


def derive_run_id(*parts: str | None) -> str:
    """Return the name of a run: the same settings and the same version of the input have the same one.

    >>> derive_run_id("my-project", "gs://b/in.jsonl", "17", None)
    'input-84c554f4249b'
    """
    return f"input-{hashlib.sha256(orjson.dumps(parts)).hexdigest()[:12]}"


def run_directory(work_dir: str, run_id: str) -> str:
    """Return the directory of a run."""
    return storage.join(work_dir, RUNS, run_id)


def save_run(run: InputRun) -> None:
    """Write the run file, which makes the run visible to ``imagebeam batch``."""
    write_record(storage.join(run.directory, INPUT_FILE), run)


def load_run(work_dir: str, run_id: str) -> InputRun | None:
    """Read a run; None if it does not exist."""
    return read_record(storage.join(run_directory(work_dir, run_id), INPUT_FILE), InputRun)


def find_attempt(work_dir: str, run_id: str) -> tuple[InputRun | None, str]:
    """Find the newest run under a derived name, and the name of a new run.

    Returns:
        The run that the same command continues: an open one, or one whose job has succeeded. None if there is none, or
        if its job has failed, was canceled or expired, so that the command starts another run. The name of that run.
    """
    run, number = None, 1
    while (found := load_run(work_dir, run_id if number == 1 else f"{run_id}-{number}")) is not None:
        run, number = found, number + 1
    name = run_id if number == 1 else f"{run_id}-{number}"
    summary = None if run is None else read_json(run.summary_path)
    return (None if summary is not None and not summary["succeeded"] else run), name


def delete_run(run: InputRun) -> None:
    """Delete the files of a run that has created nothing."""
    for name in storage.list_names(run.directory):
        storage.delete(storage.join(run.directory, name))


def cancel(run: InputRun) -> None:
    """Mark a run as canceled: no job is created for it."""
    storage.create(run.path(_CANCELED_FILE), b"{}")


def is_canceled(run: InputRun) -> bool:
    """Return whether the run is marked as canceled."""
    return storage.read(run.path(_CANCELED_FILE)) is not None


def claim_creation(run: InputRun, listed_at: datetime.datetime) -> str | None:
    """Claim the creation of the job: one process gets the next intent.

    Args:
        run: The run.
        listed_at: When the list of jobs was read, which did not have the job.

    Returns:
        The path of the intent; None if another process may have created the job a moment ago.

    Raises:
        UserError: The job was created too often and never appeared in the list.
    """
    for number in range(1, 100):
        path = run.path(f"intent-{number}.json")
        if storage.create(path, orjson.dumps({"at": utc_now()})):
            return path
        earlier = read_json(path)
        grace = datetime.timedelta(seconds=run.grace_s)
        if earlier is None or listed_at < datetime.datetime.fromisoformat(earlier["at"]) + grace:
            return None
    raise UserError(f"run {run.run_id}: its job never appeared in the list of jobs")


def has_intent(run: InputRun) -> bool:
    """Return whether the job may exist."""
    return storage.read(run.path("intent-1.json")) is not None


def save_job(run: InputRun, job: BatchJob) -> None:
    """Record the job of a run; the first one counts."""
    created = None if job.created is None else job.created.isoformat()
    storage.create(run.path("job.json"), orjson.dumps({"name": job.name, "created": created, "at": utc_now()}))


def read_job(run: InputRun) -> BatchJob | None:
    """Read the recorded job, in the state of a deleted one; None before it is recorded."""
    saved = read_json(run.path("job.json"))
    if saved is None:
        return None
    created = saved.get("created")
    table = run.destination.removeprefix("bq://") if run.destination.startswith("bq://") else None
    return BatchJob(
        saved["name"],
        run.display_name,
        "JOB_STATE_FAILED",
        created=datetime.datetime.fromisoformat(created) if created else None,
        output_table=table,
        error="the job was deleted",
    )
