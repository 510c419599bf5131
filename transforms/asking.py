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
import copy
import dataclasses
import datetime
import functools
import threading
import time
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Literal

import orjson
import tenacity

from imagebeam.transforms import images, objects
from imagebeam.transforms.answers import Reply, read_reply
from imagebeam.transforms.errors import SystemicError
from imagebeam.transforms.failures import Failure, Kind, classify_exception, classify_http
from imagebeam.transforms.pacing import Pacer
from imagebeam.transforms.pricing import ModelProfile, cost_usd
from imagebeam.transforms.records import Image, ImageReason, Outcome, Status, Unit, Usage
from imagebeam.transforms.requests import ImagePart, build_request, lane_headers
from imagebeam.transforms.task import Task
from imagebeam.transforms.vertex import GeminiClient, HttpAnswer

SNIFF_BYTES = 64
STALL_S = 900.0
REASK_OUTPUT_TOKENS = 8192
POLL_S = 0.5

_wait = tenacity.wait_random_exponential(multiplier=1, max=60)


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """How to ask: the same for every unit of a run; picklable.

    Attributes:
        project: Project that pays for the calls.
        location: Location of the model.
        task: What is asked.
        profile: The task's model.
        lane: ``online`` or ``flex``.
        transport: ``uri`` (the service reads the image) or ``inline`` (the image travels in the request).
        call_timeout_s: Seconds until one call is given up.
        unit_deadline_s: Seconds from a unit's first call until it is UNAVAILABLE; time spent refused for
            quota does not count.
        attempts: Calls per unit at most; refused ones do not count.
    """

    project: str
    location: str
    task: Task
    profile: ModelProfile
    lane: Literal["online", "flex"] = "online"
    transport: Literal["uri", "inline"] = "uri"
    call_timeout_s: float = 120.0
    unit_deadline_s: float = 600.0
    attempts: int = 6

    def columns(self, run_id: str) -> dict[str, str]:
        """What every outcome of the run says of how it was asked."""
        return {
            "task": self.task.name,
            "version": self.task.version,
            "model": self.task.model,
            "lane": self.lane,
            "run_id": run_id,
        }


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

    calls: int = 0
    throttled: int = 0
    attempts: int = 0
    usage: Usage = Usage()
    first_sent: float | None = None
    sent_at: float = 0.0
    paused_s: float = 0.0


