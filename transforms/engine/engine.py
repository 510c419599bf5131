"""The engine: one per worker process, with one event loop, model client, rate limiter and recorder.

Beam bundles submit unit batches and receive call results. Calls overlap across unit batches and bundles, so the
window of calls in flight stays full whatever bundles the runner makes. A unit batch belongs to the engine, not to
the bundle: a retried bundle that submits it again attaches to the running one, and receives at once what has
finished.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.embedding_client import open_client
from imagebeam.transforms.core.counts import OutcomeCounts
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, first_line
from imagebeam.transforms.core.records import Answer, Outcome, Status, Unit
from imagebeam.transforms.core.unit_batch import UnitBatch, unpack
from imagebeam.transforms.engine.budget import Budget
from imagebeam.transforms.engine.drain import Breaker, Drain
from imagebeam.transforms.engine.keep_alive import keep_alive
from imagebeam.transforms.engine.rate_limiter import AdaptiveRateLimiter
from imagebeam.transforms.engine.recorder import BigQueryRecorder, PassThrough, VectorTable, recover_outcomes
from imagebeam.transforms.engine.settings import EngineSettings
from imagebeam.transforms.engine.unit_caller import CallResult, UnitCaller

THREADS = 24
#: Units whose requests are prepared beyond the window of calls in flight.
PREPARED = 64
_log = logging.getLogger(__name__)

#: Receives the id of a unit batch and the result of one of its units; the outcome is recorded by then.
Sink = queue.SimpleQueue[tuple[str, CallResult]]


@dataclasses.dataclass(slots=True)
class _Entry:
    """A unit batch in the engine: who waits for it, and its results so far."""

    batch: UnitBatch
    sinks: list[Sink]
    finished: list[CallResult]
    remaining: int


class Engine:
    """The engine of one run in this process; start it with :func:`get_engine`. Thread-safe."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._entries: dict[str, _Entry] = {}
        self._queue: collections.deque[tuple[_Entry, Unit]] = collections.deque()
        self._drain = Drain(self._on_drain)
        self._breaker = Breaker(settings.max_failure_percent)
        self._error: BaseException | None = None
        self._counts = OutcomeCounts()
        self._budget: Budget | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._executor = concurrent.futures.ThreadPoolExecutor(THREADS, thread_name_prefix="imagebeam")
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="imagebeam-engine", daemon=True)
        self._thread.start()
        self._ready.wait()
        self.check()

    # -- for the bundles -------------------------------------------------------------------------------

    def submit(self, batch: UnitBatch, sink: Sink) -> None:
        """Process a unit batch; the sink receives one result per unit. Idempotent per unit batch and sink."""
        self.check()
        self._loop.call_soon_threadsafe(self._submit, batch, sink)

    def check(self) -> None:
        """Raise the error that ended the engine, if there is one, so that no caller waits for a stopped loop."""
        if self._error is not None:
            raise self._error
        if self._ready.is_set() and not self._thread.is_alive():
            raise SystemicError("the engine's thread has ended")

    def drain(self, reason: str) -> None:
        """Send no new calls: record those in flight, skip the remaining units. The first reason is kept."""
        self._loop.call_soon_threadsafe(self._drain.start, reason)

    @property
    def stop_reason(self) -> str | None:
        """Why the engine drains; None while it does not."""
        return self._drain.reason

    def progress(self) -> tuple[OutcomeCounts, int, float]:
        """Return the counts so far, the calls in flight, and the current rate in requests per second."""
        return self._counts, self._caller.in_flight, self._limiter.rate_per_s

    def take_throttled_s(self) -> int:
        """Return the whole seconds of throttling since the last call of this method, as Beam's runner expects."""
        return self._caller.take_throttled_s()

    def close(self) -> None:
        """Record all answers and end the loop. Called at the end of a run, not in a teardown."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(timeout=60)
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -- on the loop's thread --------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        except BaseException as error:
            self._error = wrap_error(error)
        finally:
            self._ready.set()
            self._loop.close()

    async def _main(self) -> None:
        settings, calls = self.settings, self.settings.call_settings
        self._closing = asyncio.Event()
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(settings.in_flight + PREPARED)
        self._limiter = AdaptiveRateLimiter(
            time.monotonic(), max_requests_per_s=settings.max_per_s, max_tokens_per_s=settings.max_tokens_per_s
        )
        self._bq = BigQueryClient(calls.project)
        self._recorder: BigQueryRecorder | PassThrough = PassThrough()
        if settings.destination is not None:
            vectors = settings.destination.vectors
            self._recorder = BigQueryRecorder(
                self._bq,
                settings.destination.outcomes,
                calls.columns(settings.run_id),
                self._executor,
                self._on_recording_error,
                vectors=None if vectors is None else VectorTable(vectors, calls.task, settings.run_id),
            )
        if settings.caps is not None:
            self._budget = Budget(settings.caps, self._blocking)
        client = open_client(calls.task, calls.project, calls.location)
        self._caller = UnitCaller(
            settings, client, self._executor, limiter=self._limiter, drain=self._drain, budget=self._budget
        )
        background = [self._loop.create_task(self._dispatch())]
        if settings.destination is not None:
            alive = keep_alive(
                self._bq,
                settings.destination,
                settings.run_id,
                drain=self._drain,
                counts=lambda: self._counts,
                blocking=self._blocking,
            )
            background.append(self._loop.create_task(alive))
        self._ready.set()
        await self._closing.wait()
        await self._recorder.close()
        for task in background:
            task.cancel()
        await client.close()

    def _submit(self, batch: UnitBatch, sink: Sink) -> None:
        running = self._entries.get(batch.batch_id)
        if running is not None:
            for result in running.finished:
                sink.put((batch.batch_id, result))
            if running.remaining and sink not in running.sinks:
                running.sinks.append(sink)
            return
        entry = _Entry(batch, [sink], [], batch.size)
        self._entries[batch.batch_id] = entry
        self._keep(self._open(entry))

    async def _open(self, entry: _Entry) -> None:
        batch = entry.batch
        try:
            units = unpack(batch)
            if len(units) != batch.size:
                raise SystemicError(f"unit batch {batch.batch_id}: {len(units)} units instead of {batch.size}")
            recovered = await self._blocking(
                functools.partial(recover_outcomes, self._bq, self.settings, batch.batch_id, units)
            )
            for unit in units:
                outcome = recovered.get((unit.unit_id, unit.input_digest))
                if outcome is None:
                    self._queue.append((entry, unit))
                else:
                    self._finish(entry, CallResult(outcome, recovered=True))
            self._wake.set()
        except Exception as error:
            self._error = wrap_error(error)  # the bundle waits for this unit batch: check() must raise

    async def _dispatch(self) -> None:
        """Open units while there are slots, first in, first out."""
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._slots.acquire()
            if not self._drain.started:
                await self._recorder.wait_for_room()
            entry, unit = self._queue.popleft()
            if self._drain.started:
                self._slots.release()
                self._finish(entry, skipped(unit, self._drain.reason))
                continue
            self._keep(self._call(entry, unit))

    async def _call(self, entry: _Entry, unit: Unit) -> None:
        try:
            result = await self._caller.call(unit)
        except SystemicError as error:
            self._drain.start(f"systemic: {error}")
            result = skipped(unit, str(error))
        except Exception as error:
            _log.exception("unit %s", unit.unit_id)
            self._drain.start(f"systemic: unit {unit.unit_id}: {type(error).__name__}: {first_line(error)}")
            result = skipped(unit, first_line(error))
        finally:
            self._slots.release()
        if result.outcome.status is Status.SKIPPED:
            self._finish(entry, result)
            return
        if problem := self._breaker.record(result.outcome):
            self._drain.start(problem)
        self._recorder.put(result.outcome, lambda kept: self._finish(entry, dataclasses.replace(result, outcome=kept)))

    def _finish(self, entry: _Entry, result: CallResult) -> None:
        entry.finished.append(result)
        entry.remaining -= 1
        self._counts = self._counts + result.counts
        for sink in entry.sinks:
            sink.put((entry.batch.batch_id, result))
        if entry.remaining == 0 and self.settings.destination is not None:
            # Recorded outcomes need not stay in memory: a retried bundle finds them in the table.
            del self._entries[entry.batch.batch_id]

    def _on_recording_error(self, error: SystemicError) -> None:
        self._drain.start(f"systemic: {error}")
        self._error = error  # waiting outcomes will never be recorded: the bundles must not wait for them

    def _on_drain(self) -> None:
        if self._budget is not None:
            self._budget.close()
        self._wake.set()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        return await self._loop.run_in_executor(self._executor, call)


def skipped(unit: Unit, reason: str | None) -> CallResult:
    """Return the result of a unit that was never sent."""
    return CallResult(Outcome(unit, Answer(Status.SKIPPED, message=reason)))


def wrap_error(error: BaseException) -> ImagebeamError:
    """Return the error that bundles raise when an unexpected error ended the engine."""
    if isinstance(error, ImagebeamError):
        return error
    return SystemicError(f"the engine failed: {type(error).__name__}: {first_line(error)}")


# The process id is part of the key: a forked worker must not use its parent's engine, whose thread it lacks.
_engines: dict[tuple[int, str], Engine] = {}
_engines_lock = threading.Lock()


def get_engine(settings: EngineSettings) -> Engine:
    """Return the engine of a run in this process; the first call starts it."""
    key = (os.getpid(), settings.run_id)
    with _engines_lock:
        if key not in _engines:
            _engines[key] = Engine(settings)
        return _engines[key]


def live_engines() -> list[Engine]:
    """Return the engines of this process."""
    with _engines_lock:
        return [engine for (pid, _), engine in _engines.items() if pid == os.getpid()]


def close_engine(run_id: str) -> None:
    """Close the engine of a run in this process, if there is one."""
    with _engines_lock:
        engine = _engines.pop((os.getpid(), run_id), None)
    if engine is not None:
        engine.close()
