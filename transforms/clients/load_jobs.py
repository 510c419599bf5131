"""Load files of rows into BigQuery; repeating a load does not duplicate rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import google.api_core.exceptions as api_errors
import google.auth.exceptions as auth_errors
from google.cloud import bigquery

from imagebeam.transforms.clients.bigquery import JOB_TRIES, BigQueryClient
from imagebeam.transforms.core.errors import SystemicError, first_line
from imagebeam.transforms.core.identifiers import TableName


@dataclasses.dataclass(frozen=True, slots=True)
class LoadJob:
    """A load job for one file of newline-delimited JSON.

    Attributes:
        uri: ``gs://`` file.
        table: Destination.
        job_id: Job id, derived from the content, so that the same content is loaded only once.
        location: Location of the dataset.
        labels: Billing labels.
        schema: Schema of a table to create; by default the table must exist.
        replace: Replace the rows of the table instead of appending.
    """

    uri: str
    table: TableName
    job_id: str
    location: str
    labels: Mapping[str, str]
    schema: Sequence[Mapping[str, Any]] = ()
    replace: bool = False

    def config(self) -> bigquery.LoadJobConfig:
        """Build the configuration of the job."""
        config = bigquery.LoadJobConfig(
            source_format=bigquery.SourceFormat.NEWLINE_DELIMITED_JSON,
            write_disposition=f"WRITE_{'TRUNCATE' if self.replace else 'APPEND'}",
            labels=dict(self.labels),
        )
        if self.schema:
            config.schema = [bigquery.SchemaField.from_api_repr(dict(field)) for field in self.schema]
        return config


def run_load_job(bq: BigQueryClient, load: LoadJob) -> int:
    """Run a load job and return the number of rows.

    A load job loads all rows or none, and BigQuery accepts a job id once: a second process finds the job of the first.
    Only a failed job uses up its id, so that the next attempt uses the next suffix; while the result of a job is
    unknown, the same id is queried again.

    Raises:
        SystemicError: The file cannot be loaded.
    """
    config = load.config()
    suffix, last = 0, ""
    for _ in range(2 * JOB_TRIES):
        name = f"{load.job_id}-{suffix}"
        job: Any = None
        found = False
        try:
            try:
                job = bq.client.load_table_from_uri(
                    load.uri, load.table.dotted, job_id=name, location=load.location, job_config=config
                )
            except api_errors.Conflict:
                found = True
                job = bq.client.get_job(name, location=load.location)
            job.result()
            return int(job.output_rows or 0)
        except (api_errors.GoogleAPIError, auth_errors.GoogleAuthError, OSError) as error:
            last = first_line(error)
            failed = job is not None and job.error_result is not None
            if failed:
                suffix += 1
            # A failed job of another process may succeed now; repeating our own mistake does not help.
            if isinstance(error, api_errors.Forbidden | api_errors.BadRequest) and not (found and failed):
                break
    raise SystemicError(
        f"loading {load.uri} into {load.table.dotted}: {last}; the account needs roles/bigquery.dataEditor on the "
        "dataset and must be able to read the file"
    )
