"""Jobs of the local BigQuery: they run in background threads and keep their ids."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import duckdb

from imagebeam.emulators.bigquery.access import AccessControl
from imagebeam.emulators.bigquery.ai.faults import AiFaults
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.resources import check_labels, now_ms
from imagebeam.emulators.bigquery.dialect.errors import translate_error
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.parameters import convert_parameters, whole_number
from imagebeam.emulators.bigquery.jobs.execute import plan_query, run_query
from imagebeam.emulators.bigquery.jobs.job import Job, canceled_error, query_statistics
from imagebeam.emulators.bigquery.jobs.load import check_load, run_load
from imagebeam.emulators.bigquery.jobs.query import QueryPlan, QueryRequest
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_store import ObjectStore

#: Maximum number of jobs that run at the same time.
RUNNING_JOBS: Final = 6
#: Number of jobs that are remembered; the oldest finished jobs are removed first.
KEPT_JOBS: Final = 10_000
_QUERY_KEYS: Final = frozenset(
    (
        "query", "useLegacySql", "queryParameters", "parameterMode", "defaultDataset", "maximumBytesBilled",
        "useQueryCache", "priority", "destinationTable", "writeDisposition", "createDisposition", "flattenResults",
    )
)  # fmt: skip
_CONFIGURATION_KEYS: Final = frozenset(("query", "load", "dryRun", "labels", "jobTimeoutMs", "jobType"))


class JobManager:
    """Runs jobs.

    Args:
        catalog: The tables.
        objects: Where load jobs read.
        faults: Its key ``bigquery.rules`` is applied to new jobs.
        counters: Counts jobs.
        ai_faults: Limits the number of concurrent jobs with AI functions.
        access: Checks the tables of queries.
    """

    def __init__(
        self,
        catalog: Catalog,
        objects: ObjectStore,
        faults: FaultConfig,
        counters: Counters,
        ai_faults: AiFaults,
        access: AccessControl,
    ) -> None:
        self._catalog = catalog
        self._objects = objects
        self._faults = faults
        self._counters = counters
        self._ai_faults = ai_faults
        self._access = access
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(RUNNING_JOBS, thread_name_prefix="bigquery-job")

    def insert(self, project: str, body: Mapping[str, Any], upload: bytes | None = None) -> Job | dict[str, Any]:
        """Start a job.

        Args:
            project: Its project.
            body: The job resource of the request.
            upload: Rows of a load job that came with the request.

        Returns:
            The job, or for a dry run the resource of the finished job.

        Raises:
            ApiError: 409 for an existing id; 400, 404 or 501 for a job that cannot start.
        """
        configuration = dict(body.get("configuration") or {})
        for key, value in configuration.items():
            if key not in _CONFIGURATION_KEYS and value:
                raise not_implemented(f"jobs of kind {key!r}" if isinstance(value, dict) else f"{key!r} of a job")
        kinds = [kind for kind in ("query", "load") if configuration.get(kind)]
        if len(kinds) != 1:
            raise ApiError(400, "Required parameter is missing: configuration needs one kind of job", reason="required")
        kind = kinds[0]
        check_labels(configuration)
        configuration["jobType"] = kind.upper()
        reference = body.get("jobReference") or {}
        location = str(reference.get("location") or "") or None
        fault_text = str(configuration["query"].get("query")) if kind == "query" else str(configuration["load"])
        self._apply_faults(fault_text)
        if kind == "query":
            request = self._query_request(configuration["query"], location)
            if configuration.get("dryRun"):
                return self._dry_run(project, request, configuration)
        else:
            target = check_load(configuration["load"])
            location = location or self._catalog.dataset(target.project, target.dataset).location
        job = self._register(project, str(reference.get("jobId") or f"job_{uuid.uuid4().hex}"), location, configuration)
        self._counters.add("bigquery", "jobs")
        self._counters.add("bigquery", f"{kind}_jobs")
        if kind == "query":
            self._plan(job, request)
            self._pool.submit(self._run, job, lambda: self._run_query(job))
        else:
            self._pool.submit(self._run, job, lambda: self._run_load(job, configuration["load"], upload))
        return job

    def get(self, project: str, job_id: str, location: str | None) -> Job:
        """Return a job.

        Raises:
            ApiError: 404 for an unknown job, or one in another location.
        """
        job = self._jobs.get(job_id)
        if job is None or project != job.project or job.location.lower() not in _searched_locations(location):
            raise ApiError(404, f"Not found: Job {project}:{location or 'US'}.{job_id}", reason="notFound")
        return job

    def all(self) -> list[Job]:
        """Return all jobs, newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def delete(self, job: Job) -> None:
        """Delete the metadata of a finished job.

        Raises:
            ApiError: 400 while the job runs.
        """
        if job.state != "DONE":
            raise ApiError(400, f"Job {job.job_id} is not done", reason="invalid")
        with self._lock:
            self._jobs.pop(job.job_id, None)

    async def wait(self, job: Job, timeout_s: float) -> bool:
        """Wait up to ``timeout_s`` seconds for a job; return whether it has ended."""
        if not job.done.done() and timeout_s > 0:
            await asyncio.wait([asyncio.wrap_future(job.done)], timeout=timeout_s)
        return job.done.done()

    def close(self) -> None:
        """Cancel all jobs and wait until they have ended."""
        for job in self.all():
            if not job.done.done():
                job.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _apply_faults(self, text: str) -> None:
        rule = self._faults.take("bigquery", text)
        if rule is None:
            return
        self._counters.add("bigquery", "job_faults")
        raise ApiError(
            int(rule.get("code", 503)),
            str(rule.get("message") or "A configured fault rejected the job."),
            reason=rule.get("reason"),
        )

    def _query_request(self, query: Mapping[str, Any], location: str | None) -> QueryRequest:
        for key, value in query.items():
            if key not in _QUERY_KEYS and value not in (None, False, "", [], {}):
                raise not_implemented(f"{key!r} of a query job")
        if str(query.get("useLegacySql", True)).lower() != "false":
            raise not_implemented("legacy SQL: set useLegacySql to false")
        default = query.get("defaultDataset")
        limit = query.get("maximumBytesBilled")
        target = query.get("destinationTable")
        return QueryRequest(
            sql=str(query.get("query") or ""),
            default=(default.get("projectId") or self._catalog.project, default["datasetId"]) if default else None,
            parameters=convert_parameters(query.get("queryParameters") or [], query.get("parameterMode")),
            maximum_bytes_billed=whole_number(limit, "maximum_bytes_billed"),
            location=location,
            destination=TableId(target["projectId"], target["datasetId"], target["tableId"]) if target else None,
            write=str(query.get("writeDisposition") or "WRITE_EMPTY"),
            create=str(query.get("createDisposition") or "CREATE_IF_NEEDED"),
        )

    def _dry_run(self, project: str, request: QueryRequest, configuration: dict[str, Any]) -> dict[str, Any]:
        self._counters.add("bigquery", "dry_runs")
        plan = self._prepare(request)
        return {
            "kind": "bigquery#job",
            "id": f"{project}:{plan.location}.",
            "jobReference": {"projectId": project, "location": plan.location},
            "configuration": configuration,
            "status": {"state": "DONE"},
            "statistics": {
                "creationTime": str(now_ms()),
                "totalBytesProcessed": str(plan.bytes_processed),
                "query": query_statistics(plan, schema=True),
            },
        }

    def _prepare(self, request: QueryRequest) -> QueryPlan:
        """Check a query, and whether the caller may read its tables."""
        plan = plan_query(self._catalog, request)
        writes = request.destination is not None or plan.statement.kind != "SELECT"
        self._access.check_query(plan.statement.tables, writes=writes)
        return plan

    def _register(self, project: str, job_id: str, location: str | None, configuration: dict[str, Any]) -> Job:
        if project != self._catalog.project:
            raise ApiError(404, f"Not found: Project {project}", reason="notFound")
        with self._lock:
            if job_id in self._jobs:
                existing = self._jobs[job_id].location
                raise ApiError(409, f"Already Exists: Job {project}:{existing}.{job_id}", reason="duplicate")
            job = Job(project, job_id, location or "US", configuration)
            self._jobs[job_id] = job
            if len(self._jobs) > KEPT_JOBS:
                oldest = next((name for name, old in self._jobs.items() if old.done.done()), None)
                self._jobs.pop(oldest or "", None)
            return job

    def _plan(self, job: Job, request: QueryRequest) -> None:
        """Check a query before it runs, so that its location and destination are known from the start."""
        try:
            job.plan = self._prepare(request)
        except ApiError as problem:
            job.error = problem
            return
        except duckdb.Error as problem:
            job.error = translate_error(problem, request.sql)
            return
        job.location = job.plan.location
        destination = request.destination
        if destination is None and job.plan.statement.kind == "SELECT":
            destination = TableId(job.project, self._catalog.results.dataset, _result_key(job.job_id))
        destination = destination or job.plan.statement.target
        if destination is not None and destination.table:
            query = job.configuration["query"] | {"destinationTable": destination.resource()}
            job.configuration = job.configuration | {"query": query}

    def _run(self, job: Job, work: Callable[[], None]) -> None:
        job.started_ms = now_ms()
        try:
            if job.error is None:
                if job.canceled:
                    raise canceled_error()
                work()
        except ApiError as problem:
            job.error = problem
        except duckdb.Error as problem:
            job.error = translate_error(problem, "")
        except Exception as problem:
            job.error = ApiError(501, f"The local BigQuery failed: {type(problem).__name__}: {problem}")
        finally:
            job.ended_ms = now_ms()
            job.done.set_result(None)

    def _run_query(self, job: Job) -> None:
        assert job.plan is not None  # noqa: S101
        with self._ai_faults.running_job() if job.plan.statement.models else contextlib.nullcontext():
            job.outcome = run_query(self._catalog, job.plan, _result_key(job.job_id), job.track)

    def _run_load(self, job: Job, config: Mapping[str, Any], upload: bytes | None) -> None:
        job.loaded = run_load(self._catalog, self._objects, config, upload)


def _result_key(job_id: str) -> str:
    return "anon" + hashlib.sha256(job_id.encode()).hexdigest()[:40]


def _searched_locations(location: str | None) -> tuple[str, ...]:
    """Return where a job is looked up: in the requested location, by default in US and EU."""
    return (location.lower(),) if location else ("us", "eu")
