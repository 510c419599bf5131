"""Move a job on the user's own input forward: create it once, poll it, count its answers when it has ended.

An intent file is written before the job is created, and the job carries the run as a label. A process that finds an
intent without a job searches the list of jobs for the label, and creates the job only if none has appeared within the
grace time. Of two jobs of a run the newer is canceled.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from typing import Any

import orjson

from imagebeam.pipeline.batch.follow import Progress
from imagebeam.pipeline.batch_input import results, state
from imagebeam.pipeline.batch_input.state import InputRun
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.run.launch import read_json
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.batch_jobs import BatchJobs, NotCreatedError, UncertainError
from imagebeam.transforms.clients.rest import ApiError
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.text import format_duration
from imagebeam.transforms.gemini.job_states import BatchJob, Step


@dataclasses.dataclass(frozen=True, slots=True)
class InputStatus:
    """A run and its job.

    Attributes:
        run: The run.
        phase: State of the job in one or two words.
        job: The job as last read; None before it exists.
        note: An error or a remark; empty for none.
        summary: The run's summary; None while the run is open.
    """

    run: InputRun
    phase: str
    job: BatchJob | None = None
    note: str = ""
    summary: Mapping[str, Any] | None = None

    def lines(self, *, times: bool = True) -> list[str]:
        """Return the status as text; with ``times`` how long the job has taken."""
        run, job = self.run, self.job
        parts = [f"job      {run.display_name}  {self.phase}"]
        if job is not None:
            age = job.age_s(datetime.datetime.now(datetime.UTC)) if times else None
            parts += [format_duration(age - age % 10)] if age is not None else []
            parts += [f"{job.successful:,} rows done"] if job.successful is not None else []
        lines = [
            f"run      {run.run_id}, model {run.model} at {run.location}",
            "  ".join([*parts, *([self.note] if self.note else [])]),
        ]
        if job is not None and job.name:
            lines.append(f"         {job.name}")
        return [*lines, f"         {run.source} to {self.output}"]

    @property
    def output(self) -> str:
        """Where the answers are, or will be."""
        return (self.job.output if self.job is not None else "") or self.run.destination

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        job = self.job
        return {
            "run_id": self.run.run_id,
            "jobs": [
                {
                    "name": self.run.display_name,
                    "phase": self.phase,
                    "job": job.name if job else None,
                    "state": job.state if job else None,
                    "input": self.run.source,
                    "output": self.output,
                    "note": self.note,
                }
            ],
        }


class FollowedInput:
    """A run that can be followed until its job has ended.

    Args:
        run: The run.
    """

    def __init__(self, run: InputRun) -> None:
        self.run = run
        self._jobs = jobs_client(run)

    @property
    def run_id(self) -> str:
        """The run."""
        return self.run.run_id

    @property
    def work_dir(self) -> str:
        """The work directory that holds the run."""
        return self.run.work_dir

    def advance(self) -> Progress:
        """Do everything that can be done now."""
        status = advance(self.run, self._jobs)
        return Progress(status.lines(), status.lines(times=False), status.summary)

    def report(self, summary: Mapping[str, Any], *, as_json: bool) -> int:
        """Print rows, errors, tokens and cost; return the exit code."""
        if as_json:
            Console().print_json(summary)
        else:
            Console().print(*results.format_summary(summary))
        return results.exit_code(summary)


def jobs_client(run: InputRun) -> BatchJobs:
    """Create the client of the run's job."""
    return BatchJobs(run.project, run.location)


def read_status(run: InputRun, jobs: BatchJobs) -> InputStatus:
    """Read the status of a run without changing anything."""
    summary = read_json(run.summary_path)
    job, _ = _find_job(run, jobs)
    if job is None:
        return InputStatus(run, "ended" if summary else "not created", summary=summary)
    return InputStatus(run, job.rule.phase, job, _note(job), summary)


def advance(run: InputRun, jobs: BatchJobs) -> InputStatus:
    """Do everything that can be done for a run now. Any number of processes may do so at the same time.

    Raises:
        UserError: The service rejects the job.
        SystemicError: The run cannot continue. It stays open.
    """
    if (summary := read_json(run.summary_path)) is not None:
        return InputStatus(run, "ended", summary=summary)
    canceled, listed_at = state.is_canceled(run), datetime.datetime.now(datetime.UTC)
    job, twins = _find_job(run, jobs)
    if job is None and not canceled:
        status = _create_job(run, jobs, listed_at)
        if status.job is None:
            return status
        job = status.job
    if job is None:
        if state.claim_creation(run, listed_at) is None:
            return InputStatus(run, "stopping", note="another process was about to create the job; waiting for it")
        job = BatchJob("", run.display_name, "JOB_STATE_CANCELLED")
    else:
        state.save_job(run, job)
    stops = canceled and not job.rule.terminal
    for name in (*twins, *((job.name,) if stops or job.rule.step is Step.CANCEL else ())):
        jobs.cancel(name)
    if not job.rule.terminal or job.rule.step is Step.CANCEL:
        return InputStatus(run, "stopping" if canceled else job.rule.phase, job, _note(job))
    summary = results.collect(run, job)
    storage.write(run.summary_path, orjson.dumps(summary))
    return InputStatus(run, job.rule.phase, job, _note(job), summary)


def _find_job(run: InputRun, jobs: BatchJobs) -> tuple[BatchJob | None, list[str]]:
    """Return the job of a run: the recorded one, else the oldest with its label; and the names of its open twins."""
    found, recorded = jobs.labeled(state.LABEL, run.labels[state.LABEL]), state.read_job(run)
    job = found[0] if found else None
    if recorded is not None:
        listed = next((each for each in found if each.name == recorded.name), None)
        job = listed or jobs.get(recorded.name) or recorded
    return job, [each.name for each in found if job is not None and each.name != job.name and not each.rule.terminal]


def _create_job(run: InputRun, jobs: BatchJobs, listed_at: datetime.datetime) -> InputStatus:
    """Create the job, unless another process may just have created it."""
    intent = state.claim_creation(run, listed_at)
    if intent is None:
        return InputStatus(
            run, "creating", note="another process was about to create the job; waiting for it to appear"
        )
    try:
        job = jobs.create(
            run.display_name, run.job_model, source=run.source, destination=run.destination, labels=run.labels
        )
    except NotCreatedError as error:
        storage.delete(intent)
        return InputStatus(run, "refused", note=str(error))
    except UncertainError as error:
        return InputStatus(run, "creating", note=str(error))
    except ApiError as error:
        storage.delete(intent)
        if error.status in (400, 404):
            raise UserError(f"Vertex AI rejects the job: {error.message}") from None
        raise
    except Exception:
        storage.delete(intent)
        raise
    return InputStatus(run, job.rule.phase, job)


def _note(job: BatchJob) -> str:
    return job.error or ("" if job.rule.known else job.rule.reason)
