"""Counts of a run, from the source query to the report, and their reconciliation.

``units in = OK + failed (by reason) + skipped + already done + outdated + failed before + submitted + left out``
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from imagebeam.transforms.core.records import Outcome, Status, Usage


@dataclasses.dataclass(frozen=True, slots=True)
class SourceCounts:
    """Units of a source after all filters, by their state for the current version of the task.

    ``units_in`` is the sum of ``remaining``, ``already_done``, ``outdated``, ``failed_before``, ``submitted`` and
    ``left_out``; ``remaining`` is the sum of the four ``remaining_*`` counts.

    Attributes:
        units_in: All units.
        remaining: Units that the run processes.
        remaining_new: Remaining units without an outcome.
        remaining_retry: Remaining units whose last failure was transient.
        remaining_outdated: Remaining units that only another version answered.
        remaining_failed: Remaining units whose last failure was permanent.
        already_done: Units that the current version answered.
        outdated: Units that only another version answered, and that are not selected.
        failed_before: Units with a permanent failure that are not selected.
        submitted: Units in a batch job.
        left_out: New units and units to retry that are not selected.
        callable_units: Remaining units whose images all have a ``gs://`` URI, so that a call can be made.
        images: Images of the callable units.
        max_images_per_unit: Images of the callable unit that has the most.
        rows_without_id: Rows that pass the filters but lack the id of their unit.
        assets_without_images: Assets that match the asset types and area but have no observation; None if the
            source has no table of assets.
    """

    units_in: int = 0
    remaining: int = 0
    remaining_new: int = 0
    remaining_retry: int = 0
    remaining_outdated: int = 0
    remaining_failed: int = 0
    already_done: int = 0
    outdated: int = 0
    failed_before: int = 0
    submitted: int = 0
    left_out: int = 0
    callable_units: int = 0
    images: int = 0
    max_images_per_unit: int = 0
    rows_without_id: int = 0
    assets_without_images: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class OutcomeCounts:
    """Outcomes of some units. The counts of the bundles of a run add up to those of the run.

    Attributes:
        read: Units submitted to the engine.
        ok: Units answered.
        failed: Units that failed, by ``STATUS`` or ``STATUS/REASON``.
        skipped: Units that were not sent because the run was draining. They remain for the next run.
        calls: Calls sent, throttled ones included.
        throttled: Calls rejected for quota (429).
        usage: Tokens.
        cost_usd: Price of the tokens; None if the price of any of them is unknown.
        stop: Why the engine stopped early, such as ``systemic: …`` or ``interrupted: …``; None if it did not.
    """

    read: int = 0
    ok: int = 0
    failed: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    calls: int = 0
    throttled: int = 0
    usage: Usage = Usage()
    cost_usd: Decimal | None = Decimal(0)
    stop: str | None = None

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        """Add up the counts. The first reason to stop is kept."""
        return OutcomeCounts(
            self.read + other.read,
            self.ok + other.ok,
            dict(collections.Counter(self.failed) + collections.Counter(other.failed)),
            self.skipped + other.skipped,
            self.calls + other.calls,
            self.throttled + other.throttled,
            self.usage + other.usage,
            add_costs(self.cost_usd, other.cost_usd),
            self.stop or other.stop,
        )

    @property
    def failures(self) -> int:
        """Units that failed, for any reason."""
        return sum(self.failed.values())

    @property
    def finished(self) -> int:
        """Units that are accounted for."""
        return self.ok + self.failures + self.skipped


def add_costs(*costs: Decimal | None) -> Decimal | None:
    """Return the sum of costs; None if one of them is unknown.

    >>> add_costs(Decimal("0.1"), Decimal("0.2")), add_costs(Decimal(1), None)
    (Decimal('0.3'), None)
    """
    return sum((cost for cost in costs if cost is not None), Decimal(0)) if None not in costs else None


def count_outcome(outcome: Outcome) -> OutcomeCounts:
    """Return the counts of one unit's outcome."""
    failed = outcome.status not in (Status.OK, Status.SKIPPED)
    return OutcomeCounts(
        ok=int(outcome.status is Status.OK),
        failed={failure_key(outcome.status.value, outcome.reason): 1} if failed else {},
        skipped=int(outcome.status is Status.SKIPPED),
        usage=outcome.usage,
        cost_usd=outcome.cost_usd,
    )


def failure_key(status: str, reason: str | None) -> str:
    """Return ``STATUS/REASON``, or the status alone without a reason."""
    return f"{status}/{reason}" if reason else status


@dataclasses.dataclass(frozen=True, slots=True)
class Reconciliation:
    """The three counts of one run that must agree.

    Attributes:
        source: Counts of the source query at the start of the run.
        counted: Outcomes that the pipeline counted as they were recorded.
        recorded: Outcomes of the run in the table, one per unit.
    """

    source: SourceCounts
    counted: OutcomeCounts
    recorded: OutcomeCounts

    def problems(self) -> list[str]:
        """Return each disagreement as one message; empty when all units are accounted for."""
        source, counted, recorded = self.source, self.counted, self.recorded
        by_state = (
            source.remaining
            + source.already_done
            + source.outdated
            + source.failed_before
            + source.submitted
            + source.left_out
        )
        checks = (
            (
                by_state == source.units_in,
                f"{source.units_in} units in the source, but the states add up to {by_state}",
            ),
            (counted.read == source.remaining, f"{source.remaining} units remaining, but {counted.read} read"),
            (
                counted.finished == source.remaining,
                f"{source.remaining} units remaining, but {counted.finished} accounted for",
            ),
            (recorded.ok == counted.ok, f"{counted.ok} OK counted, but {recorded.ok} recorded in the table"),
            (
                dict(recorded.failed) == dict(counted.failed),
                f"failures counted {dict(counted.failed)}, recorded {dict(recorded.failed)}",
            ),
        )
        return [problem for agrees, problem in checks if not agrees]

    def lines(self) -> list[str]:
        """Return the counts as lines of a report, the most frequent failure first."""
        source = self.source
        rows: list[tuple[str, int]] = [("OK", self.counted.ok)]
        rows += sorted(self.counted.failed.items(), key=lambda item: (-item[1], item[0]))
        rows += [
            ("skipped (remaining)", self.counted.skipped),
            ("already done", source.already_done),
            ("outdated, not selected", source.outdated),
            ("failed before, not selected", source.failed_before),
            ("submitted to a batch job", source.submitted),
            ("new or retry, not selected", source.left_out),
        ]
        return [
            f"{source.units_in:>12,} in",
            *(f"{units:>12,} {name}" for name, units in rows if units or name == "OK"),
        ]


def sum_counts(parts: Iterable[OutcomeCounts]) -> OutcomeCounts:
    """Add up any number of counts."""
    return sum(parts, OutcomeCounts())


def counts_to_json(counts: OutcomeCounts) -> dict[str, Any]:
    """Return the counts as JSON values. Money is text, to keep all digits; an unknown cost is None."""
    document = dataclasses.asdict(counts)
    document["failed"] = dict(counts.failed)
    document["cost_usd"] = None if counts.cost_usd is None else str(counts.cost_usd)
    return document


def counts_from_json(document: Mapping[str, Any]) -> OutcomeCounts:
    """Return the counts that :func:`counts_to_json` wrote."""
    usd = document["cost_usd"]
    cost_usd = None if usd is None else Decimal(usd)
    return OutcomeCounts(**{**document, "usage": Usage(**document["usage"]), "cost_usd": cost_usd})
