"""The PTransform that reads the units of a run, page by page, and packs them into unit batches."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import PCollection

from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.unit_batch import UnitBatch, pack
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.unit_rows import UNIT_COLUMNS, unit_from_row
from imagebeam.transforms.start_run import Page


@dataclasses.dataclass
class ReadUnits(beam.PTransform[PCollection[Page], PCollection[UnitBatch]]):
    """A PTransform that reads pages of the source query's result into unit batches; a reshuffle makes them durable.

    Attributes:
        settings: The run.
    """

    settings: RunSettings

    def expand(self, pages: PCollection[Page]) -> PCollection[UnitBatch]:
        """Apply the transform."""
        read: PCollection[UnitBatch] = (
            pages | "ReadPages" >> beam.FlatMap(_read_page, self.settings) | "SpreadUnitBatches" >> beam.Reshuffle()
        )
        return read


def _read_page(page: Page, settings: RunSettings) -> Iterator[UnitBatch]:
    with record_failure(settings):
        bq = BigQueryClient(settings.engine.call_settings.project)
        units = map(unit_from_row, bq.read_rows(page.result, page.start, page.count, UNIT_COLUMNS))
        while batch := list(itertools.islice(units, settings.unit_batch_size)):
            yield pack(batch)
