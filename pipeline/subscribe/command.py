"""``imagebeam subscribe``: from a listing of Analytics Hub to a linked dataset, as often as one likes.

It stays out of the runs: workers must not make datasets.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import google.api_core.exceptions as api_errors

from imagebeam.pipeline.subscribe import analytics_hub
from imagebeam.pipeline.subscribe.analytics_hub import ACTIVE, AnalyticsHub, RefusedError, Shared, Subscription
from imagebeam.pipeline.subscribe.settings import SubscribeSettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import SystemicError, UserError, first_line

#: Tables of Imagery Insights that a first run reads, the best one first.
_FIRST_TABLES: Final = ("cropped_observations_latest", "latest_observations")


def run(settings: SubscribeSettings) -> int:
    """Makes the linked dataset, or says that it is there.

    Args:
        settings: What was asked for.

    Returns:
        0.

    Raises:
        UserError: The service refuses, a dataset of that name is something else, or there are no credentials.
        SystemicError: The service does not answer, or the credentials are no good.
    """
    if settings.dry_run:
        _print_request(settings)
        return 0
    hub = AnalyticsHub()
    if settings.list:
        return _list(hub, settings)
    try:
        made, subscription = _subscribe(hub, settings)
    except RefusedError as error:
        raise UserError(_explained(error, settings, hub.account)) from None
    _tell(settings, subscription, made=made)
    return 0


def _subscribe(hub: AnalyticsHub, settings: SubscribeSettings) -> tuple[bool, Subscription | None]:
    """Whether the dataset was made now, and the subscription, where it can be known."""
    known = _linked(hub, settings)
    if known is not None:
        return False, known
    if _is_linked_here(hub, settings):
        return False, None
    body = analytics_hub.subscribe_body(settings.project, settings.dataset, settings.location)
    try:
        return True, hub.subscribe(settings.listing, body)
    except RefusedError as error:
        # Somebody else may have made it since we looked; a call whose answer was lost too.
        if error.code != 409:
            raise
        known = _linked(hub, settings)
        if known is None:
            raise _conflict(settings) from None
        return False, known


def _linked(hub: AnalyticsHub, settings: SubscribeSettings) -> Subscription | None:
    """The subscription of this listing that made a dataset of this name."""
    try:
        of_listing = [
            each for each in hub.subscriptions(settings.project, settings.location) if each.is_of(settings.listing)
        ]
    except RefusedError as error:
        if error.code != 403 or error.reason == "SERVICE_DISABLED":
            raise
        return None  # who may subscribe may perhaps not list; the dataset itself will tell
    for each in of_listing:
        if settings.dataset not in each.datasets:
            continue
        if each.state not in ("", ACTIVE):
            raise UserError(
                f"{settings.project}.{settings.dataset} is linked to this listing, but the subscription is "
                f"{each.state}: delete the dataset and subscribe again"
            )
        return each
    for each in of_listing:
        if each.datasets:
            sys.stderr.write(f"note: the listing is linked as {settings.project}.{each.datasets[0]} too\n")
    return None


def _is_linked_here(hub: AnalyticsHub, settings: SubscribeSettings) -> bool:
    """Whether the dataset is there, and linked to what the listing shares.

    Raises:
        UserError: It is there, and something else.
    """
    try:
        found = BigQueryClient(settings.project).client.get_dataset(f"{settings.project}.{settings.dataset}")
    except api_errors.NotFound:
        return False
    except api_errors.Forbidden as error:
        raise UserError(
            f"looking for {settings.project}.{settings.dataset}: {first_line(error)}; grant roles/bigquery.user on "
            f"{settings.project} to {hub.account}"
        ) from None
    except (api_errors.GoogleAPIError, OSError) as error:
        raise SystemicError(f"looking for {settings.project}.{settings.dataset}: {first_line(error)}") from None
    resource: Mapping[str, Any] = found.to_api_repr()
    source = (resource.get("linkedDatasetSource") or {}).get("sourceDataset") or {}
    if not source:
        raise _conflict(settings)
    shared = hub.listing(settings.listing).source
    if not shared:
        raise UserError(
            f"{settings.project}.{settings.dataset} is a linked dataset already, but of what cannot be seen: grant "
            f"roles/analyticshub.subscriptionOwner on {settings.project} to {hub.account}, or give another --dataset"
        )
    # The project of the source is written as its number, so the dataset must do.
    if shared.rpartition("/")[2] != source.get("datasetId"):
        raise _conflict(settings)
    return True


def _conflict(settings: SubscribeSettings) -> UserError:
    return UserError(
        f"there is a dataset {settings.project}.{settings.dataset} already, and it is not linked to this listing: give "
        "the linked one another name with --dataset"
    )


def _print_request(settings: SubscribeSettings) -> None:
    body = analytics_hub.subscribe_body(settings.project, settings.dataset, settings.location)
    address = analytics_hub.url(f"{settings.listing}:subscribe")
    if settings.json:
        sys.stdout.write(json.dumps({"method": "POST", "url": address, "body": body}, indent=2) + "\n")
    else:
        sys.stdout.write(f"POST {address}\n{json.dumps(body, indent=2)}\n")


def _list(hub: AnalyticsHub, settings: SubscribeSettings) -> int:
    """Prints the listings that can be seen, with the datasets that are linked to them."""
    try:
        listings = [listing for exchange in _exchanges(hub, settings) for listing in hub.listings(exchange)]
    except RefusedError as error:
        raise UserError(_explained(error, settings, hub.account)) from None
    try:
        mine = hub.subscriptions(settings.project, settings.location)
    except RefusedError as error:
        sys.stderr.write(f"note: the subscriptions of {settings.project} cannot be read: {error}\n")
        mine = []
    rows = [
        (listing, [name for each in mine if each.is_of(listing.name) for name in each.datasets]) for listing in listings
    ]
    if settings.json:
        sys.stdout.write(json.dumps([_row(listing, linked) for listing, linked in rows], indent=2) + "\n")
        return 0
    if not rows:
        sys.stdout.write(
            f"{hub.account} sees no listing of {settings.hub_project} in {settings.location}: try another --location "
            "(us, eu), or ask Google whether this account was onboarded\n"
        )
        return 0
    for listing, linked in rows:
        parts = listing.name.split("/")
        notes = [f"linked as {name}" for name in linked] + (["no copies or exports"] if listing.restricted else [])
        sys.stdout.write(f"{parts[5]}  {parts[7]}  {listing.title}{''.join(f'  [{note}]' for note in notes)}\n")
    return 0


def _exchanges(hub: AnalyticsHub, settings: SubscribeSettings) -> list[str]:
    """The data exchanges to look into."""
    if settings.exchange_given:
        return [settings.exchange]
    try:
        return [exchange.name for exchange in hub.exchanges(settings.hub_project, settings.location)]
    except RefusedError as error:
        if error.code != 403 or error.reason == "SERVICE_DISABLED":
            raise
        return [settings.exchange]  # who may see listings may perhaps not see what else the project shares


def _row(listing: Shared, linked: list[str]) -> dict[str, Any]:
    return {
        "listing": listing.name,
        "title": listing.title,
        "restricted": listing.restricted,
        "linked_datasets": linked,
    }


def _tell(settings: SubscribeSettings, subscription: Subscription | None, *, made: bool) -> None:
    place = f"{settings.project}.{settings.dataset}"
    tables = _tables(settings)
    if settings.json:
        document = {
            "dataset": place,
            "listing": settings.listing,
            "subscription": subscription.name if subscription else None,
            "made": made,
            "tables": tables,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    done = "is now linked to" if made else "is linked already to"
    sys.stdout.write(f"{place} {done} {settings.listing}\n")
    first = next((name for name in _FIRST_TABLES if name in tables), None)
    if first is not None:
        sys.stdout.write(
            f"{len(tables)} tables; next: imagebeam init --project={settings.project} --results=image_answers "
            f"--source={place}.{first}\n"
        )


def _tables(settings: SubscribeSettings) -> list[str]:
    try:
        listed = BigQueryClient(settings.project).client.list_tables(f"{settings.project}.{settings.dataset}")
        return sorted(str(table.table_id) for table in listed)
    except (api_errors.GoogleAPIError, OSError) as error:
        sys.stderr.write(f"note: the tables cannot be listed yet: {first_line(error)}\n")
        return []


def _explained(error: RefusedError, settings: SubscribeSettings, account: str) -> str:
    """One line: what was refused, and what mends it."""
    said = f"Analytics Hub says: {error}"
    if error.reason == "SERVICE_DISABLED":
        return f"{said}; gcloud services enable analyticshub.googleapis.com --project={settings.project}"
    if error.code == 403 and "bigquery." in str(error):
        return f"{said}; grant roles/bigquery.user on {settings.project} to {account}"
    if error.code == 403:
        return (
            f"{said}; {account} needs roles/analyticshub.subscriptionOwner and roles/bigquery.user on "
            f"{settings.project}, and on the listing roles/analyticshub.subscriber, which Google grants to the account "
            "that was onboarded"
        )
    if error.code == 404:
        place = settings.listing or settings.exchange
        return (
            f"{said}; there is no {place}, or {account} may not see it: look at --customer_id and --location="
            f"{settings.location}; imagebeam subscribe --list shows what there is"
        )
    if "location" in str(error).lower() or "region" in str(error).lower():
        return f"{said}; --location must be where the listing is; imagebeam subscribe --list --location=eu looks there"
    return said
