"""The books of a run: counts that travel through the pipeline, and the proof that nothing was lost.

``units in = OK + failed (by reason) + skipped + already done + not due + submitted``
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.core.records import Outcome, Status, Usage


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """What became of some units; the sum over a run is one side of its books.

    Attributes:
        read: Units handed to the engine.
        ok: Units answered.
        failed: Units that failed, by ``STATUS`` or ``STATUS/REASON``.
        skipped: Units never sent because the run was draining; they stay due.
        calls: Calls sent, refused ones included.
        throttled: Calls refused for quota.
        usage: Tokens.
        cost_usd: Their price.
        stop: Why the engine stopped early, if it did: ``systemic: …``, ``interrupted: …``.
    """

    read: int = 0
    ok: int = 0
    failed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    calls: int = 0
    throttled: int = 0
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)
    stop: str | None = None

    def __add__(self, other: Counts) -> Counts:
        """Adds up; the first reason to stop stays."""
        failed = dict(self.failed)
        for reason, number in other.failed.items():
            failed[reason] = failed.get(reason, 0) + number
        return Counts(
            self.read + other.read,
            self.ok + other.ok,
            failed,
            self.skipped + other.skipped,
            self.calls + other.calls,
            self.throttled + other.throttled,
            self.usage + other.usage,
            self.cost_usd + other.cost_usd,
            self.stop or other.stop,
        )

    @property
    def failures(self) -> int:
        """Units that failed, whatever the reason."""
        return sum(self.failed.values())

    @property
    def finished(self) -> int:
        """Units that are accounted for."""
        return self.ok + self.failures + self.skipped


def count_outcome(outcome: Outcome) -> Counts:
    """The counts of one unit's outcome."""
    failed: dict[str, int] = {}
    if outcome.status not in (Status.OK, Status.SKIPPED):
        failed[failure_key(outcome.status.value, outcome.reason)] = 1
    return Counts(
        ok=int(outcome.status is Status.OK),
        failed=failed,
        skipped=int(outcome.status is Status.SKIPPED),
        usage=outcome.usage,
        cost_usd=outcome.cost_usd,
    )


def failure_key(status: str, reason: str | None) -> str:
    """``IMAGE_ERROR/NOT_FOUND``; the status alone when there is no reason."""
    return f"{status}/{reason}" if reason else status


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """What the start of a run found in the source, by state of the task's current version.

    Attributes:
        units_in: Units of the source after all filters.
        due: Units that this run asks about.
        already_done: Answered by the current version: not due, whatever was asked for.
        outdated: Answered by an older version only, and not asked for again (``--due=outdated``).
        failed_before: Failed for good in an earlier run, and not asked for again (``--due=failed``).
        submitted: Waiting in a batch job.
        not_due: New or to be retried, but left out by ``--due``.
        due_new: Those of the due ones that were never asked about.
        due_retry: Those whose failure may pass.
        due_outdated: Those that an older version answered.
        due_failed: Those that failed for good.
        asked: Those of the due ones whose images all have an address: a call is made about them.
        images: Images of these.
        most_images: Images of that one of these that has most.
        rows_without_id: Rows of the source that lack the id of their unit: no unit can be made of them.
        assets_without_images: Assets of the source that no image shows; None where the source has no assets.
    """

    units_in: int = 0
    due: int = 0
    already_done: int = 0
    outdated: int = 0
    failed_before: int = 0
    submitted: int = 0
    not_due: int = 0
    due_new: int = 0
    due_retry: int = 0
    due_outdated: int = 0
    due_failed: int = 0
    asked: int = 0
    images: int = 0
    most_images: int = 0
    rows_without_id: int = 0
    assets_without_images: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Reconciliation:
    """The books of one run.

    Attributes:
        planned: What the start found.
        counted: What the pipeline counted as answers were recorded.
        recorded: What the table holds for this run, one row per unit.
    """

    planned: Planned
    counted: Counts
    recorded: Counts

    def problems(self) -> list[str]:
        """Every way in which the books do not balance; empty when they do."""
        plan, counted, recorded = self.planned, self.counted, self.recorded
        found = []
        parts = plan.due + plan.already_done + plan.outdated + plan.failed_before + plan.submitted + plan.not_due
        if parts != plan.units_in:
            found.append(f"{plan.units_in} units in the source, but {parts} by state")
        if counted.read != plan.due:
            found.append(f"{plan.due} units due, but {counted.read} read")
        if counted.finished != plan.due:
            found.append(f"{plan.due} units due, but {counted.finished} accounted for")
        if recorded.ok != counted.ok:
            found.append(f"{counted.ok} OK counted, but {recorded.ok} recorded in the table")
        if dict(recorded.failed) != dict(counted.failed):
            found.append(f"failures counted {dict(counted.failed)}, recorded {dict(recorded.failed)}")
        return found

    def lines(self) -> list[str]:
        """The books as a person reads them: one line a part, largest first among the failures."""
        plan = self.planned
        rows: list[tuple[str, int]] = [("OK", self.counted.ok)]
        rows += sorted(self.counted.failed.items(), key=lambda item: (-item[1], item[0]))
        rows += [
            ("skipped (still due)", self.counted.skipped),
            ("already done", plan.already_done),
            ("outdated, not asked for", plan.outdated),
            ("failed before, not asked for", plan.failed_before),
            ("submitted to a batch job", plan.submitted),
            ("left out by --due", plan.not_due),
        ]
        shown = [(name, number) for name, number in rows if number or name == "OK"]
        return [f"{plan.units_in:>12,} in", *(f"{number:>12,} {name}" for name, number in shown)]


def sum_counts(parts: Iterable[Counts]) -> Counts:
    """Adds up any number of counts, none included."""
    total = Counts()
    for part in parts:
        total = total + part
    return total


def counts_to_json(counts: Counts) -> dict[str, Any]:
    """Counts as plain JSON values; money as text, so that no digit is lost."""
    document = dataclasses.asdict(counts)
    document["failed"] = dict(counts.failed)
    document["cost_usd"] = str(counts.cost_usd)
    return document
