"""Jobs of the local BigQuery: they run in the background, keep their id for good, and say what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import duckdb

from imagebeam.emulators.bigquery.access import Gate
from imagebeam.emulators.bigquery.ai.faults import AiFaults
from imagebeam.emulators.bigquery.catalog.catalog import Catalog
from imagebeam.emulators.bigquery.catalog.resources import check_labels, now_ms
from imagebeam.emulators.bigquery.catalog.results import QueryResult
from imagebeam.emulators.bigquery.dialect import errors as bigquery_errors
from imagebeam.emulators.bigquery.dialect.names import TableId
from imagebeam.emulators.bigquery.dialect.nodes import not_implemented
from imagebeam.emulators.bigquery.dialect.parameters import read_parameters, whole_number
from imagebeam.emulators.bigquery.dialect.types import schema_resource
from imagebeam.emulators.bigquery.jobs import load as bigquery_load
from imagebeam.emulators.bigquery.jobs.run import Outcome, prepare, run
from imagebeam.emulators.bigquery.jobs.select import Plan, Request
from imagebeam.emulators.core.counters import Counters
from imagebeam.emulators.core.faults import FaultConfig
from imagebeam.emulators.core.http import ApiError
from imagebeam.emulators.storage.object_store import ObjectStore

#: Jobs that run at the same time.
RUNNING_JOBS: Final = 6
#: Jobs that are remembered; the oldest finished ones go first.
KEPT_JOBS: Final = 10_000
#: Seconds between two interrupts of a cancelled job.
INTERRUPT_S: Final = 0.02
_QUERY_KEYS: Final = frozenset(
    (
        "query", "useLegacySql", "queryParameters", "parameterMode", "defaultDataset", "maximumBytesBilled",
        "useQueryCache", "priority", "destinationTable", "writeDisposition", "createDisposition", "flattenResults",
    )
)  # fmt: skip
_CONFIGURATION_KEYS: Final = frozenset(("query", "load", "dryRun", "labels", "jobTimeoutMs", "jobType"))


class Job:
    """One job, from the request to its end.

    Attributes:
        job_id: Unique in the project.
        location: Where it runs.
        configuration: As it was asked for; a query gets its ``destinationTable`` here.
        error: Why it failed; None while it runs and when it did not.
        outcome: What a query did.
        loaded: What a load did.
        plan: A query, checked.
        done: Completed when the job is over, whatever became of it.
    """

    def __init__(self, project: str, job_id: str, location: str, configuration: dict[str, Any]) -> None:
        self.project = project
        self.job_id = job_id
        self.location = location
        self.configuration = configuration
        self.created_ms = now_ms()
        self.started_ms: int | None = None
        self.ended_ms: int | None = None
        self.error: ApiError | None = None
        self.plan: Plan | None = None
        self.outcome: Outcome | None = None
        self.loaded: bigquery_load.Loaded | None = None
        self.cancelled = False
        self.done: Future[None] = Future()
        self.working: duckdb.DuckDBPyConnection | None = None
        self.lock = threading.Lock()

    @property
    def state(self) -> str:
        """``PENDING``, ``RUNNING`` or ``DONE``."""
        if self.done.done():
            return "DONE"
        return "PENDING" if self.started_ms is None else "RUNNING"

    @property
    def result(self) -> QueryResult | None:
        """The rows of a finished query."""
        return self.outcome.result if self.outcome is not None else None

    def watch(self, connection: duckdb.DuckDBPyConnection | None) -> None:
        """Note the connection that works for the job, so that it can be interrupted."""
        with self.lock:
            self.working = connection
            if connection is not None and self.cancelled:
                raise ApiError(400, "Job execution was cancelled: User requested cancellation", reason="stopped")

    def cancel(self) -> None:
        """Ask the job to stop."""
        self.cancelled = True
        threading.Thread(target=self._interrupt, daemon=True).start()

    def _interrupt(self) -> None:
        """Interrupts until the job has ended: DuckDB forgets what comes before its query has begun."""
        while not self.done.done():
            with self.lock:
                if self.working is not None:
                    self.working.interrupt()
            time.sleep(INTERRUPT_S)

    def reference(self) -> dict[str, str]:
        """Return the API's jobReference."""
        return {"projectId": self.project, "jobId": self.job_id, "location": self.location}

    def resource(self, *, state: str | None = None) -> dict[str, Any]:
        """Return the job as the API shows it.

        Args:
            state: Shown instead of the state that it has by now: a job that was just inserted is never done.
        """
        shown = state or self.state
        status: dict[str, Any] = {"state": shown}
        if self.error is not None and shown == "DONE":
            status["errorResult"] = _error(self.error)
            status["errors"] = [status["errorResult"]]
        return {
            "kind": "bigquery#job",
            "id": f"{self.project}:{self.location}.{self.job_id}",
            "etag": hashlib.md5(f"{self.job_id}{shown}".encode(), usedforsecurity=False).hexdigest(),
            "jobReference": self.reference(),
            "configuration": self.configuration,
            "status": status,
            "statistics": self._statistics(shown),
            "user_email": "local@imagebeam.invalid",
        }

    def _statistics(self, state: str) -> dict[str, Any]:
        statistics: dict[str, Any] = {"creationTime": str(self.created_ms)}
        if self.started_ms is not None:
            statistics["startTime"] = str(self.started_ms)
        if state == "DONE" and self.ended_ms is not None:
            statistics["endTime"] = str(self.ended_ms)
        if self.plan is not None:
            statistics["totalBytesProcessed"] = str(self.plan.bytes_processed)
            statistics["query"] = query_statistics(self.plan)
            if state == "DONE" and self.outcome is not None and self.outcome.affected is not None:
                affected = str(self.outcome.affected)
                statistics["query"]["numDmlAffectedRows"] = affected
                key = {"INSERT": "insertedRowCount", "UPDATE": "updatedRowCount"}.get(self.plan.statement.kind)
                if self.plan.statement.kind in ("DELETE", "TRUNCATE_TABLE"):
                    key = "deletedRowCount"
                if key:
                    statistics["query"]["dmlStats"] = {key: affected}
        if self.loaded is not None and state == "DONE":
            statistics["load"] = {
                "inputFiles": str(self.loaded.files),
                "inputFileBytes": str(self.loaded.file_bytes),
                "outputRows": str(self.loaded.rows),
                "outputBytes": str(self.loaded.file_bytes),
                "badRecords": str(self.loaded.bad_rows),
            }
        return statistics


