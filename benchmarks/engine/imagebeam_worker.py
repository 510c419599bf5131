"""imagebeam: its PTransform on Beam's local runner, with every answer recorded."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam

from benchmarks.engine.metrics import Progress
from benchmarks.engine.workload import LOCATION, Work
from imagebeam.transforms.call_model import CallModel
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.core.counts import OutcomeCounts
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.unit_batch import pack
from imagebeam.transforms.engine.engine import close_engine, live_engines
from imagebeam.transforms.engine.settings import CallSettings, Destination, EngineSettings
from imagebeam.transforms.sql.tables import OUTCOMES

DATASET = "benchmarks"
UNIT_BATCH_SIZE = 200

#: OutcomeCounts of the pipeline that runs in this process; a DoFn is a copy, a module is not.
_progress = Progress()


class _Count(beam.DoFn):
    """Counts what is recorded, when the pipeline learns of it."""

    def process(self, element: OutcomeCounts) -> Iterator[None]:
        _progress.add(element.finished, element.ok)
        yield from ()


class ImagebeamWorker:
    """One worker process of imagebeam."""

    def __init__(self, work: Work, project: str) -> None:
        """Makes table and groups: a job does that before its workers start."""
        self._work = work
        self._directory = tempfile.TemporaryDirectory(prefix="imagebeam-benchmark-")
        outcomes = TableName(project, DATASET, f"outcomes_{secrets.token_hex(6)}")
        bq = BigQueryClient(project)
        bq.create_dataset(project, DATASET, "US")
        bq.create_table(outcomes, OUTCOMES.schema, clustering=OUTCOMES.clustering)
        self._settings = EngineSettings(
            run_id=f"benchmark-{secrets.token_hex(6)}",
            call_settings=CallSettings(project=project, location=LOCATION, task=work.task, profile=work.profile),
            in_flight=work.in_flight,
            destination=Destination(outcomes, claims=str(Path(self._directory.name) / "groups")),
        )
        units = work.all_units()
        starts = range(0, len(units), UNIT_BATCH_SIZE)
        self._unit_batches = [pack(units[start : start + UNIT_BATCH_SIZE]) for start in starts]

    def run(self, progress: Progress) -> None:
        """Run the pipeline until every answer is in BigQuery."""
        global _progress
        _progress = progress
        with self._time_limit(), beam.Pipeline(runner="FnApiRunner") as pipeline:
            _ = (
                pipeline
                | beam.Create(self._unit_batches)
                | beam.Reshuffle()
                | CallModel(self._settings, emit="counts")
                | beam.ParDo(_Count())
            )
        close_engine(self._settings.run_id)
        self._directory.cleanup()

    @contextlib.contextmanager
    def _time_limit(self) -> Iterator[None]:
        if self._work.seconds is None:
            yield
            return

        def drain() -> None:
            for engine in live_engines():
                engine.drain("interrupted: the time is up")

        timer = threading.Timer(self._work.seconds, drain)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
