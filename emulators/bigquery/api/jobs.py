"""REST methods of jobs, queries and uploads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from imagebeam.emulators.bigquery.access import CREATE_JOB, AccessControl
from imagebeam.emulators.bigquery.api.handlers import HandlerFactory, run_in_thread
from imagebeam.emulators.bigquery.api.pages import PageRequest, RowSource, paginate, read_page
from imagebeam.emulators.bigquery.api.requests import FORMATS, PAGING, check_parameters, list_response
from imagebeam.emulators.bigquery.api.uploads import Uploads
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.types import schema_resource
from imagebeam.emulators.bigquery.jobs.job import Job
from imagebeam.emulators.bigquery.jobs.manager import JobManager
from imagebeam.emulators.core.http import ApiError, json_response, read_json

#: Default timeout of jobs.query and jobs.getQueryResults in milliseconds.
DEFAULT_TIMEOUT_MS: Final = 10_000
#: Number of request ids of jobs.query that are remembered: a repeated request returns the same job.
REMEMBERED_REQUESTS: Final = 1_000
_LIST_PARAMETERS: Final = (
    "allUsers", "projection", "stateFilter", "minCreationTime", "maxCreationTime", "parentJobId",
)  # fmt: skip
#: Keys of a jobs.query request that belong to the job's configuration, and the others.
_QUERY_CONFIGURATION: Final = frozenset(
    (
        "query", "useLegacySql", "queryParameters", "parameterMode", "defaultDataset", "maximumBytesBilled",
        "useQueryCache",
    )
)  # fmt: skip
_QUERY_REQUEST: Final = frozenset(
    (
        "kind", "maxResults", "timeoutMs", "dryRun", "preserveNulls", "location", "formatOptions", "labels",
        "requestId", "jobCreationMode", "jobTimeoutMs",
    )
)  # fmt: skip


class JobApi:
    """Methods of ``jobs``.

    Args:
        catalog: The results of queries.
        jobs: The jobs.
        access: Checks the calls that have no handler from the factory.
    """

    def __init__(self, catalog: Catalog, jobs: JobManager, access: AccessControl) -> None:
        self._catalog = catalog
        self._jobs = jobs
        self._access = access
        self._uploads = Uploads()
        self._requests: dict[str, Job] = {}

    def routes(self, handler: HandlerFactory) -> list[web.RouteDef]:
        """Return the routes."""
        project = "/bigquery/v2/projects/{project}"
        jobs, upload = f"{project}/jobs", "/upload/bigquery/v2/projects/{project}/jobs"
        return [
            web.post(jobs, handler(self._insert, permission=CREATE_JOB)),
            web.get(jobs, handler(self._list, *_LIST_PARAMETERS, *PAGING)),
            web.get(jobs + "/{job}", handler(self._get, "location", "projection")),
            web.post(jobs + "/{job}/cancel", handler(self._cancel, "location", "projection")),
            web.delete(jobs + "/{job}/delete", handler(self._delete, "location")),
            web.post(f"{project}/queries", self._query),
            web.get(project + "/queries/{job}", self._query_results),
            web.post(upload, self._upload),
            web.put(upload, self._upload),
        ]

    def _insert(self, request: web.Request, body: dict[str, Any]) -> dict[str, Any]:
        started = self._jobs.insert(request.match_info["project"], body)
        return started.resource(state="RUNNING") if isinstance(started, Job) else started

    def _job(self, request: web.Request) -> Job:
        return self._jobs.get(request.match_info["project"], request.match_info["job"], request.query.get("location"))

    def _get(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        return self._job(request).resource()

    def _cancel(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
        job = self._job(request)
        job.cancel()
        return {"kind": "bigquery#jobCancelResponse", "job": job.resource()}

    def _delete(self, request: web.Request, _: dict[str, Any]) -> None:
        self._jobs.delete(self._job(request))

    def _list(self, request: web.Request, _: dict[str, Any]) -> dict[str, Any]:
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
        items, token = paginate(found, query)
        return list_response("bigquery#jobList", "jobs", items, token)

    async def _query(self, request: web.Request) -> web.StreamResponse:
        """Handle jobs.query: start a job, wait for it, return its first page."""
        check_parameters(request.query, ())
        self._access.check_call(request, CREATE_JOB)
        body = await read_json(request)
        for key, value in body.items():
            if key not in _QUERY_CONFIGURATION | _QUERY_REQUEST and value not in (None, False, "", [], {}):
                raise not_implemented(f"{key!r} of jobs.query")
        job = self._requests.get(str(body.get("requestId") or ""))
        if job is None:
            started = await self._start_query(request.match_info["project"], body)
            if not isinstance(started, Job):
                return json_response(_dry_run_response(started))
            job = started
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
        timeout_s = float(body.get("timeoutMs") or DEFAULT_TIMEOUT_MS) / 1000
        return await self._query_response(job, "bigquery#queryResponse", parameters, timeout_s)

    async def _start_query(self, project: str, body: Mapping[str, Any]) -> Any:
        configuration: dict[str, Any] = {"query": {key: body[key] for key in _QUERY_CONFIGURATION if key in body}}
        configuration |= {key: body[key] for key in ("labels", "dryRun") if body.get(key)}
        resource = {"jobReference": {"location": body.get("location")}, "configuration": configuration}
        return await run_in_thread(self._jobs.insert, project, resource)

    async def _query_results(self, request: web.Request) -> web.StreamResponse:
        """Handle jobs.getQueryResults: wait for the job, return one page."""
        check_parameters(request.query, ("location", "timeoutMs", *PAGING, *FORMATS))
        job = self._job(request)
        timeout_s = float(request.query.get("timeoutMs", DEFAULT_TIMEOUT_MS)) / 1000
        return await self._query_response(job, "bigquery#getQueryResultsResponse", request.query, timeout_s)

    async def _query_response(
        self, job: Job, kind: str, parameters: Mapping[str, str], timeout_s: float
    ) -> web.StreamResponse:
        page_request = PageRequest.parse(parameters)
        body: dict[str, Any] = {"kind": kind, "jobReference": job.reference(), "location": job.location}
        if not await self._jobs.wait(job, timeout_s):
            return json_response(body | {"jobComplete": False})
        if job.error is not None:
            raise job.error
        if job.plan is None:
            raise ApiError(400, f"Job {job.job_id} is not a query job", reason="invalid")
        body |= {"jobComplete": True, "cacheHit": False, "totalBytesProcessed": str(job.plan.bytes_processed)}
        if job.outcome is not None and job.outcome.affected_rows is not None:
            body["numDmlAffectedRows"] = str(job.outcome.affected_rows)
        result = job.result
        if result is not None:
            source = RowSource(result.duck, result.fields, result.rows, dense=True)
            page, token = await run_in_thread(read_page, self._catalog, source, page_request)
            body |= {"schema": schema_resource(result.fields), "totalRows": str(result.rows)}
            # With maxResults=0 a client wants the schema alone: it would take "rows" for the first page.
            body |= ({"rows": page} if page else {}) | ({"pageToken": token} if token else {})
        return json_response(body)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """Handle a load job whose rows come with the request."""
        raw = await request.read()
        project = request.match_info["project"]
        upload = self._uploads.receive(request.method, request.query, request.headers, raw)
        if upload.response is not None:
            code, headers = upload.response
            if "Location" in headers:
                headers = headers | {"Location": f"{request.url.origin()}{request.path}?{headers['Location']}"}
            return web.Response(status=code, headers=headers)
        job = await run_in_thread(self._jobs.insert, project, upload.metadata, upload.data)
        return json_response(job.resource(state="RUNNING") if isinstance(job, Job) else job)


def _dry_run_response(resource: Mapping[str, Any]) -> dict[str, Any]:
    statistics = resource["statistics"]["query"]
    return {
        "kind": "bigquery#queryResponse",
        "jobComplete": True,
        "cacheHit": False,
        "totalRows": "0",
        "schema": statistics["schema"],
        "totalBytesProcessed": statistics["totalBytesProcessed"],
        "jobReference": resource["jobReference"],
    }
