"""Batch jobs: what is known of each, how its state changes, and the store of all jobs of this process."""

import datetime
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from imagebeam.emulators.batch.faults import JobFaults
from imagebeam.emulators.batch.requests import Asked
from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.http import ApiError

#: States after which nothing happens by itself.
FINAL: Final = ("SUCCEEDED", "PARTIALLY_SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "PAUSED")

_FIRST_ID: Final = 4_000_000_000_000_000_000


@dataclass(slots=True, eq=False)
class Job:
    """One job; safe to use from many threads through its methods.

    Attributes:
        id: Digits.
        asked: The request.
        rules: The rules of the fault configuration that bind it.
        faults: What they said when it was created.
        created_us: Microseconds since 1970.
        state: Without ``JOB_STATE_``, as the service knows it (the resource may show another).
        started_us: When it began to run, or ``None``.
        ended_us: When it ended, or ``None``.
        output_info: What is known of its output.
        stats: Rows that succeeded, failed and were not run; ``None`` until it has ended.
        error: ``error`` of the resource.
        rows_run: Rows that were run.
        changed: Notified with every change; its lock guards the rest.
        known_since: When it was created, on the monotonic clock.
        forgotten: Nobody will ask for it again: its thread ends as soon as it can.
    """

    id: str
    asked: Asked
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
    forgotten: bool = False
    known_since: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether it will change no more by itself."""
        return self.ended_us is not None

    @property
    def listed(self) -> bool:
        """Whether ``list`` knows it."""
        return time.monotonic() >= self.known_since + self.faults.unlisted_s

    @property
    def name(self) -> str:
        """Its resource name, with the number of the project as the service writes it."""
        return f"projects/{PROJECT_NUMBER}/locations/{self.asked.location}/batchPredictionJobs/{self.id}"

    @property
    def stopping(self) -> bool:
        """Whether its thread is to stop: somebody cancelled it, or it is forgotten."""
        return self.state == "CANCELLING" or self.forgotten

    @property
    def created(self) -> str:
        """``createTime``."""
        return self._moment(self.created_us)

    def start(self) -> None:
        """Go from PENDING to RUNNING, unless somebody cancelled it."""
        with self.changed:
            if self.state == "PENDING":
                self._enter("RUNNING")
                self.started_us = self.updated_us

    def end(self, state: str, *, stats: tuple[int, int, int] | None = None, error: dict[str, Any] | None) -> None:
        """Go to the last state."""
        with self.changed:
            self.stats, self.error = stats, error
            self._enter(state)
            self.ended_us = self.updated_us

    def cancel(self) -> None:
        """Ask it to stop.

        Raises:
            ApiError: 400, when it is over.
        """
        with self.changed:
            if self.state == "PAUSED":
                self._enter("CANCELLED")
            elif self.over:
                raise _precondition(f"The job is in state JOB_STATE_{self.state} and cannot be cancelled.")
            else:
                self._enter("CANCELLING")

    def forget(self) -> None:
        """Let its thread end."""
        with self.changed:
            self.forgotten = True
            self.changed.notify_all()

    def wait_while(self, waiting: Callable[[float], bool]) -> None:
        """Wait until it is to stop, or ``waiting`` says no to the seconds that have passed."""
        began = time.monotonic()
        with self.changed:
            while not self.stopping and waiting(time.monotonic() - began):
                self.changed.wait(0.02)

    def resource(self) -> dict[str, Any]:
        """Return it as the API shows it."""
        with self.changed:
            return self._resource()

    def _resource(self) -> dict[str, Any]:
        shown = self.faults.running_state if self.state == "RUNNING" else self.state
        body: dict[str, Any] = {"name": self.name, **self.asked.echo}
        body["state"] = f"JOB_STATE_{shown}"
        body["createTime"] = self.created
        body["updateTime"] = self._moment(max(self.updated_us, self.created_us))
        if self.started_us is not None:
            body["startTime"] = self._moment(self.started_us)
        if self.ended_us is not None:
            body["endTime"] = self._moment(self.ended_us)
        info = self.faults.output_info
        if self.output_info is not None and (info == "running" or (info == "end" and self.over)):
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

    def _enter(self, state: str) -> None:
        self.state = state
        self.updated_us = max(time.time_ns() // 1000 - int(self.faults.age_s * 1e6), self.created_us)
        self.changed.notify_all()

    def _moment(self, microseconds: int) -> str:
        seconds, rest = divmod(microseconds, 1_000_000)
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).replace(microsecond=rest)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class JobStore:
    """All jobs of this process, the newest first; safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], Job] = {}
        self._last_us = 0
        self._made = 0

    def create(self, asked: Asked, rules: tuple[dict[str, Any], ...], faults: JobFaults) -> Job:
        """Make a job; no two are created in the same microsecond."""
        with self._lock:
            self._made += 1
            created = time.time_ns() // 1000 - int(faults.age_s * 1e6)
            if not faults.age_s:
                created = self._last_us = max(created, self._last_us + 1)
            # Not in a row: nobody shall sort jobs by their ids.
            number = _FIRST_ID + self._made * 7_919_000_000_000_003 % _FIRST_ID
            job = Job(str(number), asked, rules, faults, created)
            self._jobs[asked.location, job.id] = job
            return job

    def get(self, location: str, job_id: str) -> Job:
        """Return a job.

        Raises:
            ApiError: 404.
        """
        with self._lock:
            job = self._jobs.get((location, job_id))
        if job is None:
            raise ApiError(404, f"The BatchPredictionJob does not exist: locations/{location}, id {job_id}.")
        return job

    def all(self, location: str | None = None) -> list[Job]:
        """Return the jobs of a location (``None``: of all), the newest first."""
        with self._lock:
            found = [job for job in self._jobs.values() if location in (None, job.asked.location)]
        return sorted(found, key=lambda job: job.created_us, reverse=True)

    def delete(self, job: Job) -> None:
        """Delete a job.

        Raises:
            ApiError: 400, when it is not over.
        """
        if not job.over:
            raise _precondition(f"The job is in state JOB_STATE_{job.state}: cancel it before it is deleted.")
        with self._lock:
            self._jobs.pop((job.asked.location, job.id), None)

    def clear(self) -> None:
        """Forget all jobs, also those that run."""
        with self._lock:
            jobs = list(self._jobs.values())
            self._jobs.clear()
        for job in jobs:
            job.forget()


def _precondition(message: str) -> ApiError:
    return ApiError(400, message, status="FAILED_PRECONDITION")
