"""Load jobs: whole files of rows into BigQuery, so that doing it again lands nothing twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import google.api_core.exceptions as api_errors
import google.auth.exceptions as auth_errors
from google.cloud import bigquery

from imagebeam.transforms.clients.bigquery import JOB_TRIES, BigQueryClient
from imagebeam.transforms.core.errors import SystemicError, first_line
from imagebeam.transforms.core.identifiers import TableName


def load_file(
    bq: BigQueryClient,
    uri: str,
    table: TableName,
    *,
    job_id: str,
    location: str,
    labels: Mapping[str, str],
    schema: Sequence[Mapping[str, Any]] = (),
    replace: bool = False,
) -> int:
    """Loads a file of newline-delimited JSON; returns its rows.

    A load job is all or nothing, and BigQuery takes a job id once: whoever comes second finds the first
    one's job. Only the id of a job that failed is spent, so that the next try takes the next suffix; where the
    service did not say how a job ended, the same id is asked about again.

    Args:
        bq: BigQuery client.
        uri: ``gs://`` file.
        table: Where to.
        job_id: Names the content: what is loaded once under an id is never loaded again.
        location: Of the dataset.
        labels: Billing labels.
        schema: Of a table that is made by this; by default it must be there.
        replace: Replace what the table holds instead of adding to it.

    Raises:
        SystemicError: It cannot be loaded.
    """
    config = bigquery.LoadJobConfig()
    config.source_format = bigquery.SourceFormat.NEWLINE_DELIMITED_JSON
    disposition = bigquery.WriteDisposition
    config.write_disposition = disposition.WRITE_TRUNCATE if replace else disposition.WRITE_APPEND
    config.labels = dict(labels)
    if schema:
        config.schema = [bigquery.SchemaField.from_api_repr(dict(field)) for field in schema]
    suffix, last = 0, ""
    for _ in range(2 * JOB_TRIES):
        name = f"{job_id}-{suffix}"
        job: Any = None
        found = False
        try:
            try:
                job = bq.client.load_table_from_uri(
                    uri, table.dotted, job_id=name, location=location, job_config=config
                )
            except api_errors.Conflict:
                found = True
                job = bq.client.get_job(name, location=location)
            job.result()
            return int(job.output_rows or 0)
        except (api_errors.GoogleAPIError, auth_errors.GoogleAuthError, OSError) as error:
            last = first_line(error)
            spent = job is not None and job.error_result is not None
            if spent:
                suffix += 1
            # What another process tried may go well now; our own mistake will not.
            if isinstance(error, api_errors.Forbidden | api_errors.BadRequest) and not (found and spent):
                break
    raise SystemicError(
        f"loading {uri} into {table.dotted}: {last}; the account needs roles/bigquery.dataEditor on the dataset "
        "and must be able to read the file"
    )
