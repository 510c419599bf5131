"""Batch jobs of Vertex AI: created and cancelled with google-genai, looked at over REST.

google-genai 2.34 cannot read a job whose error has details (they are objects, it expects text), so get and
list are plain requests with the same credentials. Nothing is retried here but reading: who creates twice
pays twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import orjson
import pydantic
import tenacity
from google import genai
from google.genai import errors, types

from imagebeam.transforms.clients.credentials import SCOPES
from imagebeam.transforms.clients.vertex import API_VERSION, HttpAnswer, endpoint
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.gemini.error_classes import Failure, Kind, classify_exception, classify_http
from imagebeam.transforms.gemini.job_states import BatchJob, parse_job

TIMEOUT_S = 120.0
PAGE_JOBS = 100
_READ_TRIES = 6


class UncertainError(Exception):
    """A call may have done what it should, or not; the list of jobs will tell."""


class NotCreatedError(Exception):
    """No job was created; a later try may do better."""


class BatchJobs:
    """The batch jobs of one project at one location.

    Args:
        project: Project that pays.
        location: ``global``, ``us``, ``eu`` or a region.
    """

    def __init__(self, project: str, location: str) -> None:
        self._parent = f"projects/{project}/locations/{location}"
        self._base = f"{endpoint(location).rstrip('/')}/{API_VERSION}"
        self._genai = genai.Client(
            vertexai=True,
            project=project,
            location=location,
            http_options=types.HttpOptions(
                api_version=API_VERSION,
                timeout=int(TIMEOUT_S * 1000),
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )
        try:
            credentials, _ = google.auth.default(scopes=SCOPES)
        except google.auth.exceptions.GoogleAuthError as error:
            raise _stopped(classify_exception(error), "batch jobs") from None
        self._session = google.auth.transport.requests.AuthorizedSession(credentials, max_refresh_attempts=2)

    def create(
        self, display_name: str, model: str, *, source: str, destination: str, labels: Mapping[str, str]
    ) -> BatchJob:
        """Creates a job.

        Args:
            display_name: What it is called; not unique for the service.
            model: Model id, or a tuned model's resource name.
            source: ``gs://`` file or ``bq://`` table of its requests.
            destination: ``gs://`` prefix or ``bq://`` table of its answers.
            labels: Billing labels.

        Raises:
            UncertainError: It may have been created, or not.
            NotCreatedError: It was not, for a reason that passes.
            SystemicError: It was not, and trying again helps nothing.
        """
        config = types.CreateBatchJobConfig(
            display_name=display_name,
            dest=destination,
            http_options=types.HttpOptions(extra_body={"labels": dict(labels)}),
        )
        try:
            made = self._genai.batches.create(model=model, src=source, config=config)
        except pydantic.ValidationError as error:
            raise UncertainError(f"created, but the answer cannot be read: {error.error_count()} fields") from None
        except errors.APIError as error:
            failure = classify_http(error.code, _body(error), {})
            if failure.kind is Kind.THROTTLED:
                raise NotCreatedError(f"{failure.reason}: {failure.message}") from None
            if failure.kind is Kind.TRANSIENT:
                raise UncertainError(f"{failure.reason}: {failure.message}") from None
            raise _stopped(failure, f"creating batch job {display_name}") from None
        except Exception as error:
            failure = classify_exception(error)
            if failure.kind is Kind.FATAL:
                raise _stopped(failure, f"creating batch job {display_name}") from None
            raise UncertainError(f"{failure.reason}: {failure.message}") from None
        return BatchJob(
            name=made.name or "",
            display_name=made.display_name or display_name,
            state=made.state.value if made.state else "",
            created=made.create_time,
        )

    def get(self, name: str) -> BatchJob | None:
        """A job by its resource name; None if there is none (any more).

        Raises:
            UncertainError: The service does not answer.
            SystemicError: It refuses to.
        """
        answer = self._read(f"{self._parent}/batchPredictionJobs/{name.rpartition('/')[2]}", {}, f"batch job {name}")
        return None if answer is None else parse_job(answer)

    def named(self, prefix: str) -> list[BatchJob]:
        """All jobs whose display names begin so, the oldest first; raises as :meth:`get`."""
        found: list[BatchJob] = []
        token = ""
        while True:
            parameters = {"filter": f'displayName:"{prefix}*"', "pageSize": str(PAGE_JOBS)}
            if token:
                parameters["pageToken"] = token
            answer = self._read(f"{self._parent}/batchPredictionJobs", parameters, "the list of batch jobs")
            if answer is None:  # an empty list would let every job be created again
                raise SystemicError(f"there is no list of batch jobs at {self._parent}: HTTP 404")
            jobs = answer.get("batchPredictionJobs")
            found += [parse_job(job) for job in (jobs if isinstance(jobs, list) else [])]
            token = str(answer.get("nextPageToken") or "")
            if not token:
                break
        return sorted(
            (job for job in found if job.display_name.startswith(prefix)),
            key=lambda job: (job.created is None, job.created.timestamp() if job.created else 0.0, job.name),
        )

    def cancel(self, name: str) -> None:
        """Asks for a job to be cancelled; one that has ended is left alone."""
        # Whatever went wrong is seen at the next look: the job is still there, and is cancelled again.
        with contextlib.suppress(Exception):
            self._genai.batches.cancel(name=name)

    def _read(self, path: str, parameters: Mapping[str, str], what: str) -> dict[str, Any] | None:
        failure: Failure | None = None
        for attempt in _patiently():
            with attempt:
                try:
                    answer = self._session.get(f"{self._base}/{path}", params=dict(parameters), timeout=TIMEOUT_S)
                except Exception as error:
                    failure = classify_exception(error)
                else:
                    if answer.status_code == 404:
                        return None
                    if answer.status_code == 200:
                        with contextlib.suppress(orjson.JSONDecodeError):
                            document = orjson.loads(answer.content)
                            if isinstance(document, dict):
                                return document
                        http = HttpAnswer(503, "an answer that is no JSON", {})
                    else:
                        http = HttpAnswer(answer.status_code, answer.content, {})
                    failure = classify_http(http.code, http.body, http.headers)
                if failure.kind in (Kind.TRANSIENT, Kind.THROTTLED):
                    raise UncertainError(failure.message)
        if failure is None or failure.kind in (Kind.TRANSIENT, Kind.THROTTLED):
            raise UncertainError(f"{what}: {failure.message if failure else 'no answer'}")
        raise _stopped(failure, what)


def _patiently() -> Iterator[tenacity.AttemptManager]:
    """Tries again while it is uncertain, and ends quietly."""
    return iter(
        tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_READ_TRIES),
            wait=tenacity.wait_random_exponential(multiplier=0.5, max=20),
            retry=tenacity.retry_if_exception_type(UncertainError),
            retry_error_callback=lambda _: None,
        )
    )


def _stopped(failure: Failure, doing: str) -> SystemicError:
    return SystemicError(f"{doing}: {failure.reason}: {failure.message}")


def _body(error: errors.APIError) -> bytes | str:
    return orjson.dumps(error.details) if isinstance(error.details, dict | list) else str(error.message or "")
