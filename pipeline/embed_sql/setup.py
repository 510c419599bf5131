"""Create the resources of the SQL lane, and explain what is missing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import google.cloud.storage as storage

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.embed_sql import ddl
from imagebeam.pipeline.embed_sql import jobs as sql_jobs
from imagebeam.pipeline.embed_sql.ddl import Connection, ConnectionGrants, Endpoint, ObjectTable
from imagebeam.pipeline.embed_sql.existing import ExistingModel, ExistingObjectTable, read_model, read_object_table
from imagebeam.pipeline.embed_sql.jobs import KeepAlive, StatementError
from imagebeam.pipeline.embed_sql.statements import ModelCall
from imagebeam.pipeline.run import cost_estimate
from imagebeam.pipeline.run.cost_estimate import Report
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.model_probe import sample_query
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.text import quote
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.sources import Source

#: A new IAM grant takes a while to take effect.
GRANT_TRIES, GRANT_PAUSE_S = 6, 10.0
#: Other names of a model in BigQuery.
ALIASES = {"multimodalembedding": "multimodalembedding@001", "gemini-embedding-2-preview": "gemini-embedding-2"}


@dataclasses.dataclass(frozen=True, slots=True)
class SqlResources:
    """The BigQuery resources that a run uses.

    Attributes:
        outcomes: Table of outcomes; the other resources are in its dataset.
        location: Location of the dataset.
        connection: The connection that calls the model; None for the default connection.
        endpoint: The Vertex AI model of the remote model.
        objects: The object table; None to read images by their URIs.
        create_connection: Create the connection if it does not exist.
        buckets: Some of the buckets with images.
        existing_model: The user's own remote model; None to create one.
        existing_table: The user's own object table; None to create one, if there are ``objects``.
    """

    outcomes: TableName
    location: str
    connection: Connection | None
    endpoint: Endpoint
    objects: ObjectTable | None = None
    create_connection: bool = False
    buckets: tuple[str, ...] = ()
    existing_model: ExistingModel | None = None
    existing_table: ExistingObjectTable | None = None

    @property
    def model(self) -> TableName:
        """Name of the remote model."""
        if self.existing_model:
            return self.existing_model.name
        return ddl.model_name(self.outcomes, self.endpoint, self.connection)

    @property
    def images(self) -> TableName | None:
        """Name of the object table; None without one."""
        if self.existing_table:
            return self.existing_table.name
        return ddl.object_table_name(self.outcomes, self.objects, self.connection) if self.objects else None

    @property
    def reader(self) -> Connection | None:
        """The connection that reads the images; None for the default connection."""
        return self.existing_table.connection if self.existing_table else self.connection

    def model_call(self, dimension: int) -> ModelCall:
        """Return how to call the model."""
        return ModelCall(self.model, dimension, self.connection, self.images)

    def steps(self) -> dict[str, str]:
        """Return the idempotent statements that create the resources, in order, by title."""
        steps = {}
        if self.create_connection and self.connection is not None:
            steps["connection"] = ddl.create_connection(self.connection)
        if self.objects is not None and self.images is not None and self.existing_table is None:
            steps["object table"] = ddl.create_object_table(self.images, self.objects, self.connection)
            if self.objects.staleness_minutes and self.objects.cache_mode == "MANUAL":
                steps["listing"] = ddl.refresh_object_table(self.images)
        if self.existing_model is None:
            steps["model"] = ddl.create_model(self.model, self.endpoint, self.connection)
        return steps

    def clean_up(self) -> list[str]:
        """Return the statements that drop what the run creates, apart from tables of results."""
        drops = []
        if self.existing_model is None:
            drops.append(f"DROP MODEL IF EXISTS {self.model.sql()}")
        if self.images is not None and self.existing_table is None:
            drops.append(f"DROP EXTERNAL TABLE IF EXISTS {self.images.sql()}")
        if self.create_connection and self.connection is not None:
            drops.append(f"DROP CONNECTION IF EXISTS {ddl.connection_sql(self.connection)}")
        return drops

    def grants(self, project: str, account: tuple[str, str] | None = None) -> ConnectionGrants:
        """Return what the service accounts of the connections need.

        Args:
            project: Project that runs the statements.
            account: Service account of the connection and number of its project, if already known.
        """
        caller = account or sql_jobs.connection_account(self.connection, project, self.location)
        shared = self.reader == self.connection
        reader = caller if shared else sql_jobs.connection_account(self.reader, project, self.location)
        return ConnectionGrants(
            self.endpoint.project or self.model.project,
            tuple(sorted({*self.buckets, *(self.objects.buckets if self.objects else ())})),
            caller[0] if caller else None,
            reader[0] if reader else None,
            ddl.account_command(self.connection, project, self.location),
            ddl.account_command(self.reader, project, self.location),
        )


def resolve_resources(settings: EmbedSettings, outcomes: TableName, location: str, bq: BigQueryClient) -> SqlResources:
    """Return the resources that the settings select.

    Raises:
        UserError: A name is invalid, the endpoint is another model, or a resource is in another location or does not
            exist.
        SystemicError: BigQuery cannot be used.
    """
    connection: Connection | None
    if settings.remote_model:
        model = read_model(bq, settings.remote_model, settings.project, location)
        connection, endpoint = model.connection, model.endpoint
        flag = f"--remote_model={settings.remote_model}"
    else:
        model, connection = None, Connection.parse(settings.connection, settings.project)
        ddl.check_connection_location(connection, f"{outcomes.project}.{outcomes.dataset}", location)
        endpoint = Endpoint.parse(settings.endpoint or str(settings.model))
        flag = f"--endpoint={quote(endpoint.text)}"
    if ALIASES.get(endpoint.model, endpoint.model) != settings.model:
        raise UserError(
            f"{flag} is model {endpoint.model}, but --model is {settings.model}: vectors of two models must not be in "
            "one table; use the same model for both"
        )
    if settings.create_connection and connection is None:
        raise UserError("--create_connection needs a name: --connection=LOCATION.NAME; BigQuery creates DEFAULT itself")
    objects = table = None
    if settings.object_table:
        table = read_object_table(bq, settings.object_table, settings.project, location)
        objects = table.objects
    elif settings.object_uris:
        mode: ddl.CacheMode = "MANUAL" if settings.metadata_cache_mode == "MANUAL" else "AUTOMATIC"
        objects = ObjectTable(tuple(settings.object_uris), settings.max_staleness_minutes, mode)
    return SqlResources(
        outcomes,
        location,
        connection,
        endpoint,
        objects,
        settings.create_connection,
        existing_model=model,
        existing_table=table,
    )


def create_resources(
    resources: SqlResources, bq: BigQueryClient, name: str, run: RunSettings, keep_alive: KeepAlive, report: Report
) -> None:
    """Create the resources that do not exist yet.

    Args:
        resources: What to create.
        bq: BigQuery client.
        name: Prefix of the job names.
        run: Settings of the run.
        keep_alive: Called while a job runs.
        report: Prints a status line.

    Raises:
        UserError: BigQuery rejects a statement; the message explains how to fix it.
        SystemicError: BigQuery cannot be used.
    """
    project = run.engine.call_settings.project
    account: tuple[str, str] | None = None
    for title, sql in resources.steps().items():
        for attempt in range(GRANT_TRIES):
            try:
                job = f"{name}-{title.replace(' ', '-')}-{attempt}"
                sql_jobs.run_job(
                    bq, Query(sql), job, location=resources.location, labels=run.labels(), keep_alive=keep_alive
                )
                break
            except StatementError as error:
                grant_is_new = resources.create_connection and "does not have the permission" in str(error)
                if grant_is_new and attempt + 1 < GRANT_TRIES:
                    time.sleep(GRANT_PAUSE_S)
                    continue
                raise UserError(_explain(str(error), resources, project, account)) from None
        if title == "connection":
            account = sql_jobs.connection_account(resources.connection, project, resources.location)
            for command in resources.grants(project, account).commands():
                report(f"grant    {command}")


def setup_statements(resources: SqlResources, run: RunSettings) -> list[str]:
    """Return the statements that create the resources, with the grants as comments, for ``--dry_run``."""
    grants = resources.grants(run.engine.call_settings.project)
    lines = []
    for title, sql in resources.steps().items():
        lines += [f"-- {title}", f"{sql};", ""]
    lines += ["-- grants, once (needs permission to grant them):"]
    if grants.caller is None or grants.reader is None:
        lines += [f"--   {command}" for command in grants.commands()]
        unknown = "SERVICE_ACCOUNT_OF_THE_CONNECTION"
        grants = dataclasses.replace(grants, caller=grants.caller or unknown, reader=grants.reader or unknown)
    return [*lines, *(f"--   {command}" for command in grants.commands()), ""]


def check_object_table(resources: SqlResources, run: RunSettings, bq: BigQueryClient) -> str | None:
    """Return a warning if the object table does not list all remaining images.

    Raises:
        UserError: It lists none of them, so that every unit would fail as NOT_FOUND.
    """
    if resources.objects is None:
        return None
    query = ddl.listed_query(cost_estimate.remaining_query(bq, run), resources.objects)
    (row,) = bq.query_rows(query, location=run.location, maximum_bytes_billed=run.maximum_bytes_billed)
    if row["listed"] == row["images"]:
        return None
    existing = resources.existing_table
    given = f"--object_table={existing.name}" if existing else f"--object_uris={','.join(resources.objects.uris)}"
    outside = str(row["outside"])
    if not row["listed"]:
        bucket = outside.removeprefix("gs://").partition("/")[0]
        raise UserError(
            f"{given} lists none of the remaining images, such as {outside}", fix=f"--object_uris=gs://{bucket}/*"
        )
    return (
        f"{given} does not list {row['images'] - row['listed']:,} of {row['images']:,} remaining images, such as "
        f"{outside}: they will fail as NOT_FOUND"
    )


def sample_buckets(source: Source, resources: SqlResources, bq: BigQueryClient, location: str) -> tuple[str, ...]:
    """Return some of the buckets with images."""
    if resources.objects is not None:
        return resources.objects.buckets
    rows = bq.query_rows(sample_query(source), location=location)
    return tuple(sorted({str(row["uri"]).removeprefix("gs://").partition("/")[0] for row in rows}))


def foreign_bucket_warnings(resources: SqlResources, buckets: Sequence[str], project: str) -> list[str]:
    """Return a warning for each bucket that belongs to another project; unreadable buckets are skipped."""
    account = sql_jobs.connection_account(resources.reader, project, resources.location)
    if account is None:
        return []
    found = [
        iam_roles.foreign_bucket_warning(bucket, _owner(bucket, project), account[1], account[0]) for bucket in buckets
    ]
    return [line for line in found if line is not None]


def unreadable_images_message(resources: SqlResources, project: str, status: str) -> str:
    """Return the message for a trial that could read no image: which role to grant to which account.

    Args:
        resources: Resources of the run.
        project: Project that runs it.
        status: Status of a row of the trial.
    """
    if foreign := foreign_bucket_warnings(resources, resources.buckets, project):
        return foreign[0]
    return (
        f"no image can be read ({' '.join(status.split())[:160]}): grant {resources.grants(project).describe()}; wait "
        "some minutes and run again, or use --lane=online, which reads the images with your own account"
    )


def _explain(message: str, resources: SqlResources, project: str, account: tuple[str, str] | None) -> str:
    return ddl.explain_rejection(
        message,
        connection=resources.connection,
        project=project,
        dataset=f"{resources.outcomes.project}.{resources.outcomes.dataset}",
        location=resources.location,
        grants=resources.grants(project, account),
    )


def _owner(bucket: str, project: str) -> str:
    """Return the project number of a bucket; empty if it cannot be read."""
    try:
        return str(storage.Client(project=project).get_bucket(bucket).project_number or "")
    except (api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError):
        return ""
