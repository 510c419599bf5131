"""Analytics Hub (BigQuery sharing) over REST: what is shared, and a linked dataset of it.

Version v1 of the API, as Google documents it: data exchanges hold listings; subscribing to a listing makes a linked
dataset, a read-only pointer to the publisher's. The call answers when the dataset is there: no long-running
operation. Plain requests with the usual credentials, because that is one call and a client would be one more
package.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import google.auth
import google.auth.exceptions
import google.auth.transport.requests
import orjson
import requests
import tenacity

from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError
from imagebeam.transforms.gemini.error_classes import Kind, classify_exception, classify_http

TIMEOUT_S = 120.0
PAGE_ITEMS = 100
_TRIES = 5
#: The state of a subscription whose linked dataset can be read.
ACTIVE = "STATE_ACTIVE"


class RefusedError(ImagebeamError):
    """The service refused a call, and will again.

    Attributes:
        code: HTTP status.
        reason: Google's word for it, such as ``SERVICE_DISABLED`` or ``PERMISSION_DENIED``.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class _PassingError(Exception):
    """A later try may do better."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """A data exchange or a listing.

    Attributes:
        name: Its resource name.
        title: What people call it.
        source: Resource name of the shared dataset; empty where the publisher does not show it.
        restricted: The publisher forbids copies, exports and destination tables.
    """

    name: str
    title: str
    source: str = ""
    restricted: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription of a project.

    Attributes:
        name: Its resource name.
        listing: Resource name of the listing, or empty.
        state: ``STATE_ACTIVE``, ``STATE_STALE`` or ``STATE_INACTIVE``.
        datasets: Ids of the linked datasets that it made.
    """

    name: str
    listing: str
    state: str
    datasets: tuple[str, ...]

    def is_of(self, listing: str) -> bool:
        """Whether it is of a listing; a project may be written as its id or its number."""
        return _within_project(self.listing) == _within_project(listing)


