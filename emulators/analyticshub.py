"""The local Analytics Hub: one data exchange with one listing, the sample dataset.

Names follow Google's guide for Imagery Insights, for the customer :data:`CUSTOMER`. A subscription creates a linked
dataset in the local BigQuery: read-only, with views of the shared tables. As in the API, the response is sent when the
dataset exists; there is no long-running operation. The sample dataset counts as linked by an earlier subscription.
"""

import asyncio
import datetime as dt
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.auth import authenticate
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig, check_keys
from imagebeam.emulators.core.http import ApiError, json_response, read_json
from imagebeam.emulators.sample_data.tables import DATASET, LOCATION

#: Project that shares the dataset.
HUB: Final = "maps-platform-analytics-hub"
#: Customer ID in the name of the listing.
CUSTOMER: Final = "1234-5678"

_PLACE: Final = LOCATION.lower()
EXCHANGE: Final = f"projects/{HUB}/locations/{_PLACE}/dataExchanges/imagery_insights_exchange_{_PLACE}"
LISTING: Final = f"{EXCHANGE}/listings/imagery_insights_{CUSTOMER.replace('-', '_')}__{_PLACE}"
_KIND: Final = "subscription"
_PARENT: Final = "/v1/projects/{project}/locations/{location}"

Resource = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AnalyticsHubService:
    """The routes of the Analytics Hub API.

    Faults (section ``analyticshub``): ``rules`` with ``match`` (part of ``METHOD path``), ``times``, ``code``,
    ``message``, ``reason`` of an ErrorInfo. Counters (branch ``analyticshub``): ``calls`` by method.

    Args:
        catalog: The local BigQuery, which contains the shared and the linked datasets.
        faults: The fault configuration.
        counters: The counters.
    """

    def __init__(self, catalog: Catalog, faults: FaultConfig, counters: Counters) -> None:
        self._catalog = catalog
        self._faults = faults
        self._counters = counters
        faults.register("analyticshub", _check_faults)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        exchanges = f"{_PARENT}/dataExchanges"
        listings = exchanges + "/{exchange}/listings"
        subscriptions = f"{_PARENT}/subscriptions"
        return [
            web.get(exchanges, self._handler("dataExchanges.list", self._exchanges), allow_head=False),
            web.get(exchanges + "/{exchange}", self._handler("dataExchanges.get", self._exchange), allow_head=False),
            web.get(listings, self._handler("listings.list", self._listings), allow_head=False),
            web.get(listings + "/{listing}", self._handler("listings.get", self._listing), allow_head=False),
            web.post(listings + "/{listing}:subscribe", self._handler("listings.subscribe", self._subscribe)),
            web.get(subscriptions, self._handler("subscriptions.list", self._subscriptions), allow_head=False),
            *(
                web.route(method, path + "{rest:.*}", self._handler(None, self._not_implemented))
                for path in (exchanges, subscriptions)
                for method in ("GET", "POST", "PATCH", "DELETE")
            ),
        ]

    def _handler(self, name: str | None, do: Callable[[web.Request, Resource], Resource]) -> Handler:
        """Return a handler that runs a blocking function; ``name`` is None for a method that is not implemented."""

        async def handle(request: web.Request) -> web.StreamResponse:
            authenticate(request)
            body = await read_json(request)
            if name is not None:
                self._counters.add("analyticshub", "calls", name)
                self._raise_fault(name, request.path)
                unknown = request.query.keys() - {"pageSize", "pageToken", "alt", "prettyPrint"}
                if unknown:
                    raise _unsupported(f"the parameter {min(unknown)!r} of {name}")
            return json_response(await asyncio.to_thread(do, request, body))

        return handle

    def _raise_fault(self, name: str, path: str) -> None:
        rule = self._faults.take("analyticshub", f"{name} {path}")
        if rule is None:
            return
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "googleapis.com"}
        details = [info | {"reason": rule["reason"]}] if rule.get("reason") else None
        raise ApiError(int(rule["code"]), str(rule.get("message") or "Injected fault."), details=details)

    # Exchange and listing

    def _exchanges(self, request: web.Request, _: Resource) -> Resource:
        there = _project(request) == HUB and _location(request) == _PLACE
        return _page(request, "dataExchanges", [_exchange()] if there else [])

    def _exchange(self, request: web.Request, _: Resource) -> Resource:
        _check(request, EXCHANGE)
        return _exchange()

    def _listings(self, request: web.Request, _: Resource) -> Resource:
        _check(request, EXCHANGE)
        return _page(request, "listings", [self._listed()])

    def _listing(self, request: web.Request, _: Resource) -> Resource:
        _check(request, LISTING)
        return self._listed()

    def _listed(self) -> Resource:
        return {
            "name": LISTING,
            "displayName": "Imagery Insights (sample of the local Google Cloud)",
            "description": "Real photographs in tables like the real ones.",
            "state": "ACTIVE",
            "bigqueryDataset": {"dataset": f"projects/{PROJECT_NUMBER}/datasets/{DATASET}"},
            "resourceType": "BIGQUERY_DATASET",
        }

    # Subscriptions

    def _subscribe(self, request: web.Request, body: Resource) -> Resource:
        _check(request, LISTING)
        destination = body.get("destinationDataset")
        if not isinstance(destination, dict):
            raise _unsupported("listings.subscribe without a destinationDataset")
        reference = destination.get("datasetReference") or {}
        project, dataset = str(reference.get("projectId") or ""), str(reference.get("datasetId") or "")
        if project != self._catalog.project:
            raise ApiError(403, f"Permission 'bigquery.datasets.create' denied on resource 'projects/{project}'.")
        if str(destination.get("location") or "").lower() != _PLACE:
            place = destination.get("location")
            raise ApiError(
                400, f"The destination dataset must be in the location of the listing, {_PLACE}, not {place}."
            )
        with self._catalog.store.writing:
            self._link(dataset)
            mark = hashlib.sha256(dataset.encode()).hexdigest()[:12]
            name = f"projects/{PROJECT_NUMBER}/locations/{_PLACE}/subscriptions/{LISTING.rpartition('/')[2]}_{mark}"
            now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            made = {"name": name, "listing": LISTING, "creationTime": now, "lastModifyTime": now, "dataset": dataset}
            self._catalog.registry.put(_KIND, name, made, label=name, replace=True, if_absent=False)
        return {"subscription": self._shown(made)}

    def _link(self, dataset: str) -> None:
        """Create the linked dataset with a view of each shared table."""
        home = self._catalog.project
        shared = self._catalog.tables(home, DATASET)
        linked = {"datasetReference": {"projectId": home, "datasetId": dataset}, "location": LOCATION}
        self._catalog.create_dataset(linked)
        for table in shared:
            name = table.ident.table
            view = {
                "tableReference": TableId(home, dataset, name).resource(),
                "view": {"query": f"SELECT * FROM `{home}.{DATASET}.{name}`", "useLegacySql": False},
            }
            self._catalog.create_table(dataset, view, table.fields)
        self._catalog.link_dataset(dataset, {"projectId": PROJECT_NUMBER, "datasetId": DATASET})

    def _subscriptions(self, request: web.Request, _: Resource) -> Resource:
        if _project(request) != self._catalog.project:
            raise _denied("analyticshub.subscriptions.list", f"projects/{_project(request)}")
        if _location(request) != _PLACE:
            return _page(request, "subscriptions", [])
        kept = self._catalog.registry.all(_KIND).values()
        return _page(request, "subscriptions", [*self._sample(), *(self._shown(each) for each in kept)])

    def _sample(self) -> list[Resource]:
        """Return the subscription of the sample dataset, if the dataset exists."""
        if DATASET not in {name for name, _ in self._catalog.datasets()}:
            return []
        place = f"projects/{self._catalog.project}/datasets/{DATASET}"
        name = f"projects/{PROJECT_NUMBER}/locations/{_PLACE}/subscriptions/{LISTING.rpartition('/')[2]}_sample"
        body = {"name": name, "listing": LISTING, "state": "STATE_ACTIVE"}
        return [body | {"linkedDatasetMap": {LISTING: {"linkedDataset": place}}}]

    def _shown(self, kept: Resource) -> Resource:
        """Return a subscription resource. A subscription is active as long as its dataset exists."""
        body = {key: value for key, value in kept.items() if key != "dataset"}
        there = any(
            name == kept["dataset"] and found.resource.get("type") == "LINKED"
            for name, found in self._catalog.datasets()
        )
        if not there:
            return body | {"state": "STATE_INACTIVE"}
        place = f"projects/{self._catalog.project}/datasets/{kept['dataset']}"
        return body | {"state": "STATE_ACTIVE", "linkedDatasetMap": {LISTING: {"linkedDataset": place}}}

    def _not_implemented(self, request: web.Request, _: Resource) -> Resource:
        raise _unsupported(f"{request.method} {request.path}")


