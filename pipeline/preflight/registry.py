"""The registry of checks, in their order; the table in docs/preflight.md is generated from it."""

from __future__ import annotations

from typing import Final

from imagebeam.pipeline.preflight import batch_checks as batch
from imagebeam.pipeline.preflight import data_checks as data
from imagebeam.pipeline.preflight import lane_checks as lanes
from imagebeam.pipeline.preflight import model_checks as model
from imagebeam.pipeline.preflight.runner import Check, Context, Cost, Gate
from imagebeam.transforms.core.records import Lane

#: Lanes in which imagebeam calls the model; in the SQL lane BigQuery does.
_CALLS: Final = frozenset({Lane.ONLINE, Lane.FLEX, Lane.BATCH})
_BATCH: Final = frozenset({Lane.BATCH})
_SQL: Final = frozenset({Lane.SQL})


def _dataflow(context: Context) -> bool:
    return context.dataflow


CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "this machine",
        "compares the limit of open files with --in_flight",
        "none",
        "`ulimit -Hn`, or a smaller `--in_flight`",
        data.check_machine,
        cost=Cost.NONE,
        gate=Gate.RUN,
        lanes=_CALLS,
    ),
    Check(
        "task",
        "reads the task and the profile of its model",
        "none",
        "the message names the line of the task or the flag",
        data.check_task,
        cost=Cost.NONE,
        gate=Gate.ALL,
    ),
    Check(
        "model profile",
        "compares lane, location, task and today's date with the profile of the model",
        "none",
        "`--lane`, `--location`, `--model`",
        data.check_profile,
        needs=("task",),
        cost=Cost.NONE,
        gate=Gate.ALL,
    ),
    Check(
        "credentials",
        "finds credentials and gets an access token",
        "none",
        "`gcloud auth application-default login`",
        data.check_credentials,
        gate=Gate.ALL,
    ),
    Check(
        "staging",
        "writes and deletes a file where the Dataflow job is staged, and validates Beam's options",
        "storage.objects.create and delete (roles/storage.objectUser on the bucket)",
        "`gcloud storage buckets create …`, `--temp_location`, or grant the role",
        lanes.check_staging,
        needs=("credentials",),
        gate=Gate.RUN,
        applies=_dataflow,
    ),
    Check(
        "BigQuery",
        "dry run of `SELECT 1`",
        "bigquery.jobs.create (roles/bigquery.jobUser on the project)",
        "`gcloud services enable bigquery.googleapis.com`, or grant the role",
        data.check_bigquery,
        needs=("credentials",),
    ),
    Check(
        "source",
        "reads the columns of the table, or a dry run of the query; compares them with profile, filters and prompt",
        "bigquery.tables.get (roles/bigquery.dataViewer on its dataset)",
        "`bq ls`, `--columns`, `--keep_columns`, or grant the role",
        data.check_source,
        needs=("task", "BigQuery"),
        gate=Gate.ALL,
    ),
    Check(
        "shared dataset",
        "reads whether the dataset is linked to a publisher's, and what the publisher restricts",
        "bigquery.datasets.get",
        "`--lane=online` instead of `sql`",
        data.check_linked_dataset,
        needs=("source",),
    ),
    Check(
        "locations",
        "compares the locations of source and results",
        "bigquery.datasets.get on the results",
        "`bq mk --location=… DATASET`, `--results`",
        data.check_locations,
        needs=("source",),
        gate=Gate.ALL,
    ),
    Check(
        "work directory",
        "writes and deletes a file",
        "storage.objects.create and delete (roles/storage.objectUser on the bucket)",
        "`gcloud storage buckets create … --location=…`, or grant the role",
        data.check_work_dir,
        needs=("credentials",),
        gate=Gate.RUN,
        applies=data.writes_work_dir,
    ),
    Check(
        "bucket location",
        "compares the location of the work directory's bucket with those of workers and BigQuery",
        "storage.buckets.get",
        "`gcloud storage buckets create … --location=…`",
        data.check_bucket_location,
        needs=("work directory", "source"),
        applies=data.uses_bucket,
    ),
    Check(
        "batch jobs",
        "builds the line of a request, and compares the locations of model and tables of jobs",
        "none",
        "`--lane=flex`, `--batch_source`, `--batch_destination`",
        batch.check_batch,
        needs=("locations",),
        cost=Cost.NONE,
        gate=Gate.RUN,
        lanes=_BATCH,
    ),
    Check(
        "SQL lane",
        "compares task, connection, endpoint and location",
        "none",
        "`--lane=online`, `--connection`, `--endpoint`",
        lanes.check_sql_lane,
        needs=("locations",),
        cost=Cost.NONE,
        gate=Gate.RUN,
        lanes=_SQL,
    ),
    Check(
        "limits",
        "compares caps and rate limits with what one call takes",
        "none",
        "the message names the smallest value",
        data.check_limits,
        needs=("task", "source"),
        cost=Cost.NONE,
        gate=Gate.ALL,
    ),
    Check(
        "query",
        "dry run of the run's own query: bytes and price",
        "bigquery.tables.getData (roles/bigquery.dataViewer on the source)",
        "`--maximum_bytes_billed`, `--where`, or grant the role",
        data.check_query,
        needs=("locations", "limits"),
    ),
    Check(
        "snapshot",
        "compares the age of the newest snapshot with the 35 days for which its images are kept",
        "as query",
        "the table of a newer snapshot as `--source`",
        data.check_snapshot,
        needs=("query",),
        gate=Gate.BATCH,
    ),
    Check(
        "results dataset",
        "creates an empty table that expires, tests permissions on it, deletes it",
        "bigquery.tables.create … updateData (roles/bigquery.dataEditor on the dataset)",
        "grant the role",
        data.check_results,
        needs=("locations",),
    ),
    Check(
        "other runs",
        "reads the lease of the task",
        "bigquery.tables.get",
        "wait for the other run",
        data.check_lease,
        needs=("limits",),
        gate=Gate.RUN,
    ),
    Check(
        "sample image",
        "reads and decodes an image of the source; for Dataflow as the workers' account",
        "storage.objects.get (roles/storage.objectViewer on the images' bucket) for that account; "
        "iam.serviceAccounts.getAccessToken to impersonate the workers",
        "grant the role; on the bucket of Imagery Insights only Google can",
        model.check_sample,
        needs=("query", "snapshot"),
        lanes=_CALLS,
    ),
    Check(
        "model",
        "looks the model up at the location",
        "none",
        "`gcloud services enable aiplatform.googleapis.com`, `--model`, `--location`",
        model.check_model,
        needs=("model profile", "credentials"),
        gate=Gate.RUN,
        lanes=_CALLS,
    ),
    Check(
        "probe call",
        "calls the model with one image, by URI and as bytes: two paid calls, a fraction of a cent, not part of "
        "any run; with `--no_probe` only countTokens, free",
        "aiplatform.endpoints.predict (roles/aiplatform.user on the project)",
        "grant the role; `--transport`",
        model.check_probe,
        needs=("model", "sample image"),
        cost=Cost.PAID,
        lanes=_CALLS,
    ),
    Check(
        "batch service agent",
        "writes an image into the work directory and lets Vertex AI read it",
        "roles/storage.objectUser on the bucket for service-NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com",
        "grant the role",
        model.check_service_agent,
        needs=("model", "work directory"),
        lanes=_BATCH,
    ),
    Check(
        "object table",
        "compares the object table with the URIs of the remaining units",
        "as query",
        "`--object_uris`",
        lanes.check_object_table,
        needs=("query", "SQL lane"),
        gate=Gate.RUN,
        lanes=_SQL,
        applies=lanes.uses_object_table,
    ),
    Check(
        "connection",
        "reads BigQuery's connection to the model, and who owns the images' bucket",
        "bigquery.connections.get (roles/bigquery.connectionUser)",
        "`bq mk --connection …`, `--create_connection`",
        lanes.check_connection,
        needs=("query", "SQL lane"),
        lanes=_SQL,
    ),
    Check(
        "Dataflow",
        "lists jobs",
        "dataflow.jobs.list (roles/dataflow.developer on the project)",
        "`gcloud services enable dataflow.googleapis.com`, or grant the role",
        lanes.check_dataflow,
        needs=("credentials",),
        applies=_dataflow,
    ),
    Check(
        "project roles",
        "tests permissions that can otherwise only be verified by creating a resource",
        "bigquery.datasets.create, aiplatform.batchPredictionJobs.create, dataflow.jobs.create, as the run needs them",
        "grant the role",
        lanes.check_project_roles,
        needs=("credentials",),
        applies=lanes.needs_project_roles,
    ),
    Check(
        "quota",
        "estimates the call rate of the usage tiers; a hint",
        "none",
        "`--max_rpm`, `--max_tpm`",
        model.check_quota,
        needs=("task",),
        cost=Cost.NONE,
        lanes=_CALLS,
    ),
)


def build_markdown_table() -> str:
    """Build the table of the documentation."""
    head = "| check | what it does | cost | also before | permission | fix |\n| --- | --- | --- | --- | --- | --- |\n"
    rows = ((check.name, check.tries, check.cost, check.gate, check.permission, check.fix) for check in CHECKS)
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)
