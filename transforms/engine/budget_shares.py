"""A cap cut into numbered notes: how processes share a budget without a word between them.

A cap (nano-dollars, or calls) is cut into N notes that add up to it exactly. Whoever creates the object of
note k owns its value, so no value is ever owned twice, whatever crashes. A process takes a note when what
it holds does not cover the calls that wait, reserves the worst case of a call before it is sent, and gets
back what the call did not cost. So the sum of what was paid never exceeds the cap.

How large is a note? What a process holds and does not spend is lost for the others (P processes, at most W
calls at once in each, worst case w of one call):

* When the budget ends, a process first waits for its calls under way; what it then still holds is less
  than w. So at least ``1 - P w / cap`` of the cap can be used: 98 % as soon as the cap pays for 50 worst
  cases per process. The size of a note does not matter.
* A process that crashes, or has no more work while others have, keeps what it holds. Notes are only taken
  for calls that wait, so that is less than W w and one note; and of several processes each holds at most
  a quarter (:data:`SHARE`) of its part of the cap, or one call: at most a quarter of the cap over all of
  them, and none can take everything before the others have begun. The price: with several processes, a cap
  below ``4 P W w`` is spent with fewer than W calls at once.

Hence :data:`NOTES_PER_PROCESS`: notes of ``cap / (100 P)`` bound the notes' share of that loss by 1 % of the
cap over all processes, and a process takes about a hundred in a whole run. A note below w would be of no
use, and more than :data:`MOST_NOTES` take long to list.
"""

from __future__ import annotations

import random
from collections.abc import Collection

NOTES_PER_PROCESS = 100
MOST_NOTES = 10_000
SHARE = 4


class ShareAllocator:
    """What one process holds of one cap. All amounts are whole: nano-dollars or calls.

    Args:
        kind: Name of the cap in the notes' names.
        cap: The whole cap.
        worst: What one call takes at most, for the size of the notes.
        processes: Processes that share the cap.
        order: Decides in which order this process tries the notes, so that all do not try the same one.
    """

    def __init__(self, kind: str, cap: int, *, worst: int, processes: int, order: random.Random) -> None:
        self.kind = kind
        self.cap = cap
        self.notes = max(1, min(NOTES_PER_PROCESS * processes, cap // max(1, worst), MOST_NOTES))
        #: Owned and not reserved; below zero if a call cost more than its worst case.
        self.credit = 0
        #: Owned and not spent: the credit and what is reserved.
        self.held = 0
        self._limit = cap // (SHARE * processes) if processes > 1 else None
        self._free = list(range(self.notes))
        order.shuffle(self._free)

    @property
    def exhausted(self) -> bool:
        """True if every note is known to be taken."""
        return not self._free

    def value(self, number: int) -> int:
        """The value of a note; all of them add up to the cap."""
        return self.cap * (number + 1) // self.notes - self.cap * number // self.notes

    def wanted(self, amount: int, *, at_most: int, modestly: bool = True) -> list[int]:
        """The notes to try next so that the credit covers an amount.

        Args:
            amount: What the credit should be.
            at_most: At most so many.
            modestly: Only as many as leave their part to the other processes.

        Returns:
            Their numbers; empty if the credit is enough, none is left, or this process holds its part.
        """
        short = amount - self.credit
        smallest, largest = max(1, self.cap // self.notes), -(-self.cap // self.notes)
        number = min(-(-short // smallest), at_most)
        if modestly and self._limit is not None:
            number = min(number, (self._limit - self.held) // largest)
        return self._free[: max(0, number)]

    def took(self, number: int) -> None:
        """This process owns a note now."""
        self._free.remove(number)
        self.credit += self.value(number)
        self.held += self.value(number)

    def settle(self, reserved: int, spent: int) -> None:
        """Of what was reserved this much is spent, and the rest is credit again."""
        self.credit += reserved - spent
        self.held -= spent

    def gone(self, numbers: Collection[int]) -> None:
        """Others own these notes."""
        self._free = [number for number in self._free if number not in numbers]
