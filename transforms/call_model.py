"""The PTransform that calls the model for each unit."""

from __future__ import annotations

import collections
import dataclasses
import queue
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from imagebeam.transforms.core.counts import OutcomeCounts, sum_counts
from imagebeam.transforms.core.records import Outcome
from imagebeam.transforms.core.unit_batch import UnitBatch
from imagebeam.transforms.engine.engine import Engine, Sink, get_engine
from imagebeam.transforms.engine.settings import EngineSettings
from imagebeam.transforms.engine.unit_caller import CallResult

NAMESPACE = "imagebeam"
CHECK_S = 1.0


@dataclasses.dataclass
class CallModel(beam.PTransform[PCollection[UnitBatch], PCollection[Any]]):
    """A PTransform that calls the model for every unit of the unit batches (see :class:`PackUnits`).

    Each unit has one outcome.

    All calls of a process share one window, one rate limiter and one connection pool, whatever bundles the runner
    makes. A retried bundle attaches to the calls that are already in flight.

    Attributes:
        settings: Settings of the engine: calls, limits, and where outcomes are recorded.
        emit: ``outcomes`` emits every :class:`~records.Outcome`; ``counts`` emits sums of them
            (:class:`~counts.OutcomeCounts`) as they are recorded, which adds little overhead to the pipeline.
        units_ahead: Units that a bundle may submit beyond ``in_flight`` before earlier ones have finished.
    """

    settings: EngineSettings
    emit: Literal["outcomes", "counts"] = "outcomes"
    units_ahead: int = 800

    def expand(self, pcoll: PCollection[UnitBatch]) -> PCollection[Any]:
        """Apply the transform."""
        calls: PCollection[Any] = pcoll | f"Call({self.settings.call_settings.task.name})" >> beam.ParDo(
            _CallModel(self.settings, self.emit, self.units_ahead)
        )
        return calls


class _CallModel(beam.DoFn):
    """Submits a bundle's unit batches to the engine, and emits what finishes; never raises for one unit."""

    def __init__(self, settings: EngineSettings, emit: str, units_ahead: int) -> None:
        self._settings = settings
        self._emit = emit
        self._outstanding_limit = settings.in_flight + units_ahead
        self._calls = Metrics.counter(NAMESPACE, "calls")
        self._throttled = Metrics.counter(NAMESPACE, "calls_refused_for_quota")
        self._throttled_seconds = Metrics.counter(NAMESPACE, "cumulativeThrottlingSeconds")
        self._latency = Metrics.distribution(NAMESPACE, "latency_ms")
        self._tokens = {
            name: Metrics.distribution(NAMESPACE, name) for name in ("prompt_tokens", "output_tokens", "thought_tokens")
        }

    def start_bundle(self) -> None:
        """Create the bundle's own sink, which receives no results of other bundles."""
        self._sink: Sink = queue.SimpleQueue()
        self._windows: dict[str, tuple[Any, Timestamp]] = {}
        self._outstanding = 0

    def process(
        self,
        batch: UnitBatch,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[WindowedValue]:
        """Submit a unit batch; emit what has finished, each in the window of its own unit batch."""
        engine = get_engine(self._settings)
        if batch.batch_id not in self._windows:
            self._windows[batch.batch_id] = (window, timestamp)
            self._outstanding += batch.size
            engine.submit(batch, self._sink)
        yield from self._collect(engine, self._outstanding_limit)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Wait for the remaining units."""
        if self._outstanding:
            yield from self._collect(get_engine(self._settings), 0)

    def _collect(self, engine: Engine, outstanding: int) -> Iterator[WindowedValue]:
        """Emit what has finished; wait until at most ``outstanding`` units have not."""
        while finished := self._take(engine, wait=self._outstanding > outstanding):
            self._update_metrics(engine, [result for _, result in finished])
            yield from self._elements(engine, finished)

    def _take(self, engine: Engine, *, wait: bool) -> list[tuple[str, CallResult]]:
        finished: list[tuple[str, CallResult]] = []
        while True:
            try:
                finished.append(self._sink.get(block=wait and not finished, timeout=CHECK_S))
            except queue.Empty:
                if not finished:
                    engine.check()
                if finished or not wait:
                    break
        self._outstanding -= len(finished)
        return finished

    def _elements(self, engine: Engine, finished: Sequence[tuple[str, CallResult]]) -> Iterator[WindowedValue]:
        if self._emit == "outcomes":
            for batch_id, result in finished:
                yield _windowed(result.outcome, self._windows[batch_id])
            return
        by_window: dict[tuple[Any, Timestamp], list[CallResult]] = collections.defaultdict(list)
        for batch_id, result in finished:
            by_window[self._windows[batch_id]].append(result)
        for place, results in by_window.items():
            counts = sum_counts(result.counts for result in results)
            yield _windowed(dataclasses.replace(counts, stop=engine.stop_reason), place)

    def _update_metrics(self, engine: Engine, results: Sequence[CallResult]) -> None:
        """Update Beam's metrics: on the bundle's thread, where Beam attributes them."""
        self._calls.inc(sum(result.calls for result in results))
        self._throttled.inc(sum(result.throttled for result in results))
        self._throttled_seconds.inc(engine.take_throttled_s())
        for result in results:
            outcome = result.outcome
            Metrics.counter(NAMESPACE, f"outcome_{outcome.status.value}").inc()
            if outcome.latency_ms:
                self._latency.update(outcome.latency_ms)
            if outcome.usage.prompt_tokens:
                for name, distribution in self._tokens.items():
                    distribution.update(getattr(outcome.usage, name))


def _windowed(value: Outcome | OutcomeCounts, place: tuple[Any, Timestamp]) -> WindowedValue:
    window, timestamp = place
    return WindowedValue(value, timestamp, (window,))
