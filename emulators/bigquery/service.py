"""The local BigQuery: its REST API (``/bigquery/v2``) as google-cloud-bigquery and Beam call it.

The work is done by the modules ``bigquery_*``; here are the routes, what their parameters mean, and
the words of the answers. What is not implemented is answered with a 501 that names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import duckdb
from aiohttp import web

from imagebeam.emulators.bigquery.access import Gate
from imagebeam.emulators.bigquery.ai.faults import AiFaults
from imagebeam.emulators.bigquery.ai.functions import Embedder
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.connections import Connections
from imagebeam.emulators.bigquery.catalog.object_tables import ObjectTables
from imagebeam.emulators.bigquery.catalog.resources import check_etag, dataset_resource, table_resource
from imagebeam.emulators.bigquery.catalog.store import Store
from imagebeam.emulators.bigquery.dialect import errors as bigquery_errors
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import schema_resource
from imagebeam.emulators.bigquery.jobs.resources import Job, Jobs
from imagebeam.emulators.bigquery.jobs.select import view_fields
from imagebeam.emulators.bigquery.jobs.uploads import Uploads
from imagebeam.emulators.bigquery.offline import run_sql
from imagebeam.emulators.bigquery.pages import Rows, Window, page_of, read_page, select_fields
from imagebeam.emulators.bigquery.requests import (
    check_faults,
    check_parameters,
    dataset_id,
    label_conditions,
    listing,
    same_project,
    table_id,
)
from imagebeam.emulators.bigquery.rows import Streamer
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError, json_response, read_json
from imagebeam.emulators.storage.object_store import ObjectStore

__all__ = ["BigQueryService", "run_sql"]

#: How long jobs.query and jobs.getQueryResults wait by default, in milliseconds.
DEFAULT_TIMEOUT_MS: Final = 10_000
#: Request ids of jobs.query that are remembered, so that a repeated request finds its job.
REMEMBERED_REQUESTS: Final = 1_000
_PAGES: Final = frozenset(("maxResults", "pageToken", "startIndex"))
_FORMATS: Final = frozenset(("formatOptions.useInt64Timestamp", "formatOptions.timestampOutputFormat"))
_QUERY_REQUEST: Final = frozenset(
    (
        "query", "useLegacySql", "queryParameters", "parameterMode", "defaultDataset", "maximumBytesBilled",
        "useQueryCache",
    )
)  # fmt: skip
_QUERY_REQUEST_ELSE: Final = frozenset(
    (
        "kind", "maxResults", "timeoutMs", "dryRun", "preserveNulls", "location", "formatOptions", "labels",
        "requestId", "jobCreationMode", "jobTimeoutMs",
    )
)  # fmt: skip
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BigQueryService:
    """BigQuery of one project on one DuckDB file.

    Args:
        database: The file; made when it is missing.
        objects: Where load jobs read ``gs://``.
        project: The project.
        faults: Its section ``bigquery`` is applied: ``insert_failures`` (rows, ``do``: ``row_error``,
            ``http_503`` or ``lost_answer``) and ``rules`` (new jobs, by a part of their SQL, ``do``: ``http``).
        seed: Seed of what chance decides there (``ai``: rows of AI functions that fail, see `bigquery_ai_faults`).
        counters: ``bigquery``: ``jobs``, ``dry_runs``, ``insert_requests``, ``inserted_rows`` ...
    """

    def __init__(
        self,
        database: Path,
        objects: ObjectStore,
        project: str,
        faults: FaultConfig,
        counters: Counters,
        seed: int = 0,
    ) -> None:
        self._store = Store(database, project)
        tables, ai = ObjectTables(self._store, objects), AiFaults(faults, seed, counters)
        self._catalog = Catalog(self._store, tables)
        self._store.install(Embedder(objects, tables, self._catalog.registry, ai, counters).install)
        self._gate = Gate(self._catalog, faults)
        self._jobs = Jobs(self._catalog, objects, faults, counters, ai, self._gate)
        self._streamer = Streamer(self._catalog, faults, counters)
        self._uploads = Uploads()
        self._requests: dict[str, Job] = {}
        faults.register("bigquery", check_faults)

    @property
    def catalog(self) -> Catalog:
        """The datasets and tables."""
        return self._catalog

    def close(self) -> None:
        """Stop the jobs and write the file."""
        self._jobs.close()
        self._store.close()

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the API."""
        project = "/bigquery/v2/projects/{project}"
        datasets, jobs = f"{project}/datasets", f"{project}/jobs"
        dataset = datasets + "/{dataset}"
        table = dataset + "/tables/{table}"
        upload = "/upload/bigquery/v2/projects/{project}/jobs"
        return [
            web.get(datasets, self._work(self._list_datasets, "filter", "all", *_PAGES)),
            web.post(datasets, self._work(self._create_dataset)),
            web.get(dataset, self._work(self._get_dataset, "datasetView", "accessPolicyVersion")),
            web.patch(dataset, self._work(self._patch_dataset, "accessPolicyVersion", "updateMode")),
            web.put(dataset, self._work(self._put_dataset, "accessPolicyVersion", "updateMode")),
            web.delete(dataset, self._work(self._delete_dataset, "deleteContents")),
            web.get(f"{dataset}/tables", self._work(self._list_tables, *_PAGES)),
            web.post(f"{dataset}/tables", self._work(self._create_table)),
            web.get(table, self._work(self._get_table, "view", "selectedFields")),
            web.patch(table, self._work(self._patch_table, "autodetect_schema")),
            web.put(table, self._work(self._put_table, "autodetect_schema")),
            web.delete(table, self._work(self._delete_table)),
            web.post(f"{table}:testIamPermissions", self._work(self._test_permissions)),
            web.get(f"{table}/data", self._work(self._list_rows, "selectedFields", *_PAGES, *_FORMATS)),
            web.post(f"{table}/insertAll", self._work(self._insert_all)),
            web.post(jobs, self._work(self._insert_job)),
            web.get(jobs, self._work(self._list_jobs, *_LIST_JOBS, *_PAGES)),
            web.get(jobs + "/{job}", self._work(self._get_job, "location", "projection")),
            web.post(jobs + "/{job}/cancel", self._work(self._cancel_job, "location", "projection")),
            web.delete(jobs + "/{job}/delete", self._work(self._delete_job, "location")),
            web.post(f"{project}/queries", self._query),
            web.get(project + "/queries/{job}", self._query_results),
            web.post(upload, self._upload),
            web.put(upload, self._upload),
            *Connections(self._catalog).routes(self._work),
        ]

    def _work(self, do: Callable[[web.Request, dict[str, Any]], Any], *parameters: str) -> Handler:
        """Make a handler of a function that blocks: it gets the request and its JSON body."""

        async def handle(request: web.Request) -> web.StreamResponse:
            check_parameters(request.query, parameters)
            body = await read_json(request)
            self._gate.enter(request, do.__name__)
            answer = await asyncio.to_thread(_guarded, do, request, body)
            return json_response(answer) if answer is not None else web.Response(status=204)

        return handle

    # Datasets

    def _create_dataset(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        same_project(request, self._catalog)
        name = str((body.get("datasetReference") or {}).get("datasetId"))
        return dataset_resource(self._catalog.project, name, self._catalog.create_dataset(body).resource)

    def _get_dataset(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        project, name = dataset_id(request)
        return self._gate.shown(dataset_resource(project, name, self._catalog.dataset(project, name).resource))

    def _patch_dataset(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._change_dataset(request, body, replace=False)

    def _put_dataset(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._change_dataset(request, body, replace=True)

    def _change_dataset(self, request: web.Request, body: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        project, name = dataset_id(request)
        with self._store.writing:
            check_etag(request.headers.get("If-Match"), self._catalog.dataset(project, name).resource)
            changed = self._catalog.update_dataset(project, name, body, replace=replace)
        return dataset_resource(project, name, changed.resource)

    def _delete_dataset(self, request: web.Request, _: dict[str, Any]) -> None:
        contents = request.query.get("deleteContents", "false").lower() == "true"
        self._catalog.delete_dataset(*dataset_id(request), contents=contents)

    def _list_datasets(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        same_project(request, self._catalog)
        conditions = label_conditions(request.query.get("filter"))
        found = []
        for name, dataset in self._catalog.datasets():
            labels = dataset.resource.get("labels") or {}
            if all(key in labels and value in (None, labels[key]) for key, value in conditions):
                whole = dataset_resource(self._catalog.project, name, dataset.resource)
                shown = ("kind", "id", "datasetReference", "labels", "friendlyName", "location")
                found.append({key: whole[key] for key in shown if key in whole})
        items, token = page_of(found, request.query)
        return listing("bigquery#datasetList", "datasets", items, token)

    # Tables

    def _create_table(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        project, dataset = dataset_id(request)
        home = self._catalog.dataset(project, dataset)
        fields = None
        if body.get("view"):
            name = str((body.get("tableReference") or {}).get("tableId"))
            if name in home.tables:  # before the query is checked: a view may refer to its older self
                self._catalog.create_table(dataset, body, ())
            fields = view_fields(self._catalog, str(body["view"].get("query") or ""))
        table = self._catalog.create_table(dataset, body, fields)
        return table_resource(table, home.location, self._catalog.size(table))

    def _get_table(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        ident = table_id(request)
        result = self._catalog.results.find(ident)
        if result is not None:
            return result.resource()
        table = self._catalog.table(ident)
        home = self._catalog.dataset(ident.project, ident.dataset)
        return table_resource(table, home.location, self._catalog.size(table))

    def _patch_table(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._change_table(request, body, replace=False)

    def _put_table(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._change_table(request, body, replace=True)

    def _change_table(self, request: web.Request, body: dict[str, Any], *, replace: bool) -> dict[str, Any]:
        ident = table_id(request)
        with self._store.writing:
            table = self._catalog.table(ident)
            check_etag(request.headers.get("If-Match"), table.resource)
            fields = None
            if body.get("view") and table.view is not None:
                fields = view_fields(self._catalog, str(body["view"].get("query") or ""))
            table = self._catalog.update_table(ident, body, replace=replace, fields=fields)
        home = self._catalog.dataset(ident.project, ident.dataset)
        return table_resource(table, home.location, self._catalog.size(table))

    def _delete_table(self, request: web.Request, _: dict[str, Any]) -> None:
        self._catalog.delete_table(table_id(request))

    def _list_tables(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        project, dataset = dataset_id(request)
        tables = self._catalog.tables(project, dataset)
        location = self._catalog.dataset(project, dataset).location
        items, token = page_of([table_resource(table, location, None) for table in tables], request.query)
        return listing("bigquery#tableList", "tables", items, token) | {"totalItems": len(tables)}

    def _test_permissions(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        self._catalog.table(table_id(request))
        return self._gate.granted(request, body)

    # Rows

    def _insert_all(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        return self._streamer.insert(table_id(request), body)

    def _list_rows(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        ident = table_id(request)
        result = self._catalog.results.find(ident)
        if result is not None:
            rows = Rows(result.duck, result.fields, result.rows, dense=True)
        else:
            table = self._catalog.table(ident)
            if table.kind != "TABLE":
                raise ApiError(400, f"Cannot list a table of type {table.kind}.", reason="invalid")
            name = self._store.duck_name(ident.dataset, ident.table)
            rows = Rows(name, table.fields, self._catalog.size(table)[""], dense=False)
        chosen = select_fields(rows.fields, request.query.get("selectedFields"))
        page, token = read_page(
            self._catalog, Rows(rows.duck, chosen, rows.total, dense=rows.dense), Window.of(request.query)
        )
        answer: dict[str, Any] = {"kind": "bigquery#tableDataList", "etag": "", "totalRows": str(rows.total)}
        return answer | ({"rows": page} if page else {}) | ({"pageToken": token} if token else {})

    # Jobs

    def _insert_job(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        started = self._jobs.insert(request.match_info["project"], body)
        return started.resource(state="RUNNING") if isinstance(started, Job) else started

    def _job(self, request: web.Request) -> Job:
        return self._jobs.get(request.match_info["project"], request.match_info["job"], request.query.get("location"))

    def _get_job(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        return self._job(request).resource()

    def _cancel_job(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        job = self._job(request)
        job.cancel()
        return {"kind": "bigquery#jobCancelResponse", "job": job.resource()}

    def _delete_job(self, request: web.Request, _: dict[str, Any]) -> None:
        self._jobs.forget(self._job(request))

    def _list_jobs(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        query = request.query
        if query.get("parentJobId"):
            raise not_implemented("jobs.list by parentJobId")
        states = {state.lower() for state in query.getall("stateFilter", [])}
        first, last = int(query.get("minCreationTime", 0)), int(query.get("maxCreationTime", 2**62))
        found = [
            job.resource()
            for job in self._jobs.all()
            if first <= job.created_ms <= last and (not states or job.state.lower() in states)
        ]
        for body in found:
            body["state"] = body["status"]["state"]
        items, token = page_of(found, query)
        return listing("bigquery#jobList", "jobs", items, token)

    async def _query(self, request: web.Request) -> web.StreamResponse:
        """jobs.query: start, wait, first page."""
        check_parameters(request.query, ())
        self._gate.enter(request, "_insert_job")
        body = await read_json(request)
        for key, value in body.items():
            if key not in _QUERY_REQUEST | _QUERY_REQUEST_ELSE and value not in (None, False, "", [], {}):
                raise not_implemented(f"{key!r} of jobs.query")
        configuration: dict[str, Any] = {"query": {key: body[key] for key in _QUERY_REQUEST if key in body}}
        configuration |= {key: body[key] for key in ("labels", "dryRun") if body.get(key)}
        reference = {"jobReference": {"location": body.get("location")}, "configuration": configuration}
        project = request.match_info["project"]
        known = self._requests.get(str(body.get("requestId") or ""))
        job: Any = known or await asyncio.to_thread(_guarded, self._jobs.insert, project, reference)
        if not isinstance(job, Job):
            statistics = job["statistics"]["query"]
            answer = {"kind": "bigquery#queryResponse", "jobComplete": True, "cacheHit": False, "totalRows": "0"}
            return json_response(
                answer
                | {key: statistics[key] for key in ("schema", "totalBytesProcessed")}
                | {"jobReference": job["jobReference"]}
            )
        if body.get("requestId"):
            self._requests[str(body["requestId"])] = job
            while len(self._requests) > REMEMBERED_REQUESTS:
                del self._requests[next(iter(self._requests))]
        formats = body.get("formatOptions") or {}
        parameters = {f"formatOptions.{key}": str(value).lower() for key, value in formats.items()}
        if formats.get("timestampOutputFormat"):
            parameters["formatOptions.timestampOutputFormat"] = str(formats["timestampOutputFormat"])
        if body.get("maxResults") is not None:
            parameters["maxResults"] = str(body["maxResults"])
        seconds = float(body.get("timeoutMs") or DEFAULT_TIMEOUT_MS) / 1000
        return await self._answer(job, "bigquery#queryResponse", parameters, seconds)

    async def _query_results(self, request: web.Request) -> web.StreamResponse:
        """jobs.getQueryResults: wait, one page."""
        check_parameters(request.query, ("location", "timeoutMs", *_PAGES, *_FORMATS))
        job = self._job(request)
        seconds = float(request.query.get("timeoutMs", DEFAULT_TIMEOUT_MS)) / 1000
        return await self._answer(job, "bigquery#getQueryResultsResponse", request.query, seconds)

    async def _answer(self, job: Job, kind: str, parameters: Mapping[str, str], seconds: float) -> web.StreamResponse:
        window = Window.of(parameters)
        body: dict[str, Any] = {"kind": kind, "jobReference": job.reference(), "location": job.location}
        if not await self._jobs.wait(job, seconds):
            return json_response(body | {"jobComplete": False})
        if job.error is not None:
            raise job.error
        if job.plan is None:
            raise ApiError(400, f"Job {job.job_id} is not a query job", reason="invalid")
        body |= {"jobComplete": True, "cacheHit": False, "totalBytesProcessed": str(job.plan.bytes_processed)}
        if job.outcome is not None and job.outcome.affected is not None:
            body["numDmlAffectedRows"] = str(job.outcome.affected)
        result = job.result
        if result is not None:
            rows = Rows(result.duck, result.fields, result.rows, dense=True)
            page, token = await asyncio.to_thread(_guarded, read_page, self._catalog, rows, window)
            body |= {"schema": schema_resource(result.fields), "totalRows": str(result.rows)}
            # maxResults=0 asks for the schema alone: the client takes "rows" for the first page.
            body |= ({"rows": page} if page else {}) | ({"pageToken": token} if token else {})
        return json_response(body)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """A load job whose rows come with the request."""
        raw = await request.read()
        project = request.match_info["project"]
        step = self._uploads.take(request.method, request.query, request.headers, raw)
        if step.answer is not None:
            code, headers = step.answer
            if "Location" in headers:
                headers = headers | {"Location": f"{request.url.origin()}{request.path}?{headers['Location']}"}
            return web.Response(status=code, headers=headers)
        job = await asyncio.to_thread(_guarded, self._jobs.insert, project, step.metadata, step.data)
        return json_response(job.resource(state="RUNNING") if isinstance(job, Job) else job)


_LIST_JOBS: Final = ("allUsers", "projection", "stateFilter", "minCreationTime", "maxCreationTime", "parentJobId")


def _guarded(do: Callable[..., Any], *arguments: Any) -> Any:
    """Run something that uses DuckDB: its errors are the query's, not ours."""
    try:
        return do(*arguments)
    except duckdb.Error as problem:
        raise bigquery_errors.translate(problem, "") from problem
