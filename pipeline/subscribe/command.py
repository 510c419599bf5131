"""``imagebeam subscribe``: link the dataset of an Analytics Hub listing to your project. Repeating it is harmless.

It is a separate command and not a step of a run, because workers must not create datasets.
"""

from __future__ import annotations

import json
from typing import Final

import google.api_core.exceptions as api_errors

from imagebeam.pipeline.console.console import Console
from imagebeam.pipeline.subscribe import analytics_hub
from imagebeam.pipeline.subscribe.analytics_hub import ACTIVE, AnalyticsHub, Subscription
from imagebeam.pipeline.subscribe.settings import SubscribeSettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.rest import ApiError
from imagebeam.transforms.core.errors import SystemicError, UserError, first_line

#: Tables of Imagery Insights to start with, the best one first.
_FIRST_TABLES: Final = ("cropped_observations_latest", "latest_observations")


def run(settings: SubscribeSettings) -> int:
    """Create the linked dataset unless it exists, or list what can be linked.

    Returns:
        0.

    Raises:
        UserError: The service rejects the call, a dataset of that name is something else, or there are no credentials.
        SystemicError: The service does not answer, or rejects the credentials.
    """
    console = Console()
    if settings.dry_run:
        _print_request(settings, console)
        return 0
    hub = AnalyticsHub()
    try:
        if settings.list:
            _print_listings(hub, settings, console)
        else:
            created, subscription = _subscribe(hub, settings, console)
            _print_dataset(settings, subscription, console, created=created)
    except ApiError as error:
        if not error.is_rejection:
            raise
        raise UserError(_explain(error, settings, hub.account)) from None
    return 0


def _subscribe(hub: AnalyticsHub, settings: SubscribeSettings, console: Console) -> tuple[bool, Subscription | None]:
    """Return whether the dataset was created now, and its subscription if the account can see it."""
    existing = _find_subscription(hub, settings, console)
    if existing is not None or _is_linked(hub, settings):
        return False, existing
    body = analytics_hub.subscribe_body(settings.project, settings.dataset_id, settings.location)
    try:
        return True, hub.subscribe(settings.listing_name, body)
    except ApiError as error:
        # Another process, or an earlier call whose response was lost, may have created it.
        if error.status != 409:
            raise
        existing = _find_subscription(hub, settings, console)
        if existing is None:
            raise _conflict(settings) from None
        return False, existing


def _find_subscription(hub: AnalyticsHub, settings: SubscribeSettings, console: Console) -> Subscription | None:
    """Return the subscription to this listing that created a dataset of this name."""
    try:
        subscriptions = hub.subscriptions(settings.project, settings.location)
    except ApiError as error:
        if not _may_not_list(error):
            raise
        return None  # an account that may subscribe is not always allowed to list; the dataset shows it too
    of_listing = [each for each in subscriptions if each.is_of(settings.listing_name)]
    found = next((each for each in of_listing if settings.dataset_id in each.datasets), None)
    if found is None:
        for other in (each for each in of_listing if each.datasets):
            console.warn(f"the listing is also linked as {settings.project}.{other.datasets[0]}")
    elif found.state not in ("", ACTIVE):
        raise UserError(
            f"{settings.project}.{settings.dataset_id} is linked to this listing, but the subscription is "
            f"{found.state}: delete the dataset and subscribe again"
        )
    return found


def _is_linked(hub: AnalyticsHub, settings: SubscribeSettings) -> bool:
    """Return whether the dataset exists and is linked to the dataset of the listing.

    Raises:
        UserError: The dataset exists and is something else.
    """
    name = f"{settings.project}.{settings.dataset_id}"
    try:
        found = BigQueryClient(settings.project).client.get_dataset(name)
    except api_errors.NotFound:
        return False
    except api_errors.Forbidden as error:
        raise UserError(
            f"reading dataset {name}: {first_line(error)}; grant roles/bigquery.user on {settings.project} to "
            f"{hub.account}"
        ) from None
    except (api_errors.GoogleAPIError, OSError) as error:
        raise SystemicError(f"reading dataset {name}: {first_line(error)}") from None
    source = (found.to_api_repr().get("linkedDatasetSource") or {}).get("sourceDataset") or {}
    if not source:
        raise _conflict(settings)
    shared = hub.listing(settings.listing_name).source
    if not shared:
        raise UserError(
            f"{name} is a linked dataset, but {hub.account} cannot see which listing it is linked to: grant "
            f"roles/analyticshub.subscriptionOwner on {settings.project} to it, or use another --dataset"
        )
    # The project of the source is given by number, so only the dataset can be compared.
    if shared.rpartition("/")[2] != source.get("datasetId"):
        raise _conflict(settings)
    return True


def _conflict(settings: SubscribeSettings) -> UserError:
    return UserError(
        f"dataset {settings.project}.{settings.dataset_id} already exists and is not linked to this listing: give "
        "another name with --dataset"
    )


