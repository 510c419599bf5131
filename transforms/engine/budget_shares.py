"""Split a cap into numbered shares, so that processes share one budget without communicating.

A cap (nano-dollars, or calls) is split into N shares that add up to it exactly. The process that creates the
object of share k owns its value, so no value is owned twice, even after a crash. A process takes a share when
what it holds does not cover the waiting calls, reserves the maximum cost of a call before sending it, and
gets back what the call did not cost. So the sum of what was paid never exceeds the cap.

The size of a share follows from what is lost when a process holds value that it does not spend (P processes,
at most W calls at once in each, maximum cost m of one call):

* When the budget ends, a process first waits for its calls in flight; what it still holds then is less than m.
  So at least ``1 - P m / cap`` of the cap can be used: 98 % as soon as the cap pays for 50 calls of maximum cost
  per process. The size of a share does not matter.
* A process that crashes, or has no more work while others have, keeps what it holds. Shares are only taken
  for waiting calls, so that is less than W m and one share; and of several processes each holds at most
  a quarter (:data:`PART`) of its part of the cap, or one call: at most a quarter of the cap over all of
  them, and no process can take everything before the others have started. The cost: with several processes, a cap
  below ``4 P W m`` is spent with fewer than W calls at once.

Hence :data:`SHARES_PER_PROCESS`: shares of ``cap / (100 P)`` bound their part of that loss to 1 % of the
cap over all processes, and a process takes about a hundred in a whole run. A share below m would be
useless, and more than :data:`MAX_SHARES` take long to list.
"""

from __future__ import annotations

import random
from collections.abc import Collection

SHARES_PER_PROCESS = 100
MAX_SHARES = 10_000
PART = 4


class ShareAllocator:
    """What one process holds of one cap. All amounts are integers: nano-dollars or calls.

    Args:
        kind: Name of the cap in the names of its shares.
        cap: The whole cap.
        max_call: Maximum cost of one call, for the size of the shares.
        processes: Processes that share the cap.
        order: Random generator for the order in which this process tries the shares, so that processes do not collide.

    Attributes:
        count: Number of shares.
        credit: Owned and not reserved; below zero if a call cost more than its maximum.
        held: Owned and not spent: the credit and what is reserved.
    """

    def __init__(self, kind: str, cap: int, *, max_call: int, processes: int, order: random.Random) -> None:
        self.kind = kind
        self.cap = cap
        self.count = max(1, min(SHARES_PER_PROCESS * processes, cap // max(1, max_call), MAX_SHARES))
        self.credit = 0
        self.held = 0
        self._limit = cap // (PART * processes) if processes > 1 else None
        self._free = list(range(self.count))
        order.shuffle(self._free)

    @property
    def exhausted(self) -> bool:
        """True if every share is known to be taken."""
        return not self._free

    def value(self, number: int) -> int:
        """Return the value of a share; all of them add up to the cap."""
        return self.cap * (number + 1) // self.count - self.cap * number // self.count

    def select(self, amount: int, *, at_most: int, leave_others: bool = True) -> list[int]:
        """Return the shares to try next so that the credit covers an amount.

        Args:
            amount: The credit wanted.
            at_most: Maximum number of shares to return.
            leave_others: Leave the other processes their part of the cap.

        Returns:
            Their numbers; empty if the credit is enough, no share is left, or this process holds its part.
        """
        missing = amount - self.credit
        smallest, largest = max(1, self.cap // self.count), -(-self.cap // self.count)
        number = min(-(-missing // smallest), at_most)
        if leave_others and self._limit is not None:
            number = min(number, (self._limit - self.held) // largest)
        return self._free[: max(0, number)]

    def add(self, number: int) -> None:
        """Record that this process owns a share."""
        self._free.remove(number)
        self.credit += self.value(number)
        self.held += self.value(number)

    def settle(self, reserved: int, spent: int) -> None:
        """Record what was spent of a reservation; the rest becomes credit again."""
        self.credit += reserved - spent
        self.held -= spent

    def discard(self, numbers: Collection[int]) -> None:
        """Record that other processes own these shares."""
        self._free = [number for number in self._free if number not in numbers]
