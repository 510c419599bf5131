"""REST methods of tables and their rows."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from imagebeam.emulators.bigquery.access import GET_ROWS, AccessControl, Permission
from imagebeam.emulators.bigquery.api.handlers import HandlerFactory
from imagebeam.emulators.bigquery.api.insert_all import RowInserter
from imagebeam.emulators.bigquery.api.pages import PageRequest, RowSource, paginate, read_page, select_fields
from imagebeam.emulators.bigquery.api.requests import FORMATS, PAGING, dataset_in_path, list_response, table_in_path
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.resources import check_etag, table_resource
from imagebeam.emulators.bigquery.jobs.query import view_fields
from imagebeam.emulators.core.http import ApiError


class TableApi:
    """Methods of ``tables`` and ``tabledata``.

    Args:
        catalog: The tables.
        access: Knows the caller's permissions.
        inserter: Handles tabledata.insertAll.
    """

    def __init__(self, catalog: Catalog, access: AccessControl, inserter: RowInserter) -> None:
        self._catalog = catalog
        self._access = access
        self._inserter = inserter

    def routes(self, handler: HandlerFactory) -> list[web.RouteDef]:
        """Return the routes."""
        tables = "/bigquery/v2/projects/{project}/datasets/{dataset}/tables"
        table = tables + "/{table}"
        create, get = Permission("tables.create", "dataset"), Permission("tables.get", "table")
        delete, insert = Permission("tables.delete", "table"), Permission("tables.updateData", "table")
        return [
            web.get(tables, handler(self._list, *PAGING)),
            web.post(tables, handler(self._create, permission=create)),
            web.get(table, handler(self._get, "view", "selectedFields", permission=get)),
            web.patch(table, handler(self._patch, "autodetect_schema")),
            web.put(table, handler(self._put, "autodetect_schema")),
            web.delete(table, handler(self._delete, permission=delete)),
            web.post(f"{table}:testIamPermissions", handler(self._test_permissions)),
            web.get(f"{table}/data", handler(self._rows, "selectedFields", *PAGING, *FORMATS, permission=GET_ROWS)),
            web.post(f"{table}/insertAll", handler(self._insert_all, permission=insert)),
        ]

    def _create(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        project, name = dataset_in_path(request)
        dataset = self._catalog.dataset(project, name)
        fields = None
        if body.get("view"):
            table = str((body.get("tableReference") or {}).get("tableId"))
            if table in dataset.tables:  # raises 409 before the query is checked: it may refer to the view itself
                self._catalog.create_table(name, body, ())
            fields = view_fields(self._catalog, str(body["view"].get("query") or ""))
        created = self._catalog.create_table(name, body, fields)
        return table_resource(created, dataset.location, self._catalog.size(created))

    def _get(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        ident = table_in_path(request)
        result = self._catalog.results.find(ident)
        if result is not None:
            return result.resource()
        table = self._catalog.table(ident)
        dataset = self._catalog.dataset(ident.project, ident.dataset)
        return table_resource(table, dataset.location, self._catalog.size(table))

    def _patch(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._update(request, body, replace=False)

    def _put(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._update(request, body, replace=True)

    def _update(self, request: web.Request, body: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        ident = table_in_path(request)
        with self._catalog.store.writing:
            table = self._catalog.table(ident)
            check_etag(request.headers.get("If-Match"), table.resource)
            fields = None
            if body.get("view") and table.view is not None:
                fields = view_fields(self._catalog, str(body["view"].get("query") or ""))
            table = self._catalog.update_table(ident, body, replace=replace, fields=fields)
        dataset = self._catalog.dataset(ident.project, ident.dataset)
        return table_resource(table, dataset.location, self._catalog.size(table))

    def _delete(self, request: web.Request, _: dict[str, Any]) -> None:
        self._catalog.delete_table(table_in_path(request))

    def _list(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        project, dataset = dataset_in_path(request)
        tables = self._catalog.tables(project, dataset)
        location = self._catalog.dataset(project, dataset).location
        items, token = paginate([table_resource(table, location, None) for table in tables], request.query)
        return list_response("bigquery#tableList", "tables", items, token) | {"totalItems": len(tables)}

    def _test_permissions(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        self._catalog.table(table_in_path(request))
        return self._access.granted_permissions(request, body)

    def _insert_all(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._inserter.insert(table_in_path(request), body)

    def _rows(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        ident = table_in_path(request)
        result = self._catalog.results.find(ident)
        if result is not None:
            duck, fields, total = result.duck, result.fields, result.rows
        else:
            table = self._catalog.table(ident)
            if table.kind != "TABLE":
                raise ApiError(400, f"Cannot list a table of type {table.kind}.", reason="invalid")
            duck, fields = self._catalog.store.duck_name(ident.dataset, ident.table), table.fields
            total = self._catalog.size(table)[""]
        selected = select_fields(fields, request.query.get("selectedFields"))
        source = RowSource(duck, selected, total, dense=result is not None)
        page, token = read_page(self._catalog, source, PageRequest.parse(request.query))
        body: dict[str, Any] = {"kind": "bigquery#tableDataList", "etag": "", "totalRows": str(total)}
        return body | ({"rows": page} if page else {}) | ({"pageToken": token} if token else {})
