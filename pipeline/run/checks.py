"""Everything that can be known before the first call is paid: nothing is called or written until it is.

The order is from cheap to dear: what a person typed, credentials, tables, model, images, cost.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import resource
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from imagebeam.pipeline.run import batch_checks, cost_estimate, model_probe
from imagebeam.pipeline.run.assemble import build_run_settings
from imagebeam.pipeline.run.cost_estimate import Say
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.credentials import find_credentials
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane, Transport, UnitKind
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql import sources
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.remaining_query import build_remaining_query, build_source_counts_query
from imagebeam.transforms.sql.selection import QuerySpec
from imagebeam.transforms.sql.source_units import MAX_IMAGES
from imagebeam.transforms.sql.unit_rows import source_counts_from_row
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Models
from imagebeam.transforms.tasks.task import Task

#: Files that a process needs beside its calls: images being read, BigQuery, Beam.
OTHER_FILES = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """A run that may start.

    Attributes:
        run: Its settings.
        planned: What the source holds, by state.
        estimate_usd: What the due units will cost about; None when the model has no price.
    """

    run: RunSettings
    planned: SourceCounts
    estimate_usd: Decimal | None


def check(settings: ClassifySettings, say: Say) -> Checked:
    """Checks a run, says what was found and what it will cost.

    Args:
        settings: What a person asked for.
        say: Takes a line for the person.

    Raises:
        UserError: Something is wrong that a person can mend; nothing was called or written.
        SystemicError: The services cannot be used.
    """
    check_open_files(settings.in_flight)
    models = catalog.load_models_file(settings.models_file)
    task = resolve_task(settings, models)
    profile = models.resolve(task)
    profile.check(settings.location, settings.lane, task)
    for warning in (*task.ignored_warnings(), *filter(None, [retirement(profile)])):
        say(f"warning: {warning}")
    find_credentials()
    bq = BigQueryClient(settings.project)
    source, location = resolve_source(settings, bq, say)
    filters = checked_filters(settings, task, source)
    outcomes = TableName(*settings.results_dataset, "outcomes")
    create = check_results(settings, bq, outcomes, location)
    if storage.is_local(settings.work_dir) or settings.runner != "DataflowRunner":
        storage.check_writable(settings.work_dir, location)
    if settings.lane == Lane.BATCH:
        batch_checks.check(settings, task, profile, outcomes, location)
    run = build_run_settings(settings, task, profile, source, filters, outcomes, location)
    planned = plan(bq, run)
    check_lease(bq, run)
    transport = asyncio.run(model_probe.check_model(settings, task, source, bq, location, due=planned.remaining))
    if settings.lane == Lane.BATCH:
        batch_checks.check_images(settings, task, bq, source, location, transport)
    run = with_transport(run, transport)
    usd = cost_estimate.announce(settings, run, profile, planned, say)
    if create:
        bq.create_dataset(outcomes.project, outcomes.dataset, create)
        say(f"made dataset {outcomes.project}.{outcomes.dataset} in {create}")
    return Checked(run, planned, usd)


def resolve_task(settings: ClassifySettings, models: Models) -> Task:
    """The task, with what the flags change of it."""
    if isinstance(settings, EmbedSettings):
        return settings.embed_task()
    task = catalog.load_task(settings.task, models, Path.cwd(), model=settings.model)
    if settings.unit and settings.unit != task.unit:
        images = MAX_IMAGES if settings.unit == UnitKind.ASSET else 1
        task = dataclasses.replace(task, unit=settings.unit, max_images=images)
    if settings.max_images:
        if task.unit != UnitKind.ASSET:
            raise UserError(f"--max_images is for --unit=asset; task {task.name} asks about single observations")
        task = dataclasses.replace(task, max_images=settings.max_images)
    if settings.transport == Transport.URI and task.image.changes_images:
        raise UserError(
            f"task {task.name} crops or downscales its images, so they must travel in the request: "
            "use --transport=inline or auto"
        )
    return task


def retirement(profile: ModelProfile) -> str | None:
    """What to say about a model that goes soon, or is gone; None for nothing."""
    return profile.retirement_warning(datetime.datetime.now(datetime.UTC).date())


def check_open_files(in_flight: int) -> None:
    """Makes room for a connection per call in flight.

    Raises:
        UserError: The system does not let one process open that many.
    """
    needed = in_flight + OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise UserError(
                f"--in_flight={in_flight} needs {needed:,} open files, but this system allows {hard:,}; "
                f"raise `ulimit -Hn`, or give --in_flight={max(1, hard - OTHER_FILES)}"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def resolve_source(settings: ClassifySettings, bq: BigQueryClient, say: Say) -> tuple[sources.Source, str]:
    """The source with its profile, and where it lives."""
    mapping = dict(settings.columns)
    if settings.query is not None:
        schema, scanned, location = bq.dry_run(Query(settings.query))
        detected = sources.detect_profile("the query", schema, profile=settings.profile, mapping=mapping)
        say(f"source   the query, profile {detected.profile} ({detected.why}); it scans {gigabytes(scanned)}")
        return sources.source_of(detected=detected, query=settings.query), location
    table = TableName.parse(settings.source or "", settings.project)
    facts = bq.get_table(table)
    if facts is None:
        raise missing_table(bq, table)
    detected = sources.detect_profile(table.table, facts.schema, profile=settings.profile, mapping=mapping)
    beside = sources.companions(table)
    snapshots = bq.get_table(beside.snapshots)
    assets = bq.get_table(beside.assets) if beside.assets is not None else None
    say(f"source   {table.dotted}, profile {detected.profile} ({detected.why}), in {facts.location}")
    source = sources.source_of(
        detected=detected,
        table=table,
        snapshots=beside.snapshots if snapshots and has(snapshots.schema, "snapshot_id", "creation_time") else None,
        assets=beside.assets if assets and has(assets.schema, "asset_id") else None,
    )
    return source, facts.location


def missing_table(bq: BigQueryClient, table: TableName) -> UserError:
    """What to say about a source that is not there."""
    if bq.get_dataset_location(table.project, table.dataset) is None:
        return UserError(
            f"--source: there is no dataset {table.project}.{table.dataset}, or it may not be seen",
            fix=f"check the name (`bq ls --project_id={table.project}`), or subscribe to the listing first",
        )
    return UserError(
        f"--source: dataset {table.project}.{table.dataset} has no table {table.table}",
        fix=f"list its tables with `bq ls {table.project}:{table.dataset}`",
    )


def has(schema: tuple[Mapping[str, Any], ...], *columns: str) -> bool:
    """True if a schema has these columns."""
    return set(columns) <= {str(field["name"]).lower() for field in schema}


def build_filters(settings: ClassifySettings) -> Filters:
    """The filters that a person gave."""
    return Filters(
        asset_types=settings.asset_types,
        bbox=settings.bbox,
        near=settings.near,
        polygon=settings.polygon,
        captured_from=settings.captured_from,
        captured_until=settings.captured_until,
        where=settings.where,
        limit=settings.limit,
        sample_percent=settings.sample_percent,
    )


def checked_filters(settings: ClassifySettings, task: Task, source: sources.Source) -> Filters:
    """The filters, checked against the columns of the source, like all else that names columns.

    Raises:
        UserError: The source lacks a column.
    """
    filters = build_filters(settings)
    filters.validate(source.columns, source=source.label)
    check_prompt_fields(task, source.kept(settings.keep_columns))
    return filters


def check_prompt_fields(task: Task, kept: Mapping[str, str]) -> None:
    """Checks that the prompt's own columns are kept.

    Raises:
        UserError: The prompt uses a column of the source that ``--keep_columns`` does not name.
    """
    for field in task.prompt_fields():
        name = field.removeprefix("extra.")
        if field.startswith("extra.") and name not in kept:
            raise UserError(
                f"the prompt of task {task.name} uses {{{{{field}}}}}, but {name} is not kept",
                fix=f"add --keep_columns={name}",
            )


def check_results(settings: ClassifySettings, bq: BigQueryClient, outcomes: TableName, location: str) -> str | None:
    """Where to make the results dataset; None when it is there.

    Raises:
        UserError: It is, or would be, in another location than the source: one query cannot see both.
    """
    found = bq.get_dataset_location(outcomes.project, outcomes.dataset)
    wanted = found or settings.results_location or location
    if wanted.upper() != location.upper():
        raise UserError(
            f"--results: {outcomes.project}.{outcomes.dataset} {'is' if found else 'would be'} in {wanted}, but the "
            f"source is in {location}, and one query cannot read both",
            fix=f"give a dataset in {location}: `bq mk --location={location} {outcomes.project}:DATASET` makes one",
        )
    return None if found else location


def plan(bq: BigQueryClient, run: RunSettings) -> SourceCounts:
    """What the source holds, by state: the same query as the run's, without the units."""
    query = source_counts_query(bq, run)
    rows = bq.query_rows(query, location=run.location, maximum_bytes_billed=run.maximum_bytes_billed)
    return source_counts_from_row(rows[0])