def query_statistics(plan: Plan, *, schema: bool = False) -> dict[str, Any]:
    """Return the API's statistics.query of a checked query."""
    statistics: dict[str, Any] = {
        "statementType": plan.statement.kind,
        "totalBytesProcessed": str(plan.bytes_processed),
        "totalBytesBilled": str(plan.bytes_billed),
        "totalSlotMs": "0",
        "cacheHit": False,
        "referencedTables": [ident.resource() for ident in plan.statement.tables],
    }
    if schema:
        statistics["totalBytesProcessedAccuracy"] = "PRECISE"
        statistics["schema"] = schema_resource(plan.fields)
    target = plan.statement.target
    if target is not None and plan.statement.kind.startswith(("CREATE", "DROP", "ALTER")):
        statistics["ddlOperationPerformed"] = plan.statement.kind.split("_", 1)[0]
        if target.table:
            statistics["ddlTargetTable"] = target.resource()
    return statistics


class Jobs:
    """All jobs of the service.

    Args:
        catalog: The tables.
        objects: Where load jobs read.
        faults: Its section ``bigquery.rules`` is applied to new jobs.
        counters: Where jobs are counted.
        ai: Says how many jobs with AI functions may run.
        gate: Says who may read what.
    """

    def __init__(
        self, catalog: Catalog, objects: ObjectStore, faults: FaultConfig, counters: Counters, ai: AiFaults, gate: Gate
    ) -> None:
        self._ai, self._gate = ai, gate
        self._catalog = catalog
        self._objects = objects
        self._faults = faults
        self._counters = counters
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(RUNNING_JOBS, thread_name_prefix="bigquery-job")

    def insert(self, project: str, body: Mapping[str, Any], upload: bytes | None = None) -> Job | dict[str, Any]:
        """Start a job; for a dry run return the finished resource.

        Raises:
            ApiError: 409 for a used id, 400, 404 or 501 for a job that cannot start.
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
        text = str(configuration["query"].get("query")) if kind == "query" else str(configuration["load"])
        self._apply_faults(text)
        if kind == "query":
            request = self._request(configuration["query"], location)
            if configuration.get("dryRun"):
                return self._dry_run(project, request, configuration)
        else:
            target = bigquery_load.check(configuration["load"])
            location = location or self._catalog.dataset(target.project, target.dataset).location
        job = self._register(project, str(reference.get("jobId") or f"job_{uuid.uuid4().hex}"), location, configuration)
        self._counters.add("bigquery", "jobs")
        self._counters.add("bigquery", f"{kind}_jobs")
        if kind == "query":
            self._plan(job, request)
            self._pool.submit(self._work, job, lambda: self._query(job, request))
        else:
            self._pool.submit(self._work, job, lambda: self._load(job, configuration["load"], upload))
        return job

    def get(self, project: str, job_id: str, location: str | None) -> Job:
        """Return a job.

        Raises:
            ApiError: 404 when there is none there.
        """
        job = self._jobs.get(job_id)
        shown = location or "US"
        if job is None or project != job.project or job.location.lower() not in _places(location):
            raise ApiError(404, f"Not found: Job {project}:{shown}.{job_id}", reason="notFound")
        return job

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def forget(self, job: Job) -> None:
        """Delete a finished job's metadata.

        Raises:
            ApiError: 400 while it runs.
        """
        if job.state != "DONE":
            raise ApiError(400, f"Job {job.job_id} is not done", reason="invalid")
        with self._lock:
            self._jobs.pop(job.job_id, None)

    async def wait(self, job: Job, seconds: float) -> bool:
        """Wait for a job's end; say whether it came in time."""
        if not job.done.done() and seconds > 0:
            await asyncio.wait([asyncio.wrap_future(job.done)], timeout=seconds)
        return job.done.done()

    def close(self) -> None:
        """Stop all work."""
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
            int(rule.get("code", 503)), str(rule.get("message") or "A fault says so."), reason=rule.get("reason")
        )

    def _request(self, query: Mapping[str, Any], location: str | None) -> Request:
        for key, value in query.items():
            if key not in _QUERY_KEYS and value not in (None, False, "", [], {}):
                raise not_implemented(f"{key!r} of a query job")
        if str(query.get("useLegacySql", True)).lower() != "false":
            raise not_implemented("legacy SQL: set useLegacySql to false")
        default = query.get("defaultDataset")
        limit = query.get("maximumBytesBilled")
        target = query.get("destinationTable")
        return Request(
            sql=str(query.get("query") or ""),
            default=(default.get("projectId") or self._catalog.project, default["datasetId"]) if default else None,
            parameters=read_parameters(query.get("queryParameters") or [], query.get("parameterMode")),
            maximum_bytes_billed=whole_number(limit, "maximum_bytes_billed"),
            location=location,
            destination=TableId(target["projectId"], target["datasetId"], target["tableId"]) if target else None,
            write=str(query.get("writeDisposition") or "WRITE_EMPTY"),
            create=str(query.get("createDisposition") or "CREATE_IF_NEEDED"),
        )

    def _dry_run(self, project: str, request: Request, configuration: dict[str, Any]) -> dict[str, Any]:
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

    def _prepare(self, request: Request) -> Plan:
        """Check a query, and whether the caller may read its tables."""
        plan = prepare(self._catalog, request)
        writes = request.destination is not None or plan.statement.kind != "SELECT"
        self._gate.check_query(plan.statement.tables, writes=writes)
        return plan

    def _register(self, project: str, job_id: str, location: str | None, configuration: dict[str, Any]) -> Job:
        if project != self._catalog.project:
            raise ApiError(404, f"Not found: Project {project}", reason="notFound")
        with self._lock:
            if job_id in self._jobs:
                place = self._jobs[job_id].location
                raise ApiError(409, f"Already Exists: Job {project}:{place}.{job_id}", reason="duplicate")
            job = Job(project, job_id, location or "US", configuration)
            self._jobs[job_id] = job
            if len(self._jobs) > KEPT_JOBS:
                oldest = next((name for name, old in self._jobs.items() if old.done.done()), None)
                self._jobs.pop(oldest or "", None)
            return job

    def _plan(self, job: Job, request: Request) -> None:
        """Check a query at once, so that its location and its destination are known from the beginning."""
        try:
            job.plan = self._prepare(request)
        except ApiError as problem:
            job.error = problem
            return
        except duckdb.Error as problem:
            job.error = bigquery_errors.translate(problem, request.sql)
            return
        job.location = job.plan.location
        destination = request.destination
        if destination is None and job.plan.statement.kind == "SELECT":
            destination = TableId(job.project, self._catalog.results.dataset, _result_key(job.job_id))
        destination = destination or job.plan.statement.target
        if destination is not None and destination.table:
            query = job.configuration["query"] | {"destinationTable": destination.resource()}
            job.configuration = job.configuration | {"query": query}

    def _work(self, job: Job, do: Any) -> None:
        job.started_ms = now_ms()
        try:
            if job.error is None:
                if job.cancelled:
                    raise ApiError(400, "Job execution was cancelled: User requested cancellation", reason="stopped")
                do()
        except ApiError as problem:
            job.error = problem
        except duckdb.Error as problem:
            job.error = bigquery_errors.translate(problem, "")
        except Exception as problem:
            job.error = ApiError(501, f"The local BigQuery failed: {type(problem).__name__}: {problem}")
        finally:
            job.ended_ms = now_ms()
            job.done.set_result(None)

    def _query(self, job: Job, request: Request) -> None:
        assert job.plan is not None  # noqa: S101
        with self._ai.job() if job.plan.statement.models else contextlib.nullcontext():
            job.outcome = run(self._catalog, request, job.plan, _result_key(job.job_id), job.watch)

    def _load(self, job: Job, config: Mapping[str, Any], upload: bytes | None) -> None:
        job.loaded = bigquery_load.load(self._catalog, self._objects, config, upload)


def _result_key(job_id: str) -> str:
    return "anon" + hashlib.sha256(job_id.encode()).hexdigest()[:40]


def _places(location: str | None) -> tuple[str, ...]:
    """Where a job may be when a request names a location, or none (then only US and EU are looked at)."""
    return (location.lower(),) if location else ("us", "eu")


def _error(problem: ApiError) -> dict[str, str]:
    reasons = {400: "invalid", 404: "notFound", 409: "duplicate", 501: "notImplemented", 503: "backendError"}
    reason = problem.reason or reasons.get(problem.code, "internalError")
    return {"reason": reason, "message": problem.message}
