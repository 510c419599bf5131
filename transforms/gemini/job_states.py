"""The job resource of a batch job, and what its supervisor does in each state.

=====================  =========  =========================================================================
state                  step       why
=====================  =========  =========================================================================
UNSPECIFIED, QUEUED,   WAIT       not started; at most 72 hours in the queue, then EXPIRED
PENDING
RUNNING, UPDATING      WAIT       running; at most 24 hours, then FAILED or EXPIRED
CANCELLING             WAIT       finished rows are still being written
SUCCEEDED              COLLECT    every row has an answer or an error
PARTIALLY_SUCCEEDED    COLLECT    some rows have one; the others are missing
FAILED, CANCELLED,     SALVAGE    rows finished before are kept and billed; there may be none
EXPIRED
PAUSED                 CANCEL     it cannot be resumed; without cancellation it might run (and cost) later
any other              WAIT       unknown to this release: reported, and polled until it changes
                       SALVAGE    if the service reports when the job ended
=====================  =========  =========================================================================

``BatchJob.done`` of google-genai 2.34 supports neither PARTIALLY_SUCCEEDED nor PAUSED, and would wait forever.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from imagebeam.transforms.gemini.error_classes import one_line

PREFIX = "JOB_STATE_"


class Step(enum.StrEnum):
    """What the supervisor does next."""

    WAIT = "WAIT"
    """Poll again later."""

    COLLECT = "COLLECT"
    """Read the output, which must exist."""

    SALVAGE = "SALVAGE"
    """Read the output that exists; units without an answer go to another round."""

    CANCEL = "CANCEL"
    """Cancel the job; once CANCELLED, salvage."""


@dataclasses.dataclass(frozen=True, slots=True)
class StateRule:
    """What the supervisor does in a state.

    Attributes:
        step: The next step.
        phase: Name of the state for display: ``waiting``, ``running``, ``stopping``, ``done``, ``partly done``,
            ``failed``, ``cancelled``, ``expired``, ``paused`` or ``unknown``.
        reason: Why, one line.
        terminal: True if the job does not change by itself any more.
        known: False for a state that this release does not know.
    """

    step: Step
    phase: str
    reason: str
    terminal: bool = False
    known: bool = True


_QUEUED = StateRule(Step.WAIT, "waiting", "in the queue, for at most 72 hours")
_RUNNING = StateRule(Step.WAIT, "running", "running, for at most 24 hours")
_KEPT = "rows finished before are kept and billed"

RULES: Mapping[str, StateRule] = {
    f"{PREFIX}UNSPECIFIED": _QUEUED,
    f"{PREFIX}QUEUED": _QUEUED,
    f"{PREFIX}PENDING": _QUEUED,
    f"{PREFIX}RUNNING": _RUNNING,
    f"{PREFIX}UPDATING": _RUNNING,
    f"{PREFIX}CANCELLING": StateRule(Step.WAIT, "stopping", "finished rows are still being written"),
    f"{PREFIX}SUCCEEDED": StateRule(Step.COLLECT, "done", "every row has an answer or an error", terminal=True),
    f"{PREFIX}PARTIALLY_SUCCEEDED": StateRule(
        Step.COLLECT, "partly done", "some rows have an answer; the others are missing", terminal=True
    ),
    f"{PREFIX}FAILED": StateRule(Step.SALVAGE, "failed", f"it failed; {_KEPT}", terminal=True),
    f"{PREFIX}CANCELLED": StateRule(Step.SALVAGE, "cancelled", f"it was cancelled; {_KEPT}", terminal=True),
    f"{PREFIX}EXPIRED": StateRule(Step.SALVAGE, "expired", f"it ran out of time; {_KEPT}", terminal=True),
    f"{PREFIX}PAUSED": StateRule(
        Step.CANCEL, "paused", "it cannot be resumed, and might run and cost later", terminal=True
    ),
}
"""Every state of google-genai's ``JobState``."""

TERMINAL = frozenset(state for state, rule in RULES.items() if rule.terminal)


