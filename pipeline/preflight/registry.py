"""The checks of ``imagebeam preflight``, in their order; the documentation is made of this table."""

from __future__ import annotations

from typing import Final

from imagebeam.pipeline.preflight import data_checks as data
from imagebeam.pipeline.preflight import model_checks as model
from imagebeam.pipeline.preflight.runner import Check, Context
from imagebeam.transforms.core.records import Lane


def _calls(context: Context) -> bool:
    """Whether the run calls the model itself; with ``--lane=sql`` BigQuery does."""
    return context.settings.lane != Lane.SQL


def _batch(context: Context) -> bool:
    return context.settings.lane == Lane.BATCH


def _sql(context: Context) -> bool:
    return context.settings.lane == Lane.SQL


def _dataflow(context: Context) -> bool:
    return context.dataflow


CHECKS: Final[tuple[Check, ...]] = (
    Check(
        "task",
        "reads the task, its model's profile and, for batch jobs, the line of a request",
        "none",
        "the message says which line of the task or which flag",
        data.check_task,
    ),
    Check(
        "this machine",
        "asks how many files a process may open",
        "none",
        "`ulimit -Hn`, or a smaller `--in_flight`",
        data.check_machine,
    ),
    Check(
        "credentials",
        "finds credentials and gets a token",
        "none",
        "`gcloud auth application-default login`",
        data.check_credentials,
    ),
    Check(
        "BigQuery",
        "dry run of `SELECT 1`, free",
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
    ),
    Check(
        "shared dataset",
        "reads whether the dataset is linked to a publisher's, and what the publisher forbids",
        "bigquery.datasets.get",
        "`--lane=online` instead of `sql`",
        data.check_shared,
        needs=("source",),
    ),
    Check(
        "locations",
        "compares the locations of source, results and tables of jobs",
        "bigquery.datasets.get on the results",
        "`bq mk --location=… DATASET`, `--results`",
        data.check_locations,
        needs=("source",),
    ),
    Check(
        "limits",
        "compares caps and ceilings with what one call takes",
        "none",
        "the message says the least value",
        data.check_limits,
        needs=("task", "source"),
    ),
    Check(
        "query",
        "dry run of the run's own query, free: bytes and price",
        "bigquery.tables.getData (roles/bigquery.dataViewer on the source)",
        "`--maximum_bytes_billed`, `--where`, or grant the role",
        data.check_query,
        needs=("locations", "limits"),
    ),
    Check(
        "snapshot",
        "compares the age of the newest snapshot with the 35 days that its images live",
        "as query",
        "the table of a newer snapshot as `--source`",
        data.check_snapshot,
        needs=("query",),
    ),
    Check(
        "results dataset",
        "makes an empty table that expires, asks what may be done to it, deletes it",
        "bigquery.tables.create … updateData (roles/bigquery.dataEditor on the dataset)",
        "grant the role",
        data.check_results,
        needs=("locations",),
    ),
    Check(
        "other runs",
        "looks for a lease of the same task",
        "bigquery.tables.get",
        "wait for the other run",
        data.check_others,
        needs=("limits",),
    ),
    Check(
        "work directory",
        "writes and deletes a file; compares the bucket's location with that of the workers and of BigQuery",
        "storage.objects.create and delete (roles/storage.objectUser on the bucket)",
        "`gcloud storage buckets create … --location=…`, or grant the role",
        data.check_work_dir,
        needs=("credentials",),
    ),
    Check(
        "sample image",
        "reads an image of the source and decodes it; for Dataflow as the workers' account",
        "storage.objects.get (roles/storage.objectViewer on the images' bucket) for that account; "
        "iam.serviceAccounts.getAccessToken to act as the workers'",
        "grant the role; only Google can on the bucket of Imagery Insights",
        model.check_sample,
        needs=("query", "snapshot"),
        applies=_calls,
    ),
    Check(
        "model",
        "asks for the model at the location, and compares its retirement with today",
        "none",
        "`gcloud services enable aiplatform.googleapis.com`, `--model`, `--location`",
        model.check_model,
        needs=("task", "credentials"),
        applies=_calls,
    ),
    Check(
        "probe call",
        "asks the task about one image, by its URI and with its bytes: two paid calls, a fraction of a cent, in no "
        "run's books; with `--no_probe` only countTokens, free",
        "aiplatform.endpoints.predict (roles/aiplatform.user on the project)",
        "grant the role; `--transport`",
        model.check_probe,
        needs=("model", "sample image"),
        applies=_calls,
    ),
    Check(
        "batch service agent",
        "writes a picture into the work directory and lets Vertex AI read it, free",
        "roles/storage.objectUser on the bucket for service-NUMBER@gcp-sa-aiplatform.iam.gserviceaccount.com",
        "grant the role",
        model.check_agent,
        needs=("model", "work directory"),
        applies=_batch,
    ),
    Check(
        "connection",
        "reads BigQuery's connection to the model, and who owns the images' bucket",
        "bigquery.connections.get (roles/bigquery.connectionUser)",
        "`bq mk --connection …`, `--create_connection`",
        model.check_connection,
        needs=("query",),
        applies=_sql,
    ),
    Check(
        "Dataflow",
        "lists jobs; writes and deletes a file where the job is staged",
        "dataflow.jobs.list (roles/dataflow.developer on the project), storage.objects.create",
        "`gcloud services enable dataflow.googleapis.com`, or grant the role",
        model.check_dataflow,
        needs=("credentials", "work directory"),
        applies=_dataflow,
    ),
    Check(
        "project roles",
        "asks Resource Manager about permissions that only a lasting act would prove",
        "bigquery.datasets.create, aiplatform.batchPredictionJobs.create, dataflow.jobs.create, as the run needs them",
        "grant the role",
        model.check_roles,
        needs=("credentials",),
        applies=model.needs_roles,
    ),
    Check(
        "quota",
        "works out the pace of the usage tiers; a hint, nothing is asked",
        "none",
        "`--max_rpm`, `--max_tpm`",
        model.check_quota,
        needs=("task",),
        applies=_calls,
    ),
)


def markdown() -> str:
    """The table of the documentation."""
    head = "| check | what it tries | permission | what mends it |\n| --- | --- | --- | --- |\n"
    return head + "".join(f"| {one.name} | {one.tries} | {one.permission} | {one.fix} |\n" for one in CHECKS)