def source_counts_query(bq: BigQueryClient, run: RunSettings) -> Query:
    """Build the query that counts the units of the source by state."""
    return build_source_counts_query(_query_spec(bq, run))


def remaining_query(bq: BigQueryClient, run: RunSettings) -> Query:
    """Build the run's query, also before its table of outcomes exists."""
    return build_remaining_query(_query_spec(bq, run))


def _query_spec(bq: BigQueryClient, run: RunSettings) -> QuerySpec:
    return run.query_spec(outcomes_exist=bq.get_table(run.outcomes) is not None)


def check_lease(bq: BigQueryClient, run: RunSettings) -> None:
    """Says at once that another run of the task is going on; the run itself takes the lease."""
    destination = run.engine.destination
    if destination is None or destination.lease is None:
        return
    held = lease.read_holder(bq, destination.lease)
    if held is not None and not held.is_dead_here():
        raise UserError(lease.format_held(held, destination.lease))


def with_transport(run: RunSettings, transport: Transport) -> RunSettings:
    """The run with its transport settled."""
    call_settings = dataclasses.replace(run.engine.call_settings, transport=transport)
    return dataclasses.replace(run, engine=dataclasses.replace(run.engine, call_settings=call_settings))


def gigabytes(size: int) -> str:
    """A number of bytes as people say it.

    >>> gigabytes(1_900_000_000), gigabytes(20)
    ('1.9 GB', '0.0 GB')
    """
    return f"{size / 1e9:,.1f} GB"
