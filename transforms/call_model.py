"""The PTransform that asks Gemini about groups of units."""

from __future__ import annotations

import collections
import dataclasses
import queue
from collections.abc import Iterator
from typing import Any, Literal

import apache_beam as beam
from apache_beam.metrics.metric import Metrics
from apache_beam.pvalue import PCollection
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from imagebeam.transforms.core.counts import OutcomeCounts, sum_counts
from imagebeam.transforms.core.records import Outcome
from imagebeam.transforms.core.unit_batch import Group
from imagebeam.transforms.engine.engine import Done, Engine, Sink, counts_of, get_engine
from imagebeam.transforms.engine.settings import EngineSettings

NAMESPACE = "imagebeam"
LOOK_S = 1.0


@dataclasses.dataclass
class CallModel(beam.PTransform[PCollection[Group], PCollection[Any]]):
    """Asks about every unit of the groups (see :class:`PackUnits`), one outcome per unit.

    The calls of one process share one window, one pace and one connection pool, whatever the bundles look
    like; a bundle that the runner retries attaches to the calls that are already under way.

    Attributes:
        settings: How to ask, how fast, and where to keep the outcomes.
        emit: ``outcomes`` gives every :class:`~records.Outcome` as an element; ``counts`` gives sums of
            them (:class:`~books.OutcomeCounts`) as they are recorded, which costs a runner next to nothing.
        units_ahead: Units that a bundle may have handed over and not yet finished, beyond the window.
    """

    settings: EngineSettings
    emit: Literal["outcomes", "counts"] = "outcomes"
    units_ahead: int = 800

    def expand(self, pcoll: PCollection[Group]) -> PCollection[Any]:
        """Wires the calls."""
        calls: PCollection[Any] = pcoll | f"Call({self.settings.call_settings.task.name})" >> beam.ParDo(
            _CallModel(self.settings, self.emit, self.units_ahead)
        )
        return calls


class _CallModel(beam.DoFn):
    """Feeds the engine from a bundle and yields what it finishes; never an exception for one unit."""

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
        """Makes the bundle's own sink: what another bundle waits for never lands here."""
        self._sink: Sink = queue.SimpleQueue()
        self._left: dict[str, int] = {}
        self._windows: dict[str, tuple[Any, Timestamp]] = {}
        self._outstanding = 0

    def process(
        self,
        group: Group,
        window: Any = beam.DoFn.WindowParam,
        timestamp: Any = beam.DoFn.TimestampParam,
    ) -> Iterator[WindowedValue]:
        """Hands a group over; gives back what is finished by now, each in its own group's window."""
        engine = get_engine(self._settings)
        if group.group_id not in self._left:
            self._left[group.group_id] = group.size
            self._windows[group.group_id] = (window, timestamp)
            self._outstanding += group.size
            engine.submit(group, self._sink)
        yield from self._collect(engine, self._outstanding_limit)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Waits for the rest."""
        if self._outstanding:
            yield from self._collect(get_engine(self._settings), 0)

    def _collect(self, engine: Engine, outstanding: int) -> Iterator[WindowedValue]:
        """Takes what is finished; waits until at most ``outstanding`` units are not."""
        while True:
            batch = self._take(engine, wait=self._outstanding > outstanding)
            if not batch:
                return
            self._count(engine, batch)
            yield from self._elements(batch)

    def _take(self, engine: Engine, *, wait: bool) -> list[Done]:
        batch: list[Done] = []
        while not batch:
            try:
                batch.append(self._sink.get(timeout=LOOK_S) if wait else self._sink.get_nowait())
            except queue.Empty:
                engine.check()
                if not wait:
                    return batch
        while True:
            try:
                batch.append(self._sink.get_nowait())
            except queue.Empty:
                break
        self._outstanding -= len(batch)
        for done in batch:
            self._left[done.group_id] -= 1
        return batch

    def _elements(self, batch: list[Done]) -> Iterator[WindowedValue]:
        if self._emit == "outcomes":
            for done in batch:
                yield self._windowed(done.group_id, done.outcome)
            return
        by_window: dict[tuple[Any, Timestamp], list[Done]] = collections.defaultdict(list)
        for done in batch:
            by_window[self._windows[done.group_id]].append(done)
        stop = get_engine(self._settings).stop_reason
        for (window, timestamp), finished in by_window.items():
            counts = dataclasses.replace(sum_counts(counts_of(done) for done in finished), stop=stop)
            yield WindowedValue(counts, timestamp, (window,))

    def _windowed(self, group_id: str, value: Outcome | OutcomeCounts) -> WindowedValue:
        window, timestamp = self._windows[group_id]
        return WindowedValue(value, timestamp, (window,))

    def _count(self, engine: Engine, batch: list[Done]) -> None:
        """Moves Beam's counters: on the bundle's thread, where Beam sees it."""
        self._calls.inc(sum(done.calls for done in batch))
        self._throttled.inc(sum(done.throttled for done in batch))
        self._throttled_seconds.inc(engine.take_throttled_s())
        for done in batch:
            outcome = done.outcome
            Metrics.counter(NAMESPACE, f"outcome_{outcome.status.value}").inc()
            if outcome.latency_ms:
                self._latency.update(outcome.latency_ms)
            if outcome.usage.prompt_tokens:
                for name, distribution in self._tokens.items():
                    distribution.update(getattr(outcome.usage, name))
