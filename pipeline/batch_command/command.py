"""``imagebeam batch run|status|collect|cancel|list|delete``.

All state is in the work directory, so that a person, a cron job or a Cloud Run job can run these commands from any
machine and at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google.api_core.exceptions as api_errors
import requests
from google.auth.exceptions import GoogleAuthError, TransportError

from imagebeam.pipeline.batch.follow import follow
from imagebeam.pipeline.batch_command import runs as batch_runs
from imagebeam.pipeline.batch_command.runs import Run
from imagebeam.pipeline.batch_command.settings import BATCH, DELETE, LIST
from imagebeam.pipeline.batch_input import command as input_command
from imagebeam.pipeline.batch_input.settings import InputSettings
from imagebeam.pipeline.console import report
from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.flags.layers import FlagValues
from imagebeam.pipeline.flags.setting import Flags
from imagebeam.pipeline.run.draining import draining_on_signals
from imagebeam.pipeline.run.settings import merge_layers, work_directory
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.batch_jobs import UncertainError
from imagebeam.transforms.clients.credentials import find_credentials, missing_credentials
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, UserError


def run(name: str, line: FlagValues, *, cwd: Path) -> int:
    """Run ``imagebeam batch status``, ``collect``, ``cancel``, ``list`` or ``delete``.

    Args:
        name: The command.
        line: The command line.
        cwd: Directory that relative paths start from and that may contain ``imagebeam.yaml``.

    Raises:
        UserError: Invalid flag or unknown run.
        SystemicError: A service is not available; the runs are unchanged.
    """
    flags, command = COMMANDS[name]
    given = merge_layers(line, flags, cwd=cwd)
    work_dir = work_directory(str(given.get(flags["work_dir"])), cwd)
    values = {setting.name: given.get(setting) for setting in flags.values()}
    with _storage_errors(work_dir):
        if name == "delete" and values["run_id"] is None:
            raise UserError("batch delete needs --run_id; imagebeam batch list prints the runs")
        found = batch_runs.load_runs(work_dir, values.get("run_id"), ended=name == "list")
        if not found:
            Console().print(f"no {'' if name == 'list' else 'open '}batch runs in {work_dir}")
            return 0
        with draining_on_signals(lambda _reason: None):  # the jobs continue without this process
            return command(found, values)


def run_input(settings: InputSettings) -> int:
    """Run ``imagebeam batch run``.

    Raises:
        UserError: Input, output or model cannot be used, and nothing was created.
        SystemicError: A service is not available.
    """
    find_credentials()
    with _storage_errors(settings.work_dir):
        return input_command.run(settings)


@contextlib.contextmanager
def _storage_errors(work_dir: str) -> Iterator[None]:
    """Raise one-line errors where Cloud Storage cannot be used."""
    if not storage.is_local(work_dir):
        find_credentials()
    try:
        yield
    except (GoogleAuthError, api_errors.RetryError, requests.RequestException) as error:
        raise storage_error(error, work_dir) from None


def storage_error(error: Exception, work_dir: str) -> ImagebeamError:
    """Return the error for a work directory that cannot be read: invalid credentials, or a network failure."""
    if isinstance(error, GoogleAuthError) and not (isinstance(error, TransportError) or error.retryable):
        return missing_credentials(error)
    cause = error.cause if isinstance(error, api_errors.RetryError) else error
    return SystemicError(
        f"Cloud Storage does not respond ({type(cause).__name__}); nothing is lost in {work_dir}, try again later"
    )


def _status(runs: Sequence[Run], given: Mapping[str, Any]) -> int:
    with _vertex_errors():
        found = [batch_runs.read_status(run) for run in runs]
    if given["json"]:
        Console().print_json([document for _, document in found])
    else:
        Console().print(*(line for lines, _ in found for line in lines))
    return 0


def _collect(runs: Sequence[Run], given: Mapping[str, Any]) -> int:
    wait, poll_s = not given["no_wait"], given["batch_poll_s"]
    found = [batch_runs.followed(run) for run in runs]
    return follow(found, Console(), poll_s=poll_s, wait=wait, as_json=given["json"]) or 0


def _cancel(runs: Sequence[Run], given: Mapping[str, Any]) -> int:
    if given["run_id"] is None:
        names = ", ".join(batch_runs.run_id_of(run) for run in runs)
        raise UserError(
            f"batch cancel needs --run_id; open runs: {names}. Finished rows are kept and billed; the other units can "
            "be processed by another run"
        )
    for run in runs:
        if batch_runs.read_summary(run) is not None:
            raise UserError(f"run {batch_runs.run_id_of(run)} has already ended")
        batch_runs.cancel(run)
    code = _collect(runs, given)
    return 0 if code == report.STOP_CODES["interrupted"] else code


def _list(runs: Sequence[Run], given: Mapping[str, Any]) -> int:
    found = [dataclasses.asdict(listed) for listed in batch_runs.list_runs(runs)]
    if given["json"]:
        Console().print_json(found)
    else:
        Console().print_records(found)
    return 0


def _delete(runs: Sequence[Run], given: Mapping[str, Any]) -> int:
    for run in runs:
        with _vertex_errors():
            jobs = batch_runs.delete_jobs(run)
        words = [f"{jobs:,} jobs"] + ([f"{batch_runs.delete_files(run):,} files"] if given["files"] else [])
        Console().print(f"run {batch_runs.run_id_of(run)}: deleted {' and '.join(words)}")
    return 0


@contextlib.contextmanager
def _vertex_errors() -> Iterator[None]:
    try:
        yield
    except UncertainError as error:
        raise SystemicError(f"Vertex AI does not respond, try again later: {error}") from None


#: Subcommands by name: their settings and functions.
COMMANDS: Mapping[str, tuple[Flags, Callable[[Sequence[Run], Mapping[str, Any]], int]]] = {
    "status": (BATCH, _status),
    "collect": (BATCH, _collect),
    "cancel": (BATCH, _cancel),
    "list": (LIST, _list),
    "delete": (DELETE, _delete),
}
