"""Follow batch runs until their end, and print what changes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import google.api_core.exceptions as api_errors
import requests

from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.batch.status import RunStatus, format_status
from imagebeam.pipeline.console import report
from imagebeam.pipeline.console.console import Console
from imagebeam.transforms.clients.batch_jobs import UncertainError
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError, first_line


class JobWatcher:
    """Reconciles a run repeatedly and prints its status when it changes.

    Args:
        run: The run.
        console: Where to print.
    """

    def __init__(self, run: BatchRun, console: Console) -> None:
        self.run = run
        self._jobs = supervisor.jobs_client(run)
        self._console = console
        self._printed: list[str] = []

    def step(self) -> Mapping[str, Any] | None:
        """Reconcile the run once.

        Returns:
            The run's summary, or None while it is open.

        Raises:
            ImagebeamError: The run cannot continue until its cause is fixed. It stays open.
        """
        run = self.run
        try:
            status = supervisor.reconcile(run, self._jobs)
        except UncertainError as error:
            # A job can take days, and the service can be unavailable for some of that time.
            status = RunStatus(run.run.run_id, waiting_for=f"Vertex AI does not respond, retrying later: {error}")
        except (
            api_errors.ServerError,
            api_errors.TooManyRequests,
            ConnectionError,
            requests.RequestException,
        ) as error:
            status = RunStatus(run.run.run_id, waiting_for=f"retrying later: {first_line(error)}")
        except (SystemicError, UserError, api_errors.GoogleAPIError) as error:
            kind = UserError if isinstance(error, UserError) else SystemicError
            raise kind(
                f"{first_line(error, 1000)}; run {run.run.run_id} stays open and loses nothing: fix the cause, then "
                f"`imagebeam batch collect --work_dir={run.work_dir}`"
            ) from error
        # A change of the times alone is not printed: a job can wait for days.
        lines = format_status(status, times=False)
        if lines != self._printed:
            for line in format_status(status):
                self._console.status(line)
            self._printed = lines
        return status.summary


def follow(runs: Sequence[BatchRun], console: Console, *, poll_s: float, wait: bool, as_json: bool) -> int | None:
    """Reconcile every run until it ends, and print its report. An error in one does not stop the others.

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
                code = report.print_report(
                    summary,
                    each.run.run.outcomes,
                    took_s=each.run.age_s,
                    as_json=as_json,
                    max_failure_percent=each.run.max_failure_percent,
                )
                codes.append(code)
        if not watchers or not wait:
            break
        time.sleep(poll_s)
    for more in failed[1:]:
        console.warn(str(more))
    if failed:
        raise failed[0]
    return max(codes, default=None)
