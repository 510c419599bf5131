"""REST of what stands beside tables: BigQuery's models, and the connections of the BigQuery Connection API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.registry import ConnectionId, Resource
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.auth import authenticate
from imagebeam.emulators.core.http import ApiError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
#: Makes a handler of a function that blocks, as `bigquery.BigQueryService` does.
Work = Callable[..., Handler]


class Connections:
    """The routes.

    Args:
        catalog: Where it all is kept.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def routes(self, work: Work) -> list[web.RouteDef]:
        """Return the routes."""
        models = "/bigquery/v2/projects/{project}/datasets/{dataset}/models"
        connections = "/v1/projects/{project}/locations/{location}/connections"
        return [
            web.get(models, work(self._list_models, "maxResults", "pageToken")),
            web.get(models + "/{model}", work(self._get_model)),
            web.delete(models + "/{model}", work(self._delete_model)),
            web.get(connections, work(self._list, "pageSize", "pageToken")),
            web.post(connections, work(self._create, "connectionId", "connection_id")),
            web.get(connections + "/{connection}", work(self._get)),
            web.delete(connections + "/{connection}", work(self._delete)),
        ]

    # Models

    def _list_models(self, request: web.Request, _: dict[str, Any]) -> Resource:
        project, dataset = request.match_info["project"], request.match_info["dataset"]
        self._catalog.dataset(project, dataset)
        names = [name.partition(".") for name in self._catalog.registry.all("model")]
        found = [TableId(project, home, name) for home, _, name in names if home == dataset]
        return {"models": [_model(ident, self._catalog.remote_model(ident)) for ident in found]}

    def _get_model(self, request: web.Request, _: dict[str, Any]) -> Resource:
        ident = _ident(request)
        return _model(ident, self._catalog.remote_model(ident))

    def _delete_model(self, request: web.Request, _: dict[str, Any]) -> None:
        ident = _ident(request)
        self._catalog.remote_model(ident)
        name = f"{ident.dataset}.{ident.table}"
        self._catalog.registry.drop("model", name, what=f"Model {ident}", if_exists=False)

    # Connections

    def _list(self, request: web.Request, _: dict[str, Any]) -> Resource:
        authenticate(request)
        self._check(request)
        place = f"{request.match_info['project']}.{request.match_info['location'].lower()}."
        found = self._catalog.registry.all("connection")
        return {"connections": [_connection(body) for name, body in found.items() if name.startswith(place)]}

    def _create(self, request: web.Request, body: dict[str, Any]) -> Resource:
        authenticate(request)
        self._check(request)
        name = request.query.get("connectionId") or request.query.get("connection_id")
        if not name:
            raise not_implemented("connections without a connectionId")
        if not isinstance(body.get("cloudResource", body.get("cloud_resource")), dict):
            raise not_implemented("connections other than cloudResource")
        ident = ConnectionId(request.match_info["project"], request.match_info["location"].lower(), name)
        more = {key: body[key] for key in ("friendlyName", "description") if body.get(key)}
        return _connection(self._catalog.registry.create_connection(ident, if_absent=False, **more))

    def _get(self, request: web.Request, _: dict[str, Any]) -> Resource:
        authenticate(request)
        return _connection(self._catalog.registry.connection(_connection_id(request)))

    def _delete(self, request: web.Request, _: dict[str, Any]) -> Resource:
        authenticate(request)
        ident = _connection_id(request)
        self._catalog.registry.drop("connection", str(ident), what=f"Connection {ident.path}", if_exists=False)
        return {}

    def _check(self, request: web.Request) -> None:
        project = request.match_info["project"]
        if project != self._catalog.project:
            raise ApiError(404, f"Not found: Project {project}", reason="notFound")


def _connection_id(request: web.Request) -> ConnectionId:
    place = request.match_info
    return ConnectionId(place["project"], place["location"].lower(), place["connection"])


def _connection(body: Resource) -> Resource:
    """Return a connection as the API shows it: with the project's number in its name."""
    parts = body["name"].split("/")
    return body | {"name": "/".join([parts[0], PROJECT_NUMBER, *parts[2:]]), "hasCredential": False}


def _ident(request: web.Request) -> TableId:
    place = request.match_info
    return TableId(place["project"], place["dataset"], place["model"])


def _model(ident: TableId, body: Any) -> Resource:
    return {
        "modelReference": {"projectId": ident.project, "datasetId": ident.dataset, "modelId": ident.table},
        "modelType": "MODEL_TYPE_UNSPECIFIED",
        "creationTime": body["creationTime"],
        "lastModifiedTime": body["lastModifiedTime"],
        "location": body["location"],
        "remoteModelInfo": {"endpoint": body["endpoint"], "connection": body["connection"]},
        "etag": body["lastModifiedTime"],
    }
