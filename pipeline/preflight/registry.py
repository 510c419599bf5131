"""The registry of checks, in their order. The tables of checks and roles in docs/ are generated from it."""

from __future__ import annotations

from typing import Final

from imagebeam.pipeline.preflight import batch_checks as batch
from imagebeam.pipeline.preflight import data_checks as data
from imagebeam.pipeline.preflight import lane_checks as lanes
from imagebeam.pipeline.preflight import model_checks as model
from imagebeam.pipeline.preflight.runner import Check, Context, Cost, Gate, Grant
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
        "`ulimit -Hn`, or a smaller `--in_flight`",
        data.check_machine,
        cost=Cost.NONE,
        gate=Gate.RUN,
        lanes=_CALLS,
    ),
    Check(
        "task",
        "reads the task and the profile of its model",
        "the message names the line of the task or the flag",
        data.check_task,
        cost=Cost.NONE,
        gate=Gate.ALL,
    ),
    Check(
        "model profile",
        "compares lane, location, task and today's date with the profile of the model",
        "`--lane`, `--location`, `--model`",
        data.check_profile,
        needs=("task",),
        cost=Cost.NONE,
        gate=Gate.ALL,
    ),
    Check(
        "credentials",
        "finds credentials and gets an access token",
        "`gcloud auth application-default login`",
        data.check_credentials,
        gate=Gate.ALL,
    ),
    Check(
        "staging",
        "writes and deletes a file where the Dataflow job is staged, and validates Beam's options",
        "`gcloud storage buckets create …`, `--temp_location`, or grant the role",
        lanes.check_staging,
        needs=("credentials",),
        gate=Gate.RUN,
        applies=_dataflow,
        grants=(
            Grant(
                ("storage.objects.create", "storage.objects.delete"),
                "the bucket of --temp_location",
                when="with --runner=DataflowRunner",
            ),
        ),
    ),
    Check(
        "BigQuery",
        "dry run of `SELECT 1`",
        "`gcloud services enable bigquery.googleapis.com`, or grant the role",
        data.check_bigquery,
        needs=("credentials",),
        grants=(Grant(("bigquery.jobs.create",), "the project"),),
    ),
    Check(
        "source",
        "reads the columns of the table, or a dry run of the query; compares them with profile, filters and prompt",
        "`bq ls`, `--columns`, `--keep_columns`, or grant the role",
        data.check_source,
        needs=("task", "BigQuery"),
        gate=Gate.ALL,
        grants=(Grant(("bigquery.tables.get",), "the dataset of the source"),),
    ),
    Check(
        "shared dataset",
        "reads whether the dataset is linked to a publisher's, and what the publisher restricts",
        "`--lane=online` instead of `sql`",
        data.check_linked_dataset,
        needs=("source",),
        grants=(Grant(("bigquery.datasets.get",), "the dataset of the source"),),
    ),
    Check(
        "locations",
        "compares the locations of source and results",
        "`bq mk --location=… DATASET`, `--results`",
        data.check_locations,
        needs=("source",),
        gate=Gate.ALL,
        grants=(Grant(("bigquery.datasets.get",), "the results dataset"),),
    ),
    Check(
        "work directory",
        "writes and deletes a file",
        "`gcloud storage buckets create … --location=…`, or grant the role",
        data.check_work_dir,
        needs=("credentials",),
        gate=Gate.RUN,
        applies=data.writes_work_dir,
        grants=(
            Grant(
                ("storage.objects.create", "storage.objects.delete"),
                "the bucket of the work directory",
                when="if it is in Cloud Storage",
            ),
        ),
    ),
    Check(
        "bucket location",
        "compares the location of the work directory's bucket with those of workers and BigQuery",
        "`gcloud storage buckets create … --location=…`",
        data.check_bucket_location,
        needs=("work directory", "source"),
        applies=data.uses_bucket,
        grants=(Grant(("storage.buckets.get",), "the bucket of the work directory", when="optional"),),
    ),
    Check(
        "batch jobs",
        "builds the line of a request, and compares the locations of model and tables of jobs",
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
        "the message names the smallest value",
        data.check_limits,
        needs=("task", "source"),
        cost=Cost.NONE,
        gate=Gate.ALL,
    ),
    Check(
        "query",
        "dry run of the run's own query: bytes and price",
        "`--maximum_bytes_billed`, `--where`, or grant the role",
        data.check_query,
        needs=("locations", "limits"),
        grants=(Grant(("bigquery.tables.getData",), "the dataset of the source"),),
    ),
    Check(
        "snapshot",
        "compares the age of the newest snapshot with the 35 days for which its images are kept",
        "the table of a newer snapshot as `--source`",
        data.check_snapshot,
        needs=("query",),
        gate=Gate.BATCH,
        grants=(Grant(("bigquery.tables.getData",), "the dataset of the source"),),
    ),
    Check(
        "results dataset",
        "creates an empty table that expires, tests permissions on it, deletes it",
        "grant the role",
        data.check_results,
        needs=("locations",),
        grants=(Grant(("bigquery.tables.create", *data.TABLE_PERMISSIONS), "the results dataset"),),
    ),
    Check(
        "other runs",
        "reads the lease of the task",
        "wait for the other run",
        data.check_lease,
        needs=("limits",),
        gate=Gate.RUN,
        grants=(Grant(("bigquery.tables.get",), "the results dataset"),),
    ),
    Check(
        "sample image",
        "reads and decodes an image of the source; for Dataflow as the workers' account",
        "grant the role; on the bucket of Imagery Insights only Google can",
        model.check_sample,
        needs=("query", "snapshot"),
        lanes=_CALLS,
        grants=(
            Grant(("storage.objects.get",), "the bucket of the images", when="if the bytes of images are sent"),
            Grant(
                ("iam.serviceAccounts.getAccessToken",),
                "the account of the workers",
                when="optional, on Dataflow: preflight reads the image as the workers",
            ),
        ),
    ),
    Check(
        "model",
        "looks the model up at the location",
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
        "grant the role; `--transport`",
        model.check_probe,
        needs=("model", "sample image"),
        cost=Cost.PAID,
        lanes=_CALLS,
        grants=(Grant(("aiplatform.endpoints.predict",), "the project"),),
    ),
    Check(
        "batch service agent",
        "writes an image into the work directory and lets Vertex AI read it",
        "grant the role",
        model.check_service_agent,
        needs=("model", "work directory"),
        lanes=_BATCH,
        grants=(
            Grant(
                ("storage.objects.create", "storage.objects.list"),
                "the bucket of the work directory",
                account="Vertex AI's service agent",
            ),
        ),
    ),
    Check(
        "object table",
        "compares the object table with the URIs of the remaining units",
        "`--object_uris`",
        lanes.check_object_table,
        needs=("query", "SQL lane"),
        gate=Gate.RUN,
        lanes=_SQL,
        applies=lanes.uses_object_table,
        grants=(Grant(("bigquery.tables.getData",), "the dataset of the source"),),
    ),
    Check(
        "connection",
        "reads BigQuery's connection to the model, and who owns the images' bucket",
        "`bq mk --connection …`, `--create_connection`",
        lanes.check_connection,
        needs=("query", "SQL lane"),
        lanes=_SQL,
        grants=(Grant(("bigquery.connections.get",), "the project of the connection"),),
    ),
    Check(
        "Dataflow",
        "lists jobs",
        "`gcloud services enable dataflow.googleapis.com`, or grant the role",
        lanes.check_dataflow,
        needs=("credentials",),
        applies=_dataflow,
        grants=(Grant(("dataflow.jobs.list",), "the project", when="with --runner=DataflowRunner"),),
    ),
    Check(
        "project roles",
        "tests permissions that can otherwise only be verified by creating a resource",
        "grant the role",
        lanes.check_project_roles,
        needs=("credentials",),
        applies=lanes.needs_project_roles,
        grants=(
            Grant(("bigquery.datasets.create",), "the project", when="if the run creates the results dataset"),
            Grant(("aiplatform.batchPredictionJobs.create",), "the project", when="with --lane=batch"),
            Grant(("dataflow.jobs.create",), "the project", when="with --runner=DataflowRunner"),
        ),
    ),
    Check(
        "quota",
        "estimates the call rate of the usage tiers; a hint",
        "`--max_rpm`, `--max_tpm`",
        model.check_quota,
        needs=("task",),
        cost=Cost.NONE,
        lanes=_CALLS,
    ),
)
