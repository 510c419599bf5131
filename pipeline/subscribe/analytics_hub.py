"""Client for Analytics Hub (BigQuery sharing), API version v1.

Data exchanges hold listings. Subscribing to a listing creates a linked dataset, a read-only pointer to the publisher's
dataset; the call returns once the dataset exists, without a long-running operation. The calls are plain REST requests:
the official client would be one more dependency for a single method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.clients.rest import RestClient, service_url

TIMEOUT_S = 120.0
#: The state of a subscription whose linked dataset can be read.
ACTIVE = "STATE_ACTIVE"


@dataclasses.dataclass(frozen=True, slots=True)
class SharedResource:
    """A data exchange or a listing.

    Attributes:
        name: Resource name.
        title: Display name.
        source: Resource name of the shared dataset; empty if the publisher does not show it, or for a Pub/Sub topic.
        restricted: Whether the publisher forbids copies, exports and destination tables.
    """

    name: str
    title: str
    source: str = ""
    restricted: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription of a project.

    Attributes:
        name: Resource name.
        listing: Resource name of the listing, or empty.
        state: ``STATE_ACTIVE``, ``STATE_STALE`` or ``STATE_INACTIVE``.
        datasets: Ids of the linked datasets that it created.
    """

    name: str
    listing: str
    state: str
    datasets: tuple[str, ...]

    def is_of(self, listing: str) -> bool:
        """Return whether it belongs to a listing; the project may be given by id or by number."""
        return _without_project(self.listing) == _without_project(listing)


class AnalyticsHub:
    """The service, called with the application default credentials.

    Every method raises :class:`~imagebeam.transforms.clients.rest.ApiError` if the service rejects the call or does not
    answer.

    Attributes:
        account: The account of the credentials; ``your account`` if they do not name it.

    Raises:
        UserError: There are no credentials.
    """

    def __init__(self) -> None:
        credentials = find_credentials()
        self.account = str(getattr(credentials, "service_account_email", "") or "your account")
        self._client = RestClient(f"{service_url('analyticshub')}/v1", credentials, timeout_s=TIMEOUT_S)

    def shared(self, parent: str, kind: Literal["dataExchanges", "listings"]) -> list[SharedResource]:
        """Return the visible data exchanges of ``projects/PROJECT/locations/LOCATION``, or listings of an exchange."""
        items = self._client.list_items(f"{parent}/{kind}", kind, operation="Analytics Hub")
        return [_parse_shared(item) for item in items]

    def listing(self, name: str) -> SharedResource:
        """Return a listing by its resource name."""
        return _parse_shared(self._client.call("GET", name, operation="Analytics Hub"))

    def subscriptions(self, project: str, location: str) -> list[Subscription]:
        """Return the subscriptions of a project."""
        path = f"projects/{project}/locations/{location}/subscriptions"
        items = self._client.list_items(path, "subscriptions", operation="Analytics Hub")
        return [_parse_subscription(item) for item in items]

    def subscribe(self, listing: str, body: Mapping[str, Any]) -> Subscription:
        """Create a linked dataset.

        Args:
            listing: Resource name of the listing.
            body: The request, from :func:`subscribe_body`.

        Raises:
            ApiError: The service rejects the call, with status 409 if the dataset exists, or does not answer.
        """
        answer = self._client.call("POST", f"{listing}:subscribe", body=body, operation="Analytics Hub")
        return _parse_subscription(answer.get("subscription") or {})


def subscribe_url(listing: str) -> str:
    """Return the address that :meth:`AnalyticsHub.subscribe` posts to."""
    return f"{service_url('analyticshub')}/v1/{listing}:subscribe"


def subscribe_body(project: str, dataset: str, location: str) -> dict[str, Any]:
    """Return the request that creates a linked dataset.

    Args:
        project: Project of the dataset.
        dataset: Id of the dataset.
        location: Location of the dataset, which must be that of the listing.
    """
    return {
        "destinationDataset": {
            "datasetReference": {"projectId": project, "datasetId": dataset},
            "location": location,
        }
    }


def _parse_shared(body: Mapping[str, Any]) -> SharedResource:
    return SharedResource(
        str(body.get("name") or ""),
        str(body.get("displayName") or ""),
        str((body.get("bigqueryDataset") or {}).get("dataset") or ""),
        bool((body.get("restrictedExportConfig") or {}).get("enabled")),
    )


def _parse_subscription(body: Mapping[str, Any]) -> Subscription:
    linked = (body.get("linkedDatasetMap") or {}).values()
    datasets = [str(each.get("linkedDataset") or "") for each in linked if isinstance(each, dict)]
    return Subscription(
        str(body.get("name") or ""),
        str(body.get("listing") or ""),
        str(body.get("state") or ""),
        tuple(place.rpartition("/")[2] for place in datasets if place),
    )


def _without_project(name: str) -> str:
    """Return a resource name without its project, whose id and number cannot be compared.

    >>> _without_project("projects/123/locations/US/dataExchanges/e/listings/x")
    'locations/us/dataExchanges/e/listings/x'
    """
    _, found, rest = name.partition("/locations/")
    location, _, path = rest.partition("/")
    return f"locations/{location.lower()}/{path}" if found else name
