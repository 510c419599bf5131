"""REST methods of BigQuery models, and of the BigQuery Connection API."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from imagebeam.emulators.bigquery.api.handlers import HandlerFactory
from imagebeam.emulators.bigquery.api.requests import check_project
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.registry import ConnectionId, Resource
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.core.access import PROJECT_NUMBER
from imagebeam.emulators.core.auth import authenticate


class ConnectionApi:
    """Methods of ``models`` and of ``connections``.

    Args:
        catalog: The catalog with the registry of both.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def routes(self, handler: HandlerFactory) -> list[web.RouteDef]:
        """Return the routes."""
        models = "/bigquery/v2/projects/{project}/datasets/{dataset}/models"
        connections = "/v1/projects/{project}/locations/{location}/connections"
        return [
            web.get(models, handler(self._list_models, "maxResults", "pageToken")),
            web.get(models + "/{model}", handler(self._get_model)),
            web.delete(models + "/{model}", handler(self._delete_model)),
            web.get(connections, handler(self._list, "pageSize", "pageToken")),
            web.post(connections, handler(self._create, "connectionId", "connection_id")),
            web.get(connections + "/{connection}", handler(self._get)),
            web.delete(connections + "/{connection}", handler(self._delete)),
        ]

    # Models

    def _list_models(self, request: web.Request, _: dict[str, Any]) -> Resource:
        project, dataset = request.match_info["project"], request.match_info["dataset"]
        self._catalog.dataset(project, dataset)
        names = [name.partition(".") for name in self._catalog.registry.all("model")]
        found = [TableId(project, parent, name) for parent, _, name in names if parent == dataset]
        return {"models": [_model(ident, self._catalog.remote_model(ident)) for ident in found]}

    def _get_model(self, request: web.Request, _: dict[str, Any]) -> Resource:
        ident = _model_id(request)
        return _model(ident, self._catalog.remote_model(ident))

    def _delete_model(self, request: web.Request, _: dict[str, Any]) -> None:
        ident = _model_id(request)
        self._catalog.remote_model(ident)
        name = f"{ident.dataset}.{ident.table}"
        self._catalog.registry.drop("model", name, label=f"Model {ident}", if_exists=False)

    # Connections

    def _list(self, request: web.Request, _: dict[str, Any]) -> Resource:
        authenticate(request)
        check_project(request, self._catalog)
        prefix = f"{request.match_info['project']}.{request.match_info['location'].lower()}."
        found = self._catalog.registry.all("connection")
        return {"connections": [_connection(body) for name, body in found.items() if name.startswith(prefix)]}

    def _create(self, request: web.Request, body: dict[str, Any]) -> Resource:
        authenticate(request)
        check_project(request, self._catalog)
        name = request.query.get("connectionId") or request.query.get("connection_id")
        if not name:
            raise not_implemented("connections without a connectionId")
        if not isinstance(body.get("cloudResource", body.get("cloud_resource")), dict):
            raise not_implemented("connections other than cloudResource")
        ident = ConnectionId(request.match_info["project"], request.match_info["location"].lower(), name)
        properties = {key: body[key] for key in ("friendlyName", "description") if body.get(key)}
        return _connection(self._catalog.registry.create_connection(ident, if_absent=False, **properties))

    def _get(self, request: web.Request, _: dict[str, Any]) -> Resource:
        authenticate(request)
        return _connection(self._catalog.registry.connection(_connection_id(request)))

    def _delete(self, request: web.Request, _: dict[str, Any]) -> Resource:
        authenticate(request)
        ident = _connection_id(request)
        self._catalog.registry.drop("connection", str(ident), label=f"Connection {ident.path}", if_exists=False)
        return {}


def _connection_id(request: web.Request) -> ConnectionId:
    path = request.match_info
    return ConnectionId(path["project"], path["location"].lower(), path["connection"])


def _connection(body: Resource) -> Resource:
    """Return a connection as the API shows it, with the project number in its name."""
    parts = body["name"].split("/")
    return body | {"name": "/".join([parts[0], PROJECT_NUMBER, *parts[2:]]), "hasCredential": False}


def _model_id(request: web.Request) -> TableId:
    path = request.match_info
    return TableId(path["project"], path["dataset"], path["model"])


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
