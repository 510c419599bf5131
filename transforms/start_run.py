"""The PTransform that starts a run: tables and views, the lease, and the one query that finds what is due."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import orjson
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput

from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient, ResultRef
from imagebeam.transforms.core.counts import Planned
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.query import Query
from imagebeam.transforms.core.records import utc_now
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.run_settings import RunSettings, event
from imagebeam.transforms.sql import embedding_tables, tables, views
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.sql.selection import Selection, SourceCounts, source_counts_from_row
from imagebeam.transforms.tasks.embedding import EmbedTask

PAGE_UNITS = 5_000


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A range of rows of the source query's result.

    Attributes:
        result: The result.
        start: The first row.
        count: How many rows.
    """

    result: ResultRef
    start: int
    count: int


@dataclasses.dataclass
class StartRun(beam.PTransform[PBegin, Mapping[str, PCollection[Any]]]):
    """Starts a run on a worker, so that the worker's account is the one that needs the rights.

    Gives ``pages`` (:class:`Page`, spread over the workers) and ``planned`` (exactly one
    :class:`~books.Planned`).

    Attributes:
        settings: The run.
        page_units: Units per page.
    """

    settings: RunSettings
    page_units: int = PAGE_UNITS

    def expand(self, pbegin: PBegin) -> Mapping[str, PCollection[Any]]:
        """Wires one element through the start."""
        started = (
            pbegin
            | "Run" >> beam.Create([self.settings.run_id])
            | "Once" >> beam.Reshuffle()
            | "Start" >> beam.ParDo(_Start(self.settings, self.page_units)).with_outputs("planned", main="pages")
        )
        return {"pages": started.pages | "SpreadPages" >> beam.Reshuffle(), "planned": started.planned}


class _Start(beam.DoFn):
    def __init__(self, settings: RunSettings, page_units: int) -> None:
        self._settings = settings
        self._page_units = page_units

    def process(self, element: str) -> Iterator[Any]:
        with record_failure(self._settings):
            result, planned = start(self._settings)
            yield TaggedOutput("planned", planned)
            for first in range(0, planned.due, self._page_units):
                yield Page(result, first, min(self._page_units, planned.due - first))


def start(settings: RunSettings) -> tuple[ResultRef, Planned]:
    """Makes tables and views, takes the lease, writes the start event and runs the query.

    Raises:
        UserError: The lease is held, or the query is wrong.
        SystemicError: BigQuery cannot be used.
    """
    bq = BigQueryClient(settings.engine.call_settings.project)
    prepare_tables(bq, settings)
    destination = settings.engine.destination
    if destination is not None and destination.lease is not None:
        lease.acquire(bq, destination.lease, settings.run_id)
    if settings.round == 1:
        write_event(bq, settings, "start", state="RUNNING", host=socket.gethostname(), pid=os.getpid())
    result = bq.query(
        build_run_query(settings),
        run_id=settings.run_id,
        location=settings.location,
        maximum_bytes_billed=settings.maximum_bytes_billed,
        labels=settings.labels(),
    )
    first = next(bq.read_rows(result, 0, 1, ["books"]), None)
    if first is None:
        raise SystemicError("the source query gave no row, not even its books")
    planned = planned_from(source_counts_from_row(first))
    if result.rows != max(1, planned.due):
        raise SystemicError(f"the source query counts {planned.due} units due, but gives {result.rows} rows")
    return result, planned


def build_run_query(settings: RunSettings) -> Query:
    """The one query of the run."""
    task = settings.task
    return build_remaining_query(
        source=settings.source,
        filters=settings.filters,
        unit=task.unit,
        max_images=task.max_images,
        keep_columns=settings.keep_columns,
        outcomes=settings.outcomes,
        task=task.name,
        version=task.version,
        due=settings.selection if settings.round == 1 else Selection(("retry",)),
        again=None if settings.round == 1 else (settings.run_id, settings.round),
    )


def planned_from(books: SourceCounts) -> Planned:
    """The query's counts in the words of the run's books."""
    return Planned(
        units_in=books.units_in,
        due=books.due,
        already_done=books.answered,
        outdated=books.outdated_left,
        failed_before=books.failed_left,
        submitted=books.submitted,
        not_due=books.left_out,
        due_new=books.due_new,
        due_retry=books.due_retry,
        due_outdated=books.due_outdated,
        due_failed=books.due_failed,
        asked=books.asked,
        images=books.images,
        most_images=books.most_images,
        rows_without_id=books.rows_without_id,
        assets_without_images=books.assets_without_images,
    )


def prepare_tables(bq: BigQueryClient, settings: RunSettings) -> None:
    """Creates what the run writes to and the views that people read, if they are not there yet."""
    for name, table in tables.TABLES.items():
        bq.create_table(
            settings.sibling(name), table.schema, clustering=table.clustering, description=table.description
        )
    task = settings.task
    if isinstance(task, EmbedTask):
        prepare_embeddings(bq, settings.outcomes, task.model, task.dimension)
    for name, view in views.views(settings.outcomes, task).items():
        bq.put_view(settings.sibling(name), view.sql, description=view.description)
    bq.insert_row(
        settings.task_versions,
        {
            "task": task.name,
            "version": task.version,
            "definition": orjson.dumps(task.definition()).decode(),
            "description": task.description,
            "created_at": utc_now(),
            "run_id": settings.run_id,
        },
        f"{task.name}-{task.version}",
    )


def prepare_embeddings(bq: BigQueryClient, results: TableName, model: str, dimension: int) -> TableName:
    """Creates the table of the vectors, and the view over all such tables. Returns the table."""
    table = embedding_tables.embedding_table(results, model, dimension)
    made = embedding_tables.EMBEDDINGS
    bq.create_table(table, made.schema, clustering=made.clustering, description=made.description)
    names = {
        *filter(embedding_tables.is_embedding_table, bq.list_tables(table.project, table.dataset)),
        table.table,
    }
    bq.put_view(
        dataclasses.replace(table, table=embedding_tables.VIEW),
        embedding_tables.embeddings_view([dataclasses.replace(table, table=name) for name in names]),
        description="imagebeam: the newest vector of each unit, model and length.",
    )
    return table


def write_event(bq: BigQueryClient, settings: RunSettings, name: str, **columns: Any) -> None:
    """Adds an event to the table ``runs``."""
    row = event(settings, event=name, at=utc_now(), **columns)
    bq.insert_row(settings.runs, row, f"{settings.run_id}-{name}-{row['at']}")
