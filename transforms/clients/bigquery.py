"""BigQuery client: create tables if absent, run query jobs, read result pages, insert rows.

Uses google-cloud-bigquery instead of Beam's ReadFromBigQuery: sources are shared views that may forbid exports and
destination tables, queries need parameters, and any worker can read a result by start index. Client exceptions are
raised as one-line errors: :class:`UserError` for what the user can fix, :class:`SystemicError` for the rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import google.api_core.exceptions as api_errors
import google.api_core.retry as retries
import google.auth.exceptions
import orjson
from google.cloud import bigquery

from imagebeam.transforms.clients.bigquery_errors import (
    INSERT_RETRY,
    NO_RETRY,
    READ_RETRY,
    query_errors,
    service_errors,
)
from imagebeam.transforms.clients.credentials import missing_credentials
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Parameter, Query

PAGE_ROWS = 10_000
INSERT_TIMEOUT_S = 60.0
#: Suffixes of a job id that are tried before giving up.
JOB_TRIES = 5

_lock = threading.Lock()
_clients: dict[tuple[int, str], bigquery.Client] = {}

Schema = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class ResultRef:
    """The result of a query job; any worker of the same account can read it by start index for about 24 hours.

    Attributes:
        table: The anonymous table, ``project.dataset.table``.
        schema: Its fields in REST JSON.
        rows: Number of rows.
        job_id: The query job.
        bytes_processed: Bytes scanned by the query.
    """

    table: str
    schema: tuple[Mapping[str, Any], ...]
    rows: int
    job_id: str
    bytes_processed: int


@dataclasses.dataclass(frozen=True, slots=True)
class TableInfo:
    """Metadata of a table or view.

    Attributes:
        name: The table.
        location: Location of its dataset.
        schema: Its fields in REST JSON.
        kind: ``TABLE``, ``VIEW`` ...
        rows: Number of rows, without those that were streamed a moment ago.
        modified: When the table was last changed; None if it is not reported.
    """

    name: TableName
    location: str
    schema: tuple[Mapping[str, Any], ...]
    kind: str
    rows: int = 0
    modified: datetime.datetime | None = None


class BigQueryClient:
    """BigQuery client of one project. Cheap to create: the process keeps one google-cloud client per project.

    Args:
        project: Project that runs the jobs and is billed for them.
    """

    def __init__(self, project: str) -> None:
        self.project = project

    @property
    def client(self) -> bigquery.Client:
        """The google-cloud-bigquery client of this process and project."""
        key = (os.getpid(), self.project)
        with _lock:
            if key not in _clients:
                try:
                    _clients[key] = bigquery.Client(project=self.project)
                except google.auth.exceptions.GoogleAuthError as error:
                    raise missing_credentials(error) from None
            return _clients[key]

    # -- tables ----------------------------------------------------------------------------------------

    def get_table(self, name: TableName) -> TableInfo | None:
        """Return the metadata of a table or view, or None if it does not exist."""
        with service_errors(f"reading table {name.dotted}"), contextlib.suppress(api_errors.NotFound):
            table = self.client.get_table(name.dotted, retry=READ_RETRY)
            return TableInfo(
                name,
                table.location or "US",
                _to_json(table.schema),
                table.table_type or "TABLE",
                int(table.num_rows or 0),
                table.modified,
            )
        return None

    def get_dataset_location(self, project: str, dataset: str) -> str | None:
        """Return the location of a dataset, or None if it does not exist."""
        with service_errors(f"reading dataset {project}.{dataset}"), contextlib.suppress(api_errors.NotFound):
            return self.client.get_dataset(f"{project}.{dataset}", retry=READ_RETRY).location or "US"
        return None

    def create_dataset(self, project: str, dataset: str, location: str) -> None:
        """Create a dataset if it does not exist."""
        wanted = bigquery.Dataset(f"{project}.{dataset}")
        wanted.location = location
        with service_errors(f"creating dataset {project}.{dataset}"):
            self.client.create_dataset(wanted, exists_ok=True)

    def create_table(
        self,
        name: TableName,
        schema: Schema,
        *,
        clustering: Sequence[str] = (),
        description: str = "",
    ) -> None:
        """Create a table if it does not exist; otherwise add missing columns to it."""
        wanted = bigquery.Table(name.dotted, schema=_fields(schema))
        wanted.clustering_fields = list(clustering) or None
        wanted.description = description or None
        with service_errors(f"creating table {name.dotted}"):
            table = self.client.create_table(wanted, exists_ok=True)
            have = {field.name.lower() for field in table.schema}
            missing = [field for field in _fields(schema) if field.name.lower() not in have]
            if missing:
                table.schema = [*table.schema, *missing]
                self.client.update_table(table, ["schema"])

    def create_table_once(
        self,
        name: TableName,
        *,
        expires: datetime.datetime,
        description: str,
        schema: Schema,
    ) -> bool:
        """Create a table atomically; return False if it already exists. Used for leases."""
        wanted = bigquery.Table(name.dotted, schema=_fields(schema))
        wanted.expires = expires
        wanted.description = description
        with service_errors(f"creating table {name.dotted}"), contextlib.suppress(api_errors.Conflict):
            self.client.create_table(wanted)
            return True
        return False

    def expire_table(self, name: TableName, *, days: int) -> None:
        """Let a table expire after some days, unless it already expires or does not exist."""
        gone = (api_errors.NotFound, api_errors.PreconditionFailed)  # the latter: another process has just changed it
        with service_errors(f"updating table {name.dotted}"), contextlib.suppress(*gone):
            table = self.client.get_table(name.dotted, retry=READ_RETRY)
            if table.expires is None:
                table.expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
                self.client.update_table(table, ["expires"])

    def put_view(self, name: TableName, sql: str, *, description: str) -> None:
        """Create or replace a view."""
        wanted = bigquery.Table(name.dotted)
        wanted.view_query = sql
        wanted.description = description
        with service_errors(f"creating view {name.dotted}"):
            try:
                self.client.create_table(wanted)
            except api_errors.Conflict:
                self.client.update_table(wanted, ["view_query", "description"])

    def list_tables(self, project: str, dataset: str) -> list[str]:
        """Return the names of the tables and views of a dataset."""
        with service_errors(f"listing the tables of {project}.{dataset}"):
            return [str(item.table_id) for item in self.client.list_tables(f"{project}.{dataset}", retry=READ_RETRY)]

    def drop_table(self, name: TableName) -> None:
        """Drop a table if it exists."""
        with service_errors(f"dropping table {name.dotted}"):
            self.client.delete_table(name.dotted, not_found_ok=True)

    # -- queries ---------------------------------------------------------------------------------------

    def query(
        self,
        query: Query,
        *,
        run_id: str,
        location: str,
        maximum_bytes_billed: int | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> ResultRef:
        """Run one parameterized query job without cache and wait for it.

        The job id consists of the run id and a hash of SQL and parameters, so that a retried bundle finds its own job
        instead of paying for another. A failed job keeps its id, so the next attempt uses the next suffix.

        Args:
            query: SQL and parameters.
            run_id: Run, which is part of the job id.
            location: Location of the job.
            maximum_bytes_billed: Fail if the query would scan more; None for no limit.
            labels: Billing labels.

        Raises:
            UserError: The query is invalid, or would scan more than ``maximum_bytes_billed``.
            SystemicError: BigQuery cannot run it.
        """
        config = build_job_config(
            query.parameters, maximum_bytes_billed, use_query_cache=False, labels=dict(labels or {})
        )
        digest = hashlib.sha256(orjson.dumps([query.sql, repr(query.parameters)])).hexdigest()[:16]
        last = SystemicError("running a query: every job id is already used")
        for suffix in range(JOB_TRIES):
            job_id = f"imagebeam-{run_id}-{digest}-{suffix}"
            try:
                with query_errors("running a query"):
                    try:
                        job = self.client.query(
                            query.sql, job_config=config, job_id=job_id, location=location, job_retry=None
                        )
                    except api_errors.Conflict:
                        job = cast("bigquery.QueryJob", self.client.get_job(job_id, location=location))
                    result = job.result()
            except SystemicError as error:
                last = error
                continue
            return ResultRef(
                table=f"{job.destination.project}.{job.destination.dataset_id}.{job.destination.table_id}",
                schema=_to_json(result.schema),
                rows=int(result.total_rows or 0),
                job_id=job_id,
                bytes_processed=int(job.total_bytes_processed or 0),
            )
        raise last

    def query_rows(
        self, query: Query, *, location: str | None = None, maximum_bytes_billed: int | None = None
    ) -> list[dict[str, Any]]:
        """Run a query and return all its rows; for small results.

        Raises:
            UserError: The query is invalid, or would scan more than ``maximum_bytes_billed``.
            SystemicError: BigQuery cannot run it.
        """
        config = build_job_config(query.parameters, maximum_bytes_billed)
        with query_errors("running a query"):
            job = self.client.query(query.sql, job_config=config, location=location)
            return [dict(row.items()) for row in job.result()]

    def dry_run(self, query: Query, *, location: str | None = None) -> tuple[tuple[Mapping[str, Any], ...], int, str]:
        """Validate a query without running it.

        Returns:
            Schema of the result, bytes that the query would scan, and location where it would run.

        Raises:
            UserError: The query is invalid.
            SystemicError: BigQuery cannot be used.
        """
        config = build_job_config(query.parameters, dry_run=True, use_query_cache=False)
        with query_errors("checking a query"):
            job = self.client.query(query.sql, job_config=config, location=location, retry=READ_RETRY)
        return _to_json(job.schema or ()), int(job.total_bytes_processed or 0), job.location or "US"

    def read_rows(self, result: ResultRef, start: int, count: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Read rows ``start`` to ``start + count`` of a result, only the named columns."""
        schema = [_CachedField.from_api_repr(dict(field)) for field in result.schema if field["name"] in set(columns)]
        names = [field.name for field in schema]
        table = bigquery.Table(result.table, schema=_fields(result.schema))
        with service_errors("reading a page of the query result"):
            for row in self.client.list_rows(
                table,
                selected_fields=schema,
                start_index=start,
                max_results=count,
                page_size=min(count, PAGE_ROWS),
            ):
                # row.items() would deep-copy every value.
                yield {name: row[name] for name in names}

    # -- inserts ---------------------------------------------------------------------------------------

    def insert_row(self, name: TableName, row: Mapping[str, Any], row_id: str) -> None:
        """Insert one row, and retry for a minute while BigQuery is unavailable."""
        with service_errors(f"writing to table {name.dotted}"):
            rejected = self.insert_rows(name, [row], [row_id], retry=INSERT_RETRY)
        if rejected:
            raise SystemicError(f"BigQuery rejects a row of table {name.dotted}: {rejected[0]}")

    def insert_rows(
        self,
        name: TableName,
        rows: Sequence[Mapping[str, Any]],
        row_ids: Sequence[str],
        *,
        retry: retries.Retry | None = None,
    ) -> dict[int, str]:
        """Insert rows with the streaming API.

        Args:
            name: The table.
            rows: Rows of JSON values.
            row_ids: Insert ids: BigQuery drops a row with the same id that is sent again within about a minute.
            retry: Retry policy; by default none, because the recorder retries itself.

        Returns:
            Index of each rejected row → reason.

        Raises:
            google.api_core.exceptions.GoogleAPIError: The whole request failed; rows may have been inserted.
        """
        errors = self.client.insert_rows_json(
            name.dotted,
            rows,
            row_ids=list(row_ids),
            skip_invalid_rows=True,
            retry=retry or NO_RETRY,
            timeout=INSERT_TIMEOUT_S,
        )
        return {
            int(entry["index"]): "; ".join(
                f"{error.get('location') or 'row'}: {error.get('message') or error.get('reason')}"
                for error in entry.get("errors", [])
            )
            for entry in errors
        }


