"""The budget of a run: enforce ``--max_cost_usd`` and ``--max_calls`` across any number of processes.

Each process has one :class:`Budget` on its event loop. Processes share only the run's directory, where a process
takes share k of a cap by creating the object ``notes/<kind>-<k>``: see
:mod:`imagebeam.transforms.engine.budget_shares` for why that never exceeds a cap and how much of it is usable.

What a call takes from the caps:

=====================================  =======================  =========================================
response                               of ``--max_calls``       of ``--max_cost_usd``
=====================================  =======================  =========================================
an answer                              one                      the price of its tokens
429 (quota), or never sent             nothing                  nothing
another HTTP error                     one                      nothing: Google bills answers only
none: timeout, broken connection,      one                      its maximum cost: it may have been answered
unreadable body                                                 and billed
=====================================  =======================  =========================================
"""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, final

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.images import parse_gs_uri
from imagebeam.transforms.engine.budget_shares import ShareAllocator
from imagebeam.transforms.engine.settings import Caps

#: Directory of the shares; the name is part of the work directories of open runs.
SHARES_DIRECTORY = "notes"
# Maximum number of shares taken at once, when many calls wait.
TAKE_AT_ONCE = 8
# Maximum number of waiting callers for which shares are taken at once.
LOOK_AHEAD = 64

_NANOS_PER_USD = 1_000_000_000
_log = logging.getLogger(__name__)

Blocking = Callable[[Callable[[], Any]], Awaitable[Any]]


@final
class Reservation:
    """The part of the budget reserved for one call, if there is one. Settle it exactly once, even if the call fails.

    Used as a context manager, it is settled on exit as a call of unknown cost if it is still open, so that an exception
    or a cancellation cannot block the budget.
    """

    __slots__ = ("_budget", "_nanos", "_open")

    def __init__(self, budget: Budget | None = None, nanos: int = 0) -> None:
        self._budget = budget
        self._nanos = nanos
        self._open = True

    def settle(self, actual_usd: Decimal | None, *, sent: bool) -> None:
        """Charge the call, and return the rest to the budget.

        Args:
            actual_usd: Cost of the call; None if it is unknown, which charges the maximum cost.
            sent: True if the call was sent and not rejected for quota, so that it counts for ``--max_calls``.

        Raises:
            ValueError: It was settled before.
        """
        if not self._open:
            raise ValueError("the reservation is already settled")
        self._open = False
        if self._budget is not None:
            self._budget._settled(self._nanos, self._nanos if actual_usd is None else _nanos(actual_usd), sent=sent)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open:
            self.settle(None, sent=True)


