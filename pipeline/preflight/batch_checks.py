"""Checks for batch jobs: the request line, tables in the region of the model, expiration of images."""

from __future__ import annotations

import datetime
from typing import Final

from imagebeam.pipeline.diagnostics.iam_roles import vertex_service_agent
from imagebeam.pipeline.diagnostics.results import CheckResult
from imagebeam.pipeline.preflight.runner import Context
from imagebeam.pipeline.run.resolved_run import ResolvedRun
from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.run_settings import run_labels
from imagebeam.transforms.tasks.task import Task

#: Images of an Imagery Insights snapshot expire after about this time, according to Google's own code.
SNAPSHOT_DAYS: Final = 35
#: Maximum time of a batch job: 72 hours in the queue and 24 hours of processing.
MAX_JOB_TIME: Final = datetime.timedelta(hours=96)


def check_batch(context: Context) -> CheckResult:
    """Check that batch jobs can process the task and use its tables, and warn about a bucket in another location."""
    check_batch_lane(context.resolved)
    settings = context.settings
    location = storage.read_bucket_location(settings.work_dir) if settings.batch_source == "bigquery" else None
    if location not in (None, settings.location.lower()):
        return context.warning(
            f"--work_dir is in {location}, and BigQuery loads requests into a dataset in {settings.location} only from "
            f"a bucket in {settings.location}",
            fix=f"gcloud storage buckets create gs://BUCKET --location={settings.location}",
        )
    return context.ok("task and tables fit")


def check_batch_lane(resolved: ResolvedRun) -> None:
    """Check that the task fits a batch job and its fallback lane, and that tables of jobs are in their region.

    Raises:
        UserError: The task or a table does not meet a requirement.
    """
    settings, task = resolved.settings, resolved.task
    task_kind(task).build_lines(resolved.profile, run_labels(settings.run_id, task.name))
    if settings.batch_deadline_s is not None:
        try:
            resolved.profile.check(settings.location, settings.batch_fallback, task)
        except UserError as error:
            raise UserError(f"--batch_fallback={settings.batch_fallback} after --batch_deadline_s: {error}") from None
    names = [name for name in ("batch_source", "batch_destination") if getattr(settings, name) == "bigquery"]
    if names:
        _check_tables(resolved, names[0])


def _check_tables(resolved: ResolvedRun, flag: str) -> None:
    """Check that the tables of jobs are in the region of the model, and the named one is new."""
    settings, outcomes, region = resolved.settings, resolved.outcomes, resolved.settings.location
    dataset = settings.batch_dataset or f"{outcomes.project}.{outcomes.dataset}"
    project, _, name = dataset.rpartition(".")
    location = resolved.bq.get_dataset_location(project, name) if settings.batch_dataset else resolved.location
    if location is None:
        raise UserError(
            f"--batch_dataset={dataset} does not exist, or you cannot access it",
            fix=f"create it with `bq mk --location={region} {project}:{name}`",
        )
    if location.lower() != region.lower():
        raise UserError(
            f"--{flag}=bigquery needs tables in the region of the model, but dataset {dataset} is in {location}, "
            f"the model at {region}",
            fix=f"leave --{flag} at gcs, or use --batch_dataset with a dataset in {region}, created with "
            f"`bq mk --location={region} {project}:DATASET`",
        )
    if settings.batch_output_table:
        table = TableName(project, name, settings.batch_output_table)
        if (found := resolved.bq.get_table(table)) is not None and found.rows:
            raise UserError(
                f"--batch_output_table={table.table}: {table.dotted} has {found.rows:,} rows already; use a new name"
            )


def check_image_expiration(resolved: ResolvedRun) -> None:
    """Check that the images do not expire while a batch job runs.

    Raises:
        UserError: They may expire before it ends.
    """
    created = newest_snapshot(resolved)
    if created is not None:
        check_expiry(resolved, created, datetime.datetime.now(datetime.UTC))


def unreadable_images(task: Task, *, grant: str = "") -> UserError:
    """Return the error for images that Vertex AI cannot read by URI.

    Args:
        task: The task.
        grant: The command that lets the service read them; without it, the fix is in words.
    """
    agent = vertex_service_agent("PROJECT_NUMBER")
    words = f"grant roles/storage.objectViewer on it to the Vertex AI service agent ({agent})"
    return UserError(
        "Vertex AI cannot read these images by URI, and a batch job cannot send their bytes",
        fix=f"use {_other_lane(task)}, or {grant or words}",
    )


def newest_snapshot(resolved: ResolvedRun) -> datetime.datetime | None:
    """Return when the newest snapshot of the source was created; None if the source has no table of snapshots."""
    snapshots = resolved.source.snapshots
    if snapshots is None:
        return None
    query = Query(f"SELECT MAX(creation_time) AS created FROM {snapshots.sql()}")
    created: datetime.datetime | None = resolved.bq.query_rows(query, location=resolved.location)[0]["created"]
    return created


def expiry(created: datetime.datetime) -> datetime.datetime:
    """Return about when the images of a snapshot expire."""
    return created + datetime.timedelta(days=SNAPSHOT_DAYS)


def check_expiry(resolved: ResolvedRun, created: datetime.datetime, now: datetime.datetime) -> None:
    """Check that the images of a snapshot outlast a batch job.

    Raises:
        UserError: They may expire before it ends.
    """
    longest = MAX_JOB_TIME
    if resolved.settings.batch_deadline_s is not None:
        longest = min(longest, datetime.timedelta(seconds=resolved.settings.batch_deadline_s))
    if expiry(created) < now + longest:
        raise UserError(
            f"the images of the newest snapshot expire about {expiry(created):%Y-%m-%d %H:%M} UTC, and a batch job "
            f"may take {longest.total_seconds() / 3600:.0f} hours",
            fix=f"use {_other_lane(resolved.task)}, set a shorter --batch_deadline_s, or wait for the next snapshot",
        )


def _other_lane(task: Task) -> str:
    return "--lane=flex, which costs the same" if Lane.FLEX in task.lanes else "--lane=online"
