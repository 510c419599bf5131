"""A run, resolved from its settings: task, model profile, source, filters and results dataset."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from imagebeam.pipeline.flags.inputs import SourceSettings
from imagebeam.pipeline.run.embed_settings import EmbedSettings
from imagebeam.pipeline.run.settings import ClassifySettings
from imagebeam.transforms.clients import tuned_models
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import Lane, Transport, UnitKind
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql import sources
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.source_units import MAX_IMAGES
from imagebeam.transforms.tasks import catalog
from imagebeam.transforms.tasks.model_names import ModelName, parse_model_name
from imagebeam.transforms.tasks.model_profiles import ModelProfile, Models
from imagebeam.transforms.tasks.task import Task


@dataclasses.dataclass(frozen=True, slots=True)
class SourceInfo:
    """The source as BigQuery describes it.

    Attributes:
        source: Table or query, with its profile.
        location: BigQuery location.
        description: One line about it, for the user.
    """

    source: sources.Source
    location: str
    description: str


@dataclasses.dataclass(frozen=True, slots=True)
class ReadyRun:
    """A run that passed its checks.

    Attributes:
        resolved: The run, resolved from its settings.
        run: The settings that every step gets.
        counts: Units of the source by state.
    """

    resolved: ResolvedRun
    run: RunSettings
    counts: SourceCounts


class ResolvedRun:
    """What checks, plan and run share. Every part is resolved on first use and kept.

    Reading a part raises UserError for a mistake in the settings, and SystemicError if a service cannot be used.

    Args:
        settings: Settings of classify or embed.

    Attributes:
        settings: The same.
        bq: BigQuery client of the project.
        outcomes: Table of outcomes; its dataset is the results dataset.
    """

    def __init__(self, settings: ClassifySettings) -> None:
        self.settings = settings
        self.bq = BigQueryClient(settings.project)
        self.outcomes = TableName(*settings.results_dataset, "outcomes")

    def with_settings(self, **changes: Any) -> ResolvedRun:
        """Return the same run with changed settings; none of them may concern task, source, filters or results."""
        changed = copy.copy(self)
        changed.settings = self.settings.replace(**changes)
        return changed

    @cached_property
    def models(self) -> Models:
        """All models that imagebeam knows."""
        return catalog.load_models_file(self.settings.models_file)

    @cached_property
    def task(self) -> Task:
        """The task with the changes that flags make to it."""
        settings = self.settings
        if isinstance(settings, EmbedSettings):
            return settings.embed_task()
        task = catalog.build_task(settings.task_file(Path.cwd()), self.models, model=settings.model)
        if settings.unit and settings.unit != task.unit:
            images = MAX_IMAGES if settings.unit == UnitKind.ASSET else 1
            task = dataclasses.replace(task, unit=settings.unit, max_images=images)
        if settings.max_images:
            if task.unit != UnitKind.ASSET:
                raise UserError(f"--max_images requires --unit=asset; the unit of task {task.name} is an observation")
            task = dataclasses.replace(task, max_images=settings.max_images)
        if settings.transport == Transport.URI and task.image.changes_images:
            raise UserError(
                f"task {task.name} crops or downscales its images, so requests must contain their bytes",
                fix="--transport=inline or auto",
            )
        return task

    @cached_property
    def profile(self) -> ModelProfile:
        """The profile of the task's model."""
        return self.models.resolve(self.task, price_as=self.settings.price_as)

    @cached_property
    def model_name(self) -> ModelName:
        """The name of the task's model, parsed."""
        return parse_model_name(self.task.model)

    @cached_property
    def call_model(self) -> str:
        """The model or endpoint that calls are made to; that of a tuned model is looked up."""
        return tuned_models.resolve_call_model(self.model_name)

    @cached_property
    def job_model(self) -> str:
        """The model in batch jobs; that of an endpoint is looked up."""
        return tuned_models.resolve_job_model(self.model_name)

    @property
    def has_endpoint(self) -> bool:
        """Whether the model can be called; a tuned model that is not deployed can only be used in batch jobs.

        Raises:
            UserError: It cannot, and the run calls it.
        """
        try:
            return bool(self.call_model)
        except UserError:
            if self.makes_calls:
                raise
            return False

    @property
    def makes_calls(self) -> bool:
        """Whether the run calls the model, or may do so: a batch run does after its deadline."""
        return self.settings.lane != Lane.BATCH or self.settings.batch_deadline_s is not None

    @property
    def needs_inline(self) -> bool:
        """Whether requests must contain the bytes of their images."""
        return self.settings.transport == Transport.INLINE or self.task.image.changes_images

    @cached_property
    def source_info(self) -> SourceInfo:
        """The source with its detected profile, and its location."""
        return read_source(self.settings, self.settings.project, self.bq)

    @property
    def source(self) -> sources.Source:
        """The source."""
        return self.source_info.source

    @property
    def location(self) -> str:
        """BigQuery location of source and results."""
        return self.source_info.location

    @cached_property
    def filters(self) -> Filters:
        """The filters, checked against the columns of the source; so are the columns that the prompt uses."""
        filters = build_filters(self.settings)
        filters.validate(self.source.columns, source=self.source.label)
        check_prompt_fields(self.task, self.source.kept(self.settings.keep_columns))
        return filters

    @cached_property
    def new_dataset_location(self) -> str | None:
        """Location in which to create the results dataset; None if it exists."""
        outcomes, location = self.outcomes, self.location
        found = self.bq.get_dataset_location(outcomes.project, outcomes.dataset)
        wanted = found or self.settings.results_location or location
        if wanted.upper() != location.upper():
            raise UserError(
                f"--results: {outcomes.project}.{outcomes.dataset} {'is' if found else 'would be'} in {wanted}, but "
                f"the source is in {location}, and one query cannot read both",
                fix=f"use a dataset in {location}, created with "
                f"`bq mk --location={location} {outcomes.project}:DATASET`",
            )
        return None if found else location

    def create_results_dataset(self) -> str | None:
        """Create the results dataset if it does not exist.

        Returns:
            A line for the user; None if the dataset exists.
        """
        location = self.new_dataset_location
        if location is None:
            return None
        self.bq.create_dataset(self.outcomes.project, self.outcomes.dataset, location)
        return f"created dataset {self.outcomes.project}.{self.outcomes.dataset} in {location}"