class Budget:
    """The budget of one process; use it only on the engine's event loop.

    Args:
        caps: The caps of the run, the same in all its processes because they determine the shares. If crashes lead to
            more than ``processes``, the shares are only less well sized.
        blocking: Runs a blocking call in a thread.

    Attributes:
        reason: Why no more calls are allowed, ``budget: …``; None while some may be.
    """

    def __init__(self, caps: Caps, blocking: Blocking) -> None:
        self._directory = storage.join(caps.directory, SHARES_DIRECTORY)
        self._blocking = blocking
        self._token = secrets.token_hex(16).encode()
        order = random.SystemRandom()
        cut = functools.partial(ShareAllocator, processes=caps.processes, order=order)
        self._money: ShareAllocator | None = None
        self._calls: ShareAllocator | None = None
        if caps.max_cost_usd is not None:
            # Rounded down, so that it never exceeds the given cap.
            cap = int(caps.max_cost_usd * _NANOS_PER_USD)
            self._money = cut("usd", cap, max_call=_nanos(caps.max_call_usd))
        if caps.max_calls is not None:
            self._calls = cut("calls", caps.max_calls, max_call=1)
        self._max_cost_usd = caps.max_cost_usd
        self._waiting: collections.deque[tuple[int, asyncio.Future[Reservation | None]]] = collections.deque()
        self._reserved = 0
        self._taking: asyncio.Task[None] | None = None
        self._ended = False
        self.reason: str | None = None
        self._warned = False

    async def reserve(self, max_call_usd: Decimal) -> Reservation | None:
        """Reserve the maximum cost of one call, in FIFO order.

        At the end of the budget this waits for the calls in flight, whose reservations may return enough.
        A caller must not wait here while it holds another reservation.

        Args:
            max_call_usd: Maximum cost of the call, in USD.

        Returns:
            The reservation; None if the budget has ended or was closed: send nothing more.

        Raises:
            SystemicError: Shares cannot be taken.
        """
        if self._ended:
            return None
        nanos = _nanos(max_call_usd)
        if not self._waiting and self._covers(nanos):
            return self._grant(nanos)
        future: asyncio.Future[Reservation | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((nanos, future))
        self._serve()
        try:
            return await future
        except asyncio.CancelledError:
            # Granted while its caller was being canceled: without this it would never be returned.
            if future.done() and not future.cancelled() and not future.exception() and (granted := future.result()):
                granted.settle(Decimal(0), sent=False)
            self._serve()
            raise

    def close(self) -> None:
        """Reject further reservations: waiting callers receive None. Open reservations can still be settled."""
        self._ended = True
        if self._taking is not None:
            self._taking.cancel()
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    # -- reservations ----------------------------------------------------------------------------------

    def _covers(self, nanos: int) -> bool:
        money, calls = self._money, self._calls
        return (money is None or money.credit >= nanos) and (calls is None or calls.credit >= 1)

    def _grant(self, nanos: int) -> Reservation:
        if self._money is not None:
            self._money.credit -= nanos
        if self._calls is not None:
            self._calls.credit -= 1
        self._reserved += 1
        return Reservation(self, nanos)

    def _settled(self, reserved: int, actual: int, *, sent: bool) -> None:
        self._reserved -= 1
        if self._money is not None:
            self._money.settle(reserved, actual)
            if actual > reserved and not self._warned:
                self._warned = True
                _log.warning(
                    "a call cost $%.9f, more than its estimated maximum of $%.9f: --max_cost_usd may be exceeded by "
                    "the difference; check prices and image_tokens in models.yaml",
                    actual / _NANOS_PER_USD,
                    reserved / _NANOS_PER_USD,
                )
        if self._calls is not None:
            self._calls.settle(1, int(sent))
        if self._waiting:
            self._serve()

    # -- waiting callers -------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Grant in order while there is credit; then take shares, or wait, or end."""
        while self._waiting:
            nanos, future = self._waiting[0]
            if not future.done() and not self._covers(nanos):
                break
            self._waiting.popleft()
            if not future.done():  # not canceled
                future.set_result(self._grant(nanos))
        if not self._waiting or self._taking is not None:
            return
        if spent := self._spent(self._waiting[0][0]):
            # Calls in flight may return enough.
            if not self._reserved:
                self.reason = spent
                self.close()
        elif self._select():
            self._taking = asyncio.get_running_loop().create_task(self._take_shares())

    def _spent(self, nanos: int) -> str | None:
        """Return the cap that forbids a call and has no shares left; None if there is none."""
        if self._calls is not None and self._calls.credit < 1 and self._calls.exhausted:
            return f"budget: --max_calls={self._calls.cap} is used up"
        if self._money is not None and self._money.credit < nanos and self._money.exhausted:
            return f"budget: --max_cost_usd={self._max_cost_usd:f} is used up"
        return None

    # -- shares ----------------------------------------------------------------------------------------

    def _select(self) -> list[tuple[ShareAllocator, list[int]]]:
        """Return the shares to try for the waiting callers; none while calls in flight hold this process's part."""
        waiting = [nanos for nanos, _ in itertools.islice(self._waiting, LOOK_AHEAD)]
        if not waiting or self._spent(waiting[0]):
            return []
        if not self._reserved:  # nothing will be returned: the first caller must get what it needs
            del waiting[1:]
        amounts = ((self._money, sum(waiting)), (self._calls, len(waiting)))
        selected = [
            (allocator, allocator.select(amount, at_most=TAKE_AT_ONCE, leave_others=self._reserved > 0))
            for allocator, amount in amounts
            if allocator is not None
        ]
        return [(allocator, numbers) for allocator, numbers in selected if numbers]

    async def _take_shares(self) -> None:
        try:
            while selected := self._select():
                for allocator, numbers in selected:
                    await self._take(allocator, numbers)
                self._serve()
        except Exception as error:
            problem = SystemicError(f"cannot take budget shares in {self._directory}: {error}")
            for _, future in self._waiting:
                if not future.done():
                    future.set_exception(problem)
            self._waiting.clear()
        finally:
            self._taking = None
            self._serve()

    async def _take(self, allocator: ShareAllocator, numbers: list[int]) -> None:
        tries = [self._blocking(functools.partial(self._create, allocator.kind, number)) for number in numbers]
        results = await asyncio.gather(*tries, return_exceptions=True)
        for number, result in zip(numbers, results, strict=True):
            if result is True:
                allocator.add(number)
        if error := next((result for result in results if isinstance(result, BaseException)), None):
            raise error
        if lost := {number for number, result in zip(numbers, results, strict=True) if result is False}:
            taken = await self._blocking(functools.partial(list_taken_shares, self._directory, allocator.kind))
            allocator.discard(taken | lost)

    def _create(self, kind: str, number: int) -> bool:
        path = storage.join(self._directory, f"{kind}-{number}")
        # A client that repeats a request whose response was lost finds the share that it has just created.
        return storage.create(path, self._token) or storage.read(path) == self._token


def list_taken_shares(directory: str, kind: str) -> frozenset[int]:
    """Return the numbers of the shares of a kind that any process has taken."""
    if (place := parse_gs_uri(f"{directory}/{kind}-")) is not None:
        blobs = storage.storage_client().list_blobs(place[0], prefix=place[1], fields="items(name),nextPageToken")
        names = [blob.name for blob in blobs]
    else:
        names = [path.name for path in Path(directory).glob(f"{kind}-*")]
    return frozenset(int(name.rpartition("-")[2]) for name in names)


def _nanos(usd: Decimal) -> int:
    """Return nano-dollars, rounded up."""
    return int((usd * _NANOS_PER_USD).to_integral_value(ROUND_CEILING))
