"""What a batch run needs besides, checked before anything is written."""

from __future__ import annotations

import datetime

from imagebeam.pipeline.config import ClassifySettings
from imagebeam.transforms.calls import build_lines
from imagebeam.transforms.embeddings import EmbedTask
from imagebeam.transforms.errors import UserError
from imagebeam.transforms.identifiers import TableName
from imagebeam.transforms.pricing import ModelProfile
from imagebeam.transforms.queries import Query
from imagebeam.transforms.run import run_labels
from imagebeam.transforms.sources import Source
from imagebeam.transforms.task import Task
from imagebeam.transforms.warehouse import Warehouse

#: Google's own code takes a snapshot of Imagery Insights to live so long.
SNAPSHOT_DAYS = 35
#: What a job may take at most: 72 hours in the queue and 24 at work.
LONGEST_JOB = datetime.timedelta(hours=96)


def check(settings: ClassifySettings, task: Task, profile: ModelProfile, outcomes: TableName, location: str) -> None:
    """Checks that the task fits a batch job, and its tables their region.

    Raises:
        UserError: They do not; says what to do instead.
    """
    build_lines(task, profile, run_labels(settings.run_id, task.name))
    if settings.batch_deadline_s is not None:
        try:
            profile.check(settings.location, settings.batch_fallback, task)
        except UserError as error:
            raise UserError(f"--batch_fallback={settings.batch_fallback} after --batch_deadline_s: {error}") from None
    for name in ("batch_source", "batch_destination"):
        if getattr(settings, name) == "bigquery" and location.lower() != settings.location.lower():
            raise UserError(
                f"--{name}=bigquery needs tables where the model is, and dataset {outcomes.project}.{outcomes.dataset} "
                f"is in {location}, the model at {settings.location}: leave --{name} at gcs, or use a results dataset "
                f"in {settings.location}"
            )


def check_images(
    settings: ClassifySettings, task: Task, warehouse: Warehouse, source: Source, location: str, transport: str
) -> None:
    """Checks that the service can read the images by itself, and that they will be there for long enough.

    Raises:
        UserError: It cannot, or they will not.
    """
    other = "--lane=online" if isinstance(task, EmbedTask) else "--lane=flex, which costs the same"
    if transport == "inline":
        raise UserError(
            "the service may not read these images by their URIs, and a batch job cannot send their bytes: use "
            f"{other}, or give the AI Platform service agent "
            "(service-PROJECT_NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com) roles/storage.objectViewer on it"
        )
    if source.snapshots is None:
        return
    sql = f"SELECT MAX(creation_time) AS made FROM {source.snapshots.sql()}"
    made = warehouse.small_query(Query(sql), location=location)[0]["made"]
    if made is None:
        return
    until = made + datetime.timedelta(days=SNAPSHOT_DAYS)
    longest = LONGEST_JOB
    if settings.batch_deadline_s is not None:
        longest = min(longest, datetime.timedelta(seconds=settings.batch_deadline_s))
    if until < datetime.datetime.now(datetime.UTC) + longest:
        raise UserError(
            f"the images of the newest snapshot expire about {until:%Y-%m-%d %H:%M} UTC, and a batch job may take "
            f"{longest.total_seconds() / 3600:.0f} hours: use {other}, give a shorter "
            "--batch_deadline_s, or wait for the next snapshot"
        )