def build_filters(settings: ClassifySettings) -> Filters:
    """Build the filters from the settings."""
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


def read_source(settings: SourceSettings, project: str, bq: BigQueryClient) -> SourceInfo:
    """Read the columns of the source, and detect its profile.

    Args:
        settings: The source.
        project: Project of a table without one.
        bq: BigQuery client.

    Raises:
        UserError: The source does not exist, or lacks a column.
        SystemicError: BigQuery cannot be used.
    """
    mapping = dict(settings.columns)
    if settings.query is not None:
        schema, scanned, location = bq.dry_run(Query(settings.query))
        detected = sources.detect_profile("the query", schema, profile=settings.profile, mapping=mapping)
        description = f"the query, profile {detected.profile} ({detected.why}); it scans {format_gigabytes(scanned)}"
        return SourceInfo(sources.source_of(detected=detected, query=settings.query), location, description)
    table = TableName.parse(settings.source or "", project)
    info = bq.get_table(table)
    if info is None:
        raise _missing_table(bq, table)
    detected = sources.detect_profile(table.table, info.schema, profile=settings.profile, mapping=mapping)
    snapshots, assets = sources.companions(table)
    source = sources.source_of(
        detected=detected,
        table=table,
        snapshots=_existing_table(bq, snapshots, "snapshot_id", "creation_time"),
        assets=_existing_table(bq, assets, "asset_id"),
    )
    description = f"{table.dotted}, profile {detected.profile} ({detected.why}), in {info.location}"
    return SourceInfo(source, info.location, description)


def _missing_table(bq: BigQueryClient, table: TableName) -> UserError:
    if bq.get_dataset_location(table.project, table.dataset) is None:
        return UserError(
            f"--source: dataset {table.project}.{table.dataset} does not exist, or you cannot access it",
            fix=f"check the name (`bq ls --project_id={table.project}`), or subscribe to the listing first",
        )
    return UserError(
        f"--source: dataset {table.project}.{table.dataset} has no table {table.table}",
        fix=f"list its tables with `bq ls {table.project}:{table.dataset}`",
    )


def _existing_table(bq: BigQueryClient, table: TableName | None, *columns: str) -> TableName | None:
    """Return the table if it exists and has the columns; None if not."""
    info = bq.get_table(table) if table is not None else None
    names = {str(field["name"]).lower() for field in info.schema} if info is not None else set()
    return table if names.issuperset(columns) else None


def check_prompt_fields(task: Task, kept: Mapping[str, str]) -> None:
    """Check that the columns of the source that a prompt uses are kept.

    Raises:
        UserError: One is not.
    """
    for field in task.prompt_fields():
        name = field.removeprefix("extra.")
        if field.startswith("extra.") and name not in kept:
            raise UserError(
                f"the prompt of task {task.name} uses {{{{{field}}}}}, but column {name} is not kept",
                fix=f"--keep_columns={name}",
            )


def format_gigabytes(size: int) -> str:
    """Format a number of bytes in GB.

    >>> format_gigabytes(1_900_000_000), format_gigabytes(20)
    ('1.9 GB', '0.0 GB')
    """
    return f"{size / 1e9:,.1f} GB"
