"""The PTransform that packs units into unit batches for :class:`~imagebeam.transforms.call_model.CallModel`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.pvalue import PCollection
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from imagebeam.transforms.core.records import Unit
from imagebeam.transforms.core.unit_batch import UNIT_BATCH_SIZE, UnitBatch, pack


@dataclasses.dataclass
class PackUnits(beam.PTransform[PCollection[Unit], PCollection[UnitBatch]]):
    """Packs the units of a bundle into unit batches and redistributes them over the workers.

    For batch pipelines (the global window). The reshuffle makes the unit batches durable, so that a retried call does
    not read the source again.

    Attributes:
        size: Units per unit batch, 1 to 10,000. Larger batches have less overhead, smaller ones balance better.
    """

    size: int = UNIT_BATCH_SIZE

    def __post_init__(self) -> None:
        """Check the size."""
        if not 1 <= self.size <= 10_000:
            raise ValueError(f"PackUnits(size={self.size}): give 1 to 10,000 units per unit batch")

    def expand(self, pcoll: PCollection[Unit]) -> PCollection[UnitBatch]:
        """Wire packing and reshuffle."""
        packed: PCollection[UnitBatch] = pcoll | "Pack" >> beam.ParDo(_Pack(self.size)) | "Spread" >> beam.Reshuffle()
        return packed


class _Pack(beam.DoFn):
    def __init__(self, size: int) -> None:
        self._size = size

    def start_bundle(self) -> None:
        self._units: list[Unit] = []

    def process(self, element: Unit) -> Iterator[UnitBatch]:
        self._units.append(element)
        if len(self._units) >= self._size:
            yield pack(self._units)
            self._units = []

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._units:
            window = GlobalWindow()
            yield WindowedValue(pack(self._units), window.max_timestamp(), (window,))
            self._units = []
