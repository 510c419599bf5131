"""The checks of what a run reads and writes: the task, credentials, source, results, work directory."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import secrets
from typing import Any

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import google.auth.transport.requests

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.diagnostics.error_hints import LOGIN
from imagebeam.pipeline.preflight.runner import CheckWarning, Context, Seen, Skipped
from imagebeam.pipeline.run import batch_checks, checks
from imagebeam.pipeline.run.assemble import build_run_settings
from imagebeam.transforms.clients import storage
from imagebeam.transforms.clients.bigquery import Schema
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.tasks import catalog

#: A probe that nobody could delete goes by itself after so long.
PROBE_LIFETIME = datetime.timedelta(hours=1)
#: What a run does to the tables of its results.
TABLE_PERMISSIONS = (
    "bigquery.tables.get",
    "bigquery.tables.getData",
    "bigquery.tables.update",
    "bigquery.tables.updateData",
    "bigquery.tables.delete",
)
#: List price of a query, USD per TiB, and what is worth a word.
USD_PER_TIB = 6.25
DEAR_USD = 5.0
#: So long before a snapshot expires it is time to hurry.
SOON = datetime.timedelta(days=3)
#: Multi-regions → what the names of their regions begin with.
_MULTI_REGIONS = {"us": "us-", "eu": "europe-", "asia": "asia-"}
_PROBE_SCHEMA: Schema = [{"name": "probe", "type": "STRING", "mode": "NULLABLE"}]


def check_task(context: Context) -> Seen:
    """The task is good, and fits the lane."""
    settings = context.settings
    models = catalog.load_models_file(settings.models_file)
    context.task = checks.resolve_task(settings, models)
    context.profile = models.resolve(context.task)
    if settings.lane == Lane.BATCH:
        batch_checks.check_task(settings, context.task, context.profile)
    found = f"{context.task.name}, version {context.task.version}, {context.task.model}"
    if warnings := context.task.ignored_warnings():
        return CheckWarning("; ".join(warnings), "remove it from the task, or use another model", found=found)
    return found


def check_machine(context: Context) -> Seen:
    """This machine lets a process have enough connections."""
    checks.check_open_files(context.settings.in_flight)
    return f"enough for --in_flight={context.settings.in_flight}"


def check_credentials(context: Context) -> Seen:
    """There are credentials, and they are good for a token."""
    context.credentials = find_credentials()
    try:
        context.credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.RefreshError as error:
        if error.retryable:
            raise
        raise UserError(f"the credentials give no token: {error.args[0]}", fix=LOGIN) from None
    account = str(getattr(context.credentials, "service_account_email", ""))
    person = str(getattr(context.credentials, "account", ""))
    if "@" in account:
        context.member = f"serviceAccount:{account}"
    elif "@" in person:
        context.member = f"user:{person}"
    return context.member if context.member != iam_roles.UNKNOWN_MEMBER else "of a person"


def check_bigquery(context: Context) -> Seen:
    """BigQuery is enabled, and takes jobs."""
    context.bq.dry_run(Query("SELECT 1"))
    return f"jobs run in project {context.settings.project}"


def check_source(context: Context) -> Seen:
    """The source is there, and has the columns that the task and the flags name."""
    settings = context.settings
    if settings.source:
        dataset, _, table = settings.source.rpartition(".")
        context.trying(f"read the columns of table {table} in {dataset}", dataset=dataset)
    said: list[str] = []
    context.source, context.location = checks.resolve_source(settings, context.bq, said.append)
    context.filters = checks.checked_filters(settings, context.task, context.source)
    return " ".join(" ".join(said).removeprefix("source").split())


def check_shared(context: Context) -> Seen:
    """A dataset that a publisher shares is linked, and lets a run do what it does."""
    table = context.source.table
    if table is None:
        return Skipped("the source is a query")
    name = f"{table.project}.{table.dataset}"
    context.trying(f"read the restrictions of dataset {name}", dataset=name)
    try:
        shown: dict[str, Any] = context.bq.client.get_dataset(name).to_api_repr()
    except api_errors.Forbidden:
        return Skipped(f"dataset {name} may not be looked at, only its tables")
    linked = shown.get("linkedDatasetSource", {}).get("sourceDataset")
    if not linked:
        return "no linked dataset"
    publisher = f"{linked.get('projectId')}.{linked.get('datasetId')}"
    state = shown.get("linkedDatasetMetadata", {}).get("linkState", "LINKED")
    if state != "LINKED":
        raise UserError(f"dataset {name} is no longer linked to {publisher} ({state})", fix="subscribe to it again")
    limits = shown.get("restrictions", {}).get("type", "")
    if limits != "RESTRICTED_DATA_EGRESS":
        return f"linked to {publisher}, without limits"
    if context.settings.lane == Lane.SQL:
        raise UserError(
            f"the publisher of {name} ({publisher}) restricts egress: its rows may be queried, but not written to "
            "another table, which --lane=sql does",
            fix="--lane=online",
        )
    return CheckWarning(
        "the publisher restricts egress: a run may read it, page by page, but copies, exports, and tables or views "
        "made of it are refused, also by --query",
        fix="nothing for this run; ask the publisher before you build on its tables",
        found=f"linked to {publisher}, {limits}",
    )


def check_locations(context: Context) -> Seen:
    """Source, results and tables of jobs are where one query, and one job, can use them together."""
    settings = context.settings
    context.create = checks.check_results(settings, context.bq, context.outcomes, context.location)
    if settings.lane == Lane.BATCH:
        batch_checks.check_tables(settings, context.outcomes, context.location)
    return f"source and results in {context.location}"


def check_limits(context: Context) -> Seen:
    """Caps and ceilings can be kept."""
    settings = context.settings
    if settings.lane == Lane.SQL:  # what a run is called there; BigQuery keeps the pace itself
        settings = settings.replace(lane=Lane.ONLINE, location=context.profile.locations[0])
    context.run = build_run_settings(
        settings, context.task, context.profile, context.source, context.filters, context.outcomes, context.location
    )
    given = [name for name in ("max_cost_usd", "max_calls", "max_rpm", "max_tpm") if getattr(settings, name)]
    return ", ".join(f"--{name}={getattr(settings, name)}" for name in given) or "none given"


def check_query(context: Context) -> Seen:
    """BigQuery takes the query of the run, and says what it will read."""
    table, cap = context.source.table, context.settings.maximum_bytes_billed
    dataset = f"{table.project}.{table.dataset}" if table else ""
    context.trying("dry run of the run's query, free", dataset=dataset)
    query = checks.source_counts_query(context.bq, context.run)
    size = context.bq.dry_run(query, location=context.location)[1]
    usd = size / 2**40 * USD_PER_TIB
    found = f"reads {checks.gigabytes(size)}, about ${usd:,.2f} a run"
    if cap is not None and size > cap:
        raise UserError(
            f"the query reads {size:,} bytes, more than --maximum_bytes_billed={cap}",
            fix=f"--maximum_bytes_billed={size + 10 * 2**20}, or fewer columns in a --query",
        )
    if usd > DEAR_USD and cap is None:
        return CheckWarning("every run reads as much", fix="--maximum_bytes_billed=BYTES, or a --query", found=found)
    return found


def check_snapshot(context: Context) -> Seen:
    """The newest snapshot's images are there for long enough."""
    made = batch_checks.newest_snapshot(context.bq, context.source, context.location)
    if made is None:
        return "no table of snapshots beside the source"
    now, until = datetime.datetime.now(datetime.UTC), batch_checks.expiry(made)
    found = f"made {made:%Y-%m-%d}, expires about {until:%Y-%m-%d}"
    if until < now:
        raise UserError(
            f"the images of the newest snapshot expired about {until:%Y-%m-%d} (it was made {made:%Y-%m-%d}, and "
            f"snapshots live about {batch_checks.SNAPSHOT_DAYS} days)",
            fix="ask for a new snapshot, and give its table as --source",
        )
    if context.settings.lane == Lane.BATCH:
        batch_checks.check_expiry(context.settings, context.task, made, now)
    if until < now + SOON:
        return CheckWarning(
            "its images expire soon: a long run will miss some", fix="run at once, or wait", found=found
        )
    return found


