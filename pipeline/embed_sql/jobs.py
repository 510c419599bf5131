"""Run one statement as one named BigQuery job, so that no statement runs twice.

A job's name consists of what the job does and of twelve random digits of its run, never of a name that a user chose. A
failed job keeps its name, so the next attempt gets the next number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import google.api_core.exceptions as api_errors
from google.cloud import bigquery

from imagebeam.pipeline.embed_sql.ddl import Connection
from imagebeam.transforms.clients.bigquery import BigQueryClient, build_job_config
from imagebeam.transforms.clients.bigquery_errors import NO_RETRY
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.clients.rest import ApiError, RestClient, service_url
from imagebeam.transforms.core.errors import SystemicError, UserError, first_line
from imagebeam.transforms.core.query import Query

TRIES = 8
#: Longest pause between two polls of a job, and between two attempts, in seconds.
POLL_S, PAUSE_S = 5.0, 60.0
TIMEOUT_S = 60.0
DEFAULT_CONNECTION = "__default_cloudresource_connection__"
#: Error reasons of BigQuery ("Error messages") after which a retry can succeed.
_RETRYABLE = frozenset(
    (
        "backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded",
        "quotaExceeded", "rateLimitExceeded", "tableUnavailable",
    )
)  # fmt: skip

#: Called again and again while something is in progress; what it raises ends the wait, not the job.
KeepAlive = Callable[[], None]


class StatementError(Exception):
    """BigQuery rejects a statement, and a retry cannot help. The message is BigQuery's."""


def run_job(
    bq: BigQueryClient,
    query: Query,
    name: str,
    *,
    location: str,
    labels: Mapping[str, str],
    keep_alive: KeepAlive,
) -> bigquery.QueryJob:
    """Run a statement, or wait for the job of that name that another process has started.

    Args:
        bq: BigQuery client.
        query: The statement.
        name: Name of the job, without the number of the attempt.
        location: Location of the job.
        labels: Billing labels.
        keep_alive: Called while the job runs.

    Raises:
        StatementError: BigQuery rejects the statement.
        SystemicError: BigQuery cannot be used.
    """
    pause, last = 1.0, ""
    for attempt in range(TRIES):
        job = _start(bq, query, f"{name}-{attempt}", location, labels)
        if isinstance(job, str):
            last = job
        else:
            wait_for_job(job, keep_alive)
            if job.error_result is None:
                return job
            last = str(job.error_result.get("message") or job.error_result.get("reason"))
            if job.error_result.get("reason") not in _RETRYABLE:
                raise StatementError(first_line(last))
        _pause(pause, keep_alive)
        pause = min(2 * pause, PAUSE_S)
    raise SystemicError(f"a BigQuery job failed {TRIES} times, most recently with: {first_line(last)}")


def find_jobs(bq: BigQueryClient, name: str, *, location: str) -> list[bigquery.QueryJob]:
    """Return the attempts of a job, in order; none if it was never started."""
    found: list[bigquery.QueryJob] = []
    for attempt in range(TRIES):
        try:
            job: Any = bq.client.get_job(f"{name}-{attempt}", location=location)
        except api_errors.NotFound:
            break
        except (api_errors.GoogleAPIError, OSError) as error:
            raise SystemicError(f"reading job {name}: {first_line(error)}") from None
        found.append(job)
    return found


def wait_for_job(job: bigquery.QueryJob, keep_alive: KeepAlive) -> None:
    """Wait until a job has succeeded or failed."""
    pause = 0.05
    while True:
        try:
            if job.done(timeout=TIMEOUT_S):
                return
        except (api_errors.GoogleAPIError, OSError) as error:
            raise SystemicError(f"waiting for job {job.job_id}: {first_line(error)}") from None
        _pause(pause, keep_alive)
        pause = min(1.5 * pause, POLL_S)


def connection_account(connection: Connection | None, project: str, location: str) -> tuple[str, str] | None:
    """Return the service account of a connection and the number of its project; None if they cannot be read."""
    resolved = connection or Connection(project, location.lower(), DEFAULT_CONNECTION)
    path = f"projects/{resolved.project}/locations/{resolved.location}/connections/{resolved.name}"
    try:
        document = RestClient(f"{service_url('bigqueryconnection')}/v1", find_credentials()).call("GET", path)
    except (ApiError, UserError):
        return None
    account = document.get("cloudResource", {}).get("serviceAccountId")
    parts = str(document.get("name", "")).split("/")
    return (str(account), parts[1] if len(parts) > 1 else "") if account else None


def _start(
    bq: BigQueryClient, query: Query, job_id: str, location: str, labels: Mapping[str, str]
) -> bigquery.QueryJob | str:
    """Return the job, started now or earlier; the error message if it could not be started but a retry may help."""
    config = build_job_config(query.parameters)
    config.labels = dict(labels)
    try:
        return bq.client.query(
            query.sql, job_config=config, job_id=job_id, location=location, job_retry=None, retry=NO_RETRY
        )
    except api_errors.Conflict:
        job: Any = bq.client.get_job(job_id, location=location)
        return job  # type: ignore[no-any-return]
    except (api_errors.BadRequest, api_errors.NotFound, api_errors.Forbidden, api_errors.MethodNotImplemented) as error:
        if any(entry.get("reason") in _RETRYABLE for entry in error.errors):
            return str(error.message)
        raise StatementError(first_line(error)) from None
    except (api_errors.GoogleAPIError, OSError) as error:
        return str(error)


def _pause(seconds: float, keep_alive: KeepAlive) -> None:
    until = time.monotonic() + seconds
    while True:
        keep_alive()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 1.0))
