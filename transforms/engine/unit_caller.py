"""Call the model for one unit until it has an outcome: images, request, rate limit, budget, retries, answer.

What is retried, and what counts as an attempt:

====================  ===========================================  =====================================
response              reaction                                     final outcome
====================  ===========================================  =====================================
429 (quota)           lower the rate and retry at it; not an       none: without any granted call for
                      attempt, and the unit's deadline pauses      :data:`STALL_S` the engine drains
408, 499, 5xx,        wait (exponential, full jitter) and retry    UNAVAILABLE after ``attempts`` calls
connection, timeout                                                or the unit's deadline; retried by
                                                                   the next run
invalid answer        retry once; if it was truncated, with twice  INVALID_ANSWER
                      the output limit, and room for thoughts
failure of the unit   none                                         BLOCKED, BAD_REQUEST, IMAGE_ERROR
failure of the run    drain the engine                             SKIPPED; the unit remains
====================  ===========================================  =====================================
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import functools
import threading
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.clients.vertex import ModelClient
from imagebeam.transforms.core import images
from imagebeam.transforms.core.counts import OutcomeCounts, count_outcome
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.records import Answer, Outcome, Status, Unit, Usage, utc_now
from imagebeam.transforms.engine.budget import Budget, Reservation
from imagebeam.transforms.engine.drain import Drain
from imagebeam.transforms.engine.image_parts import ImageLoader, image_failure
from imagebeam.transforms.engine.max_cost import max_call_cost_usd
from imagebeam.transforms.engine.rate_limiter import AdaptiveRateLimiter
from imagebeam.transforms.engine.retry_policy import backoff_s, may_be_image_type, with_larger_limit
from imagebeam.transforms.engine.settings import EngineSettings
from imagebeam.transforms.gemini.error_classes import Failure, FailureKind, classify_exception, classify_http
from imagebeam.transforms.gemini.json_values import load_json
from imagebeam.transforms.gemini.requests import ImagePart, lane_headers
from imagebeam.transforms.gemini.task_kinds import task_kind
from imagebeam.transforms.tasks.costs import cost_usd, estimate_usage, expected_thoughts

#: A run stops after this many seconds in which every call was rejected for quota.
STALL_S = 900.0
POLL_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class CallResult:
    """An outcome, and the calls that it took.

    Attributes:
        outcome: Outcome of the unit.
        calls: Calls sent, including those rejected for quota.
        throttled: Calls rejected for quota (429).
        recovered: True if an earlier attempt at the unit batch recorded the outcome: nothing was sent.
    """

    outcome: Outcome
    calls: int = 0
    throttled: int = 0
    recovered: bool = False

    @property
    def counts(self) -> OutcomeCounts:
        """The counts of this one unit."""
        counts = count_outcome(self.outcome)
        return dataclasses.replace(counts, read=1, calls=self.calls, throttled=self.throttled)


@dataclasses.dataclass(slots=True)
class _CallState:
    """What the calls about one unit have taken so far; times are of the monotonic clock."""

    unit: Unit
    expected_tokens: float
    calls: int = 0
    throttled: int = 0
    attempts: int = 0
    usage: Usage = Usage()
    first_sent: float | None = None
    sent_at: float = 0.0
    waited_s: float = 0.0
    latency_ms: int = 0
    answered_by_http: bool = False


class UnitCaller:
    """Call the model, one coroutine per unit; use it only on the engine's event loop.

    Args:
        settings: The engine's settings.
        client: Client of the model.
        executor: Threads for reading and preparing images.
        limiter: Rate limiter of this process.
        drain: The engine's draining state.
        budget: Budget of this process; None without caps.

    Attributes:
        in_flight: Calls sent and not yet answered.
    """

    def __init__(
        self,
        settings: EngineSettings,
        client: ModelClient,
        executor: concurrent.futures.Executor,
        *,
        limiter: AdaptiveRateLimiter,
        drain: Drain,
        budget: Budget | None = None,
    ) -> None:
        calls = settings.call_settings
        self._settings = calls
        self._kind = task_kind(calls.task)
        self._model = calls.endpoint or calls.task.model
        self._client = client
        self._limiter = limiter
        self._drain = drain
        self._budget = budget
        self._images = ImageLoader(calls.task, calls.transport, executor)
        self._labels = {"imagebeam_run": settings.run_id, "imagebeam_task": calls.task.name}
        self._headers = lane_headers(calls.lane)
        self._turn = asyncio.Lock()
        self._window = asyncio.Semaphore(settings.in_flight)
        self._expected_tokens = functools.cache(functools.partial(estimate_usage, calls.profile, calls.task))
        self._expected_thoughts = expected_thoughts(calls.profile, calls.task)
        self.in_flight = 0
        self._last_grant = time.monotonic()
        self._throttled_s = 0.0
        self._throttled_lock = threading.Lock()

    def take_throttled_s(self) -> int:
        """Return the whole seconds of throttling that no earlier call of this method returned. Thread-safe."""
        with self._throttled_lock:
            whole = int(self._throttled_s)
            self._throttled_s -= whole
        return whole

    async def call(self, unit: Unit) -> CallResult:
        """Call the model for a unit, with retries.

        Raises:
            SystemicError: A failure that would affect every further call.
        """
        state = _CallState(unit, float(self._expected_tokens(len(unit.images)).total_tokens))
        try:
            image_parts = await self._images.load(unit)
        except images.ImageError as problem:
            return self._failed(state, image_failure(problem))
        except Exception as error:
            return self._failed(state, _unit_failure(classify_exception(error)))
        try:
            return await self._call_with(state, image_parts)
        finally:
            self._images.release(image_parts)

    async def _call_with(self, state: _CallState, image_parts: list[ImagePart]) -> CallResult:
        body = self._body(state.unit, image_parts)
        invalid: Answer | None = None
        corrected = False
        while (got := await self._send(body, state)) is not None:
            if isinstance(got, Answer):
                state.usage = state.usage + got.usage
                if not got.retryable or invalid is not None:
                    return self._result(state, got)
                invalid = got
                if got.reason == "TRUNCATED":
                    thoughts = max(got.usage.thought_tokens, self._expected_thoughts)
                    body = with_larger_limit(body, thoughts=thoughts, maximum=self._settings.profile.max_output_tokens)
            elif got.kind is FailureKind.THROTTLED:
                self._on_throttled(state, got)
            elif got.kind is FailureKind.TRANSIENT:
                if state.attempts >= self._settings.attempts or self._is_past_deadline(state):
                    return self._failed(state, got)
                await self._pause(backoff_s(state.attempts, got.retry_after, self._settings.wait_multiplier_s))
            elif got.kind is FailureKind.RUN and invalid is not None:
                self._drain.start(f"systemic: {got.reason}: {got.message}")
                break
            elif invalid is not None:
                break  # the model may reject the larger limit
            else:
                failure = _unit_failure(got)
                if corrected or not may_be_image_type(failure):
                    return self._failed(state, failure)
                corrected = True
                better = await self._images.correct(state.unit, image_parts)
                if not isinstance(better, list):
                    return self._failed(state, better or failure)
                body = self._body(state.unit, better)
        if invalid is not None:
            return self._result(state, invalid)  # it was paid for, so it is recorded
        return CallResult(Outcome(state.unit, Answer(Status.SKIPPED)), state.calls, state.throttled)

    # -- one call --------------------------------------------------------------------------------------

    async def _send(self, body: Mapping[str, Any], state: _CallState) -> Answer | Failure | None:
        """Send one call, within budget and rate; None if the engine drains."""
        queued_at = time.monotonic()
        # In FIFO order. Only the first caller polls budget and clock: a thousand units behind it
        # cost nothing, and money is reserved only for a call that is about to be sent.
        async with self._turn:
            await self._window.acquire()
            reservation, granted = None, False
            try:
                reservation = await self._reserve(body)
                granted = reservation is not None and await self._wait_for_rate(state.expected_tokens)
            finally:
                if not granted:
                    self._window.release()
            if reservation is None:
                return None
            if not granted:
                reservation.settle(Decimal(0), sent=False)
                return None
        if state.first_sent is not None:
            state.waited_s += time.monotonic() - queued_at
        with reservation:
            got = await self._exchange(body, state)
            if isinstance(got, Answer):
                self._limiter.settle(state.expected_tokens, got.usage.total_tokens)
                reservation.settle(self._cost(got.usage), sent=True)
            elif state.answered_by_http:
                # Google bills answers only; a call that was rejected for quota does not count as a call.
                reservation.settle(Decimal(0), sent=got.kind is not FailureKind.THROTTLED)
        return got

    async def _reserve(self, body: Mapping[str, Any]) -> Reservation | None:
        if self._budget is None or self._drain.started:
            return Reservation()
        calls = self._settings
        reservation = await self._budget.reserve(max_call_cost_usd(calls.profile, calls.task, calls.lane, body))
        if reservation is None and self._budget.reason:
            self._drain.start(self._budget.reason)
        return reservation

    async def _wait_for_rate(self, tokens: float) -> bool:
        """Wait until the rate limiter grants a call; False if the engine drains."""
        first = time.monotonic()
        while not self._drain.started:
            now = time.monotonic()
            wait = self._limiter.wait_s(now, tokens)
            if wait <= 0:
                if now > first:
                    with self._throttled_lock:
                        self._throttled_s += now - first
                return True
            await asyncio.sleep(min(wait, POLL_S))
        return False

    async def _exchange(self, body: Mapping[str, Any], state: _CallState) -> Answer | Failure:
        """Send one request, and parse the response."""
        state.sent_at = time.monotonic()
        state.first_sent = state.first_sent or state.sent_at
        state.calls += 1
        state.attempts += 1
        state.answered_by_http = False
        self.in_flight += 1
        try:
            response = await self._client.send(
                self._model, body, headers=self._headers, timeout_s=self._settings.call_timeout_s
            )
        except Exception as error:
            return classify_exception(error)
        finally:
            # The next call is sent before this response is parsed: it waits at the head of the queue, prepared.
            self.in_flight -= 1
            self._window.release()
        now = time.monotonic()
        state.latency_ms = round((now - state.sent_at) * 1000)
        if response.code != 200:
            state.answered_by_http = True
            failure = classify_http(response.code, response.body, response.headers)
            if failure.kind is not FailureKind.THROTTLED:
                self._last_grant = now
            return failure
        self._last_grant = now
        document = load_json(response.body or b"{}")
        if not isinstance(document, dict):
            message = "the response is not a JSON object"
            return Failure(FailureKind.TRANSIENT, Status.UNAVAILABLE, "GARBAGE", message)
        return self._kind.parse_response(document)

    def _body(self, unit: Unit, image_parts: list[ImagePart]) -> dict[str, Any]:
        return self._kind.build_request(self._settings.profile, unit, image_parts, self._labels)

    def _on_throttled(self, state: _CallState, failure: Failure) -> None:
        now = time.monotonic()
        state.attempts -= 1
        state.throttled += 1
        self._limiter.refused(now, state.sent_at, state.expected_tokens, failure.retry_after)
        if now - self._last_grant > STALL_S:
            self._drain.start(f"quota: no call was granted for {STALL_S / 60:.0f} minutes: {failure.message}")

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._drain.started and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, POLL_S))

    def _is_past_deadline(self, state: _CallState) -> bool:
        sent = state.first_sent or time.monotonic()
        return time.monotonic() - sent - state.waited_s > self._settings.unit_deadline_s

    # -- outcomes --------------------------------------------------------------------------------------

    def _failed(self, state: _CallState, failure: Failure) -> CallResult:
        return self._result(state, Answer(failure.status, failure.reason, failure.message))

    def _result(self, state: _CallState, answer: Answer) -> CallResult:
        outcome = Outcome(
            unit=state.unit,
            answer=answer,
            usage=state.usage,
            cost_usd=self._cost(state.usage),
            attempts=state.attempts,
            latency_ms=state.latency_ms,
            answered_at=utc_now(),
        )
        return CallResult(outcome, state.calls, state.throttled)

    def _cost(self, usage: Usage) -> Decimal | None:
        return cost_usd(self._settings.profile, self._settings.lane, usage)


def _unit_failure(failure: Failure) -> Failure:
    """Return a failure that concerns one unit only; raise one that concerns the run."""
    if failure.kind is FailureKind.RUN:
        raise SystemicError(f"{failure.reason}: {failure.message}")
    return failure
