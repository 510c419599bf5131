"""The PTransform that packs units into unit batches for :class:`~imagebeam.transforms.call_model.CallModel`."""

from __future__ import annotations

import dataclasses

import apache_beam as beam
from apache_beam.pvalue import PCollection

from imagebeam.transforms.core.records import Unit
from imagebeam.transforms.core.unit_batch import UNIT_BATCH_SIZE, UnitBatch, pack


@dataclasses.dataclass
class PackUnits(beam.PTransform[PCollection[Unit], PCollection[UnitBatch]]):
    """A PTransform that packs the units of a bundle into unit batches and redistributes them over the workers.

    For batch pipelines (the global window). The reshuffle makes the unit batches durable, so that a retried call does
    not read the source again.

    Attributes:
        size: Units per unit batch, 1 to 10,000. Larger batches have less overhead, smaller ones balance better.
    """

    size: int = UNIT_BATCH_SIZE

    def __post_init__(self) -> None:
        """Check the size."""
        if not 1 <= self.size <= 10_000:
            raise ValueError(f"PackUnits(size={self.size}): the size must be 1 to 10,000 units")

    def expand(self, pcoll: PCollection[Unit]) -> PCollection[UnitBatch]:
        """Apply the transform."""
        packed: PCollection[UnitBatch] = (
            pcoll
            | "Group" >> beam.BatchElements(self.size, self.size)
            | "Pack" >> beam.Map(pack)
            | "Spread" >> beam.Reshuffle()
        )
        return packed