def _exchange() -> Resource:
    return {"name": EXCHANGE, "displayName": "Imagery Insights", "listingCount": 1}


def _check(request: web.Request, wanted: str) -> None:
    """Raise a 404 for a missing resource, or a 403 in another project, whether the resource exists or not."""
    parts = request.match_info
    name = f"projects/{parts['project']}/locations/{parts['location'].lower()}/dataExchanges/{parts['exchange']}"
    if "listing" in parts:
        name += f"/listings/{parts['listing']}"
    if parts["project"] != HUB:
        raise _denied("analyticshub.listings.get", name)
    if name != wanted:
        raise ApiError(404, f"Requested entity was not found: {name}")


def _denied(permission: str, resource: str) -> ApiError:
    return ApiError(403, f"Permission '{permission}' denied on resource '{resource}' (or it may not exist).")


def _unsupported(what: str) -> ApiError:
    return ApiError(501, f"The local Analytics Hub does not implement {what}.")


def _project(request: web.Request) -> str:
    return request.match_info["project"]


def _location(request: web.Request) -> str:
    return request.match_info["location"].lower()


def _page(request: web.Request, what: str, items: Sequence[Resource]) -> Resource:
    """Return a page of items. The page token is the index of the next item."""
    start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 0) or 100
    more = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
    return {what: list(items[start : start + size]), **more}


def _check_faults(settings: Resource) -> None:
    """Check the section ``analyticshub``; raise an error for an unknown key or value."""
    check_keys(settings, ("rules",), "analyticshub")
    for rule in settings.get("rules", ()):
        check_keys(rule, ("match", "times", "code", "message", "reason"), "analyticshub.rules")
        if not 400 <= int(rule["code"]) <= 599:
            raise ValueError(f"code {rule['code']} must be from 400 to 599")