class Asker:
    """Asks about units, one coroutine each; belongs to the engine's event loop.

    Args:
        asking: How to ask.
        client: Gemini.
        pacer: The pace of this process.
        executor: Threads for reading and preparing images.
        labels: Billing labels of every request.
        stopped: True once nothing new may be sent.
        stalled: Called with a line when the service has granted nothing for a long time.
    """

    def __init__(
        self,
        asking: Asking,
        client: GeminiClient,
        *,
        pacer: Pacer,
        executor: concurrent.futures.Executor,
        labels: Mapping[str, str],
        stopped: Callable[[], bool],
        stalled: Callable[[str], None],
    ) -> None:
        self._asking = asking
        self._client = client
        self._pacer = pacer
        self._executor = executor
        self._labels = dict(labels)
        self._stopped = stopped
        self._stalled = stalled
        self._headers = lane_headers(asking.lane)
        self._last_grant = time.monotonic()
        self._refused_now = 0
        self._refused_since = 0.0
        self._throttled_s = 0.0
        self._throttled_lock = threading.Lock()

    def take_throttled_s(self) -> int:
        """Whole seconds during which some unit waited after a refusal, each told once. From any thread."""
        with self._throttled_lock:
            whole = int(self._throttled_s)
            self._throttled_s -= whole
        return whole

    async def ask(self, unit: Unit) -> Asked:
        """Asks about a unit.

        Raises:
            SystemicError: Something that every further call would meet too.
        """
        effort = _Effort()
        try:
            parts = await self._parts(unit)
        except images.ImageProblem as problem:
            failed = Failure(Kind.ROW, Status.IMAGE_ERROR, problem.reason.value, problem.message, None)
            return self._asked(unit, effort, failed)
        body = build_request(self._asking.task, self._asking.profile, unit, parts, self._labels)
        asked_again = sniffed = False
        while True:
            if not await self._my_turn(effort):
                return Asked(Outcome(unit, Status.SKIPPED), effort.calls, effort.throttled)
            answer, failure, latency_ms = await self._call(body, effort)
            if answer is not None:
                reply = read_reply(answer, self._asking.task)
                effort.usage = effort.usage + reply.usage
                if not reply.retryable or asked_again or self._stopped():
                    return self._answered(unit, effort, reply, latency_ms)
                asked_again = True
                if reply.reason == "TRUNCATED":
                    body = with_larger_limit(body)
                continue
            assert failure is not None  # noqa: S101 - one of the two is always there
            if failure.kind is Kind.FATAL:
                raise SystemicError(f"{failure.reason}: {failure.message}")
            if failure.kind is Kind.THROTTLED:
                await self._refused(effort, failure)
                continue
            if failure.kind is Kind.ROW:
                if not sniffed and self._asking.transport == "uri" and about_content(failure):
                    sniffed = True
                    better = await self._sniff(unit, parts)
                    if isinstance(better, Failure):
                        return self._asked(unit, effort, better)
                    if better is not None:
                        parts = better
                        body = build_request(self._asking.task, self._asking.profile, unit, parts, self._labels)
                        continue
                return self._asked(unit, effort, failure, latency_ms)
            if effort.attempts >= self._asking.attempts or self._late(effort):
                return self._asked(unit, effort, failure, latency_ms)
            await self._pause(wait_s(effort.attempts, failure.retry_after))

    # -- the call --------------------------------------------------------------------------------------

    async def _my_turn(self, effort: _Effort) -> bool:
        """Waits for the pace; False once nothing may be sent any more."""
        while not self._stopped():
            wait = self._pacer.wait_s(time.monotonic())
            if wait <= 0:
                return True
            await asyncio.sleep(min(wait, POLL_S))
        return False

    async def _call(
        self, body: Mapping[str, Any], effort: _Effort
    ) -> tuple[Mapping[str, Any] | None, Failure | None, int]:
        started = time.monotonic()
        effort.first_sent = effort.first_sent or started
        effort.calls += 1
        effort.attempts += 1
        try:
            answer: HttpAnswer = await self._client.generate(
                self._asking.task.model,
                body,
                headers=self._headers,
                timeout_s=self._asking.call_timeout_s,
            )
        except Exception as error:
            return None, classify_exception(error), _ms(started)
        latency_ms = _ms(started)
        if answer.code != 200:
            failure = classify_http(answer.code, answer.body, answer.headers)
            effort.sent_at = started
            if failure.kind is not Kind.THROTTLED:
                self._granted()
            return None, failure, latency_ms
        self._granted()
        try:
            document = orjson.loads(answer.body or b"{}")
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict):
            garbage = Failure(Kind.TRANSIENT, Status.UNAVAILABLE, "GARBAGE", "the answer is not a JSON object", None)
            return None, garbage, latency_ms
        return document, None, latency_ms

    def _granted(self) -> None:
        self._last_grant = time.monotonic()

    async def _refused(self, effort: _Effort, failure: Failure) -> None:
        now = time.monotonic()
        effort.attempts -= 1
        effort.throttled += 1
        self._pacer.refused(now, effort.sent_at, failure.retry_after)
        if now - self._last_grant > STALL_S:
            self._stalled(f"quota: no call was granted for {STALL_S / 60:.0f} minutes: {failure.message}")
        if self._refused_now == 0:
            self._refused_since = now
        self._refused_now += 1
        # A refused unit goes back behind the pace; the jitter keeps the refused from coming back together.
        await self._pause(wait_s(1, None))
        later = time.monotonic()
        effort.paused_s += later - now
        self._refused_now -= 1
        if self._refused_now == 0:
            with self._throttled_lock:
                self._throttled_s += later - self._refused_since

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._stopped() and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, POLL_S))

    def _late(self, effort: _Effort) -> bool:
        sent = effort.first_sent or time.monotonic()
        return time.monotonic() - sent - effort.paused_s > self._asking.unit_deadline_s

    # -- images ----------------------------------------------------------------------------------------

    async def _parts(self, unit: Unit) -> list[ImagePart]:
        if not unit.images:
            raise images.ImageProblem(ImageReason.NO_URI, "the unit has no image")
        if self._asking.transport == "inline":
            jobs = [self._blocking(functools.partial(inline_part, image, self._asking.task)) for image in unit.images]
            return list(await asyncio.gather(*jobs))
        return [await self._uri_part(image) for image in unit.images]

    async def _uri_part(self, image: Image) -> ImagePart:
        if images.parse_gs_uri(image.uri) is None:
            raise images.ImageProblem(
                ImageReason.NO_URI, f"not a gs:// URI: {image.uri[:200]}" if image.uri else "no image URI"
            )
        # The name is believed until the service objects (see _sniff): a read per image would cost more.
        mime = images.mime_from_name(image.uri or "")
        if mime is None:
            head = await self._blocking(functools.partial(objects.read_image, image.uri, limit=SNIFF_BYTES))
            mime = supported_mime(head, image.uri)
        return ImagePart(mime, uri=image.uri)

    async def _sniff(self, unit: Unit, parts: list[ImagePart]) -> list[ImagePart] | Failure | None:
        """After the service could not take an image: what its first bytes say.

        Returns:
            Parts with the right types if one was declared wrongly, the row's failure if the bytes are no
            image that Gemini takes, None if the bytes say nothing new.
        """
        better = []
        for image, part in zip(unit.images, parts, strict=True):
            try:
                head = await self._blocking(functools.partial(objects.read_image, image.uri, limit=SNIFF_BYTES))
                better.append(dataclasses.replace(part, mime_type=supported_mime(head, image.uri)))
            except images.ImageProblem as problem:
                return Failure(Kind.ROW, Status.IMAGE_ERROR, problem.reason.value, problem.message, None)
            except Exception:
                return None
        return better if better != parts else None

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, call)

    # -- outcomes --------------------------------------------------------------------------------------

    def _answered(self, unit: Unit, effort: _Effort, reply: Reply, latency_ms: int) -> Asked:
        outcome = Outcome(
            unit=unit,
            status=reply.status,
            reason=reply.reason,
            message=reply.message,
            answer=reply.answer,
            raw_text=reply.raw_text,
            model_version=reply.model_version,
            response_id=reply.response_id,
            usage=effort.usage,
            cost_usd=self._cost(effort.usage),
            attempts=effort.attempts,
            latency_ms=latency_ms,
            answered_at=utc_now(),
        )
        return Asked(outcome, effort.calls, effort.throttled)

    def _asked(self, unit: Unit, effort: _Effort, failure: Failure, latency_ms: int = 0) -> Asked:
        outcome = Outcome(
            unit=unit,
            status=failure.status,
            reason=failure.reason,
            message=failure.message,
            usage=effort.usage,
            cost_usd=self._cost(effort.usage),
            attempts=effort.attempts,
            latency_ms=latency_ms,
            answered_at=utc_now(),
        )
        return Asked(outcome, effort.calls, effort.throttled)

    def _cost(self, usage: Usage) -> Decimal:
        return cost_usd(self._asking.profile, self._asking.lane, usage)


