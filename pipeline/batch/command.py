"""``imagebeam batch status|collect|cancel``.

All state is in the work directory, so that a person, a cron job or a Cloud Run job can run these commands from any
machine and at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google.api_core.exceptions as api_errors
import requests
from google.auth.exceptions import GoogleAuthError, TransportError

from imagebeam.pipeline.batch import state as batch_state
from imagebeam.pipeline.batch import supervisor
from imagebeam.pipeline.batch.follow import follow
from imagebeam.pipeline.batch.settings import BATCH
from imagebeam.pipeline.batch.state import BatchRun
from imagebeam.pipeline.batch.status import format_status, status_to_json
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.run.draining import draining_on_signals
from imagebeam.pipeline.run.launch import read_json
from imagebeam.pipeline.run.settings import merge_layers, work_directory
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.batch_jobs import UncertainError
from imagebeam.transforms.clients.credentials import find_credentials, missing_credentials
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError, first_line


def run(name: str, line: FlagValues, *, cwd: Path) -> int:
    """Run ``imagebeam batch status``, ``collect`` or ``cancel``.

    Args:
        name: ``status``, ``collect`` or ``cancel``.
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.

    Raises:
        UserError: Invalid flag or unknown run.
        SystemicError: A service is not available; the runs are unchanged.
    """
    given = merge_layers(line, BATCH, cwd=cwd)
    work_dir = work_directory(str(given.get(BATCH["work_dir"])), cwd)
    if not storage.is_local(work_dir):
        find_credentials()
    try:
        runs = _runs(work_dir, given.get(BATCH["run_id"]))
        if not runs:
            Console().print(f"no open batch runs in {work_dir}")
            return 0
        with draining_on_signals(lambda _reason: None):  # the jobs continue without this process
            return COMMANDS[name](runs, {setting.name: given.get(setting) for setting in BATCH.values()})
    except (GoogleAuthError, api_errors.RetryError, requests.RequestException) as error:
        raise storage_error(error, work_dir) from None


def _runs(work_dir: str, run_id: str | None) -> list[BatchRun]:
    """Load the named run, or all open runs."""
    try:
        names = [run_id] if run_id else batch_state.list_run_ids(work_dir)
        return [batch_state.load_run(work_dir, name) for name in names]
    except (api_errors.NotFound, api_errors.Forbidden) as error:
        raise UserError(f"--work_dir={work_dir} cannot be read: {first_line(error)}") from None


def storage_error(error: Exception, work_dir: str) -> ImagebeamError:
    """Return the error for a work directory that cannot be read: invalid credentials, or a network failure."""
    if isinstance(error, GoogleAuthError) and not (isinstance(error, TransportError) or error.retryable):
        return missing_credentials(error)
    cause = error.cause if isinstance(error, api_errors.RetryError) else error
    return SystemicError(
        f"Cloud Storage does not respond ({type(cause).__name__}); nothing is lost in {work_dir}, try again later"
    )


def _status(runs: Sequence[BatchRun], given: Mapping[str, Any]) -> int:
    try:
        found = [
            supervisor.read_status(run, batch_state.newest_round(run), supervisor.jobs_client(run)) for run in runs
        ]
    except UncertainError as error:
        raise SystemicError(f"Vertex AI does not respond, try again later: {error}") from None
    if given["json"]:
        Console().print_json([status_to_json(status) for status in found])
    else:
        Console().print(*(line for status in found for line in format_status(status)))
    return 0


def _collect(runs: Sequence[BatchRun], given: Mapping[str, Any]) -> int:
    wait, poll_s = not given["no_wait"], given["batch_poll_s"]
    return follow(runs, Console(), poll_s=poll_s, wait=wait, as_json=given["json"]) or 0


def _cancel(runs: Sequence[BatchRun], given: Mapping[str, Any]) -> int:
    if given["run_id"] is None:
        raise UserError(
            f"batch cancel needs --run_id; open runs: {', '.join(run.run.run_id for run in runs)}. Finished rows are "
            "kept and billed; the other units can be processed by another run"
        )
    for run in runs:
        if read_json(run.run.summary_path) is not None:
            raise UserError(f"run {run.run.run_id} has already ended")
        batch_state.cancel(run)
    return _collect(runs, given)


#: Subcommands by name.
COMMANDS: Mapping[str, Callable[[Sequence[BatchRun], Mapping[str, Any]], int]] = {
    "status": _status,
    "collect": _collect,
    "cancel": _cancel,
}
