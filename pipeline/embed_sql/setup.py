"""Makes what the SQL lane stands on, and says in one line what is missing: role, account, place, name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import google.cloud.storage as storage

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.embed_sql import ddl as setup
from imagebeam.pipeline.embed_sql import jobs as sql_jobs
from imagebeam.pipeline.embed_sql.ddl import Connection, Endpoint, ObjectTable
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

#: A grant that was given a moment ago takes a while to work.
GRANT_TRIES, GRANT_PAUSE_S = 6, 10.0
#: Names under which BigQuery knows a model.
ALIASES = {"multimodalembedding": "multimodalembedding@001", "gemini-embedding-2-preview": "gemini-embedding-2"}


@dataclasses.dataclass(frozen=True, slots=True)
class Route:
    """What a run stands on.

    Attributes:
        outcomes: Table of outcomes; its dataset holds all the rest.
        location: Where that is.
        connection: The connection; None for the default one.
        endpoint: The model behind the remote model.
        objects: The object table; None when images are read straight from their URIs.
        create_connection: Make the connection if it is not there.
        buckets: Some of the buckets that images are in.
    """

    outcomes: TableName
    location: str
    connection: Connection | None
    endpoint: Endpoint
    objects: ObjectTable | None = None
    create_connection: bool = False
    buckets: tuple[str, ...] = ()

    @property
    def model(self) -> TableName:
        """The remote model."""
        return setup.model_name(self.outcomes, self.endpoint, self.connection)

    @property
    def images(self) -> TableName | None:
        """The object table."""
        return setup.object_table_name(self.outcomes, self.objects, self.connection) if self.objects else None

    def model_call(self, dimension: int) -> ModelCall:
        """Return how to call the model."""
        return ModelCall(self.model, dimension, self.connection, self.images)

    def steps(self) -> dict[str, str]:
        """The statements that make all of it, in their order; each can be repeated."""
        steps = {}
        if self.create_connection and self.connection is not None:
            steps["connection"] = setup.create_connection(self.connection)
        if self.objects is not None and self.images is not None:
            steps["object table"] = setup.create_object_table(self.images, self.objects, self.connection)
            if self.objects.staleness_minutes and self.objects.cache_mode == "MANUAL":
                steps["listing"] = setup.refresh_object_table(self.images)
        steps["model"] = setup.create_model(self.model, self.endpoint, self.connection)
        return steps


def build_route(settings: EmbedSettings, outcomes: TableName, location: str) -> Route:
    """The route that a person asked for.

    Raises:
        UserError: A name is none, the endpoint is another model, or the connection is in another place.
    """
    connection = Connection.parse(settings.connection, settings.project)
    setup.check_connection_location(connection, f"{outcomes.project}.{outcomes.dataset}", location)
    endpoint = Endpoint.parse(settings.endpoint or str(settings.model))
    if ALIASES.get(endpoint.model, endpoint.model) != settings.model:
        raise UserError(
            f"--endpoint={quote(endpoint.text)} is model {endpoint.model}, but --model is {settings.model}: vectors of "
            "two models must not get into one table; give both the same"
        )
    if settings.create_connection and connection is None:
        raise UserError("--create_connection needs the name of one: --connection=LOCATION.NAME; DEFAULT makes itself")
    objects = None
    if settings.object_uris:
        mode: setup.CacheMode = "MANUAL" if settings.metadata_cache_mode == "MANUAL" else "AUTOMATIC"
        objects = ObjectTable(tuple(settings.object_uris), settings.max_staleness_minutes, mode)
    return Route(outcomes, location, connection, endpoint, objects, settings.create_connection)


def make(route: Route, bq: BigQueryClient, name: str, run: RunSettings, keep_alive: KeepAlive, report: Report) -> None:
    """Makes what is not there yet.

    Raises:
        UserError: BigQuery refuses a statement: says what is missing and how to mend it.
        SystemicError: BigQuery cannot be used.
    """
    project = run.engine.call_settings.project
    account: tuple[str, str] | None = None
    for title, sql in route.steps().items():
        for attempt in range(GRANT_TRIES):
            try:
                job = f"{name}-{title.replace(' ', '-')}-{attempt}"
                sql_jobs.run_job(
                    bq, Query(sql), job, location=route.location, labels=run.labels(), keep_alive=keep_alive
                )
                break
            except StatementError as error:
                fresh = route.create_connection and "does not have the permission" in str(error)
                if fresh and attempt + 1 < GRANT_TRIES:
                    time.sleep(GRANT_PAUSE_S)
                    continue
                raise UserError(_explained(str(error), route, project, account)) from None
        if title == "connection":
            account = sql_jobs.connection_account(route.connection, project, route.location)
            for command in grants(route, project, account):
                report(f"grant    {command}")


def grants(route: Route, project: str, account: tuple[str, str] | None) -> list[str]:
    """The commands that let the connection's account do its work."""
    if account is None:
        return [setup.account_command(route.connection, project, route.location)]
    buckets = [*route.buckets, *(route.objects.buckets if route.objects else ())]
    return setup.grant_commands(project, route.endpoint, account[0], buckets)


