"""A job: its state, cancellation and REST resource."""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import Future
from typing import Any, Final

import duckdb

from imagebeam.emulators.bigquery.catalog.resources import now_ms
from imagebeam.emulators.bigquery.catalog.results import QueryResult
from imagebeam.emulators.bigquery.dialect.types import schema_resource
from imagebeam.emulators.bigquery.jobs.execute import StatementOutcome
from imagebeam.emulators.bigquery.jobs.load import LoadOutcome
from imagebeam.emulators.bigquery.jobs.query import QueryPlan
from imagebeam.emulators.core.http import ApiError

#: Seconds between two interrupts of a canceled job.
INTERRUPT_S: Final = 0.02


def canceled_error() -> ApiError:
    """Return the error of a canceled job."""
    return ApiError(400, "Job execution was cancelled: User requested cancellation", reason="stopped")


class Job:
    """One job.

    Attributes:
        project: Its project.
        job_id: Its id, unique in the project.
        location: Its location.
        configuration: The requested configuration; for a query with the ``destinationTable``.
        created_ms: Creation time in milliseconds since 1970.
        started_ms: Start time, or None before the start.
        ended_ms: End time, or None before the end.
        error: The error of a failed job, else None.
        plan: The checked query of a query job.
        outcome: What the query did.
        loaded: What the load job did.
        canceled: Whether cancellation was requested.
        done: Completed when the job has ended, with or without an error.
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
        self.plan: QueryPlan | None = None
        self.outcome: StatementOutcome | None = None
        self.loaded: LoadOutcome | None = None
        self.canceled = False
        self.done: Future[None] = Future()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """State: ``PENDING``, ``RUNNING`` or ``DONE``."""
        if self.done.done():
            return "DONE"
        return "PENDING" if self.started_ms is None else "RUNNING"

    @property
    def result(self) -> QueryResult | None:
        """Result of a finished query, or None."""
        return self.outcome.result if self.outcome is not None else None

    def track(self, connection: duckdb.DuckDBPyConnection | None) -> None:
        """Keep the connection that runs the query, so that it can be interrupted; None when it has finished.

        Raises:
            ApiError: 400 when the job is canceled.
        """
        with self._lock:
            self._connection = connection
            if connection is not None and self.canceled:
                raise canceled_error()

    def cancel(self) -> None:
        """Request cancellation."""
        self.canceled = True
        threading.Thread(target=self._interrupt, daemon=True).start()

    def _interrupt(self) -> None:
        """Interrupt until the job has ended: DuckDB ignores an interrupt before the query has started."""
        while not self.done.done():
            with self._lock:
                if self._connection is not None:
                    self._connection.interrupt()
            time.sleep(INTERRUPT_S)

    def reference(self) -> dict[str, str]:
        """Return the jobReference of the REST API."""
        return {"projectId": self.project, "jobId": self.job_id, "location": self.location}

    def resource(self, *, state: str | None = None) -> dict[str, Any]:
        """Return the job as the API shows it.

        Args:
            state: State to show instead of the current one: a job that was just inserted is never done.
        """
        state = state or self.state
        status: dict[str, Any] = {"state": state}
        if self.error is not None and state == "DONE":
            status["errorResult"] = _error_resource(self.error)
            status["errors"] = [status["errorResult"]]
        return {
            "kind": "bigquery#job",
            "id": f"{self.project}:{self.location}.{self.job_id}",
            "etag": hashlib.md5(f"{self.job_id}{state}".encode(), usedforsecurity=False).hexdigest(),
            "jobReference": self.reference(),
            "configuration": self.configuration,
            "status": status,
            "statistics": self._statistics(state),
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
            if state == "DONE" and self.outcome is not None and self.outcome.affected_rows is not None:
                affected = str(self.outcome.affected_rows)
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


def query_statistics(plan: QueryPlan, *, schema: bool = False) -> dict[str, Any]:
    """Return ``statistics.query`` of a checked query.

    Args:
        plan: The query.
        schema: Whether to add the schema of its result, as for a dry run.
    """
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


def _error_resource(problem: ApiError) -> dict[str, str]:
    reasons = {400: "invalid", 404: "notFound", 409: "duplicate", 501: "notImplemented", 503: "backendError"}
    reason = problem.reason or reasons.get(problem.code, "internalError")
    return {"reason": reason, "message": problem.message}
