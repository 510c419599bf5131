"""``imagebeam batch status|collect|cancel``, and the waiting that ``classify --lane=batch`` does.

Nothing is kept between two calls but what is in the work directory: a person, a cron job or a Cloud Run job
can call it from anywhere, as often as they like.
"""

from __future__ import annotations

import dataclasses
import datetime
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google.api_core.exceptions as api_errors
import requests
from google.auth.exceptions import GoogleAuthError, TransportError

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.batch.supervisor import JobView, Status
from imagebeam.pipeline.console import help as help_text
from imagebeam.pipeline.console import report
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.console.exit_code import exit_code
from imagebeam.pipeline.flags import config_file
from imagebeam.pipeline.flags import parser as flag_parser
from imagebeam.pipeline.flags.classify import BATCH, BATCH_POLL_S, CONFIG, WORK_DIR, by_name
from imagebeam.pipeline.run.draining import draining_on_signals
from imagebeam.pipeline.run.launch import read_json
from imagebeam.pipeline.run.settings import work_directory
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.batch_jobs import BatchJobs, UncertainError
from imagebeam.transforms.clients.credentials import find_credentials, missing_credentials
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError, first_line
from imagebeam.transforms.core.strict_yaml import suggestion
from imagebeam.transforms.core.text import format_duration


