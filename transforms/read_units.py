"""The PTransform that reads the units of a run, page by page, and packs them into unit batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import PCollection

from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.records import Unit
from imagebeam.transforms.core.unit_batch import UnitBatch, pack
from imagebeam.transforms.error_file import record_failure
from imagebeam.transforms.run_settings import RunSettings
from imagebeam.transforms.sql.unit_rows import UNIT_COLUMNS, unit_from_row
from imagebeam.transforms.start_run import Page


@dataclasses.dataclass
class ReadUnits(beam.PTransform[PCollection[Page], PCollection[UnitBatch]]):
    """Reads pages of the source query's result. The reshuffle makes the unit batches durable.

    Attributes:
        settings: The run.
    """

    settings: RunSettings

    def expand(self, pages: PCollection[Page]) -> PCollection[UnitBatch]:
        """Wire reading and reshuffle."""
        read: PCollection[UnitBatch] = (
            pages | "ReadPages" >> beam.ParDo(_ReadPages(self.settings)) | "SpreadUnitBatches" >> beam.Reshuffle()
        )
        return read


class _ReadPages(beam.DoFn):
    def __init__(self, settings: RunSettings) -> None:
        self._settings = settings

    def process(self, element: Page) -> Iterator[UnitBatch]:
        with record_failure(self._settings):
            bq = BigQueryClient(self._settings.engine.call_settings.project)
            units: list[Unit] = []
            for row in bq.read_rows(element.result, element.start, element.count, UNIT_COLUMNS):
                units.append(unit_from_row(row))
                if len(units) >= self._settings.unit_batch_size:
                    yield pack(units)
                    units = []
            if units:
                yield pack(units)
