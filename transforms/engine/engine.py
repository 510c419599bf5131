"""The engine: one per worker process, one event loop, one client, one pace, one recorder.

Bundles hand it groups of units and take back outcomes; the calls overlap across groups and bundles, so
the window of calls in flight is full whatever the runner's bundles look like. A group belongs to the
engine and not to the bundle: a retried bundle that submits the same group again attaches to the running
one, and gets what is finished at once.
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
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from imagebeam.transforms.clients import lease, storage
from imagebeam.transforms.clients.bigquery import BigQueryClient
from imagebeam.transforms.clients.embedding_client import client_of
from imagebeam.transforms.core import unit_batch
from imagebeam.transforms.core.counts import OutcomeCounts, count_outcome
from imagebeam.transforms.core.errors import ImagebeamError, SystemicError, first_line
from imagebeam.transforms.core.records import Outcome, Status, Unit, utc_now
from imagebeam.transforms.engine import unit_caller
from imagebeam.transforms.engine.budget import Budget
from imagebeam.transforms.engine.rate_limiter import AdaptiveRateLimiter
from imagebeam.transforms.engine.recorder import BigQueryRecorder, PassThrough, Recorder, VectorTable
from imagebeam.transforms.engine.settings import Destination, EngineSettings
from imagebeam.transforms.sql.outcome_queries import answered_units_query

THREADS = 24
BREAKER_OUTCOMES = 50
FAILURES_AFTER = 200
#: Units whose requests are ready before there is a place for them in the window.
PREPARED = 64
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """Told to a sink when a unit of its group is finished.

    Attributes:
        group_id: The group.
        outcome: What became of the unit; recorded, if there is a destination.
        calls: Calls made for it, refused ones included.
        throttled: Those of them that were refused for quota.
        recovered: True if an earlier attempt at the group had it answered already: nothing was called.
    """

    group_id: str
    outcome: Outcome
    calls: int = 0
    throttled: int = 0
    recovered: bool = False


Sink = queue.SimpleQueue[Done]


@dataclasses.dataclass(slots=True)
class _Group:
    group: unit_batch.Group
    sinks: list[Sink]
    finished: list[Done]
    left: int


class Engine:
    """See the module. Made by :func:`get_engine`; all methods may be called from any thread."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._groups: dict[str, _Group] = {}
        self._queue: collections.deque[tuple[_Group, Unit]] = collections.deque()
        self._stop: str | None = None
        self._error: BaseException | None = None
        self._counts = OutcomeCounts()
        self._outcomes: collections.Counter[str] = collections.Counter()
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

    def submit(self, group: unit_batch.Group, sink: Sink) -> None:
        """Takes a group; each of its units is told to the sink once. Idempotent per group and sink."""
        self.check()
        self._loop.call_soon_threadsafe(self._submit, group, sink)

    def check(self) -> None:
        """Raises what killed the engine, if something did: a dead loop is never waited for."""
        if self._error is not None:
            raise self._error
        if self._ready.is_set() and not self._thread.is_alive():
            raise SystemicError("the engine's thread is gone")

    def drain(self, reason: str) -> None:
        """Sends nothing new: what is in flight is recorded, the rest is skipped. The first reason stays."""
        self._loop.call_soon_threadsafe(self._set_stop, reason)

    @property
    def stop_reason(self) -> str | None:
        """Why the engine drains; None while it does not."""
        return self._stop

    def progress(self) -> tuple[OutcomeCounts, int, float]:
        """OutcomeCounts so far, calls in flight and the present pace in requests per second."""
        return self._counts, self._asker.under_way, self._pacer.rate_per_s

    def take_throttled_s(self) -> int:
        """Whole seconds spent refused for quota since the last call, told once: what Beam's runner wants."""
        return self._asker.take_throttled_s()

    def close(self) -> None:
        """Records what is answered and ends the loop. Called at the end of a run, not in a teardown."""
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
            self._error = died(error)
        finally:
            self._ready.set()
            self._loop.close()

    async def _main(self) -> None:
        settings = self.settings
        self._closing = asyncio.Event()
        self._wake = asyncio.Event()
        self._places = asyncio.Semaphore(settings.in_flight + PREPARED)
        self._pacer = AdaptiveRateLimiter(
            time.monotonic(), max_requests_per_s=settings.max_per_s, max_tokens_per_s=settings.max_tokens_per_s
        )
        self._bq = BigQueryClient(settings.call_settings.project)
        self._recorder: Recorder = PassThrough()
        if settings.destination is not None:
            self._recorder = BigQueryRecorder(
                self._bq,
                settings.destination.outcomes,
                settings.call_settings.columns(settings.run_id),
                self._executor,
                self._recording_failed,
                vectors=None
                if settings.destination.vectors is None
                else VectorTable(settings.destination.vectors, settings.call_settings.task, settings.run_id),
            )
        if settings.caps is not None:
            caps = settings.caps
            self._budget = Budget(
                caps.directory,
                max_cost_usd=caps.max_cost_usd,
                max_calls=caps.max_calls,
                processes=caps.processes,
                max_call_usd=caps.max_call_usd,
                blocking=self._blocking,
            )
        client = client_of(settings.call_settings.task, settings.call_settings.project, settings.call_settings.location)
        self._asker = unit_caller.UnitCaller(
            settings.call_settings,
            client,
            in_flight=settings.in_flight,
            limiter=self._pacer,
            executor=self._executor,
            labels={"imagebeam_run": settings.run_id, "imagebeam_task": settings.call_settings.task.name},
            stopped=lambda: self._stop is not None,
            stop=self._set_stop,
            budget=self._budget,
        )
        background = [self._loop.create_task(self._dispatch())]
        if settings.destination is not None:
            background.append(self._loop.create_task(self._keep_alive(settings.destination)))
        self._ready.set()
        await self._closing.wait()
        await self._recorder.close()
        for task in background:
            task.cancel()
        await client.close()

    def _submit(self, group: unit_batch.Group, sink: Sink) -> None:
        running = self._groups.get(group.group_id)
        if running is not None:
            for done in running.finished:
                sink.put(done)
            if running.left and sink not in running.sinks:
                running.sinks.append(sink)
            return
        entry = _Group(group, [sink], [], group.size)
        self._groups[group.group_id] = entry
        self._keep(self._open(entry))

    async def _open(self, entry: _Group) -> None:
        try:
            units = unit_batch.unpack(entry.group)
            if len(units) != entry.group.size:
                raise SystemicError(
                    f"group {entry.group.group_id}: {entry.group.size} units packed, {len(units)} found"
                )
            known = await self._recover(entry.group.group_id, units)
            for unit in units:
                outcome = known.get((unit.unit_id, unit.input_digest))
                if outcome is None:
                    self._queue.append((entry, unit))
                else:
                    self._finish(entry, Done(entry.group.group_id, outcome, recovered=True))
            self._wake.set()
        except Exception as error:
            self._error = died(error)  # the bundle waits for this group: it must hear of it

    async def _recover(self, group_id: str, units: Sequence[Unit]) -> Mapping[tuple[str, str], Outcome]:
        """What an earlier attempt at this group recorded; asks BigQuery only if there was one."""
        destination = self.settings.destination
        if destination is None or destination.claims is None:
            return {}
        claim = storage.join(destination.claims, group_id)
        if await self._blocking(lambda: storage.create(claim, str(os.getpid()).encode())):
            return {}
        query = answered_units_query(
            destination.outcomes,
            self.settings.call_settings.task.name,
            self.settings.call_settings.task.version,
            [unit.unit_id for unit in units],
        )
        rows = await self._blocking(lambda: self._bq.query_rows(query))
        by_key = {(unit.unit_id, unit.input_digest): unit for unit in units}
        return {
            key: Outcome(by_key[key], Status(row["status"]), row.get("reason"))
            for row in rows
            if (key := (row["unit_id"], row["input_digest"])) in by_key
        }

    async def _dispatch(self) -> None:
        """Opens units while there is a place for them, first in, first out."""
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._places.acquire()
            if self._stop is None:
                await self._recorder.room()
            entry, unit = self._queue.popleft()
            if self._stop is not None:
                self._places.release()
                self._finish(entry, Done(entry.group.group_id, Outcome(unit, Status.SKIPPED, message=self._stop)))
                continue
            self._keep(self._answer(entry, unit))

    async def _answer(self, entry: _Group, unit: Unit) -> None:
        try:
            asked = await self._asker.ask(unit)
        except SystemicError as error:
            self._fail(error)
            asked = unit_caller.Asked(Outcome(unit, Status.SKIPPED, message=str(error)))
        except Exception as error:
            self._fail(SystemicError(f"asking about {unit.unit_id}: {type(error).__name__}: {first_line(error)}"))
            _log.exception("asking about %s", unit.unit_id)
            asked = unit_caller.Asked(Outcome(unit, Status.SKIPPED, message=first_line(error)))
        finally:
            self._places.release()
        done = Done(entry.group.group_id, asked.outcome, asked.calls, asked.throttled)
        if asked.outcome.status is Status.SKIPPED:
            self._finish(entry, done)
            return
        self._break(asked.outcome)
        self._recorder.put(asked.outcome, lambda kept: self._finish(entry, dataclasses.replace(done, outcome=kept)))

    def _finish(self, entry: _Group, done: Done) -> None:
        entry.finished.append(done)
        entry.left -= 1
        self._counts = self._counts + counts_of(done)
        for sink in entry.sinks:
            sink.put(done)
        if entry.left == 0 and self.settings.destination is not None:
            # What is recorded need not be remembered: a bundle that comes again finds it in the table.
            del self._groups[entry.group.group_id]

    def _break(self, outcome: Outcome) -> None:
        """Trips when the first outcomes of the process all fail for one reason, or too many fail at all."""
        self._outcomes["OK" if outcome.status is Status.OK else f"{outcome.status.value} {outcome.reason or ''}"] += 1
        seen, failed = self._outcomes.total(), self._outcomes.total() - self._outcomes["OK"]
        if seen == BREAKER_OUTCOMES and failed == seen and len(+self._outcomes) == 1:
            self._set_stop(f"systemic: the first {seen} units all failed: {outcome.status.value}: {outcome.message}")
        percent = self.settings.max_failure_percent
        if percent is not None and seen >= FAILURES_AFTER and 100 * failed > percent * seen:
            self._set_stop(f"failures: {failed} of {seen} units failed, more than {percent:g} %")

    def _fail(self, error: ImagebeamError) -> None:
        self._set_stop(f"systemic: {error}")

    def _recording_failed(self, error: SystemicError) -> None:
        self._fail(error)
        self._error = error  # what waits to be recorded never will be: the bundles must not wait for it

    def _set_stop(self, reason: str) -> None:
        if self._stop is None:
            self._stop = reason
            _log.warning("draining: %s", reason)
            if self._budget is not None:
                self._budget.close()
        self._wake.set()

    async def _keep_alive(self, destination: Destination) -> None:
        """Extends the lease and writes a heartbeat, every half a minute."""
        while True:
            await asyncio.sleep(lease.EXTEND_EVERY_S)
            try:
                held = destination.lease is None or await self._blocking(
                    functools.partial(lease.extend, self._bq, destination.lease, self.settings.run_id)
                )
                if destination.runs is not None:
                    beat = self._heartbeat(destination.heartbeat)
                    await self._blocking(
                        functools.partial(self._bq.insert_row, destination.runs, beat, f"{beat['run_id']}-{beat['at']}")
                    )
            except Exception as error:
                _log.warning("keeping the run alive: %s", first_line(error))  # the lease lasts ten minutes
                continue
            if not held:
                self._set_stop(f"lease lost: another run holds it, or run {self.settings.run_id} was cleaned up")

    def _heartbeat(self, said: Mapping[str, Any]) -> dict[str, Any]:
        counts = self._counts
        return {
            **said,
            "event": "heartbeat",
            "at": utc_now(),
            "state": "RUNNING" if self._stop is None else "DRAINING",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "ok": counts.ok,
            "failed": counts.failures,
            "skipped": counts.skipped,
            "calls": counts.calls,
            "throttled": counts.throttled,
            "cost_usd": f"{counts.cost_usd:f}",
        }

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        return await self._loop.run_in_executor(self._executor, call)


def died(error: BaseException) -> ImagebeamError:
    """What the bundles are told when an error of ours ends the engine."""
    if isinstance(error, ImagebeamError):
        return error
    return SystemicError(f"the engine died: {type(error).__name__}: {first_line(error)}")


def counts_of(done: Done) -> OutcomeCounts:
    """The counts of one finished unit."""
    return dataclasses.replace(count_outcome(done.outcome), read=1, calls=done.calls, throttled=done.throttled)


_engines: dict[tuple[int, str], Engine] = {}
_engines_lock = threading.Lock()


def get_engine(settings: EngineSettings) -> Engine:
    """The engine of this process for a run; made at the first call."""
    key = (os.getpid(), settings.run_id)
    with _engines_lock:
        if key not in _engines:
            _engines[key] = Engine(settings)
        return _engines[key]


def live_engines() -> list[Engine]:
    """The engines of this process, for progress and for draining."""
    with _engines_lock:
        return [engine for (pid, _), engine in _engines.items() if pid == os.getpid()]


def close_engine(run_id: str) -> None:
    """Ends the run's engine in this process, if there is one."""
    with _engines_lock:
        engine = _engines.pop((os.getpid(), run_id), None)
    if engine is not None:
        engine.close()
