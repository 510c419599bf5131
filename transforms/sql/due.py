"""Which units are asked about, and the counts of a source by state.

The state of a unit for one version of a task is decided by the recorded outcomes of the same input::

    answered    an OK by this version: never asked again
    submitted   waits in a batch job
    retry       UNAVAILABLE, or an image that could not be read for lack of permission
    failed      any other failure by this version
    outdated    no outcome by this version, but an OK by another one
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

STATES = ("new", "retry", "outdated", "failed")
_NEVER_FAILED = {
    "UNAVAILABLE": "retry",
    "FORBIDDEN": "retry",
    "OK": "outdated, after a change of the task",
    "SUBMITTED": "nothing: its batch job will tell",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Due:
    """Which states are asked about.

    Attributes:
        states: Of :data:`STATES`.
        failed_reasons: Only failures with one of these reasons or statuses; empty takes all of them, if
            ``failed`` is among the states.
    """

    states: tuple[str, ...] = ("new", "retry")
    failed_reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        reasons = [f"failed:{reason}" for reason in self.failed_reasons]
        return ",".join([state for state in self.states if state != "failed" or not reasons] + reasons)


def parse_due(text: str) -> Due:
    """Reads ``--due``: states separated by commas, such as ``new,retry`` or ``failed:NOT_FOUND``.

    Raises:
        UserError: A word is none; lists those that are.
    """
    states: list[str] = []
    reasons: list[str] = []
    every_failure = False
    for word in (part.strip() for part in text.split(",")):
        name, colon, reason = word.partition(":")
        state = name.strip().lower()
        if state not in STATES or (colon and state != "failed"):
            raise UserError(f"--due={shown(text)}: {_unknown(word, state)}")
        if colon:
            reasons.append(_reason(reason.strip().upper(), text))
        every_failure |= state == "failed" and not colon
        if state not in states:
            states.append(state)
    return Due(tuple(states), () if every_failure else tuple(dict.fromkeys(reasons)))


def _unknown(word: str, state: str) -> str:
    near = difflib.get_close_matches(state, STATES, n=1)
    hint = f" (do you mean {near[0]}?)" if near and near[0] != state else ""
    return (
        f"{shown(word)} is no state that can be due{hint}; choose from new, retry, outdated, failed, "
        "failed:REASON, separated by commas"
    )


def _reason(reason: str, text: str) -> str:
    if not re.fullmatch(r"[A-Z0-9_]+", reason):
        raise UserError(f"--due={shown(text)}: after failed: comes a reason or status, such as failed:NOT_FOUND")
    if reason in _NEVER_FAILED:
        raise UserError(
            f"--due={shown(text)}: {reason} is not among the failures; what asks for it is {_NEVER_FAILED[reason]}"
        )
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
