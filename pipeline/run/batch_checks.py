"""What a batch run needs besides, checked before anything is written."""

from __future__ import annotations

import datetime

from imagebeam.pipeline.diagnostics.iam_roles import vertex_service_agent
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane, Transport
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.run_settings import run_labels
from imagebeam.transforms.sql.sources import Source
from imagebeam.transforms.tasks.model_profiles import ModelProfile
from imagebeam.transforms.tasks.task import Task

#: Google's own code takes a snapshot of Imagery Insights to live so long.
SNAPSHOT_DAYS = 35
#: What a job may take at most: 72 hours in the queue and 24 at work.
LONGEST_JOB = datetime.timedelta(hours=96)


def check(settings: ClassifySettings, task: Task, profile: ModelProfile, outcomes: TableName, location: str) -> None:
    """Checks that the task fits a batch job, and its tables their region.

    Raises:
        UserError: They do not; says what to do instead.
    """
    check_task(settings, task, profile)
    check_tables(settings, outcomes, location)


def check_task(settings: ClassifySettings, task: Task, profile: ModelProfile) -> None:
    """Checks that the task fits a batch job, and the lane that comes after a deadline.

    Raises:
        UserError: It does not.
    """
    task_kind(task).build_lines(profile, run_labels(settings.run_id, task.name))
    if settings.batch_deadline_s is not None:
        try:
            profile.check(settings.location, settings.batch_fallback, task)
        except UserError as error:
            raise UserError(f"--batch_fallback={settings.batch_fallback} after --batch_deadline_s: {error}") from None


def check_tables(settings: ClassifySettings, outcomes: TableName, location: str) -> None:
    """Checks that tables of jobs are where the model is.

    Raises:
        UserError: They are not.
    """
    for name in ("batch_source", "batch_destination"):
        if getattr(settings, name) == "bigquery" and location.lower() != settings.location.lower():
            raise UserError(
                f"--{name}=bigquery needs tables where the model is, and dataset {outcomes.project}.{outcomes.dataset} "
                f"is in {location}, the model at {settings.location}",
                fix=f"leave --{name} at gcs, or use a results dataset in {settings.location}",
            )


def check_images(
    settings: ClassifySettings, task: Task, bq: BigQueryClient, source: Source, location: str, transport: str
) -> None:
    """Checks that the service can read the images by itself, and that they will be there for long enough.

    Raises:
        UserError: It cannot, or they will not.
    """
    if transport == Transport.INLINE:
        raise unreadable(task)
    made = newest_snapshot(bq, source, location)
    if made is not None:
        check_expiry(settings, task, made, datetime.datetime.now(datetime.UTC))


def unreadable(task: Task, *, grant: str = "") -> UserError:
    """What to say when the service may not read the images by itself.

    Args:
        task: What is asked.
        grant: The command that lets it; without one it is said in words.
    """
    agent = vertex_service_agent("PROJECT_NUMBER")
    words = f"give the AI Platform service agent ({agent}) roles/storage.objectViewer on it"
    return UserError(
        "the service may not read these images by their URIs, and a batch job cannot send their bytes",
        fix=f"use {_other_lane(task)}, or {grant or words}",
    )


def newest_snapshot(bq: BigQueryClient, source: Source, location: str) -> datetime.datetime | None:
    """When the newest snapshot of the source was made; None when nothing tells."""
    if source.snapshots is None:
        return None
    sql = f"SELECT MAX(creation_time) AS made FROM {source.snapshots.sql()}"
    made: datetime.datetime | None = bq.query_rows(Query(sql), location=location)[0]["made"]
    return made


def expiry(made: datetime.datetime) -> datetime.datetime:
    """When the images of a snapshot expire, about."""
    return made + datetime.timedelta(days=SNAPSHOT_DAYS)


def check_expiry(settings: ClassifySettings, task: Task, made: datetime.datetime, now: datetime.datetime) -> None:
    """Checks that the images outlive the longest job.

    Raises:
        UserError: They may not.
    """
    longest = LONGEST_JOB
    if settings.batch_deadline_s is not None:
        longest = min(longest, datetime.timedelta(seconds=settings.batch_deadline_s))
    if expiry(made) < now + longest:
        raise UserError(
            f"the images of the newest snapshot expire about {expiry(made):%Y-%m-%d %H:%M} UTC, and a batch job may "
            f"take {longest.total_seconds() / 3600:.0f} hours",
            fix=f"use {_other_lane(task)}, give a shorter --batch_deadline_s, or wait for the next snapshot",
        )


def _other_lane(task: Task) -> str:
    return "--lane=flex, which costs the same" if Lane.FLEX in task.lanes else "--lane=online"