def main(argv: list[str], *, cwd: Path) -> int:
    """Runs one of the three.

    Args:
        argv: Arguments after ``batch``.
        cwd: Directory that relative paths start from; ``imagebeam.yaml`` is looked for here.

    Raises:
        UserError: Unknown command, flag or run.
        SystemicError: The services cannot be used; every run stays as it is.
    """
    if not argv or any(argument in {"--help", "-h"} for argument in argv):
        sys.stdout.write(_help(help_text.width()))
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        hint = suggestion(name, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command batch {name}{hint}")
    line = flag_parser.read(rest, by_name(BATCH), command=f"imagebeam batch {name}", beam=False)
    file = config_file.read(cwd / str(line.values.get("config", CONFIG.default)), required="config" in line.values)
    given = {**file.values, **line.values}
    work_dir = work_directory(str(given.get("work_dir", WORK_DIR.default)), cwd)
    if not storage.is_local(work_dir):
        find_credentials()
    try:
        runs = _runs(work_dir, given.get("run_id"))
        if not runs:
            sys.stdout.write(f"no batch run is open in {work_dir}\n")
            return 0
        with draining_on_signals(lambda _reason: None):  # the jobs continue without this process
            return COMMANDS[name](runs, given)
    except (GoogleAuthError, api_errors.RetryError, requests.RequestException) as error:
        raise no_answer(error, work_dir) from None


def _runs(work_dir: str, run_id: str | None) -> list[BatchRun]:
    """The run that was named, or all that are open."""
    try:
        names = [run_id] if run_id else batch_state.run_ids(work_dir)
        return [batch_state.load_run(work_dir, name) for name in names]
    except (api_errors.NotFound, api_errors.Forbidden) as error:
        raise UserError(f"--work_dir {work_dir} cannot be read: {first_line(error)}") from None


def no_answer(error: Exception, work_dir: str) -> ImagebeamError:
    """What to say when the work directory cannot be asked for: credentials that are no good, or a failing network."""
    if isinstance(error, GoogleAuthError) and not (isinstance(error, TransportError) or error.retryable):
        return missing_credentials(error)
    why = error.cause if isinstance(error, api_errors.RetryError) else error
    return SystemicError(
        f"Cloud Storage does not answer ({type(why).__name__}); nothing is lost in {work_dir}, try again later"
    )


def _status(runs: Sequence[BatchRun], given: Mapping[str, Any]) -> int:
    try:
        found = [supervisor.look(run, jobs_of(run)) for run in runs]
    except UncertainError as error:
        raise SystemicError(f"the service does not answer, ask again later: {error}") from None
    if given.get("json"):
        Console().print_json([as_json(status) for status in found])
    else:
        Console().print(*(text for status in found for text in lines(status)))
    return 0


def _collect(runs: Sequence[BatchRun], given: Mapping[str, Any]) -> int:
    """Ticks every run until it is done, or once with ``--no_wait``; one that cannot go on keeps none back."""
    poll_s = float(given.get("batch_poll_s", BATCH_POLL_S.default))
    console = Console()
    followed = [JobWatcher(run, console) for run in runs]
    codes = [0]
    failed: list[ImagebeamError] = []
    while True:
        for each in list(followed):
            try:
                summary = each.step()
            except ImagebeamError as error:
                failed.append(error)
                followed.remove(each)
                continue
            if summary is not None:
                codes.append(tell(summary, each.run, as_document=bool(given.get("json"))))
                followed.remove(each)
        if not followed or given.get("no_wait"):
            break
        time.sleep(poll_s)
    for more in failed[1:]:
        console.warn(str(more))
    if failed:
        raise failed[0]
    return max(codes)


def _cancel(runs: Sequence[BatchRun], given: Mapping[str, Any]) -> int:
    if "run_id" not in given:
        raise UserError(
            f"batch cancel needs --run_id; open are {', '.join(run.run.run_id for run in runs)}: what is finished is "
            "kept and paid, the rest stays due"
        )
    for run in runs:
        if read_json(run.run.summary_path) is not None:
            raise UserError(f"run {run.run.run_id} has ended: there is nothing to cancel")
        batch_state.cancel(run)
    return _collect(runs, given)


#: The commands, by name.
COMMANDS: Mapping[str, Callable[[Sequence[BatchRun], Mapping[str, Any]], int]] = {
    "status": _status,
    "collect": _collect,
    "cancel": _cancel,
}


def jobs_of(run: BatchRun) -> BatchJobs:
    """The batch jobs where the run's are."""
    call_settings = run.run.engine.call_settings
    return BatchJobs(call_settings.project, call_settings.location)


class JobWatcher:
    """Ticks a run again and again, and says what has changed.

    Args:
        run: The run.
        console: Where to print.
    """

    def __init__(self, run: BatchRun, console: Console) -> None:
        self.run = run
        self._jobs = jobs_of(run)
        self._console = console
        self._told: list[str] = []

    def step(self) -> Mapping[str, Any] | None:
        """One tick; the run's summary, or None while it is open.

        Raises:
            ImagebeamError: It cannot go on; it stays open.
        """
        run = self.run
        try:
            status = supervisor.tick(run, self._jobs)
        except UncertainError as error:
            # A job may take days, and the service may be away for an hour of them.
            status = Status(run.run.run_id, busy=f"the service does not answer, asked again later: {error}")
        except (
            api_errors.ServerError,
            api_errors.TooManyRequests,
            ConnectionError,
            requests.RequestException,
        ) as error:
            status = Status(run.run.run_id, busy=f"tried again later: {first_line(error)}")
        except (SystemicError, UserError, api_errors.GoogleAPIError) as error:
            kind = UserError if isinstance(error, UserError) else SystemicError
            raise kind(
                f"{first_line(error, 1000)}; run {run.run.run_id} stays open and loses nothing: mend it, then "
                f"`imagebeam batch collect --work_dir={_work_dir(run)}`"
            ) from error
        # Times alone are no news: a job may wait for days.
        news = lines(status, times=False)
        if news != self._told:
            for text in lines(status):
                self._console.status(text)
            self._told = news
        return status.summary


def follow(run: BatchRun, console: Console, *, poll_s: float, wait: bool) -> Mapping[str, Any] | None:
    """Ticks a run until its end; its summary, or None if it is left open.

    Args:
        run: The run.
        console: Where to print.
        poll_s: Seconds between two ticks.
        wait: False for a single tick.
    """
    following = JobWatcher(run, console)
    while (summary := following.step()) is None and wait:
        time.sleep(poll_s)
    return summary


def tell(summary: Mapping[str, Any], run: BatchRun, *, as_document: bool) -> int:
    """Prints the end of a run; its exit code."""
    took_s = run.age_s(datetime.datetime.now(datetime.UTC))
    report.tell(summary, run.run.outcomes, took_s=took_s, as_document=as_document)
    return exit_code(summary, run.max_failure_percent)


def lines(status: Status, *, times: bool = True) -> list[str]:
    """Where a run is, a line each: the run, then its jobs; without their ages on wish."""
    if status.busy:
        return [f"run {status.run_id}: {status.busy}"]
    now = datetime.datetime.now(datetime.UTC) if times else None
    shown = [f"run      {status.run_id}, round {status.round}: {len(status.jobs)} jobs"]
    shown += [f"job      {_job_line(view, now)}" for view in status.jobs]
    return shown


def _job_line(view: JobView, now: datetime.datetime | None) -> str:
    parts = [f"{view.shard.display_name}  {view.phase:<11}", f"{view.shard.lines:>9,} units"]
    found, job = view.collected, view.job
    if found is not None:
        again = sum(found.again.values())
        parts.append(f"{found.ok:,} OK, {sum(found.failed.values()):,} failed, {again:,} without an answer")
        parts.append(f"${found.cost_usd:,.4f}")
        odd = (("duplicated", found.duplicates), ("of no unit", found.unmatched), ("found by image", found.by_uri))
        parts += [f"{count:,} lines {word}" for word, count in odd if count]
        if found.told_ok is not None and found.told_ok + (found.told_failed or 0) > found.lines:
            parts.append(
                f"the service counts {found.told_ok + (found.told_failed or 0):,} rows, its files {found.lines:,}"
            )
    elif job is not None:
        age = job.age_s(now) if now is not None else None
        if age is not None:
            parts.append(format_duration(age - age % 10))
        if job.successful is not None:
            parts.append(f"{job.successful:,} rows done")
    if view.note:
        parts.append(view.note)
    return "  ".join(parts)


def as_json(status: Status) -> dict[str, Any]:
    """Where a run is, as plain JSON values."""
    return {
        "run_id": status.run_id,
        "round": status.round,
        "jobs": [
            {
                "name": view.shard.display_name,
                "round": view.shard.round,
                "units": view.shard.lines,
                "phase": view.phase,
                "job": view.job.name if view.job else None,
                "state": view.job.state if view.job else None,
                "collected": None if view.collected is None else _plain(dataclasses.asdict(view.collected)),
                "note": view.note,
            }
            for view in status.jobs
        ],
    }


def _plain(document: Mapping[str, Any]) -> dict[str, Any]:
    return {**document, "cost_usd": str(document["cost_usd"])}


def _work_dir(run: BatchRun) -> str:
    return run.run.directory.rpartition(f"/{batch_state.RUNS}/")[0]


def _help(columns: int) -> str:
    text = [
        "imagebeam batch: the jobs of runs with --lane=batch",
        "",
        "Usage: imagebeam batch status|collect|cancel [--flag=value …]",
        "",
        "  status   where every job is; does nothing",
        "  collect  does what can be done: creates, reads, asks again; until all is done, or once with --no_wait",
        "  cancel   cancels the jobs of --run_id; what is finished is kept, the rest stays due",
        *help_text.flags_help(BATCH, columns),
    ]
    return "\n".join(text) + "\n"