def check_results(context: Context) -> Seen:
    """Tables can be made and written in the results dataset."""
    outcomes = context.outcomes
    name = f"{outcomes.project}.{outcomes.dataset}"
    if context.create is not None:
        return f"{name} will be made in {context.create}"
    context.trying(f"make a table in {name}, ask what may be done to it, and delete it", dataset=name)
    probe = dataclasses.replace(outcomes, table=f"_preflight_{secrets.token_hex(6)}")
    expires = datetime.datetime.now(datetime.UTC) + PROBE_LIFETIME
    context.bq.create_table_once(
        probe, expires=expires, description="imagebeam preflight: goes by itself.", schema=_PROBE_SCHEMA
    )
    try:
        answer = context.bq.client.test_iam_permissions(probe.dotted, TABLE_PERMISSIONS)
    finally:
        with contextlib.suppress(Exception):
            context.bq.drop_table(probe)
    missing = [permission for permission in TABLE_PERMISSIONS if permission not in answer.get("permissions", ())]
    if missing:
        raise UserError(
            f"tables of {name} can be made, but not used: {', '.join(missing)} missing",
            # The role that has them all.
            permission=iam_roles.describe_role("bigquery.tables.updateData", context.place),
            fix=iam_roles.grant_command("bigquery.tables.updateData", context.place),
        )
    return name