class AnalyticsHub:
    """The service, for whoever the credentials say.

    Attributes:
        account: Who that is; ``your account`` where the credentials do not say.

    Raises:
        UserError: There are no credentials.
    """

    def __init__(self) -> None:
        credentials = find_credentials()
        self.account = str(getattr(credentials, "service_account_email", "") or "your account")
        self._session = google.auth.transport.requests.AuthorizedSession(credentials, max_refresh_attempts=2)

    def exchanges(self, project: str, location: str) -> list[Shared]:
        """The data exchanges of a project that can be seen; raises as :meth:`subscribe`."""
        found = self._all(f"projects/{project}/locations/{location}/dataExchanges", "dataExchanges")
        return [_shared(each) for each in found]

    def listings(self, exchange: str) -> list[Shared]:
        """The listings of a data exchange that can be seen; raises as :meth:`subscribe`."""
        return [_shared(each) for each in self._all(f"{exchange}/listings", "listings")]

    def listing(self, name: str) -> Shared:
        """A listing by its resource name; raises as :meth:`subscribe`."""
        return _shared(self._call("GET", name))

    def subscriptions(self, project: str, location: str) -> list[Subscription]:
        """The subscriptions of a project; raises as :meth:`subscribe`."""
        found = self._all(f"projects/{project}/locations/{location}/subscriptions", "subscriptions")
        return [_subscription(each) for each in found]

    def subscribe(self, listing: str, body: Mapping[str, Any]) -> Subscription:
        """Makes a linked dataset.

        Args:
            listing: Resource name of the listing.
            body: What :func:`subscribe_body` makes.

        Raises:
            RefusedError: The service says no; 409 when the dataset is there.
            SystemicError: It does not answer, or the credentials are no good.
        """
        answer = self._call("POST", f"{listing}:subscribe", body=body)
        return _subscription(answer.get("subscription") or {})

    def _all(self, path: str, what: str) -> Iterator[Mapping[str, Any]]:
        token = ""
        while True:
            parameters = {"pageSize": str(PAGE_ITEMS), **({"pageToken": token} if token else {})}
            answer = self._call("GET", path, parameters)
            yield from (item for item in answer.get(what) or () if isinstance(item, dict))
            token = str(answer.get("nextPageToken") or "")
            if not token:
                return

    def _call(
        self, method: str, path: str, parameters: Mapping[str, str] | None = None, body: Mapping[str, Any] | None = None
    ) -> Mapping[str, Any]:
        try:
            for attempt in _patiently():
                with attempt:
                    return self._once(method, path, parameters, body)
        except _PassingError as error:
            raise SystemicError(f"Analytics Hub does not answer, try again later: {error}") from None
        raise AssertionError("tenacity gives an answer or raises")

    def _once(
        self, method: str, path: str, parameters: Mapping[str, str] | None, body: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        data = None if body is None else orjson.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            answer = self._session.request(
                method, url(path), data=data, headers=headers, params=parameters, timeout=TIMEOUT_S
            )
        except (google.auth.exceptions.GoogleAuthError, requests.exceptions.RequestException) as error:
            failure = classify_exception(error)
            if failure.kind is Kind.TRANSIENT:
                raise _PassingError(failure.message) from None
            raise SystemicError(f"Analytics Hub: {failure.reason}: {failure.message}") from None
        if answer.status_code == 200:
            try:
                document = orjson.loads(answer.content or b"{}")
            except orjson.JSONDecodeError:
                raise _PassingError("an answer that is no JSON") from None
            return document if isinstance(document, dict) else {}
        failure = classify_http(answer.status_code, answer.content, answer.headers)
        if failure.kind in (Kind.TRANSIENT, Kind.THROTTLED):
            raise _PassingError(failure.message)
        if answer.status_code == 401:
            raise SystemicError(f"Analytics Hub: {failure.reason}: {failure.message}")
        raise RefusedError(answer.status_code, failure.reason, failure.message)


def url(path: str) -> str:
    """The address of a resource; the local cloud serves it beside its BigQuery."""
    base = os.environ.get("BIGQUERY_EMULATOR_HOST") or "https://analyticshub.googleapis.com"
    return f"{base.rstrip('/')}/v1/{path}"


def subscribe_body(project: str, dataset: str, location: str) -> dict[str, Any]:
    """The request that makes a linked dataset.

    Args:
        project: Project that the dataset is in.
        dataset: Its id.
        location: Where it is: where the listing is.
    """
    reference = {"projectId": project, "datasetId": dataset}
    return {"destinationDataset": {"datasetReference": reference, "location": location}}


def _shared(body: Mapping[str, Any]) -> Shared:
    # A listing of a Pub/Sub topic has no dataset.
    return Shared(
        str(body.get("name") or ""),
        str(body.get("displayName") or ""),
        str((body.get("bigqueryDataset") or {}).get("dataset") or ""),
        bool((body.get("restrictedExportConfig") or {}).get("enabled")),
    )


def _subscription(body: Mapping[str, Any]) -> Subscription:
    linked = (body.get("linkedDatasetMap") or {}).values()
    places = [str(each.get("linkedDataset") or "") for each in linked if isinstance(each, dict)]
    return Subscription(
        str(body.get("name") or ""),
        str(body.get("listing") or ""),
        str(body.get("state") or ""),
        tuple(place.rpartition("/")[2] for place in places if place),
    )


def _within_project(name: str) -> str:
    """A resource name without its project, whose id and number cannot be told to be the same.

    >>> _within_project("projects/123/locations/US/dataExchanges/e/listings/x")
    'locations/us/dataExchanges/e/listings/x'
    """
    _, found, rest = name.partition("/locations/")
    location, _, path = rest.partition("/")
    return f"locations/{location.lower()}/{path}" if found else name


def _patiently() -> tenacity.Retrying:
    return tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=10),
        retry=tenacity.retry_if_exception_type(_PassingError),
        reraise=True,
    )
