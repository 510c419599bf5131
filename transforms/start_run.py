"""The PTransform that starts a run: tables and views, the lease, and the source query."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PBegin, PCollection, TaggedOutput

from imagebeam.transforms.clients import lease
from imagebeam.transforms.clients.bigquery import BigQueryClient, ResultRef
from imagebeam.transforms.core.counts import SourceCounts
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.run_tables import prepare_tables, write_event
from imagebeam.transforms.sql.remaining_query import build_remaining_query
from imagebeam.transforms.sql.unit_rows import source_counts_from_row

PAGE_UNITS = 5_000


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A range of rows of the source query's result.

    Attributes:
        result: The result.
        start: The first row.
        count: Number of rows.
    """

    result: ResultRef
    start: int
    count: int


def start(settings: RunSettings) -> tuple[ResultRef, SourceCounts]:
    """Create tables and views, acquire the lease, write the start event and run the source query.

    Raises:
        UserError: Another run holds the lease, or the query is invalid.
        SystemicError: BigQuery cannot be used.
    """
    bq = BigQueryClient(settings.engine.call_settings.project)
    prepare_tables(bq, settings)
    if settings.lease is not None:
        lease.acquire(bq, settings.lease, settings.run_id)
    if settings.round == 1:
        write_event(bq, settings, "start", state="RUNNING", host=socket.gethostname(), pid=os.getpid())
    result = bq.query(
        build_remaining_query(settings.query_spec()),
        run_id=settings.run_id,
        location=settings.location,
        maximum_bytes_billed=settings.maximum_bytes_billed,
        labels=settings.labels(),
    )
    first = next(bq.read_rows(result, 0, 1, ["counts"]), None)
    if first is None:
        raise SystemicError("the source query returned no row, not even one with counts")
    source = source_counts_from_row(first)
    if result.rows != max(1, source.remaining):
        raise SystemicError(f"the source query counts {source.remaining} units, but returned {result.rows} rows")
    return result, source


def split_pages(result: ResultRef, units: int, page_units: int) -> Iterator[Page]:
    """Split the rows of a result into pages."""
    for first in range(0, units, page_units):
        yield Page(result, first, min(page_units, units - first))


@dataclasses.dataclass
class StartRun(beam.PTransform[PBegin, Mapping[str, PCollection[Any]]]):
    """A PTransform that starts a run on a worker, so that only the worker's account needs permissions on the data.

    Emits ``pages`` (:class:`Page`, redistributed over the workers) and ``source`` (one
    :class:`~imagebeam.transforms.core.counts.SourceCounts`).

    Attributes:
        settings: The run.
        page_units: Units per page.
    """

    settings: RunSettings
    page_units: int = PAGE_UNITS

    def expand(self, pbegin: PBegin) -> Mapping[str, PCollection[Any]]:
        """Apply the transform."""
        started = (
            pbegin
            | "Run" >> beam.Create([self.settings.run_id])
            | "Once" >> beam.Reshuffle()
            | "Start" >> beam.FlatMap(_start, self.settings, self.page_units).with_outputs("source", main="pages")
        )
        return {"pages": started.pages | "SpreadPages" >> beam.Reshuffle(), "source": started.source}


def _start(_: str, settings: RunSettings, page_units: int) -> Iterator[Any]:
    with record_failure(settings):
        result, source = start(settings)
        yield TaggedOutput("source", source)
        yield from split_pages(result, source.remaining, page_units)
