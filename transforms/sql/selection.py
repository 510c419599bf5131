"""Which units of a source a run processes.

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
from collections.abc import Sequence

from imagebeam.transforms.core.errors import UserError
from imagebeam.transforms.core.identifiers import TableName
from imagebeam.transforms.core.records import UnitKind
from imagebeam.transforms.core.text import quote
from imagebeam.transforms.sql.filters import Filters
from imagebeam.transforms.sql.sources import Source

#: States that a run can process.
STATES = ("new", "retry", "outdated", "failed")
#: States that a run processes by default.
DEFAULT = ("new", "retry")
#: Statuses and reasons that are not permanent failures, each with how such units are processed.
_NOT_FAILURES = {
    "UNAVAILABLE": "these units are in state retry",
    "FORBIDDEN": "these units are in state retry",
    "OK": "units that an older version answered are in state outdated",
    "SUBMITTED": "collect these units with imagebeam batch collect",
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


@dataclasses.dataclass(frozen=True, slots=True)
class QuerySpec:
    """Specification of the source query of a run.

    Attributes:
        source: Where observations come from.
        filters: Filters of the observations.
        unit: What one call covers.
        max_images: Maximum number of images of an asset, the newest ones; 1 to 10. Ignored for observations.
        task: Name of the task.
        version: Its current version.
        selection: States to process.
        outcomes: The table of outcomes; None if it does not exist, so that every unit is new.
        keep_columns: Columns of the source to copy into ``extra``.
        retry_round: Round of a batch run, from 2: process only units whose last event was recorded by ``run_id``. Part
            of the query, so that the id of its job differs per round. None for all units.
        run_id: The run, for ``retry_round``.
    """

    source: Source
    filters: Filters
    unit: UnitKind
    max_images: int
    task: str
    version: str
    selection: Selection = Selection()
    outcomes: TableName | None = None
    keep_columns: Sequence[str] = ()
    retry_round: int | None = None
    run_id: str = ""


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
                f"{flag}={quote(text)}: unknown state {quote(word)}{hint}; use {', '.join(known)} or failed:REASON, "
                "separated by commas"
            )
        if colon:
            reasons.append(_parse_reason(reason.strip().upper(), f"{flag}={quote(text)}"))
        all_failures |= state == "failed" and not colon
        if state not in states:
            states.append(state)
    return Selection(tuple(states), () if all_failures else tuple(dict.fromkeys(reasons)))


def _parse_reason(reason: str, source: str) -> str:
    if not re.fullmatch(r"[A-Z0-9_]+", reason):
        raise UserError(f"{source}: add a reason or status after failed:, such as failed:NOT_FOUND")
    if reason in _NOT_FAILURES:
        raise UserError(f"{source}: {reason} is not a failure; {_NOT_FAILURES[reason]}")
    return reason
