"""Client for Google REST APIs that no installed client library covers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

import google.auth.transport.requests
import orjson
import tenacity

from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.records import Status
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind, classify_exception, classify_http

TIMEOUT_S: Final = 60.0
TRIES: Final = 5
PAGE_SIZE: Final = 100
#: Services that a local BigQuery serves at its own address.
_BIGQUERY_FAMILY: Final = frozenset({"analyticshub", "bigqueryconnection"})


class ApiError(SystemicError):
    """A call that a Google API rejected or did not respond to.

    Attributes:
        status: HTTP status of the response; 0 if there is none.
        reason: Google's reason, such as ``SERVICE_DISABLED``, or one of imagebeam, such as ``TIMEOUT``.
        message: Error message of the service, on one line.
        body: Google's error document; empty if there is none.
        retryable: Whether a later call may succeed.
    """

    def __init__(
        self, operation: str, failure: Failure | None = None, *, status: int = 0, body: bytes | str = b""
    ) -> None:
        # Beam recreates the error of a failed step from its message alone.
        super().__init__(operation if failure is None else f"{operation}: {failure.reason}: {failure.message}")
        self.status = status
        self.reason = failure.reason if failure else ""
        self.message = failure.message if failure else operation
        self.body = body
        self.retryable = failure is not None and failure.kind in (FailureKind.TRANSIENT, FailureKind.THROTTLED)

    @classmethod
    def from_response(cls, operation: str, status: int, body: bytes | str, headers: Mapping[str, str]) -> ApiError:
        """Return the error for an HTTP response other than 200."""
        return cls(operation, classify_http(status, body, headers), status=status, body=body)

    @property
    def is_rejection(self) -> bool:
        """Whether the service rejected the call itself, rather than the credentials or all calls at this time."""
        return self.status not in (0, 401) and not self.retryable


class RestClient:
    """Client of a Google API with JSON requests; retries transient errors.

    Args:
        base_url: Base URL with the API version, such as ``https://analyticshub.googleapis.com/v1``.
        credentials: Credentials of google-auth.
        timeout_s: Timeout of a request, in seconds.
    """

    def __init__(self, base_url: str, credentials: Any, *, timeout_s: float = TIMEOUT_S) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = google.auth.transport.requests.AuthorizedSession(credentials, max_refresh_attempts=2)
        self._timeout_s = timeout_s

    @tenacity.retry(
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=20),
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, ApiError) and error.retryable),
        reraise=True,
    )
    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        operation: str = "",
    ) -> dict[str, Any]:
        """Call a method of the API.

        Args:
            method: HTTP method.
            path: Path below the base URL.
            params: Query parameters.
            body: JSON body.
            operation: Name of the operation in error messages; default is method and path.

        Returns:
            The JSON response.

        Raises:
            ApiError: The service rejects the call, or transient errors outlast the retries.
        """
        operation = operation or f"{method} {path}"
        try:
            answer = self._session.request(
                method, f"{self._base_url}/{path}", json=body, params=params, timeout=self._timeout_s
            )
        except Exception as error:
            raise ApiError(operation, classify_exception(error)) from error
        if answer.status_code != 200:
            raise ApiError.from_response(operation, answer.status_code, answer.content, answer.headers)
        try:
            document = orjson.loads(answer.content or b"{}")
        except orjson.JSONDecodeError:
            invalid = Failure(FailureKind.TRANSIENT, Status.UNAVAILABLE, "GARBAGE", "the response is not valid JSON")
            raise ApiError(operation, invalid, status=200) from None
        return document if isinstance(document, dict) else {}

    def list_items(
        self, path: str, key: str, *, params: Mapping[str, str] | None = None, operation: str = ""
    ) -> Iterator[dict[str, Any]]:
        """Yield the items of a collection, page by page.

        Args:
            path: Path of the collection.
            key: Field of the response with the items.
            params: Query parameters, such as a filter.
            operation: Name of the operation in error messages.

        Raises:
            ApiError: As :meth:`call`.
        """
        query = {**(params or {}), "pageSize": str(PAGE_SIZE)}
        while True:
            answer = self.call("GET", path, params=query, operation=operation)
            items = answer.get(key)
            yield from (item for item in (items if isinstance(items, list) else ()) if isinstance(item, dict))
            if not answer.get("nextPageToken"):
                return
            query = {**query, "pageToken": str(answer["nextPageToken"])}


def service_url(service: str) -> str:
    """Return the base URL of a Google API, or the one set in the environment.

    Args:
        service: Short name of the service, such as ``iamcredentials``. The environment variable is the one that gcloud
            reads, ``CLOUDSDK_API_ENDPOINT_OVERRIDES_<SERVICE>``.
    """
    override = os.environ.get(f"CLOUDSDK_API_ENDPOINT_OVERRIDES_{service.upper()}")
    if not override and service in _BIGQUERY_FAMILY:
        override = os.environ.get("BIGQUERY_EMULATOR_HOST")
    return (override or f"https://{service}.googleapis.com").rstrip("/")
