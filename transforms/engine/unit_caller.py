"""Asks about one unit until there is an outcome: images, request, pace, retry, answer.

What is retried, and what counts as an attempt:

==============  ==========================================  =======================================
what came back  what is done                                when it gives up
==============  ==========================================  =======================================
refused (429)   the pace drops; asked again at that pace,   never by itself: after a long time
                no attempt is used, the deadline pauses     without any grant the run drains
408, 499, 5xx,  waited (exponential, full jitter), asked    after ``attempts`` or the unit's
broken line,    again                                       deadline: UNAVAILABLE, due again
timeout
no valid        asked again once, with twice the output     INVALID_ANSWER
answer          limit if it was truncated
this row only   nothing                                     at once: BLOCKED, BAD_REQUEST,
                                                            IMAGE_ERROR
all rows        the engine drains                           at once; the unit stays due
==============  ==========================================  =======================================
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import orjson

from imagebeam.transforms.clients.vertex import ModelClient
from imagebeam.transforms.core import images
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.records import Outcome, Status, Unit, Usage, utc_now
from imagebeam.transforms.engine.budget import Budget, NothingReserved, Reservation
from imagebeam.transforms.engine.image_parts import ImageLoader, image_failure
from imagebeam.transforms.engine.max_cost import max_call_cost_usd
from imagebeam.transforms.engine.rate_limiter import AdaptiveRateLimiter
from imagebeam.transforms.engine.retry_policy import about_content, wait_s, with_larger_limit
from imagebeam.transforms.engine.settings import CallSettings
from imagebeam.transforms.gemini.dispatch import build_call, read_call
from imagebeam.transforms.gemini.error_classes import Failure, Kind, classify_exception, classify_http
from imagebeam.transforms.gemini.requests import ImagePart, lane_headers
from imagebeam.transforms.gemini.responses import Reply
from imagebeam.transforms.tasks.model_profiles import cost_usd, estimate_usage

STALL_S = 900.0
POLL_S = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """An outcome, and what it took.

    Attributes:
        outcome: What became of the unit.
        calls: Calls sent, refused ones included.
        throttled: Calls refused for quota.
    """

    outcome: Outcome
    calls: int = 0
    throttled: int = 0


@dataclasses.dataclass(slots=True)
class _Effort:
    """What one unit has cost so far."""

    unit: Unit
    calls: int = 0
    throttled: int = 0
    attempts: int = 0
    usage: Usage = Usage()
    first_sent: float | None = None
    sent_at: float = 0.0
    waited_s: float = 0.0
    latency_ms: int = 0
    refused_by_http: bool = False
    tokens: float = 0.0


class UnitCaller:
    """Asks about units, one coroutine each; belongs to the engine's event loop.

    Args:
        asking: How to ask.
        client: The model.
        in_flight: Calls under way at once.
        pacer: The pace of this process.
        executor: Threads for reading and preparing images.
        labels: Billing labels of every request.
        stopped: True once nothing new may be sent.
        stop: Called with the reason when nothing more can be sent: the budget has ended, or the service has
            granted nothing for a long time.
        budget: What may be spent; None for no cap.

    Attributes:
        under_way: Calls sent and not yet answered.
    """

    def __init__(
        self,
        call_settings: CallSettings,
        client: ModelClient,
        *,
        in_flight: int,
        limiter: AdaptiveRateLimiter,
        executor: concurrent.futures.Executor,
        labels: Mapping[str, str],
        stopped: Callable[[], bool],
        stop: Callable[[str], None],
        budget: Budget | None = None,
    ) -> None:
        self._call_settings = call_settings
        self._client = client
        self._pacer = limiter
        self._parts = ImageLoader(call_settings.task, call_settings.transport, executor)
        self._labels = dict(labels)
        self._stopped = stopped
        self._stop = stop
        self._budget = budget
        self._headers = lane_headers(call_settings.lane)
        self._turn = asyncio.Lock()
        self._window = asyncio.Semaphore(in_flight)
        self._estimates: dict[int, float] = {}
        self.under_way = 0
        self._last_grant = time.monotonic()
        self._throttled_s = 0.0
        self._throttled_lock = threading.Lock()

    def take_throttled_s(self) -> int:
        """Whole seconds for which the pace held calls back, each told once. From any thread."""
        with self._throttled_lock:
            whole = int(self._throttled_s)
            self._throttled_s -= whole
        return whole

    async def ask(self, unit: Unit) -> Asked:
        """Asks about a unit.

        Raises:
            SystemicError: Something that every further call would meet too.
        """
        effort = _Effort(unit, tokens=self._estimate(len(unit.images)))
        try:
            parts = await self._parts.make(unit)
        except images.ImageProblem as problem:
            return self._failed(effort, image_failure(problem))
        except Exception as error:
            return self._failed(effort, self._row_failure(classify_exception(error)))
        try:
            return await self._ask_with(effort, parts)
        finally:
            self._parts.release(parts)

    async def _ask_with(self, effort: _Effort, parts: list[ImagePart]) -> Asked:
        body = self._body(effort.unit, parts)
        invalid: Reply | None = None
        corrected = False
        while (got := await self._send(body, effort)) is not None:
            if isinstance(got, Reply):
                effort.usage = effort.usage + got.usage
                if not got.retryable or invalid is not None:
                    return self._answered(effort, got)
                invalid = got
                if got.reason == "TRUNCATED":
                    body = with_larger_limit(body)
            elif got.kind is Kind.THROTTLED:
                self._refused(effort, got)
            elif got.kind is Kind.TRANSIENT:
                if effort.attempts >= self._call_settings.attempts or self._late(effort):
                    return self._failed(effort, got)
                await self._pause(wait_s(effort.attempts, got.retry_after, self._call_settings.wait_multiplier_s))
            elif got.kind is Kind.FATAL and invalid is not None:
                self._stop(f"systemic: {got.reason}: {got.message}")
                break
            else:
                failure = self._row_failure(got)
                if corrected or not about_content(failure):
                    return self._failed(effort, failure)
                corrected = True
                better = await self._parts.correct(effort.unit, parts)
                if not isinstance(better, list):
                    return self._failed(effort, better or failure)
                body = self._body(effort.unit, better)
        if invalid is not None:
            return self._answered(effort, invalid)  # it was paid: it stands in the books
        return Asked(Outcome(effort.unit, Status.SKIPPED), effort.calls, effort.throttled)

    # -- the call --------------------------------------------------------------------------------------

    async def _send(self, body: Mapping[str, Any], effort: _Effort) -> Reply | Failure | None:
        """One call, within the budget and at the pace; None once nothing may be sent any more."""
        came = time.monotonic()
        # First come, first served. Only the first in the line looks at budget and clock: a thousand units
        # behind it cost nothing, and money is set aside only for a call that is about to go.
        async with self._turn:
            await self._window.acquire()
            reservation, goes = None, False
            try:
                reservation = await self._reserve(body)
                goes = reservation is not None and await self._keep_pace(effort.tokens)
            finally:
                if not goes:
                    self._window.release()
            if reservation is None:
                return None
            if not goes:
                reservation.settle(Decimal(0), sent=False)
                return None
        if effort.first_sent is not None:
            effort.waited_s += time.monotonic() - came
        with reservation:
            got = await self._call(body, effort)
            if isinstance(got, Reply):
                self._pacer.settle(effort.tokens, got.usage.total_tokens)
                reservation.settle(self._cost(got.usage), sent=True)
            elif effort.refused_by_http:
                # Google bills answers; a call that was refused for quota was not even taken.
                reservation.settle(Decimal(0), sent=got.kind is not Kind.THROTTLED)
        return got

    async def _reserve(self, body: Mapping[str, Any]) -> Reservation | NothingReserved | None:
        if self._budget is None or self._stopped():
            return NothingReserved()
        call_settings = self._call_settings
        reservation = await self._budget.reserve(
            max_call_cost_usd(call_settings.profile, call_settings.task, call_settings.lane, body)
        )
        if reservation is None and self._budget.reason:
            self._stop(self._budget.reason)
        return reservation

    async def _keep_pace(self, tokens: float) -> bool:
        """Waits until the pace lets a call go; False once nothing may be sent any more."""
        first = time.monotonic()
        while not self._stopped():
            now = time.monotonic()
            wait = self._pacer.wait_s(now, tokens)
            if wait <= 0:
                if now > first:
                    with self._throttled_lock:
                        self._throttled_s += now - first
                return True
            await asyncio.sleep(min(wait, POLL_S))
        return False

    async def _call(self, body: Mapping[str, Any], effort: _Effort) -> Reply | Failure:
        effort.sent_at = time.monotonic()
        effort.first_sent = effort.first_sent or effort.sent_at
        effort.calls += 1
        effort.attempts += 1
        effort.refused_by_http = False
        self.under_way += 1
        try:
            answer = await self._client.send(
                self._call_settings.task.model,
                body,
                headers=self._headers,
                timeout_s=self._call_settings.call_timeout_s,
            )
        except Exception as error:
            return classify_exception(error)
        finally:
            # The next call goes out before this answer is read: it waits at the head of the line, prepared.
            self.under_way -= 1
            self._window.release()
        now = time.monotonic()
        effort.latency_ms = round((now - effort.sent_at) * 1000)
        if answer.code != 200:
            effort.refused_by_http = True
            failure = classify_http(answer.code, answer.body, answer.headers)
            if failure.kind is not Kind.THROTTLED:
                self._last_grant = now
            return failure
        self._last_grant = now
        try:
            document = orjson.loads(answer.body or b"{}")
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            return Failure(Kind.TRANSIENT, Status.UNAVAILABLE, "GARBAGE", "the answer is not a JSON object", None)
        return read_call(document, self._call_settings.task)

    def _body(self, unit: Unit, parts: list[ImagePart]) -> dict[str, Any]:
        return build_call(self._call_settings.task, self._call_settings.profile, unit, parts, self._labels)

    def _refused(self, effort: _Effort, failure: Failure) -> None:
        now = time.monotonic()
        effort.attempts -= 1
        effort.throttled += 1
        self._pacer.refused(now, effort.sent_at, effort.tokens, failure.retry_after)
        if now - self._last_grant > STALL_S:
            self._stop(f"quota: no call was granted for {STALL_S / 60:.0f} minutes: {failure.message}")

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopped() and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, POLL_S))

    def _late(self, effort: _Effort) -> bool:
        sent = effort.first_sent or time.monotonic()
        return time.monotonic() - sent - effort.waited_s > self._call_settings.unit_deadline_s

    def _estimate(self, images_sent: int) -> float:
        """Tokens that a call with so many images will take about."""
        if images_sent not in self._estimates:
            usage = estimate_usage(self._call_settings.profile, self._call_settings.task, images_sent)
            self._estimates[images_sent] = float(usage.total_tokens)
        return self._estimates[images_sent]

    # -- outcomes --------------------------------------------------------------------------------------

    def _answered(self, effort: _Effort, reply: Reply) -> Asked:
        return self._asked(
            effort,
            status=reply.status,
            reason=reply.reason,
            message=reply.message,
            answer=reply.answer,
            raw_text=reply.raw_text,
            model_version=reply.model_version,
            response_id=reply.response_id,
            vector=reply.vector,
        )

    def _failed(self, effort: _Effort, failure: Failure) -> Asked:
        return self._asked(effort, status=failure.status, reason=failure.reason, message=failure.message)

    def _asked(self, effort: _Effort, **found: Any) -> Asked:
        outcome = Outcome(
            unit=effort.unit,
            usage=effort.usage,
            cost_usd=self._cost(effort.usage),
            attempts=effort.attempts,
            latency_ms=effort.latency_ms,
            answered_at=utc_now(),
            **found,
        )
        return Asked(outcome, effort.calls, effort.throttled)

    def _cost(self, usage: Usage) -> Decimal:
        return cost_usd(self._call_settings.profile, self._call_settings.lane, usage)

    @staticmethod
    def _row_failure(failure: Failure) -> Failure:
        """The failure, if it is this row's; what every call would meet is raised."""
        if failure.kind is Kind.FATAL:
            raise SystemicError(f"{failure.reason}: {failure.message}")
        return failure