def statements(route: Route, run: RunSettings) -> list[str]:
    """The statements of the setup, and the grants as comments, as ``--dry_run`` shows them."""
    project = run.engine.call_settings.project
    account = sql_jobs.connection_account(route.connection, project, route.location)
    lines = []
    for title, sql in route.steps().items():
        lines += [f"-- {title}", f"{sql};", ""]
    lines += ["-- grants, once (needs the right to grant them):"]
    if account is None:
        named = "SERVICE_ACCOUNT_OF_THE_CONNECTION"
        lines.append(f"--   {setup.account_command(route.connection, project, route.location)}")
        account = (named, "")
    return [*lines, *(f"--   {command}" for command in grants(route, project, account)), ""]


def check_listed(route: Route, run: RunSettings, bq: BigQueryClient) -> str | None:
    """What to say when the object table lists only some of the due images; None when it lists them all.

    Raises:
        UserError: It lists none of them: each would be recorded as an image that is not there.
    """
    if route.objects is None:
        return None
    query = setup.listed_query(cost_estimate.remaining_query(bq, run), route.objects)
    (row,) = bq.query_rows(query, location=run.location, maximum_bytes_billed=run.maximum_bytes_billed)
    if row["listed"] == row["images"]:
        return None
    given = f"--object_uris={','.join(route.objects.uris)}"
    outside = str(row["outside"])
    if not row["listed"]:
        bucket = outside.removeprefix("gs://").partition("/")[0]
        raise UserError(
            f"{given} lists none of the due images; one of them is {outside}", fix=f"--object_uris=gs://{bucket}/*"
        )
    return (
        f"{given} does not list {row['images'] - row['listed']:,} of {row['images']:,} due images, such as {outside}: "
        "they will fail as NOT_FOUND"
    )


def buckets_of(source: Source, route: Route, bq: BigQueryClient, location: str) -> tuple[str, ...]:
    """Some of the buckets that the images are in."""
    if route.objects is not None:
        return route.objects.buckets
    rows = bq.query_rows(sample_query(source), location=location)
    return tuple(sorted({str(row["uri"]).removeprefix("gs://").partition("/")[0] for row in rows}))


def foreign_buckets(route: Route, buckets: Sequence[str], project: str) -> list[str]:
    """What to say about buckets that belong to other projects; those that cannot be looked at are left out."""
    account = sql_jobs.connection_account(route.connection, project, route.location)
    if account is None:
        return []
    found = [
        iam_roles.foreign_bucket_warning(bucket, _owner(bucket, project), account[1], account[0]) for bucket in buckets
    ]
    return [line for line in found if line is not None]


def unreadable(route: Route, project: str, said: str) -> str:
    """What to say when no image of the trial could be read: which role on which account.

    Args:
        route: What the run stands on.
        project: Project that runs it.
        said: A row's status.
    """
    if foreign := foreign_buckets(route, route.buckets, project):
        return foreign[0]
    account = sql_jobs.connection_account(route.connection, project, route.location)
    who = account[0] if account else f"the account that `{grants(route, project, None)[0]}` shows"
    buckets = ", ".join(f"gs://{bucket}" for bucket in route.buckets) or "the images' bucket"
    return (
        f"no image may be read ({' '.join(said.split())[:160]}): grant {iam_roles.READER_ROLE} on {buckets} to {who}, "
        "wait some minutes and run it again; or use --lane=online, which reads the images with your own account"
    )


def _explained(message: str, route: Route, project: str, account: tuple[str, str] | None) -> str:
    known = account or sql_jobs.connection_account(route.connection, project, route.location)
    return setup.explain_rejection(
        message,
        connection=route.connection,
        project=project,
        dataset=f"{route.outcomes.project}.{route.outcomes.dataset}",
        location=route.location,
        endpoint=route.endpoint,
        account=known[0] if known else None,
    )


def _owner(bucket: str, project: str) -> str:
    """Number of the project that a bucket belongs to; empty when it may not be looked at."""
    try:
        return str(storage.Client(project=project).get_bucket(bucket).project_number or "")
    except (api_errors.GoogleAPIError, google.auth.exceptions.GoogleAuthError, OSError):
        return ""
