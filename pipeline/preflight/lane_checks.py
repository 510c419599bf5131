"""Checks for some runs only: the SQL lane, Dataflow, and permissions to create resources."""

from __future__ import annotations

from imagebeam.pipeline.diagnostics.error_hints import explain_error
from imagebeam.pipeline.diagnostics.iam_roles import describe_role, grant_command
from imagebeam.pipeline.diagnostics.results import CheckResult
from imagebeam.pipeline.embed_sql import jobs as sql_jobs
from imagebeam.pipeline.embed_sql import setup as embed_setup
from imagebeam.pipeline.embed_sql.ddl import Connection, create_connection_command
from imagebeam.pipeline.preflight.runner import Context
from imagebeam.pipeline.run import dataflow_staging
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.transforms.clients.rest import ApiError, RestClient, service_url
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.records import Lane


def check_staging(context: Context) -> CheckResult:
    """Check that the files of a Dataflow job can be staged."""
    dataflow_staging.check(context.beam_args)
    return context.ok(str(context.beam.staging_location or context.beam.temp_location))


def check_dataflow(context: Context) -> CheckResult:
    """Check that Dataflow is enabled."""
    project, region = context.settings.project, context.beam.region
    context.begin(f"list the jobs of project {project} in {region}")
    client = RestClient(f"{str(context.beam.dataflow_endpoint).rstrip('/')}/v1b3", context.credentials)
    client.call("GET", f"projects/{project}/locations/{region}/jobs", params={"pageSize": "1"})
    return context.ok(f"jobs run in {region}, workers: {context.settings.dataflow_workers}")


def check_sql_lane(context: Context) -> CheckResult:
    """Check that BigQuery can process the task, and connection and endpoint fit together."""
    settings = context.settings
    assert isinstance(settings, EmbedSettings)  # noqa: S101  (only embed has the SQL lane)
    if context.resolved.task.image.changes_images:
        raise UserError("--crop and --max_side change images, but BigQuery reads them as they are: use --lane=online")
    if settings.max_calls is not None:
        raise UserError("--max_calls counts calls, but BigQuery makes them itself: use --limit, or --lane=online")
    resolved = context.resolved
    context.sql_resources = embed_setup.resolve_resources(settings, resolved.outcomes, resolved.location, resolved.bq)
    return context.ok(f"model {context.sql_resources.endpoint.text}")


def check_object_table(context: Context) -> CheckResult:
    """Check that the object table lists the images of the remaining units."""
    warning = embed_setup.check_object_table(context.sql_resources, context.run, context.resolved.bq)
    return context.warning(warning) if warning else context.ok("lists the images")


def uses_object_table(context: Context) -> bool:
    """Return whether the run reads images through an object table."""
    return isinstance(context.settings, EmbedSettings) and bool(
        context.settings.object_uris or context.settings.object_table
    )


def check_connection(context: Context) -> CheckResult:
    """Check that the connection exists, and warn about buckets that its account cannot read."""
    settings, resources = context.settings, context.sql_resources
    assert isinstance(settings, EmbedSettings)  # noqa: S101  (only embed has the SQL lane)
    name = resources.connection.dotted if resources.connection else "DEFAULT"
    context.begin(f"read connection {name}")
    account = sql_jobs.connection_account(resources.connection, settings.project, resources.location)
    if account is None:
        if not isinstance(resources.connection, Connection) or settings.create_connection:
            return context.ok("created by the run")
        if resources.existing_model:  # an account can use the model without access to its connection
            return context.skipped(f"connection {name} of the remote model cannot be read: its roles are not checked")
        raise UserError(
            f"connection {name} does not exist, you cannot access it, or bigqueryconnection.googleapis.com is disabled",
            permission="bigquery.connections.get: roles/bigquery.connectionUser",
            fix=f"{create_connection_command(resources.connection)}, or --create_connection",
        )
    resolved = context.resolved
    buckets = embed_setup.sample_buckets(resolved.source, resources, resolved.bq, resolved.location)
    foreign = embed_setup.foreign_bucket_warnings(resources, buckets, settings.project)
    return context.warning(foreign[0], found=account[0]) if foreign else context.ok(account[0])


def check_project_roles(context: Context) -> CheckResult:
    """Test permissions that can otherwise only be verified by creating a resource."""
    permissions, project = _project_permissions(context), context.settings.project
    context.begin(f"test permissions of {context.member} on project {project}: {', '.join(permissions)}")
    client = RestClient(f"{service_url('cloudresourcemanager')}/v3", context.credentials)
    try:
        answer = client.call("POST", f"projects/{project}:testIamPermissions", body={"permissions": permissions})
    except ApiError as error:
        if not error.is_rejection:
            raise
        cause = explain_error(error, context.access).cause
        return context.skipped(f"{cause}: cannot test {', '.join(permissions)}")
    missing = [permission for permission in permissions if permission not in answer.get("permissions", ())]
    if missing:
        raise UserError(
            f"{context.member} lacks {', '.join(missing)} on project {project}",
            permission="; ".join(describe_role(permission, context.access) for permission in missing),
            fix=" && ".join(grant_command(permission, context.access) for permission in missing),
        )
    return context.ok(", ".join(permissions))


def needs_project_roles(context: Context) -> bool:
    """Return whether there are permissions to test."""
    return bool(_project_permissions(context))


def _project_permissions(context: Context) -> list[str]:
    settings = context.settings
    needed = {
        "bigquery.datasets.create": context.creates_dataset,
        "aiplatform.batchPredictionJobs.create": settings.lane == Lane.BATCH,
        "aiplatform.endpoints.predict": not context.paid_calls and isinstance(settings, EmbedSettings),
        "dataflow.jobs.create": context.dataflow,
    }
    return [permission for permission, is_needed in needed.items() if is_needed]
