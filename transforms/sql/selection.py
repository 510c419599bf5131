"""Which units a run processes.

The recorded outcomes of the same input decide the state of a unit for one version of a task::

    answered    OK in this version: never processed again
    submitted   in a batch job that has not been collected
    retry       UNAVAILABLE, or an image that could not be read for lack of permission
    failed      any other failure in this version
    outdated    no outcome in this version, but OK in another one
    new         none of these
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import shown

#: States that a run can process.
STATES = ("new", "retry", "outdated", "failed")
#: States that a run processes by default.
DEFAULT = ("new", "retry")
#: Words that look like a reason of a failure, and what selects those units.
_NOT_FAILURES = {
    "UNAVAILABLE": "the state retry selects it",
    "FORBIDDEN": "the state retry selects it",
    "OK": "after a change of the task, the state outdated selects it",
    "SUBMITTED": "its batch job decides",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The states of the units that a run processes.

    Attributes:
        states: Some of :data:`STATES`.
        failed_reasons: Process failed units only if their reason or status is one of these. Empty for all failed
            units. Ignored unless ``failed`` is among the states.
    """

    states: tuple[str, ...] = DEFAULT
    failed_reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        reasons = [f"failed:{reason}" for reason in self.failed_reasons]
        return ",".join([state for state in self.states if state != "failed" or not reasons] + reasons)


def parse_due(text: str) -> Selection:
    """Parse ``--due``: the states to process, such as ``new,outdated`` or ``failed:NOT_FOUND``.

    Raises:
        UserError: A state or reason is unknown.
    """
    return _parse(text, "--due", STATES)


def parse_reprocess(text: str) -> Selection:
    """Parse ``--reprocess``: the states to process in addition to new and retry, such as ``failed:NOT_FOUND``.

    Raises:
        UserError: A state or reason is unknown.
    """
    found = _parse(text, "--reprocess", tuple(state for state in STATES if state not in DEFAULT))
    return dataclasses.replace(found, states=DEFAULT + found.states)


def _parse(text: str, flag: str, known: tuple[str, ...]) -> Selection:
    states: list[str] = []
    reasons: list[str] = []
    all_failures = False
    for word in (part.strip() for part in text.split(",")):
        name, colon, reason = word.partition(":")
        state = name.strip().lower()
        if state not in known or (colon and state != "failed"):
            near = difflib.get_close_matches(state, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near and near[0] != state else ""
            raise UserError(
                f"{flag}={shown(text)}: unknown state {shown(word)}{hint}; use {', '.join(known)} or failed:REASON, "
                "separated by commas"
            )
        if colon:
            reasons.append(_parse_reason(reason.strip().upper(), f"{flag}={shown(text)}"))
        all_failures |= state == "failed" and not colon
        if state not in states:
            states.append(state)
    return Selection(tuple(states), () if all_failures else tuple(dict.fromkeys(reasons)))


def _parse_reason(reason: str, source: str) -> str:
    if not re.fullmatch(r"[A-Z0-9_]+", reason):
        raise UserError(f"{source}: give a reason or status after failed:, such as failed:NOT_FOUND")
    if reason in _NOT_FAILURES:
        raise UserError(f"{source}: {reason} is not a failure; {_NOT_FAILURES[reason]}")
    return reason


@dataclasses.dataclass(frozen=True, slots=True)
class SourceCounts:
    """Counts of the source's units by state, after all filters.

    ``units_in`` is the sum of ``answered``, ``outdated``, ``failed``, ``retry``, ``submitted`` and ``new``.

    Attributes:
        units_in: All units.
        answered: Answered by this version.
        outdated: Answered by another version only.
        failed: Failed for good in this version.
        retry: Failed in this version in a way that passes.
        submitted: Waiting in a batch job.
        new: Never asked.
        due: Units that the query gives.
        due_outdated: Those of them that are outdated.
        due_failed: Those of them that failed.
        due_retry: Those of them that are to be tried again.
        due_new: Those of them that are new.
        asked: Due units whose images all have an address: those that a call is made about.
        images: Images of these.
        most_images: Images of that one of these that has most.
        rows_without_id: Rows that pass the filters but lack the id of their unit: no unit can be made of them.
        assets_without_images: Assets of the kind and place asked for that no observation of the source shows,
            whatever ``where``, sample, limit and capture window; None if there is no table of assets.
    """

    units_in: int = 0
    answered: int = 0
    outdated: int = 0
    failed: int = 0
    retry: int = 0
    submitted: int = 0
    new: int = 0
    due: int = 0
    due_outdated: int = 0
    due_failed: int = 0
    due_retry: int = 0
    due_new: int = 0
    asked: int = 0
    images: int = 0
    most_images: int = 0
    rows_without_id: int = 0
    assets_without_images: int | None = None

    @property
    def outdated_left(self) -> int:
        """Outdated units that were not asked for."""
        return self.outdated - self.due_outdated

    @property
    def failed_left(self) -> int:
        """Failed units that were not asked for."""
        return self.failed - self.due_failed

    @property
    def left_out(self) -> int:
        """New units and units to be retried that ``--due`` does not name."""
        return self.new + self.retry - self.due_new - self.due_retry


def source_counts_from_row(row: Mapping[str, Any]) -> SourceCounts:
    """The books of a result row: its column ``books``, or the row itself if that is what it is made of."""
    counts = row.get("books", row)
    return SourceCounts(**{field.name: _count(counts, field.name) for field in dataclasses.fields(SourceCounts)})


def _count(counts: Mapping[str, Any], name: str) -> Any:
    value = counts[name]
    return None if value is None else int(value)