def check_others(context: Context) -> Seen:
    """No other run of the task is going on."""
    checks.check_lease(context.bq, context.run)
    return "no other run of this task"


def check_work_dir(context: Context) -> Seen:
    """The work directory can be written, and is near to those who use it."""
    settings = context.settings
    directory = settings.work_dir
    bucket = "" if storage.is_local(directory) else directory.removeprefix("gs://").partition("/")[0]
    context.trying(f"write and delete a small file in {directory}", bucket=bucket)
    storage.check_writable(directory, _wanted_place(context))
    if not bucket:
        return directory
    try:
        where = str(storage.storage_client().get_bucket(bucket).location)
    except api_errors.Forbidden:
        return f"{directory}; its location may not be seen"
    region = context.beam.region if context.dataflow else None
    # Into the US multi-region BigQuery loads from anywhere.
    loads_into = context.location if settings.lane == Lane.BATCH and context.location.upper() != "US" else ""
    if loads_into and not near(where, loads_into):
        raise UserError(
            f"--work_dir: bucket {bucket} is in {where}, and BigQuery cannot load a job's answers from there into "
            f"{loads_into}",
            fix=f"gcloud storage buckets create gs://NEW_BUCKET --location={loads_into}",
        )
    if region and not near(where, region):
        return CheckWarning(
            f"the workers in {region} would read and write across regions, which is slow and billed",
            fix=f"gcloud storage buckets create gs://NEW_BUCKET --location={region}",
            found=f"{directory}, in {where}",
        )
    return f"{directory}, in {where}"


def near(one: str, other: str) -> bool:
    """True if two locations are the same, or one is in the other.

    >>> near("EU", "europe-west4"), near("US-CENTRAL1", "us-central1"), near("US", "EU")
    (True, True, False)
    >>> near("EUR4", "europe-west4")  # a dual region does not say which two
    True
    """
    one, other = one.lower(), other.lower()
    if one == other or any(place[-1:].isdigit() and "-" not in place for place in (one, other)):
        return True
    return any(b.startswith(_MULTI_REGIONS.get(a, "\0")) for a, b in ((one, other), (other, one)))


def _wanted_place(context: Context) -> str:
    return str((context.beam.region if context.dataflow else None) or context.location or "US")
