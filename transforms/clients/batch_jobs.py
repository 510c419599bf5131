"""Client for Vertex AI batch prediction jobs.

Jobs are created and canceled with google-genai, and read over REST: google-genai 2.34 cannot parse a job whose error
has details. Only reads are retried, because a repeated create could start, and bill, a second job.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import google.auth
import google.auth.exceptions
import pydantic
from google import genai
from google.genai import errors, types

from imagebeam.transforms.clients.credentials import SCOPES
from imagebeam.transforms.clients.rest import ApiError, RestClient
from imagebeam.transforms.clients.vertex import API_VERSION, endpoint, error_body
from imagebeam.transforms.gemini.error_classes import FailureKind, classify_exception, classify_http
from imagebeam.transforms.gemini.job_states import BatchJob, parse_job

TIMEOUT_S = 120.0


class UncertainError(Exception):
    """A call failed, and it is unknown whether it took effect; the list of jobs shows whether it did."""


class NotCreatedError(Exception):
    """No job was created; a later attempt may succeed."""


class BatchJobs:
    """The batch jobs of one project at one location.

    Args:
        project: Project that is billed.
        location: ``global``, ``us``, ``eu`` or a region.

    Raises:
        ApiError: There are no valid credentials.
    """

    def __init__(self, project: str, location: str) -> None:
        self._jobs_path = f"projects/{project}/locations/{location}/batchPredictionJobs"
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
            raise ApiError("batch jobs", classify_exception(error)) from None
        self._rest = RestClient(f"{endpoint(location).rstrip('/')}/{API_VERSION}", credentials, timeout_s=TIMEOUT_S)

    def create(
        self, display_name: str, model: str, *, source: str, destination: str, labels: Mapping[str, str]
    ) -> BatchJob:
        """Create a job.

        Args:
            display_name: Display name; Vertex AI does not require it to be unique.
            model: Model id, or resource name of a tuned model.
            source: ``gs://`` file or ``bq://`` table with the requests.
            destination: ``gs://`` prefix or ``bq://`` table for the answers.
            labels: Billing labels.

        Raises:
            UncertainError: The job may or may not have been created.
            NotCreatedError: The job was not created; a later attempt may succeed.
            ApiError: The job was not created, and a retry cannot help.
        """
        operation = f"creating batch job {display_name}"
        config = types.CreateBatchJobConfig(
            display_name=display_name,
            dest=destination,
            http_options=types.HttpOptions(extra_body={"labels": dict(labels)}),
        )
        try:
            made = self._genai.batches.create(model=model, src=source, config=config)
        except pydantic.ValidationError as error:
            invalid = f"{error.error_count()} invalid fields"
            raise UncertainError(f"the job was created, but the response cannot be parsed ({invalid})") from None
        except errors.APIError as error:
            failure = classify_http(error.code, error_body(error), {})
            if failure.kind is FailureKind.THROTTLED:
                raise NotCreatedError(f"{failure.reason}: {failure.message}") from None
            if failure.kind is FailureKind.TRANSIENT:
                raise UncertainError(f"{failure.reason}: {failure.message}") from None
            raise ApiError(operation, failure, status=error.code, body=error_body(error)) from None
        except Exception as error:
            failure = classify_exception(error)
            if failure.kind is FailureKind.RUN:
                raise ApiError(operation, failure) from None
            raise UncertainError(f"{failure.reason}: {failure.message}") from None
        return BatchJob(
            name=made.name or "",
            display_name=made.display_name or display_name,
            state=made.state.value if made.state else "",
            created=made.create_time,
        )

    def get(self, name: str) -> BatchJob | None:
        """Return a job by its resource name; None if it does not exist.

        Raises:
            UncertainError: The service does not respond.
            ApiError: The service rejects the call.
        """
        try:
            path = f"{self._jobs_path}/{name.rpartition('/')[2]}"
            return parse_job(self._rest.call("GET", path, operation=f"reading batch job {name}"))
        except ApiError as error:
            if error.status == 404:
                return None
            raise _uncertain_if_transient(error) from None

    def named(self, prefix: str) -> list[BatchJob]:
        """Return all jobs whose display names start with a prefix, oldest first.

        Raises:
            UncertainError: The service does not respond.
            ApiError: The service rejects the call. That includes 404: with an empty list instead, every job would be
                created again.
        """
        return [job for job in self._list(f'displayName:"{prefix}*"') if job.display_name.startswith(prefix)]

    def labeled(self, label: str, value: str) -> list[BatchJob]:
        """Return all jobs with a label, oldest first; raise errors as :meth:`named`."""
        return [job for job in self._list(f'labels.{label}="{value}"') if job.labels.get(label) == value]

    def _list(self, wanted: str) -> list[BatchJob]:
        try:
            items = self._rest.list_items(
                self._jobs_path,
                "batchPredictionJobs",
                params={"filter": wanted},
                operation="listing batch jobs",
            )
            jobs = [parse_job(item) for item in items]
        except ApiError as error:
            raise _uncertain_if_transient(error) from None
        return sorted(
            jobs,
            key=lambda job: (job.created is None, job.created.timestamp() if job.created else 0.0, job.name),
        )

    def delete(self, name: str) -> bool:
        """Delete a job that has ended; its output is kept.

        Returns:
            False if it does not exist.

        Raises:
            UncertainError: The service does not respond.
            ApiError: The service rejects the call, as it does for a job that has not ended.
        """
        try:
            path = f"{self._jobs_path}/{name.rpartition('/')[2]}"
            self._rest.call("DELETE", path, operation=f"deleting batch job {name}")
        except ApiError as error:
            if error.status == 404:
                return False
            raise _uncertain_if_transient(error) from None
        return True

    def cancel(self, name: str) -> None:
        """Request the cancellation of a job; a job that has ended is not changed."""
        # After a failure, the next poll finds the job still active and cancels it again.
        with contextlib.suppress(Exception):
            self._genai.batches.cancel(name=name)


def _uncertain_if_transient(error: ApiError) -> Exception:
    return UncertainError(str(error)) if error.retryable else error
