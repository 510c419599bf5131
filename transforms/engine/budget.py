"""The budget of a run: ``--max_cost_usd`` and ``--max_calls`` kept by any number of processes.

Each process has one :class:`Budget` on its event loop. Between processes there is nothing but the run's
directory, where note k of a cap is taken by creating the object ``notes/<kind>-<k>``: see
:mod:`imagebeam.transforms.engine.budget_shares` for why that never exceeds a cap and how much of it is usable.

What a call takes from the caps:

=====================================  =======================  =========================================
what came back                         of ``--max_calls``       of ``--max_cost_usd``
=====================================  =======================  =========================================
an answer                              one                      what its tokens cost
refused for quota (429), never sent    nothing                  nothing
another HTTP error                     one                      nothing: Google bills answers only
nothing: timeout, broken line,         one                      its worst case: nobody knows whether it
garbage                                                         was answered and billed
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
from types import TracebackType
from typing import Any, Self, final

from imagebeam.transforms.clients import storage
from imagebeam.transforms.core.errors import SystemicError
from imagebeam.transforms.core.images import parse_gs_uri
from imagebeam.transforms.engine.budget_shares import ShareAllocator

# Notes taken at once, when many calls wait.
TAKE_AT_ONCE = 8
# Callers in the line for whom notes are taken.
LOOK_AHEAD = 64

_NANOS_PER_USD = 1_000_000_000
_log = logging.getLogger(__name__)

Blocking = Callable[[Callable[[], Any]], Awaitable[Any]]


@final
class Reservation:
    """What is set aside for one call. Settle it exactly once, also when the call fails.

    As a context manager it settles itself at the end, if nobody did, as a call of which nothing is known:
    an exception or a cancellation can never make a budget wait for ever.
    """

    __slots__ = ("_budget", "_nanos", "_open")

    def __init__(self, budget: Budget, nanos: int) -> None:
        self._budget = budget
        self._nanos = nanos
        self._open = True

    def settle(self, actual_usd: Decimal | None, *, sent: bool) -> None:
        """Gives back what the call did not take.

        Args:
            actual_usd: What it cost; None if nobody knows, which counts as its worst case.
            sent: It was sent and not refused for quota: it counts as a call.

        Raises:
            ValueError: It was settled before.
        """
        if not self._open:
            raise ValueError("a reservation is settled once")
        self._open = False
        self._budget._settled(self._nanos, self._nanos if actual_usd is None else _nanos(actual_usd), sent=sent)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open:
            self.settle(None, sent=True)


class NothingReserved:
    """The reservation of a run without caps: there is nothing to settle."""

    def settle(self, actual_usd: Decimal | None, *, sent: bool) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Budget:
    """The budget of one process; all methods belong to its event loop.

    Args:
        directory: The run's directory, local or ``gs://``, the same for all processes of the run.
        max_cost_usd: Cap in USD over all processes; None for none.
        max_calls: Cap in calls over all processes; None for none.
        processes: Processes that share the caps; more of them, after crashes, only make smaller notes better.
        max_call_usd: What one call usually costs at most, see :func:`~worst_case.check_cap`; the same in all
            processes, since it decides how the cap is cut.
        blocking: Runs a blocking call in a thread.
    """

    def __init__(
        self,
        directory: str,
        *,
        max_cost_usd: Decimal | None,
        max_calls: int | None,
        processes: int,
        max_call_usd: Decimal,
        blocking: Blocking,
    ) -> None:
        self._directory = storage.join(directory, "notes")
        self._blocking = blocking
        self._token = secrets.token_hex(16).encode()
        order = random.Random(self._token)  # noqa: S311 - for spreading, not for secrecy
        cut = functools.partial(ShareAllocator, processes=processes, order=order)
        self._money: ShareAllocator | None = None
        self._calls: ShareAllocator | None = None
        if max_cost_usd is not None:
            # Rounded down: the cap is what a person wrote, or less.
            cap = int(max_cost_usd * _NANOS_PER_USD)
            self._money = cut("usd", cap, worst=_nanos(max_call_usd))
        if max_calls is not None:
            self._calls = cut("calls", max_calls, worst=1)
        self._max_cost_usd = max_cost_usd
        self._waiting: collections.deque[tuple[int, asyncio.Future[Reservation | None]]] = collections.deque()
        self._reserved = 0
        self._taking: asyncio.Task[None] | None = None
        self._ended = False
        self._reason: str | None = None
        self._told = False

    @property
    def reason(self) -> str | None:
        """Why no more calls are allowed, ``budget: …``; None while some may be."""
        return self._reason

    async def reserve(self, max_call_usd: Decimal) -> Reservation | None:
        """Sets the worst case of one call aside; first come, first served.

        At the end of the budget it waits for the calls under way, whose worst cases hold what may be left.
        Whoever waits here must not hold another reservation.

        Args:
            max_call_usd: What the call can cost at most, in USD.

        Returns:
            The reservation; None if the budget has ended or was closed: nothing more may be sent.

        Raises:
            SystemicError: Notes cannot be taken.
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
            # Granted in the moment in which its caller was cancelled: it would be missed for ever.
            if future.done() and not future.cancelled() and not future.exception():
                granted = future.result()
                if granted is not None:
                    granted.settle(Decimal(0), sent=False)
            self._serve()
            raise

    def close(self) -> None:
        """Allows nothing more: whoever waits gets None. What is reserved may still be settled."""
        self._ended = True
        if self._taking is not None:
            self._taking.cancel()
        for _, future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    # -- what is held ----------------------------------------------------------------------------------

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
            if actual > reserved and not self._told:
                self._told = True
                _log.warning(
                    "a call cost $%.9f, more than was held possible ($%.9f): --max_cost_usd may be exceeded by "
                    "the difference; check prices and image_tokens in models.yaml",
                    actual / _NANOS_PER_USD,
                    reserved / _NANOS_PER_USD,
                )
        if self._calls is not None:
            self._calls.settle(1, int(sent))
        if self._waiting:
            self._serve()

    # -- who waits -------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Grants in order while there is room; then takes notes, or waits, or ends."""
        while self._waiting:
            nanos, future = self._waiting[0]
            if not future.done() and not self._covers(nanos):
                break
            self._waiting.popleft()
            if not future.done():  # a cancelled caller wants nothing any more
                future.set_result(self._grant(nanos))
        if not self._waiting or self._taking is not None:
            return
        if spent := self._spent(self._waiting[0][0]):
            # What calls under way will give back may be enough.
            if not self._reserved:
                self._reason = spent
                self.close()
        elif self._wanted():
            self._taking = asyncio.get_running_loop().create_task(self._take_notes())

    def _spent(self, nanos: int) -> str | None:
        """The cap that stands in the way of a call and has no notes left; None if there is none."""
        if self._calls is not None and self._calls.credit < 1 and self._calls.exhausted:
            return f"budget: --max_calls={self._calls.cap} is used up"
        if self._money is not None and self._money.credit < nanos and self._money.exhausted:
            return f"budget: --max_cost_usd={self._max_cost_usd:f} is used up"
        return None

    # -- notes -----------------------------------------------------------------------------------------

    def _wanted(self) -> list[tuple[ShareAllocator, list[int]]]:
        """The notes to try for those who wait; none while calls under way are this process's whole part."""
        waiting = [nanos for nanos, _ in itertools.islice(self._waiting, LOOK_AHEAD)]
        if not waiting or self._spent(waiting[0]):
            return []
        if not self._reserved:  # nothing would ever be given back: the first one gets what it needs
            del waiting[1:]
        amounts = ((self._money, sum(waiting)), (self._calls, len(waiting)))
        wanted = [
            (purse, purse.wanted(amount, at_most=TAKE_AT_ONCE, modestly=self._reserved > 0))
            for purse, amount in amounts
            if purse is not None
        ]
        return [(purse, numbers) for purse, numbers in wanted if numbers]

    async def _take_notes(self) -> None:
        try:
            while wanted := self._wanted():
                for purse, numbers in wanted:
                    await self._take(purse, numbers)
                self._serve()
        except Exception as error:
            problem = SystemicError(f"the budget's notes in {self._directory} cannot be taken: {error}")
            for _, future in self._waiting:
                if not future.done():
                    future.set_exception(problem)
            self._waiting.clear()
        finally:
            self._taking = None
            self._serve()

    async def _take(self, purse: ShareAllocator, numbers: list[int]) -> None:
        tries = [self._blocking(functools.partial(self._create, purse.kind, number)) for number in numbers]
        results = await asyncio.gather(*tries, return_exceptions=True)
        for number, result in zip(numbers, results, strict=True):
            if result is True:
                purse.took(number)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        lost = {number for number, result in zip(numbers, results, strict=True) if result is False}
        if lost:
            taken = await self._blocking(functools.partial(taken_notes, self._directory, purse.kind))
            purse.gone(taken | lost)

    def _create(self, kind: str, number: int) -> bool:
        path = storage.join(self._directory, f"{kind}-{number}")
        # A client that repeats a request whose answer got lost finds the note that it has just made.
        return storage.create(path, self._token) or storage.read(path) == self._token


def taken_notes(directory: str, kind: str) -> frozenset[int]:
    """The numbers of the notes of a kind that somebody has taken."""
    place = parse_gs_uri(f"{directory}/{kind}-")
    if place is not None:
        blobs = storage.storage_client().list_blobs(place[0], prefix=place[1], fields="items(name),nextPageToken")
        names = [blob.name for blob in blobs]
    else:
        names = [path.name for path in Path(directory).glob(f"{kind}-*")]
    return frozenset(int(name.rpartition("-")[2]) for name in names)


def _nanos(usd: Decimal) -> int:
    """Nano-dollars, rounded up."""
    return int((usd * _NANOS_PER_USD).to_integral_value(ROUND_CEILING))
