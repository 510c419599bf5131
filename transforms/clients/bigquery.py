"""BigQuery, as imagebeam uses it: tables that are created if absent, one query job, pages, streamed rows.

google-cloud-bigquery instead of Beam's ReadFromBigQuery: the sources are shared views that may forbid
export and destination tables, queries need parameters, and a result can be read by start index from any
worker. Every exception of the client leaves this module as one line (:class:`UserError` where a person
can mend it, :class:`SystemicError` where the run cannot go on).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import google.api_core.exceptions as api_errors
import google.api_core.retry as retries
import google.auth.exceptions
import orjson
from google.cloud import bigquery

from imagebeam.transforms.clients.bigquery_errors import (
    NO_RETRY,
    PATIENT,
    PATIENT_READ,
    over_cap,
    query_error,
    systemic,
)
from imagebeam.transforms.clients.credentials import no_credentials
from imagebeam.transforms.core.errors import SystemicError, first_line
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Parameter, Query

PAGE_ROWS = 10_000
INSERT_TIMEOUT_S = 60.0
JOB_TRIES = 5

_lock = threading.Lock()
_clients: dict[tuple[int, str], bigquery.Client] = {}

Schema = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, slots=True)
class ResultRef:
    """The result of a query job, readable by start index from any worker of the same account for a day.

    Attributes:
        table: The anonymous table, ``project.dataset.table``.
        schema: Its fields, REST JSON.
        rows: How many rows it has.
        job_id: The job that made it.
        bytes_processed: What the query scanned.
    """

    table: str
    schema: tuple[Mapping[str, Any], ...]
    rows: int
    job_id: str
    bytes_processed: int


@dataclasses.dataclass(frozen=True, slots=True)
class TableFacts:
    """What a person needs to know of a source table.

    Attributes:
        name: The table.
        location: Where its dataset lives.
        schema: Its fields, REST JSON.
        kind: ``TABLE``, ``VIEW`` ...
    """

    name: TableName
    location: str
    schema: tuple[Mapping[str, Any], ...]
    kind: str


class BigQueryClient:
    """One project's BigQuery. Cheap to make: the process keeps one client per project.

    Args:
        project: Project that runs and pays for the jobs.
    """

    def __init__(self, project: str) -> None:
        self.project = project

    @property
    def client(self) -> bigquery.Client:
        """The google-cloud-bigquery client of this process."""
        key = (os.getpid(), self.project)
        with _lock:
            if key not in _clients:
                try:
                    _clients[key] = bigquery.Client(project=self.project)
                except google.auth.exceptions.GoogleAuthError as error:
                    raise no_credentials(error) from None
            return _clients[key]

    # -- tables ----------------------------------------------------------------------------------------

    def table(self, name: TableName) -> TableFacts | None:
        """Facts about a table or view; None when it does not exist."""
        try:
            table = self.client.get_table(name.dotted, retry=PATIENT_READ)
        except api_errors.NotFound:
            return None
        except api_errors.GoogleAPIError as error:
            raise systemic(error, f"reading table {name.dotted}") from None
        schema = tuple(field.to_api_repr() for field in table.schema)
        return TableFacts(name, table.location or "US", schema, table.table_type or "TABLE")

    def dataset_location(self, project: str, dataset: str) -> str | None:
        """Where a dataset lives; None when it does not exist."""
        try:
            return self.client.get_dataset(f"{project}.{dataset}", retry=PATIENT_READ).location or "US"
        except api_errors.NotFound:
            return None
        except api_errors.GoogleAPIError as error:
            raise systemic(error, f"reading dataset {project}.{dataset}") from None

    def create_dataset(self, project: str, dataset: str, location: str) -> None:
        """Creates a dataset if there is none."""
        wanted = bigquery.Dataset(f"{project}.{dataset}")
        wanted.location = location
        with self._translated(f"creating dataset {project}.{dataset}"):
            self.client.create_dataset(wanted, exists_ok=True)

    def create_table(
        self,
        name: TableName,
        schema: Schema,
        *,
        clustering: Sequence[str] = (),
        description: str = "",
    ) -> None:
        """Creates a table if there is none; adds the columns that an older version of it lacks."""
        wanted = bigquery.Table(name.dotted, schema=_fields(schema))
        wanted.clustering_fields = list(clustering) or None
        wanted.description = description or None
        with self._translated(f"creating table {name.dotted}"):
            table = self.client.create_table(wanted, exists_ok=True)
            have = {field.name.lower() for field in table.schema}
            missing = [field for field in _fields(schema) if field.name.lower() not in have]
            if missing:
                table.schema = [*table.schema, *missing]
                self.client.update_table(table, ["schema"])

    def create_exclusive(
        self,
        name: TableName,
        *,
        expires: datetime.datetime,
        description: str,
        schema: Schema,
    ) -> bool:
        """Creates a table; False when it is there already. What a lease is made of."""
        wanted = bigquery.Table(name.dotted, schema=_fields(schema))
        wanted.expires = expires
        wanted.description = description
        try:
            self.client.create_table(wanted)
        except api_errors.Conflict:
            return False
        except api_errors.GoogleAPIError as error:
            raise systemic(error, f"creating table {name.dotted}") from None
        return True

    def put_view(self, name: TableName, sql: str, *, description: str) -> None:
        """Creates a view, or gives the one that is there this text."""
        wanted = bigquery.Table(name.dotted)
        wanted.view_query = sql
        wanted.description = description
        with self._translated(f"creating view {name.dotted}"):
            try:
                self.client.create_table(wanted)
            except api_errors.Conflict:
                self.client.update_table(wanted, ["view_query", "description"])

    def table_names(self, project: str, dataset: str) -> list[str]:
        """The tables and views of a dataset."""
        with self._translated(f"listing the tables of {project}.{dataset}"):
            return [str(item.table_id) for item in self.client.list_tables(f"{project}.{dataset}", retry=PATIENT_READ)]

    def drop(self, name: TableName) -> None:
        """Drops a table if it is there."""
        with self._translated(f"dropping table {name.dotted}"):
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
        """Runs one parameterised query job, cache off, and waits for it.

        The job id is made of the machine-made run id and a hash of SQL and parameters, so a retried bundle
        finds its own job again instead of paying for another; a failed job keeps its id, so the next try
        takes the next suffix.

        Raises:
            UserError: The query is wrong, or over ``maximum_bytes_billed``.
            SystemicError: It cannot be run.
        """
        config = job_config(query.parameters)
        config.use_query_cache = False
        _cap(config, maximum_bytes_billed)
        config.labels = dict(labels or {})
        digest = hashlib.sha256(orjson.dumps([query.sql, repr(query.parameters)])).hexdigest()[:16]
        last: Exception | None = None
        for suffix in range(JOB_TRIES):
            job_id = f"imagebeam-{run_id}-{digest}-{suffix}"
            try:
                try:
                    job = self.client.query(
                        query.sql, job_config=config, job_id=job_id, location=location, job_retry=None
                    )
                except api_errors.Conflict:
                    job = cast("bigquery.QueryJob", self.client.get_job(job_id, location=location))
                result = job.result()
            except (api_errors.BadRequest, api_errors.NotFound, api_errors.Forbidden) as error:
                raise query_error(error) from None
            except (api_errors.GoogleAPIError, OSError) as error:
                if isinstance(error, api_errors.GoogleAPICallError) and over_cap(error):
                    raise query_error(error) from None
                last = error
                continue
            return ResultRef(
                table=f"{job.destination.project}.{job.destination.dataset_id}.{job.destination.table_id}",
                schema=tuple(field.to_api_repr() for field in result.schema),
                rows=int(result.total_rows or 0),
                job_id=job_id,
                bytes_processed=int(job.total_bytes_processed or 0),
            )
        raise systemic(last or RuntimeError("no answer"), "running a query")

    def small_query(
        self, query: Query, *, location: str | None = None, maximum_bytes_billed: int | None = None
    ) -> list[dict[str, Any]]:
        """Runs a query with a small result and returns its rows."""
        config = job_config(query.parameters)
        _cap(config, maximum_bytes_billed)
        try:
            job = self.client.query(query.sql, job_config=config, location=location)
            return [dict(row.items()) for row in job.result()]
        except (api_errors.BadRequest, api_errors.NotFound, api_errors.Forbidden) as error:
            raise query_error(error) from None
        except (api_errors.GoogleAPIError, OSError) as error:
            if isinstance(error, api_errors.GoogleAPICallError) and over_cap(error):
                raise query_error(error) from None
            raise systemic(error, "running a query") from None

    def dry_run(self, query: Query, *, location: str | None = None) -> tuple[tuple[Mapping[str, Any], ...], int, str]:
        """Checks a query without running it.

        Returns:
            The schema of its result, the bytes that it would scan, and the location where it would run.
        """
        config = job_config(query.parameters)
        config.dry_run = True
        config.use_query_cache = False
        try:
            job = self.client.query(query.sql, job_config=config, location=location, retry=PATIENT_READ)
        except (api_errors.BadRequest, api_errors.NotFound, api_errors.Forbidden) as error:
            raise query_error(error) from None
        except (api_errors.GoogleAPIError, OSError) as error:
            raise systemic(error, "checking a query") from None
        schema = tuple(field.to_api_repr() for field in job.schema or ())
        return schema, int(job.total_bytes_processed or 0), job.location or "US"

    def rows(self, result: ResultRef, start: int, count: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Reads rows ``start`` to ``start + count`` of a result, only the named columns."""
        schema = [_Field.from_api_repr(dict(field)) for field in result.schema if field["name"] in set(columns)]
        names = [field.name for field in schema]
        table = bigquery.Table(result.table, schema=_fields(result.schema))
        with self._translated("reading a page of the query's result"):
            for row in self.client.list_rows(
                table,
                selected_fields=schema,
                start_index=start,
                max_results=count,
                page_size=min(count, PAGE_ROWS),
            ):
                # Not row.items(), which copies every value deeply.
                yield {name: row[name] for name in names}

    # -- rows in ---------------------------------------------------------------------------------------

    def add_row(self, name: TableName, row: Mapping[str, Any], row_id: str) -> None:
        """Streams one row in, trying again for a minute while BigQuery is unavailable."""
        with self._translated(f"writing to table {name.dotted}"):
            refused = self.insert(name, [row], [row_id], retry=PATIENT)
        if refused:
            raise SystemicError(f"BigQuery rejects a row of table {name.dotted}: {refused[0]}")

    def insert(
        self,
        name: TableName,
        rows: Sequence[Mapping[str, Any]],
        row_ids: Sequence[str],
        *,
        retry: retries.Retry | None = None,
    ) -> dict[int, str]:
        """Streams rows in; the rows of the batch that BigQuery rejects are returned, index to reason.

        Args:
            name: The table.
            rows: The rows, JSON-ready.
            row_ids: Insert ids: a row that is sent twice within a minute or so stands there once.
            retry: What is tried again; by default nothing, the recorder does that itself.

        Raises:
            google.api_core.exceptions.GoogleAPIError: The request as a whole failed; nothing is known of it.
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

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except google.auth.exceptions.GoogleAuthError as error:
            raise SystemicError(f"{doing}: credentials failed: {first_line(error)}") from None
        except (api_errors.GoogleAPIError, OSError) as error:
            raise systemic(error, doing) from None


class _Field(bigquery.SchemaField):
    """A field that keeps what it is: the client asks at every value, and works it out from JSON each time."""

    @functools.cached_property
    def name(self) -> str:
        """Its name."""
        return str(super().name)

    @functools.cached_property
    def field_type(self) -> str:
        """Its type, in capitals."""
        return str(super().field_type)

    @functools.cached_property
    def mode(self) -> str:
        """Its mode, in capitals."""
        return str(super().mode)

    @functools.cached_property
    def fields(self) -> tuple[bigquery.SchemaField, ...]:
        """Its subfields."""
        return tuple(_Field.from_api_repr(field.to_api_repr()) for field in super().fields)


def _fields(schema: Schema) -> list[bigquery.SchemaField]:
    return [bigquery.SchemaField.from_api_repr(dict(field)) for field in schema]


def job_config(parameters: Sequence[Parameter]) -> bigquery.QueryJobConfig:
    """The configuration of a query job with these parameters."""
    config = bigquery.QueryJobConfig()
    config.query_parameters = [
        bigquery.ArrayQueryParameter(parameter.name, parameter.type, list(parameter.value))
        if parameter.array
        else bigquery.ScalarQueryParameter(parameter.name, parameter.type, parameter.value)
        for parameter in parameters
    ]
    return config


def _cap(config: bigquery.QueryJobConfig, maximum_bytes_billed: int | None) -> None:
    if maximum_bytes_billed is not None:  # the client would send None as the text "None"
        config.maximum_bytes_billed = maximum_bytes_billed