def _print_request(settings: SubscribeSettings, console: Console) -> None:
    body = analytics_hub.subscribe_body(settings.project, settings.dataset_id, settings.location)
    url = analytics_hub.subscribe_url(settings.listing_name)
    if settings.as_json:
        console.print_json({"method": "POST", "url": url, "body": body})
    else:
        console.print(f"POST {url}", json.dumps(body, indent=2))


def _print_listings(hub: AnalyticsHub, settings: SubscribeSettings, console: Console) -> None:
    """Print the visible listings and the datasets that are linked to them."""
    listings = [listing for exchange in _exchanges(hub, settings) for listing in hub.shared(exchange, "listings")]
    try:
        subscriptions = hub.subscriptions(settings.project, settings.location)
    except ApiError as error:
        if not error.is_rejection:
            raise
        console.warn(f"cannot read the subscriptions of {settings.project}: {error.message}")
        subscriptions = []
    linked = {
        listing.name: [name for each in subscriptions if each.is_of(listing.name) for name in each.datasets]
        for listing in listings
    }
    if settings.as_json:
        console.print_json(
            [
                {
                    "listing": listing.name,
                    "title": listing.title,
                    "restricted": listing.restricted,
                    "linked_datasets": linked[listing.name],
                }
                for listing in listings
            ]
        )
    elif not listings:
        console.print(
            f"{hub.account} cannot see any listing of {settings.hub_project} in {settings.location}: try another "
            "--location (us, eu), or check with Google whether this account was onboarded"
        )
    else:
        rows = []
        for listing in listings:
            parts = listing.name.split("/")
            notes = [f"linked as {name}" for name in linked[listing.name]]
            notes += ["no copies or exports"] if listing.restricted else []
            rows.append([parts[5], parts[7], listing.title, "; ".join(notes)])
        console.print_table(["exchange", "listing", "title", "notes"], rows)


def _exchanges(hub: AnalyticsHub, settings: SubscribeSettings) -> list[str]:
    """Return the data exchanges to search for listings."""
    if settings.exchange:
        return [settings.exchange_name]
    try:
        parent = f"projects/{settings.hub_project}/locations/{settings.location}"
        return [exchange.name for exchange in hub.shared(parent, "dataExchanges")]
    except ApiError as error:
        if not _may_not_list(error):
            raise
        return [settings.exchange_name]  # an account that may see listings is not always allowed to list exchanges


def _may_not_list(error: ApiError) -> bool:
    return error.status == 403 and error.reason != "SERVICE_DISABLED"


def _print_dataset(
    settings: SubscribeSettings, subscription: Subscription | None, console: Console, *, created: bool
) -> None:
    dataset = f"{settings.project}.{settings.dataset_id}"
    tables = _list_tables(settings, console)
    if settings.as_json:
        console.print_json(
            {
                "dataset": dataset,
                "listing": settings.listing_name,
                "subscription": subscription.name if subscription else None,
                "made": created,
                "tables": tables,
            }
        )
        return
    console.print(f"{dataset} is {'now' if created else 'already'} linked to {settings.listing_name}")
    first = next((name for name in _FIRST_TABLES if name in tables), None)
    if first is not None:
        console.print(
            f"{len(tables)} tables; next: imagebeam init --project={settings.project} --results=image_answers "
            f"--source={dataset}.{first}"
        )


def _list_tables(settings: SubscribeSettings, console: Console) -> list[str]:
    try:
        listed = BigQueryClient(settings.project).client.list_tables(f"{settings.project}.{settings.dataset_id}")
        return sorted(str(table.table_id) for table in listed)
    except (api_errors.GoogleAPIError, OSError) as error:
        console.warn(f"cannot list the tables yet: {first_line(error)}")
        return []


def _explain(error: ApiError, settings: SubscribeSettings, account: str) -> str:
    """Return one line: what the service rejected, and how to fix it."""
    message = error.message.lower()
    # The first one that applies is shown.
    hints = (
        (
            error.reason == "SERVICE_DISABLED",
            f"; gcloud services enable analyticshub.googleapis.com --project={settings.project}",
        ),
        (
            error.status == 403 and "bigquery." in error.message,
            f"; grant roles/bigquery.user on {settings.project} to {account}",
        ),
        (
            error.status == 403,
            (
                f"; {account} needs roles/analyticshub.subscriptionOwner and roles/bigquery.user on "
                f"{settings.project}, and on the listing roles/analyticshub.subscriber, which Google grants to the "
                "account that was onboarded"
            ),
        ),
        (
            error.status == 404,
            (
                f"; {settings.listing_name or settings.exchange_name} does not exist, or {account} cannot see it: "
                f"check --customer_id and --location={settings.location}; imagebeam subscribe --list shows what exists"
            ),
        ),
        (
            "location" in message or "region" in message,
            "; --location must be the location of the listing: try imagebeam subscribe --list --location=eu",
        ),
    )
    return f"Analytics Hub: {error.message}{next((hint for applies, hint in hints if applies), '')}"