def inline_part(image: Image, task: Task) -> ImagePart:
    """Reads an image and prepares it as the task says: cropped, downscaled, or as it is."""
    data = objects.read_image(image.uri)
    settings = task.image
    prepared = images.prepare(
        data,
        crop=image.bbox if settings.crop == "bbox" else None,
        padding=settings.padding,
        max_side=settings.max_side,
        quality=settings.quality,
    )
    return ImagePart(prepared.mime_type, data=prepared.data)


def supported_mime(head: bytes, uri: str | None) -> str:
    """The type that the first bytes of an image tell.

    Raises:
        ImageProblem: They are no image, or one that Gemini does not take.
    """
    mime = images.sniff_mime(head)
    if mime is None:
        raise images.ImageProblem(ImageReason.UNREADABLE, f"not an image: {uri}")
    if mime not in images.SUPPORTED:
        raise images.ImageProblem(ImageReason.UNSUPPORTED, f"Gemini does not take {mime}: {uri}")
    return mime


def about_content(failure: Failure) -> bool:
    """True if a look at the image's bytes could explain the failure."""
    return failure.status is Status.BAD_REQUEST or failure.reason in (
        ImageReason.UNREADABLE.value,
        ImageReason.UNSUPPORTED.value,
    )


def with_larger_limit(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same request with twice the output limit, for an answer that was cut off."""
    larger = copy.copy(dict(body))
    config = dict(larger.get("generationConfig", {}))
    config["maxOutputTokens"] = 2 * int(config.get("maxOutputTokens", REASK_OUTPUT_TOKENS // 2))
    larger["generationConfig"] = config
    return larger


def wait_s(attempt: int, retry_after: float | None) -> float:
    """Seconds before attempt ``attempt + 1``: exponential with full jitter, at least what was asked for."""
    state = tenacity.RetryCallState(None, None, (), {})  # type: ignore[arg-type]
    state.attempt_number = attempt
    return max(_wait(state), retry_after or 0.0)


def utc_now() -> str:
    """Now, RFC 3339 in UTC with microseconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
