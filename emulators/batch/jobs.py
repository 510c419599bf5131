"""Batch jobs: their resource and state, and the store of all jobs of this process."""

import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from imagebeam.emulators.batch.faults import JobFaults
from imagebeam.emulators.batch.requests import JobSpec
from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.http import ApiError

#: Final states.
FINAL: Final = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PAUSED")

_FIRST_ID: Final = 4_000_000_000_000_000_000


@dataclass(slots=True, eq=False)
class Job:
    """One job. Its methods are thread-safe.

    Attributes:
        id: Numeric ID.
        spec: The checked create request.
        rules: The matching rules of the fault configuration.
        faults: The faults that they defined when the job was created.
        created_us: Creation time in microseconds since 1970.
        state: Internal state without ``JOB_STATE_``; a fault can make the resource report another.
        started_us: Start time in microseconds since 1970, or None.
        ended_us: End time in microseconds since 1970, or None.
        updated_us: Time of the last state change in microseconds since 1970.
        output_info: ``outputInfo`` of the resource.
        stats: Rows that succeeded, failed and were not processed; None until the job ends.
        error: ``error`` of the resource.
        rows_run: Number of processed rows.
        changed: Notified of every change; its lock guards the other attributes.
        discarded: Whether the job was removed, so that its thread ends as soon as possible.
        created_at: Creation time on the monotonic clock.
    """

    id: str
    spec: JobSpec
    rules: tuple[dict[str, Any], ...]
    faults: JobFaults
    created_us: int
    state: str = "PENDING"
    started_us: int | None = None
    ended_us: int | None = None
    updated_us: int = 0
    output_info: dict[str, Any] | None = None
    stats: tuple[int, int, int] | None = None
    error: dict[str, Any] | None = None
    rows_run: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    discarded: bool = False
    created_at: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> bool:
        """Whether the job is in a final state."""
        return self.ended_us is not None

    @property
    def listed(self) -> bool:
        """Whether ``list`` returns the job."""
        return time.monotonic() >= self.created_at + self.faults.unlisted_s

    @property
    def name(self) -> str:
        """Resource name, with the project number as the service returns it."""
        return f"projects/{PROJECT_NUMBER}/locations/{self.spec.location}/batchPredictionJobs/{self.id}"

    @property
    def stopping(self) -> bool:
        """Whether the thread must stop because the job was canceled or discarded."""
        return self.state == "CANCELLING" or self.discarded

    @property
    def created(self) -> str:
        """``createTime``."""
        return self._moment(self.created_us)

    def start(self) -> None:
        """Change the state from PENDING to RUNNING, unless the job was canceled."""
        with self.changed:
            if self.state == "PENDING":
                self._set_state("RUNNING")
                self.started_us = self.updated_us

    def end(self, state: str, *, stats: tuple[int, int, int] | None = None, error: dict[str, Any] | None) -> None:
        """Change to a final state."""
        with self.changed:
            self.stats, self.error = stats, error
            self._set_state(state)
            self.ended_us = self.updated_us

    def cancel(self) -> None:
        """Request cancellation.

        Raises:
            ApiError: 400 if the job has ended.
        """
        with self.changed:
            if self.state == "PAUSED":
                self._set_state("CANCELLED")
            elif self.ended:
                raise _precondition(f"The job is in state JOB_STATE_{self.state} and cannot be cancelled.")
            else:
                self._set_state("CANCELLING")

    def discard(self) -> None:
        """Make the thread end without a result."""
        with self.changed:
            self.discarded = True
            self.changed.notify_all()

    def wait_while(self, waiting: Callable[[float], bool]) -> None:
        """Wait until the job must stop or ``waiting(elapsed seconds)`` returns False."""
        began = time.monotonic()
        with self.changed:
            while not self.stopping and waiting(time.monotonic() - began):
                self.changed.wait(0.02)

    def resource(self) -> dict[str, Any]:
        """Return the job resource of the API."""
        with self.changed:
            return self._resource()

    def _resource(self) -> dict[str, Any]:
        shown = self.faults.running_state if self.state == "RUNNING" else self.state
        body: dict[str, Any] = {"name": self.name, **self.spec.echo}
        body["state"] = f"JOB_STATE_{shown}"
        body["createTime"] = self.created
        body["updateTime"] = self._moment(max(self.updated_us, self.created_us))
        if self.started_us is not None:
            body["startTime"] = self._moment(self.started_us)
        if self.ended_us is not None:
            body["endTime"] = self._moment(self.ended_us)
        info = self.faults.output_info
        if self.output_info is not None and (info == "running" or (info == "end" and self.ended)):
            body["outputInfo"] = self.output_info
        if self.stats is not None:
            names = ("successfulCount", "failedCount", "incompleteCount")
            body["completionStats"] = {name: str(count) for name, count in zip(names, self.stats, strict=True)}
        if self.error is not None:
            body["error"] = self.error
        if self.state == "PARTIALLY_SUCCEEDED":
            body["partialFailures"] = [{"code": 4, "message": "Some requests were not finished in time."}]
        body["modelVersionId"] = "1"
        return body

    def _set_state(self, state: str) -> None:
        self.state = state
        self.updated_us = max(time.time_ns() // 1000 - int(self.faults.age_s * 1e6), self.created_us)
        self.changed.notify_all()

    def _moment(self, microseconds: int) -> str:
        seconds, rest = divmod(microseconds, 1_000_000)
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(microsecond=rest)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class JobStore:
    """All jobs of this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], Job] = {}
        self._last_us = 0
        self._made = 0

    def create(self, spec: JobSpec, rules: tuple[dict[str, Any], ...], faults: JobFaults) -> Job:
        """Create a job. No two jobs have the same creation time."""
        with self._lock:
            self._made += 1
            created = time.time_ns() // 1000 - int(faults.age_s * 1e6)
            if not faults.age_s:
                created = self._last_us = max(created, self._last_us + 1)
            # Not ascending, because the order of real job IDs is undefined too.
            number = _FIRST_ID + self._made * 7_919_000_000_000_003 % _FIRST_ID
            job = Job(str(number), spec, rules, faults, created)
            self._jobs[spec.location, job.id] = job
            return job

    def get(self, location: str, job_id: str) -> Job:
        """Return a job by ID.

        Raises:
            ApiError: 404 if it does not exist.
        """
        with self._lock:
            job = self._jobs.get((location, job_id))
        if job is None:
            raise ApiError(404, f"The BatchPredictionJob does not exist: locations/{location}, id {job_id}.")
        return job

    def all(self, location: str | None = None) -> list[Job]:
        """Return the jobs of a location (None: of all), newest first."""
        with self._lock:
            found = [job for job in self._jobs.values() if location in (None, job.spec.location)]
        return sorted(found, key=lambda job: job.created_us, reverse=True)

    def delete(self, job: Job) -> None:
        """Delete a job.

        Raises:
            ApiError: 400 if it has not ended.
        """
        if not job.ended:
            raise _precondition(f"The job is in state JOB_STATE_{job.state}: cancel it before it is deleted.")
        with self._lock:
            self._jobs.pop((job.spec.location, job.id), None)

    def clear(self) -> None:
        """Discard all jobs, including running ones."""
        with self._lock:
            jobs = list(self._jobs.values())
            self._jobs.clear()
        for job in jobs:
            job.discard()


def _precondition(message: str) -> ApiError:
    return ApiError(400, message, status="FAILED_PRECONDITION")