@dataclasses.dataclass(frozen=True, slots=True)
class BatchJob:
    """A ``batchPredictionJobs`` resource.

    Attributes:
        name: ``projects/NUMBER/locations/L/batchPredictionJobs/ID``; empty if not reported.
        display_name: Display name.
        state: State, as the service reports it.
        created: When it was created; None if not reported, like the other times.
        started: When it started to run.
        ended: When it ended.
        updated: When the resource was last updated.
        successful: Rows with an answer, blocked ones included; None if not reported, like the other counts.
        failed: Rows with an error.
        incomplete: Rows that were not processed.
        output_directory: ``gs://`` directory of the output; None until reported.
        output_table: ``project.dataset.table`` of the output; None if there is none, or until reported.
        error: Error, one line without secrets; empty for none.
        error_code: Its google.rpc.Code; None if not reported.
    """

    name: str
    display_name: str
    state: str
    created: datetime.datetime | None = None
    started: datetime.datetime | None = None
    ended: datetime.datetime | None = None
    updated: datetime.datetime | None = None
    successful: int | None = None
    failed: int | None = None
    incomplete: int | None = None
    output_directory: str | None = None
    output_table: str | None = None
    error: str = ""
    error_code: int | None = None

    @property
    def rule(self) -> StateRule:
        """Rule of the state; in an unknown state the job has ended if the service reports when it ended."""
        rule = rule_of(self.state)
        if rule.known or self.ended is None:
            return rule
        return dataclasses.replace(rule, step=Step.SALVAGE, reason=f"{rule.reason}; it has ended", terminal=True)

    @property
    def job_id(self) -> str:
        """Last part of the name: the id within project and location."""
        return self.name.rpartition("/")[2]

    def age_s(self, now: datetime.datetime) -> float | None:
        """Return the seconds from its creation to its end, or to now; never negative; None if unknown."""
        if self.created is None:
            return None
        return max(0.0, ((self.ended or now) - self.created).total_seconds())


def rule_of(state: str) -> StateRule:
    """Return the rule of a state; an unknown state is polled until it changes.

    >>> rule_of("JOB_STATE_EXPIRED").step
    <Step.SALVAGE: 'SALVAGE'>
    >>> rule_of("JOB_STATE_MELTING").reason
    'unknown state JOB_STATE_MELTING: polled until it changes'
    """
    known = RULES.get(state)
    if known is not None:
        return known
    name = one_line(state)[:80] or "(none)"
    reason = f"unknown state {name}: polled until it changes"
    return StateRule(Step.WAIT, "unknown", reason, known=False)


def parse_job(document: Any) -> BatchJob:
    """Parse a job resource; never raises.

    Args:
        document: JSON of get, create, or an item of list. Fields that are missing or of another type than
            documented count as not reported.
    """
    job = _mapping(document)
    counts, output = _mapping(job.get("completionStats")), _mapping(job.get("outputInfo"))
    return BatchJob(
        name=_text(job.get("name")),
        display_name=_text(job.get("displayName")),
        state=_text(job.get("state")),
        created=_time(job.get("createTime")),
        started=_time(job.get("startTime")),
        ended=_time(job.get("endTime")),
        updated=_time(job.get("updateTime")),
        successful=_count(counts.get("successfulCount")),
        failed=_count(counts.get("failedCount")),
        incomplete=_count(counts.get("incompleteCount")),
        output_directory=_text(output.get("gcsOutputDirectory")).rstrip("/") or None,
        output_table=_table(job, output),
        error=one_line("; ".join(_errors(job))),
        error_code=_code(_mapping(job.get("error")).get("code")),
    )


def _table(job: Mapping[str, Any], output: Mapping[str, Any]) -> str | None:
    """Return the output table: as reported, else as requested."""
    table, dataset = (_bare(output.get(name)) for name in ("bigqueryOutputTable", "bigqueryOutputDataset"))
    if table and dataset and "." not in table:
        table = f"{dataset}.{table}"
    wanted = _mapping(_mapping(job.get("outputConfig")).get("bigqueryDestination"))
    for name in (table, _bare(wanted.get("outputUri"))):
        # A destination may be a dataset, in which the service chooses the table's name.
        if name.rpartition(":")[2].count(".") >= 2:
            return name
    return None


def _bare(value: Any) -> str:
    return _text(value).removeprefix("bq://")


def _errors(job: Mapping[str, Any]) -> Iterator[str]:
    """Yield the error of the job, its details, and partial failures."""
    partial = job.get("partialFailures")
    for error in (job.get("error"), *(partial if isinstance(partial, list) else ())):
        if isinstance(error, Mapping) and error:
            code = _code(error.get("code"))
            yield (f"code {code}: " if code is not None else "") + (_text(error.get("message")) or "no message")
            details = error.get("details")
            yield from (_as_text(detail) for detail in (details if isinstance(details, list) else ()) if detail)
        elif error:
            yield _as_text(error)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return "(nested too deep to be shown)"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    """Return a count, which proto JSON writes as text; None for −1 and for anything else."""
    number = _code(value)
    return number if number is not None and number >= 0 else None


def _code(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:18])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _time(value: Any) -> datetime.datetime | None:
    """Return a time in UTC; the service writes up to nine decimals."""
    try:
        parsed = datetime.datetime.fromisoformat(_text(value))
        return parsed.astimezone(datetime.UTC) if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)
    except (ValueError, OverflowError):
        return None
