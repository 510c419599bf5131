"""REST methods of datasets."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from imagebeam.emulators.bigquery.access import AccessControl, Permission
from imagebeam.emulators.bigquery.api.handlers import HandlerFactory
from imagebeam.emulators.bigquery.api.pages import paginate
from imagebeam.emulators.bigquery.api.requests import (
    PAGING,
    check_project,
    dataset_in_path,
    list_response,
    parse_label_filter,
)
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.resources import check_etag, dataset_resource

_LISTED: tuple[str, ...] = ("kind", "id", "datasetReference", "labels", "friendlyName", "location")


class DatasetApi:
    """Methods of ``datasets``.

    Args:
        catalog: The datasets.
        access: Knows which datasets are linked.
    """

    def __init__(self, catalog: Catalog, access: AccessControl) -> None:
        self._catalog = catalog
        self._access = access

    def routes(self, handler: HandlerFactory) -> list[web.RouteDef]:
        """Return the routes."""
        datasets = "/bigquery/v2/projects/{project}/datasets"
        dataset = datasets + "/{dataset}"
        get, create = Permission("datasets.get", "dataset"), Permission("datasets.create", "project")
        return [
            web.get(datasets, handler(self._list, "filter", "all", *PAGING)),
            web.post(datasets, handler(self._create, permission=create)),
            web.get(dataset, handler(self._get, "datasetView", "accessPolicyVersion", permission=get)),
            web.patch(dataset, handler(self._patch, "accessPolicyVersion", "updateMode")),
            web.put(dataset, handler(self._put, "accessPolicyVersion", "updateMode")),
            web.delete(dataset, handler(self._delete, "deleteContents")),
        ]

    def _create(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        check_project(request, self._catalog)
        name = str((body.get("datasetReference") or {}).get("datasetId"))
        return dataset_resource(self._catalog.project, name, self._catalog.create_dataset(body).resource)

    def _get(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        project, name = dataset_in_path(request)
        return self._access.add_link(dataset_resource(project, name, self._catalog.dataset(project, name).resource))

    def _patch(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._update(request, body, replace=False)

    def _put(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._update(request, body, replace=True)

    def _update(self, request: web.Request, body: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        project, name = dataset_in_path(request)
        with self._catalog.store.writing:
            check_etag(request.headers.get("If-Match"), self._catalog.dataset(project, name).resource)
            changed = self._catalog.update_dataset(project, name, body, replace=replace)
        return dataset_resource(project, name, changed.resource)

    def _delete(self, request: web.Request, _: dict[str, Any]) -> None:
        contents = request.query.get("deleteContents", "false").lower() == "true"
        self._catalog.delete_dataset(*dataset_in_path(request), contents=contents)

    def _list(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        check_project(request, self._catalog)
        conditions = parse_label_filter(request.query.get("filter"))
        found = []
        for name, dataset in self._catalog.datasets():
            labels = dataset.resource.get("labels") or {}
            if all(key in labels and value in (None, labels[key]) for key, value in conditions):
                resource = dataset_resource(self._catalog.project, name, dataset.resource)
                found.append({key: resource[key] for key in _LISTED if key in resource})
        items, token = paginate(found, request.query)
        return list_response("bigquery#datasetList", "datasets", items, token)
