"""Analytics Hub of the local Google Cloud: one data exchange with one listing, the sample dataset, to subscribe to.

The names are made as Google's guide for Imagery Insights makes them, for the customer :data:`CUSTOMER`. Subscribing
makes a linked dataset in the local BigQuery: read-only, its tables are views of the shared ones. As in the API the
answer comes when the dataset is there; there is no long-running operation.
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

#: Project that shares.
HUB: Final = "maps-platform-analytics-hub"
#: The customer id that the listing is named after.
CUSTOMER: Final = "local-customer"

_PLACE: Final = LOCATION.lower()
EXCHANGE: Final = f"projects/{HUB}/locations/{_PLACE}/dataExchanges/imagery_insights_exchange_{_PLACE}"
LISTING: Final = f"{EXCHANGE}/listings/imagery_insights_{CUSTOMER.replace('-', '_')}__{_PLACE}"
_KIND: Final = "subscription"
_PARENT: Final = "/v1/projects/{project}/locations/{location}"

Resource = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AnalyticsHubService:
    """The routes.

    Faults (section ``analyticshub``): ``rules`` with ``match`` (part of ``METHOD path``), ``times``, ``code``,
    ``message``, ``reason`` of an ErrorInfo. Counters (branch ``analyticshub``): ``calls`` by method.

    Args:
        catalog: The local BigQuery, whose sample dataset is shared and which gets the linked ones.
        faults: The fault configuration.
        counters: The counters.
    """

    def __init__(self, catalog: Catalog, faults: FaultConfig, counters: Counters) -> None:
        self._catalog = catalog
        self._faults = faults
        self._counters = counters
        faults.register("analyticshub", _check_faults)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the API."""
        exchanges = f"{_PARENT}/dataExchanges"
        listings = exchanges + "/{exchange}/listings"
        subscriptions = f"{_PARENT}/subscriptions"
        return [
            web.get(exchanges, self._work("dataExchanges.list", self._exchanges), allow_head=False),
            web.get(exchanges + "/{exchange}", self._work("dataExchanges.get", self._exchange), allow_head=False),
            web.get(listings, self._work("listings.list", self._listings), allow_head=False),
            web.get(listings + "/{listing}", self._work("listings.get", self._listing), allow_head=False),
            web.post(listings + "/{listing}:subscribe", self._work("listings.subscribe", self._subscribe)),
            web.get(subscriptions, self._work("subscriptions.list", self._subscriptions), allow_head=False),
            *(
                web.route(method, path + "{rest:.*}", self._work(None, self._nothing))
                for path in (exchanges, subscriptions)
                for method in ("GET", "POST", "PATCH", "DELETE")
            ),
        ]

    def _work(self, name: str | None, do: Callable[[web.Request, Resource], Resource]) -> Handler:
        """Make a handler of a function that blocks; without a name it is one that is not served."""

        async def handle(request: web.Request) -> web.StreamResponse:
            authenticate(request)
            body = await read_json(request)
            if name is not None:
                self._counters.add("analyticshub", "calls", name)
                self._break(name, request.path)
                unknown = request.query.keys() - {"pageSize", "pageToken", "alt", "prettyPrint"}
                if unknown:
                    raise _not_served(f"the parameter {min(unknown)!r} of {name}")
            return json_response(await asyncio.to_thread(do, request, body))

        return handle

    def _break(self, name: str, path: str) -> None:
        rule = self._faults.take("analyticshub", f"{name} {path}")
        if rule is None:
            return
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "domain": "googleapis.com"}
        details = [info | {"reason": rule["reason"]}] if rule.get("reason") else None
        raise ApiError(int(rule["code"]), str(rule.get("message") or "A fault that was asked for."), details=details)

    # What is shared

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
        asked = body.get("destinationDataset")
        if not isinstance(asked, dict):
            raise _not_served("listings.subscribe without a destinationDataset")
        reference = asked.get("datasetReference") or {}
        project, dataset = str(reference.get("projectId") or ""), str(reference.get("datasetId") or "")
        if project != self._catalog.project:
            raise ApiError(403, f"Permission 'bigquery.datasets.create' denied on resource 'projects/{project}'.")
        if str(asked.get("location") or "").lower() != _PLACE:
            place = asked.get("location")
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
        """Make the dataset with a view of every shared table."""
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
        kept = self._catalog.registry.all(_KIND).values() if _location(request) == _PLACE else ()
        return _page(request, "subscriptions", [self._shown(each) for each in kept])

    def _shown(self, kept: Resource) -> Resource:
        """A subscription as the API shows it: active as long as its dataset is there."""
        body = {key: value for key, value in kept.items() if key != "dataset"}
        there = any(
            name == kept["dataset"] and found.resource.get("type") == "LINKED"
            for name, found in self._catalog.datasets()
        )
        if not there:
            return body | {"state": "STATE_INACTIVE"}
        place = f"projects/{self._catalog.project}/datasets/{kept['dataset']}"
        return body | {"state": "STATE_ACTIVE", "linkedDatasetMap": {LISTING: {"linkedDataset": place}}}

    def _nothing(self, request: web.Request, _: Resource) -> Resource:
        raise _not_served(f"{request.method} {request.path}")


def _exchange() -> Resource:
    return {"name": EXCHANGE, "displayName": "Imagery Insights", "listingCount": 1}


def _check(request: web.Request, wanted: str) -> None:
    """Refuse what is not there; what is in a project of somebody else is not even said to be missing."""
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


def _not_served(what: str) -> ApiError:
    return ApiError(501, f"The local Analytics Hub does not implement {what}.")


def _project(request: web.Request) -> str:
    return request.match_info["project"]


def _location(request: web.Request) -> str:
    return request.match_info["location"].lower()


def _page(request: web.Request, what: str, items: Sequence[Resource]) -> Resource:
    """A page; its token is where the next one starts."""
    start, size = int(request.query.get("pageToken") or 0), int(request.query.get("pageSize") or 0) or 100
    more = {"nextPageToken": str(start + size)} if start + size < len(items) else {}
    return {what: list(items[start : start + size]), **more}


def _check_faults(settings: Resource) -> None:
    """Refuse misspelt faults."""
    check_keys(settings, ("rules",), "analyticshub")
    for rule in settings.get("rules", ()):
        check_keys(rule, ("match", "times", "code", "message", "reason"), "analyticshub.rules")
        if not 400 <= int(rule["code"]) <= 599:
            raise ValueError(f"code {rule['code']} is no error: use 400 to 599")
