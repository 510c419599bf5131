"""Follow batch runs until their end, and print what changes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import google.api_core.exceptions as api_errors
import requests

from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.batch.status import format_status
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.results.run_result import RunResult, ended_run, print_result
from imagebeam.transforms.clients.batch_jobs import UncertainError
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError, first_line


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """State of a run after one step.

    Attributes:
        lines: The state as text.
        timeless: The same without times: a change of the times alone is not printed.
        summary: The run's summary; None while the run is open.
    """

    lines: Sequence[str]
    timeless: Sequence[str]
    summary: Mapping[str, Any] | None = None


class Followed(Protocol):
    """A run that can be followed."""

    @property
    def run_id(self) -> str:
        """The run."""

    @property
    def work_dir(self) -> str:
        """The work directory that holds the run."""

    def advance(self) -> Progress:
        """Do everything that can be done now; repeating it is harmless."""

    def report(self, summary: Mapping[str, Any], *, as_json: bool) -> int:
        """Print the report of an ended run; return its exit code."""


class FollowedBatch:
    """A run of the batch lane.

    Args:
        run: The run.
        show: Receives the result of the run when it has ended; by default it is printed.

    Attributes:
        result: The result; None while the run is open.
    """

    def __init__(self, run: BatchRun, show: Callable[[RunResult], None] | None = None) -> None:
        self._run = run
        self._show = show
        self.result: RunResult | None = None
        self._jobs = supervisor.jobs_client(run)

    @property
    def run_id(self) -> str:
        """The run."""
        return self._run.run.run_id

    @property
    def work_dir(self) -> str:
        """The work directory that holds the run."""
        return self._run.work_dir

    def advance(self) -> Progress:
        """Reconcile the run once."""
        status = supervisor.reconcile(self._run, self._jobs)
        return Progress(format_status(status), format_status(status, times=False), status.summary)

    def report(self, summary: Mapping[str, Any], *, as_json: bool) -> int:
        """Print counts, calls, tokens and cost; return the exit code."""
        run = self._run
        result = ended_run(run.run, summary, took_s=run.age_s, max_failure_percent=run.max_failure_percent)
        self.result = result
        if self._show is None:
            print_result(result, as_json=as_json)
        else:
            self._show(result)
        return result.exit_code


class JobWatcher:
    """Advances a run repeatedly and prints its state when it changes.

    Args:
        run: The run.
        console: Where to print.
    """

    def __init__(self, run: Followed, console: Console) -> None:
        self.run = run
        self._console = console
        self._printed: Sequence[str] = ()

    def step(self) -> Mapping[str, Any] | None:
        """Advance the run once.

        Returns:
            The run's summary, or None while it is open.

        Raises:
            ImagebeamError: The run cannot continue until its cause is fixed. It stays open.
        """
        run = self.run
        try:
            progress = run.advance()
        except UncertainError as error:
            # A job can take days, and the service can be unavailable for some of that time.
            progress = self._waiting(f"Vertex AI does not respond, retrying later: {error}")
        except (
            api_errors.ServerError,
            api_errors.TooManyRequests,
            ConnectionError,
            requests.RequestException,
        ) as error:
            progress = self._waiting(f"retrying later: {first_line(error)}")
        except (SystemicError, UserError, api_errors.GoogleAPIError) as error:
            kind = UserError if isinstance(error, UserError) else SystemicError
            raise kind(
                f"{first_line(error, 1000)}; run {run.run_id} stays open and loses nothing: fix the cause, then "
                f"`imagebeam batch collect --work_dir={run.work_dir}`"
            ) from error
        if progress.timeless != self._printed:
            for line in progress.lines:
                self._console.status(line)
            self._printed = progress.timeless
        return progress.summary

    def _waiting(self, reason: str) -> Progress:
        lines = [f"run {self.run.run_id}: {reason}"]
        return Progress(lines, lines)


def follow(runs: Sequence[Followed], console: Console, *, poll_s: float, wait: bool, as_json: bool) -> int | None:
    """Advance every run until it ends, and print its report. An error in one does not stop the others.

    Args:
        runs: The runs.
        console: Where to print.
        poll_s: Seconds between two steps.
        wait: False for a single step.
        as_json: Print summaries as JSON.

    Returns:
        The highest exit code of the runs that ended; None if all are still open.

    Raises:
        ImagebeamError: The first run that cannot continue has this error. It stays open.
    """
    watchers = [JobWatcher(run, console) for run in runs]
    codes: list[int] = []
    failed: list[ImagebeamError] = []
    while True:
        for each in list(watchers):
            try:
                summary = each.step()
            except ImagebeamError as error:
                failed.append(error)
                watchers.remove(each)
                continue
            if summary is not None:
                watchers.remove(each)
                codes.append(each.run.report(summary, as_json=as_json))
        if not watchers or not wait:
            break
        time.sleep(poll_s)
    for more in failed[1:]:
        console.warn(str(more))
    if failed:
        raise failed[0]
    return max(codes, default=None)