class _CachedField(bigquery.SchemaField):
    """Cache properties that the client reads for every value and otherwise parses from JSON each time."""

    @functools.cached_property
    def name(self) -> str:
        """Name of the field."""
        return str(super().name)

    @functools.cached_property
    def field_type(self) -> str:
        """Type in upper case."""
        return str(super().field_type)

    @functools.cached_property
    def mode(self) -> str:
        """Mode in upper case."""
        return str(super().mode)

    @functools.cached_property
    def fields(self) -> tuple[bigquery.SchemaField, ...]:
        """Fields of a RECORD."""
        return tuple(_CachedField.from_api_repr(field.to_api_repr()) for field in super().fields)


def _to_json(fields: Iterable[bigquery.SchemaField]) -> tuple[Mapping[str, Any], ...]:
    return tuple(field.to_api_repr() for field in fields)


def _fields(schema: Schema) -> list[bigquery.SchemaField]:
    return [bigquery.SchemaField.from_api_repr(dict(field)) for field in schema]


def build_job_config(
    parameters: Sequence[Parameter], maximum_bytes_billed: int | None = None, **settings: Any
) -> bigquery.QueryJobConfig:
    """Build the configuration of a query job with these parameters and other settings."""
    config = bigquery.QueryJobConfig(**settings)
    if maximum_bytes_billed is not None:  # the client would send None as the string "None"
        config.maximum_bytes_billed = maximum_bytes_billed
    config.query_parameters = [
        bigquery.ArrayQueryParameter(parameter.name, parameter.type, list(parameter.value))
        if parameter.array
        else bigquery.ScalarQueryParameter(parameter.name, parameter.type, parameter.value)
        for parameter in parameters
    ]
    return config
