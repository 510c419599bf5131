"""Checks of the task, this machine, and what a run reads and writes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import resource
import secrets
from typing import Any, Final

import google.api_core.exceptions as api_errors
import google.auth.exceptions
import google.auth.transport.requests

from imagebeam.pipeline.diagnostics import iam_roles
from imagebeam.pipeline.diagnostics.error_hints import LOGIN
from imagebeam.pipeline.diagnostics.results import CheckResult
from imagebeam.pipeline.preflight import batch_checks
from imagebeam.pipeline.preflight.runner import Command, Context
from imagebeam.pipeline.run import cost_estimate
from imagebeam.pipeline.run.assemble import build_run_settings
from imagebeam.pipeline.run.resolved_run import format_gigabytes
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.bigquery import Schema
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane
from imagebeam.transforms.tasks.costs import task_warnings

#: Files that a process opens besides one connection per call: images, BigQuery, Beam.
OTHER_FILES: Final = 256
#: A probe table that could not be deleted expires after this time.
PROBE_LIFETIME: Final = datetime.timedelta(hours=1)
#: Permissions that a run needs on its tables.
TABLE_PERMISSIONS: Final = (
    "bigquery.tables.get",
    "bigquery.tables.getData",
    "bigquery.tables.update",
    "bigquery.tables.updateData",
    "bigquery.tables.delete",
)
#: List price of a query in USD per TiB, and the price of one query above which to warn.
USD_PER_TIB: Final = 6.25
WARN_ABOVE_USD: Final = 5.0
#: Warn if the images of a snapshot expire sooner than this.
EXPIRES_SOON: Final = datetime.timedelta(days=3)
#: Multi-region → prefix of the names of its regions.
_MULTI_REGIONS: Final = {"us": "us-", "eu": "europe-", "asia": "asia-"}
_PROBE_SCHEMA: Schema = [{"name": "probe", "type": "STRING", "mode": "NULLABLE"}]


def check_machine(context: Context) -> CheckResult:
    """Raise the limit of open files so that every call in flight gets a connection."""
    in_flight = context.settings.in_flight
    files = in_flight + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < files:
        if hard != resource.RLIM_INFINITY and hard < files:
            raise UserError(
                f"--in_flight={in_flight} needs {files:,} open files, but this system allows {hard:,}; "
                f"raise `ulimit -Hn`, or use --in_flight={max(1, hard - OTHER_FILES)}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    return context.ok(f"enough open files for --in_flight={in_flight}")


def check_task(context: Context) -> CheckResult:
    """Check the task and that its model is known."""
    task, profile = context.resolved.task, context.resolved.profile
    found = f"{task.name}, version {task.version}, {profile.name}"
    if warnings := task_warnings(context.resolved.models, profile, task):
        fix = "remove it from the task, or use another model" if task.ignored_settings else ""
        return context.warning("; ".join(warnings), fix=fix, found=found)
    return context.ok(found)


def check_profile(context: Context) -> CheckResult:
    """Check that the model takes the lane, location and task, and when it retires."""
    settings, profile = context.settings, context.resolved.profile
    if settings.lane != Lane.SQL:
        profile.check(settings.location, settings.lane, context.resolved.task)
    warning = profile.retirement_warning(datetime.datetime.now(datetime.UTC).date())
    if warning:
        fix = "--model=NAME, or model: in the task; with another model the task has another version"
        return context.warning(warning, fix=fix)
    return context.ok(f"lane {settings.lane}")


def check_credentials(context: Context) -> CheckResult:
    """Find credentials and get a token."""
    context.credentials = find_credentials()
    try:
        context.credentials.refresh(google.auth.transport.requests.Request())
    except google.auth.exceptions.RefreshError as error:
        if error.retryable:
            raise
        raise UserError(f"no access token from these credentials: {error.args[0]}", fix=LOGIN) from None
    service_account = str(getattr(context.credentials, "service_account_email", ""))
    user = str(getattr(context.credentials, "account", ""))
    if "@" in service_account:
        context.member = f"serviceAccount:{service_account}"
    elif "@" in user:
        context.member = f"user:{user}"
    return context.ok("of a user" if context.member == iam_roles.UNKNOWN_MEMBER else context.member)


def check_bigquery(context: Context) -> CheckResult:
    """Check that BigQuery is enabled and runs jobs for this account."""
    context.resolved.bq.dry_run(Query("SELECT 1"))
    return context.ok(f"jobs run in project {context.settings.project}")


def check_source(context: Context) -> CheckResult:
    """Check that the source exists and has the columns that task and flags use."""
    if context.settings.source:
        dataset, _, table = context.settings.source.rpartition(".")
        context.begin(f"read the columns of table {table} in {dataset}", dataset=dataset)
    found = context.resolved.source_info
    _ = context.resolved.filters
    context.location = found.location
    return context.ok(found.description)


def check_linked_dataset(context: Context) -> CheckResult:
    """Check that a linked dataset is still linked, and what its publisher restricts."""
    table = context.resolved.source.table
    if table is None:
        return context.skipped("the source is a query")
    name = f"{table.project}.{table.dataset}"
    context.begin(f"read the restrictions of dataset {name}", dataset=name)
    try:
        dataset: dict[str, Any] = context.resolved.bq.client.get_dataset(name).to_api_repr()
    except api_errors.Forbidden:
        return context.skipped(f"no permission to read dataset {name}, only its tables")
    linked = dataset.get("linkedDatasetSource", {}).get("sourceDataset")
    if not linked:
        return context.ok("not a linked dataset")
    publisher = f"{linked.get('projectId')}.{linked.get('datasetId')}"
    state = dataset.get("linkedDatasetMetadata", {}).get("linkState", "LINKED")
    if state != "LINKED":
        raise UserError(f"dataset {name} is no longer linked to {publisher} ({state})", fix="subscribe to it again")
    restrictions = dataset.get("restrictions", {}).get("type", "")
    if restrictions != "RESTRICTED_DATA_EGRESS":
        return context.ok(f"linked to {publisher}, not restricted")
    if context.settings.lane == Lane.SQL:
        raise UserError(
            f"the publisher of {name} ({publisher}) restricts egress: its rows may be queried, but not written to "
            "another table, which --lane=sql does",
            fix="--lane=online",
        )
    return context.warning(
        "the publisher restricts egress: a run can read the rows page by page, but copies, exports, and tables or "
        "views based on them are rejected, also with --query",
        fix="no action for this run; contact the publisher before you build on its tables",
        found=f"linked to {publisher}, {restrictions}",
    )


def check_locations(context: Context) -> CheckResult:
    """Check that one query can read both source and results."""
    context.creates_dataset = context.resolved.new_dataset_location is not None
    results = "new results dataset" if context.creates_dataset else "results"
    return context.ok(f"source and {results} in {context.resolved.location}")


def check_limits(context: Context) -> CheckResult:
    """Check that caps and rate limits allow at least one call."""
    context.run = build_run_settings(context.resolved)
    settings = context.settings
    given = [name for name in ("max_cost_usd", "max_calls", "max_rpm", "max_tpm") if getattr(settings, name)]
    return context.ok(", ".join(f"--{name}={getattr(settings, name)}" for name in given) or "none given")


def check_query(context: Context) -> CheckResult:
    """Dry run the query of the run: its syntax, permissions, bytes and price."""
    table, cap = context.resolved.source.table, context.settings.maximum_bytes_billed
    dataset = f"{table.project}.{table.dataset}" if table else ""
    context.begin("dry run of the run's query, free", dataset=dataset)
    bq = context.resolved.bq
    query = cost_estimate.source_counts_query(bq, context.run)
    size = bq.dry_run(query, location=context.resolved.location)[1]
    usd = size / 2**40 * USD_PER_TIB
    found = f"reads {format_gigabytes(size)}, about ${usd:,.2f} per run"
    if cap is not None and size > cap:
        raise UserError(
            f"the query reads {size:,} bytes, more than --maximum_bytes_billed={cap}",
            fix=f"--maximum_bytes_billed={size + 10 * 2**20}, or fewer columns in a --query",
        )
    if usd > WARN_ABOVE_USD and cap is None:
        fix = "--maximum_bytes_billed=BYTES, or a --query"
        return context.warning("every run pays for this query", fix=fix, found=found)
    return context.ok(found)


def check_snapshot(context: Context) -> CheckResult:
    """Check that the images of the newest snapshot do not expire before the run ends."""
    created = batch_checks.newest_snapshot(context.resolved)
    if created is None:
        return context.ok("no table of snapshots next to the source")
    now, expires = datetime.datetime.now(datetime.UTC), batch_checks.expiry(created)
    found = f"created {created:%Y-%m-%d}, expires about {expires:%Y-%m-%d}"
    if expires < now:
        raise UserError(
            f"the images of the newest snapshot expired about {expires:%Y-%m-%d} (created {created:%Y-%m-%d}, and "
            f"snapshots are kept for about {batch_checks.SNAPSHOT_DAYS} days)",
            fix="request a new snapshot, and use its table as --source",
        )
    if context.settings.lane == Lane.BATCH:
        batch_checks.check_expiry(context.resolved, created, now)
    if expires < now + EXPIRES_SOON:
        return context.warning(
            "the images of the newest snapshot expire soon: a long run will miss some",
            fix="run now, or wait for the next snapshot",
            found=found,
        )
    return context.ok(found)


def check_results(context: Context) -> CheckResult:
    """Check that tables can be created and written in the results dataset."""
    outcomes, bq = context.resolved.outcomes, context.resolved.bq
    name = f"{outcomes.project}.{outcomes.dataset}"
    if context.creates_dataset:
        return context.ok(f"{name} will be created in {context.resolved.new_dataset_location}")
    context.begin(f"create a table in {name}, test permissions on it, and delete it", dataset=name)
    probe = dataclasses.replace(outcomes, table=f"_preflight_{secrets.token_hex(6)}")
    expires = datetime.datetime.now(datetime.UTC) + PROBE_LIFETIME
    bq.create_table_once(probe, expires=expires, description="imagebeam preflight; expires.", schema=_PROBE_SCHEMA)
    try:
        answer = bq.client.test_iam_permissions(probe.dotted, TABLE_PERMISSIONS)
    finally:
        with contextlib.suppress(Exception):
            bq.drop_table(probe)
    missing = [permission for permission in TABLE_PERMISSIONS if permission not in answer.get("permissions", ())]
    if missing:
        widest = "bigquery.tables.updateData"  # its role contains all of them
        raise UserError(
            f"tables can be created in {name}, but not used: {', '.join(missing)} missing",
            permission=iam_roles.describe_role(widest, context.access),
            fix=iam_roles.grant_command(widest, context.access),
        )
    return context.ok(name)


def check_lease(context: Context) -> CheckResult:
    """Check that no other run of the task is in progress."""
    table = context.run.lease
    if table is not None:
        held = lease.read_holder(context.resolved.bq, table)
        if held is not None and not held.is_dead_here():
            raise UserError(lease.format_held(held, table))
    return context.ok("no other run of this task")


def check_work_dir(context: Context) -> CheckResult:
    """Check that the work directory can be written."""
    directory = context.settings.work_dir
    context.begin(f"write and delete a small file in {directory}", bucket=_bucket(directory))
    region = context.beam.region if context.dataflow else None
    storage.check_writable(directory, str(region or context.location or "US"))
    return context.ok(directory)


def writes_work_dir(context: Context) -> bool:
    """Return whether this process writes the work directory; on Dataflow only the workers need to."""
    return context.command is Command.PREFLIGHT or not context.dataflow or storage.is_local(context.settings.work_dir)


def check_bucket_location(context: Context) -> CheckResult:
    """Check that the bucket of the work directory is near the workers, and BigQuery can load from it."""
    bucket = _bucket(context.settings.work_dir)
    context.begin(f"read the location of bucket {bucket}", bucket=bucket)
    try:
        where = str(storage.storage_client().get_bucket(bucket).location)
    except api_errors.Forbidden:
        return context.skipped(f"no permission to read the location of bucket {bucket}")
    location = context.resolved.location
    # BigQuery loads into the US multi-region from buckets anywhere.
    loads = context.settings.lane == Lane.BATCH and location.upper() != "US"
    if loads and not are_colocated(where, location):
        raise UserError(
            f"--work_dir: bucket {bucket} is in {where}, and BigQuery cannot load the answers of a batch job from "
            f"there into {location}",
            fix=f"gcloud storage buckets create gs://NEW_BUCKET --location={location}",
        )
    region = context.beam.region
    if context.dataflow and region and not are_colocated(where, region):
        return context.warning(
            f"workers in {region} would read and write across regions, which is slow and billed",
            fix=f"gcloud storage buckets create gs://NEW_BUCKET --location={region}",
            found=f"bucket {bucket} is in {where}",
        )
    return context.ok(f"bucket {bucket} is in {where}")


def uses_bucket(context: Context) -> bool:
    """Return whether the work directory is in Cloud Storage."""
    return not storage.is_local(context.settings.work_dir)


def _bucket(directory: str) -> str:
    return "" if storage.is_local(directory) else directory.removeprefix("gs://").partition("/")[0]


def are_colocated(one: str, other: str) -> bool:
    """Return whether two locations are the same, or one contains the other.

    >>> are_colocated("EU", "europe-west4"), are_colocated("US-CENTRAL1", "us-central1"), are_colocated("US", "EU")
    (True, True, False)
    >>> are_colocated("EUR4", "europe-west4")  # the name of a dual-region does not contain its regions
    True
    """
    one, other = one.lower(), other.lower()
    if one == other or any(place[-1:].isdigit() and "-" not in place for place in (one, other)):
        return True
    return any(b.startswith(_MULTI_REGIONS.get(a, "\0")) for a, b in ((one, other), (other, one)))
