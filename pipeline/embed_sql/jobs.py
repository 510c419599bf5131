"""Runs one statement as one BigQuery job that has a name, so that the same statement is never run twice.

A job's name is made of what it does and of twelve random digits that its run drew, never of a name that a
person chose. A job that failed keeps its name, so the next attempt gets the next number.
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
#: Longest pause between two looks at a job, and between two attempts, in seconds.
LOOK_S, PAUSE_S = 5.0, 60.0
TIMEOUT_S = 60.0
DEFAULT_CONNECTION = "__default_cloudresource_connection__"
#: Reasons of BigQuery ("Error messages") after which the same statement may work a little later.
_PASSING = frozenset(
    (
        "backendError", "internalError", "jobBackendError", "jobInternalError", "jobRateLimitExceeded",
        "quotaExceeded", "rateLimitExceeded", "tableUnavailable",
    )
)  # fmt: skip

Tick = Callable[[], None]


class RefusedError(Exception):
    """BigQuery does not take the statement; trying again would not help. The message is BigQuery's."""


def run_job(
    bq: BigQueryClient,
    query: Query,
    name: str,
    *,
    location: str,
    labels: Mapping[str, str],
    tick: Tick,
) -> bigquery.QueryJob:
    """Runs a statement, or waits for the job of that name that another process has started.

    Args:
        bq: BigQuery client.
        query: The statement.
        name: Name of the job, without the number of the attempt.
        location: Where it runs.
        labels: Billing labels.
        tick: Called while waiting; what it raises ends the waiting, not the job.

    Raises:
        RefusedError: The statement is refused.
        SystemicError: BigQuery cannot be used.
    """
    pause, last = 1.0, ""
    for attempt in range(TRIES):
        job = _begin(bq, query, f"{name}-{attempt}", location, labels)
        if isinstance(job, str):
            last = job
        else:
            wait_for(job, tick)
            if job.error_result is None:
                return job
            last = str(job.error_result.get("message") or job.error_result.get("reason"))
            if job.error_result.get("reason") not in _PASSING:
                raise RefusedError(first_line(last))
        _rest(pause, tick)
        pause = min(2 * pause, PAUSE_S)
    raise SystemicError(f"a job of BigQuery failed {TRIES} times, the last time with: {first_line(last)}")


def find_jobs(bq: BigQueryClient, name: str, *, location: str) -> list[bigquery.QueryJob]:
    """The attempts of a job, the first one first; none when it was never begun."""
    found: list[bigquery.QueryJob] = []
    for attempt in range(TRIES):
        try:
            job: Any = bq.client.get_job(f"{name}-{attempt}", location=location)
        except api_errors.NotFound:
            break
        except (api_errors.GoogleAPIError, OSError) as error:
            raise SystemicError(f"looking for job {name}: {first_line(error)}") from None
        found.append(job)
    return found


def wait_for(job: bigquery.QueryJob, tick: Tick) -> None:
    """Waits for the end of a job, whatever it is."""
    pause = 0.05
    while True:
        try:
            if job.done(timeout=TIMEOUT_S):
                return
        except (api_errors.GoogleAPIError, OSError) as error:
            raise SystemicError(f"waiting for job {job.job_id}: {first_line(error)}") from None
        _rest(pause, tick)
        pause = min(1.5 * pause, LOOK_S)


def connection_account(connection: Connection | None, project: str, location: str) -> tuple[str, str] | None:
    """The service account of a connection and the number of its project; None when they cannot be read."""
    place = connection or Connection(project, location.lower(), DEFAULT_CONNECTION)
    path = f"projects/{place.project}/locations/{place.location}/connections/{place.name}"
    try:
        document = RestClient(f"{service_url('bigqueryconnection')}/v1", find_credentials()).call("GET", path)
    except (ApiError, UserError):
        return None
    account = document.get("cloudResource", {}).get("serviceAccountId")
    parts = str(document.get("name", "")).split("/")
    return (str(account), parts[1] if len(parts) > 1 else "") if account else None


def _begin(
    bq: BigQueryClient, query: Query, job_id: str, location: str, labels: Mapping[str, str]
) -> bigquery.QueryJob | str:
    """The job, begun now or before; a text when that could not be done for a reason that passes."""
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
        if any(entry.get("reason") in _PASSING for entry in error.errors):
            return str(error.message)
        raise RefusedError(first_line(error)) from None
    except (api_errors.GoogleAPIError, OSError) as error:
        return str(error)


def _rest(seconds: float, tick: Tick) -> None:
    until = time.monotonic() + seconds
    while True:
        tick()
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 1.0))
